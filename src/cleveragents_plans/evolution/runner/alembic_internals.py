"""
Every private name of Alembic that this package uses; no other module uses one.

Alembic has no public way to ask which command runs, what that command would do, or to set
the version as if a step had been run. Its ``context`` and ``op`` are globals of the process.
Read in Alembic `READ_IN`; the tests of this module fail when a newer one differs.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, SimpleNamespace
from typing import Any

from alembic import context, op
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import HeadMaintainer, MigrationContext, RevisionStep, StampStep
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError, to_list
from sqlalchemy import Table

from cleveragents_plans.evolution.runner.process_lock import ConcurrentRuns, process_lock

READ_IN = "1.20.1"

Step = RevisionStep | StampStep
Heads = tuple[str, ...]
FindSteps = Callable[[Heads, MigrationContext], Iterable[Step]]

#: Options of ``configure()`` with which ``run_migrations()`` makes no version table.
NOT_CREATING_VERSION_TABLE: dict[str, Any] = {"dont_mutate": True}

_CHANGES_REVISIONS = ("upgrade", "downgrade")
# `show current`, `history`, `edit current`, `check` and `revision`, `merge`; and `current`.
_ONLY_READS = (
    "show_current",
    "_display_current_history",
    "edit_current",
    "retrieve_migrations",
    "nothing",
    "display_version",
)


_VERSION_CHANGED = "Online migration expected to match one row"


def is_version_changed(error: CommandError) -> bool:
    """Tell whether a step found another version than its own, when it wanted to store the next."""
    return str(error).startswith(_VERSION_CHANGED)


@dataclass(frozen=True, slots=True)
class Command:
    """
    The Alembic command that runs ``env.py``.

    Alembic hands ``env.py`` the function that lists the steps, and names that function
    after the command, more or less.
    """

    #: Lists the steps from the heads that it is given; of some commands, does their work.
    find_steps: FindSteps

    @property
    def name(self) -> str:
        """The name of Alembic's function."""
        return self.find_steps.__name__

    @property
    def runs_revisions(self) -> bool:
        """Whether it is ``upgrade`` or ``downgrade``."""
        return self.name in _CHANGES_REVISIONS

    @property
    def only_reads(self) -> bool:
        """Whether it changes nothing in a database; a command that is not known may."""
        return self.name in _ONLY_READS

    @property
    def plans_ahead(self) -> bool:
        """Whether its steps can be listed without being run, and listing them does nothing."""
        return self.runs_revisions or self.name == "do_stamp"

    @property
    def writes_revision(self) -> bool:
        """Whether it is ``revision``, which ``check`` pretends to be."""
        return self.find_steps.__qualname__.startswith("revision.")

    @property
    def compares_tables(self) -> bool:
        """Whether it is ``check`` or ``revision --autogenerate``."""
        return self.name == "retrieve_migrations"

    @property
    def relies_on_tables(self) -> bool:
        """Whether it means nothing when the tables do not fit the version."""
        return self.runs_revisions or self.compares_tables or self.name == "display_version"

    @property
    def checks_heads(self) -> bool:
        """Whether it is ``current --check-heads``."""
        # The function compares the heads, and Alembic says nowhere else that it will.
        asked = inspect.getclosurevars(self.find_steps).nonlocals
        return bool(asked.get("check_heads"))

    def steps(self, heads: Heads, migration: MigrationContext) -> list[Step]:
        """
        List the steps from *heads*, of a command that `plans_ahead`.

        Raises:
            CommandError: The chain has no such revision, or not in that direction.
        """
        asked = inspect.getclosurevars(self.find_steps).nonlocals
        with _located(asked.get("revision", asked.get("destination_revs"))):  # the latter to stamp
            return list(self.find_steps(heads, migration))


def command_to(script: ScriptDirectory, revision: str, direction: str) -> Command:
    """Give the command that upgrades or downgrades to *revision*, which need not run."""

    def upgrade(heads: Heads, _migration: MigrationContext) -> Iterable[Step]:
        return script._upgrade_revs(revision, heads)  # type: ignore[arg-type]

    def downgrade(heads: Heads, _migration: MigrationContext) -> Iterable[Step]:
        return script._downgrade_revs(revision, heads)  # type: ignore[arg-type]

    return Command(upgrade if direction == "upgrade" else downgrade)


def first_heads(migration: MigrationContext) -> Heads:
    """
    Give the heads from which a script (``--sql``) begins.

    Raises:
        CommandError: The chain has no such revision.
    """
    with _located(migration._start_from_rev):
        return migration.get_current_heads()


