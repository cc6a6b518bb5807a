"""
Every private name of Alembic that this package uses; no other module uses one.

Alembic has no public way to ask which command runs, what that command would do, or to set
the version as if a step had been run. Its ``context`` and ``op`` are globals of the process.
Read in Alembic `READ_IN`; the tests of this module fail when a newer one differs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from alembic import context
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import HeadMaintainer, MigrationContext, RevisionStep, StampStep
from alembic.script import ScriptDirectory

READ_IN = "1.20.1"

Step = RevisionStep | StampStep
Heads = tuple[str, ...]
FindSteps = Callable[[Heads, MigrationContext], Iterable[Step]]

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
    def checks_heads(self) -> bool:
        """Whether it is ``current --check-heads``."""
        # The function compares the heads, and Alembic says nowhere else that it will.
        asked = inspect.getclosurevars(self.find_steps).nonlocals
        return bool(asked.get("check_heads"))


def running_command() -> Command:
    """Tell which command runs the ``env.py`` that calls this, before it calls ``configure()``."""
    environment: EnvironmentContext = context._proxy  # type: ignore[attr-defined]
    return Command(environment.context_opts["fn"])


def step_of(script: ScriptDirectory, revision: str, direction: str) -> RevisionStep:
    """
    Give the step that runs *revision* in *direction*.

    Raises:
        CommandError: *script* has no such revision.
    """
    return RevisionStep(script.revision_map, script.get_revision(revision), direction == "upgrade")


def heads_after(step: Step, migration: MigrationContext, heads: Heads) -> Heads:
    """Tell which *heads* the version table has after *step*; merges and dependencies included."""
    discard = SimpleNamespace(as_sql=True, _version=migration._version, impl=_NoDatabase())
    maintainer = HeadMaintainer(discard, heads)  # type: ignore[arg-type]
    maintainer.update_to_step(step)
    return tuple(sorted(maintainer.heads))


def set_heads_after(step: Step, migration: MigrationContext, heads: Heads) -> None:
    """Change the version table from *heads* as if *step* had been run."""
    HeadMaintainer(migration, heads).update_to_step(step)


class _NoDatabase:
    def _exec(self, _statement: Any) -> None:
        """Send nothing."""