@contextmanager
def _located(revision: object) -> Iterator[None]:
    # Alembic says that a text is no revision, or runs into an assertion or an error of Python.
    try:
        yield
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        asked = ", ".join(map(repr, to_list(revision, [])))
        line = f"Can't locate revision identified by {asked}"
        unknown = ResolutionError(line, asked)
        unknown.__cause__ = error
        raise CommandError(line) from unknown


def running_command() -> Command:
    """Tell which command runs the ``env.py`` that calls this, before it calls ``configure()``."""
    environment = _environment()
    assert environment is not None  # noqa: S101  # env.py is run in one
    return Command(environment.context_opts["fn"])


def run_alone() -> None:
    """
    Let the run whose ``env.py`` calls this be the only one in the process, until its end.

    From the first import of this module on, each run holds the `process_lock` from its
    first global to its last. The run that imported it first gets the lock here.

    Raises:
        ConcurrentRuns: Before this module was imported, another thread began a run as well.
    """
    environment = _environment()
    if environment is None or not any(
        _runs(frame, environment.script) for frame, _ in traceback.walk_stack(None)
    ):
        raise ConcurrentRuns(
            "two threads began to run Alembic at the same time",
            "import cleveragents_plans.schema before, and they run one after the other",
        )
    if process_lock.is_ours:
        return
    process_lock.acquire()
    remove = environment._remove_proxy

    def remove_and_release() -> None:
        try:
            remove()
        finally:
            process_lock.release()

    environment._remove_proxy = remove_and_release  # type: ignore[method-assign]


def _environment() -> EnvironmentContext | None:
    environment: EnvironmentContext | None = getattr(context, "_proxy", None)
    return environment


def _runs(frame: FrameType, script: ScriptDirectory) -> bool:
    return frame.f_code is ScriptDirectory.run_env.__code__ and frame.f_locals["self"] is script


def _hold_process_lock() -> None:
    install, remove = EnvironmentContext._install_proxy, EnvironmentContext._remove_proxy

    def acquire_and_install(environment: EnvironmentContext) -> None:
        process_lock.acquire()
        try:
            if _environment() is not None:
                raise ConcurrentRuns(
                    "a run of Alembic began within another one, which Alembic would forget",
                    "let one end before the other begins",
                )
            install(environment)
        except BaseException:
            process_lock.release()
            raise

    def remove_and_release(environment: EnvironmentContext) -> None:
        try:
            remove(environment)
        finally:
            process_lock.release()

    EnvironmentContext._install_proxy = acquire_and_install  # type: ignore[method-assign,assignment]
    EnvironmentContext._remove_proxy = remove_and_release  # type: ignore[method-assign,assignment]


_hold_process_lock()


def step_of(script: ScriptDirectory, revision: str, direction: str) -> RevisionStep:
    """
    Give the step that runs *revision* in *direction*.

    Raises:
        CommandError: *script* has no such revision.
    """
    return RevisionStep(script.revision_map, script.get_revision(revision), direction == "upgrade")


def applied(script: ScriptDirectory, heads: Iterable[str]) -> set[str]:
    """Give the revisions that *heads* stand for: themselves, those below, what they depend on."""
    found: set[str] = set()
    above = list(heads)
    while above:
        revision = above.pop()
        if revision not in found:
            found.add(revision)
            above.extend(step_of(script, revision, "upgrade").from_revisions)
    return found


def heads_after(step: Step, migration: MigrationContext, heads: Heads) -> Heads:
    """Tell which *heads* the version table has after *step*; merges and dependencies included."""
    discard = SimpleNamespace(as_sql=True, _version=migration._version, impl=_NoDatabase())
    maintainer = HeadMaintainer(discard, heads)  # type: ignore[arg-type]
    maintainer.update_to_step(step)
    return tuple(sorted(maintainer.heads))


def set_heads_after(step: Step, migration: MigrationContext, heads: Heads) -> None:
    """Change the version table from *heads* as if *step* had been run."""
    HeadMaintainer(migration, heads).update_to_step(step)


def version_table_of(migration: MigrationContext) -> Table:
    """Give the version table as Alembic reads and writes it."""
    return migration._version


@contextmanager
def operations_of(migration: MigrationContext) -> Iterator[None]:
    """Let ``op`` be that of *migration* for a while, and afterwards what it was."""
    # Absent until it is first set.
    former: Operations | None = getattr(op, "_proxy", None)
    try:
        with Operations.context(migration):
            yield
    finally:
        if former is not None:
            former._install_proxy()


class _NoDatabase:
    def _exec(self, _statement: Any) -> None:
        """Send nothing."""
