"""The steps of a command: where they start, and what is checked and noted for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError, to_tuple
from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import (
    EvolutionError,
    OperationRefused,
    RunningRevision,
    naming_revisions,
    running_revision,
)
from cleveragents_plans.evolution.foreseen import Foreseen, gathering
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.event_trigger_trials import (
    has_event_triggers,
    refuse_event_triggers,
    without_repeats,
)
from cleveragents_plans.evolution.postgresql.session_name import name_session
from cleveragents_plans.evolution.rehearsal import Rehearsal
from cleveragents_plans.evolution.runner.alembic_internals import (
    Command,
    FindSteps,
    Heads,
    Step,
    applied,
    heads_after,
    operations_of,
    set_heads_after,
    step_of,
)
from cleveragents_plans.evolution.runner.command_line import typed
from cleveragents_plans.evolution.runner.rehearsal import rehearse
from cleveragents_plans.evolution.runner.sqlite_transaction import refuse_enforced_foreign_keys
from cleveragents_plans.evolution.runner.unfinished import (
    InterruptedRun,
    Unfinished,
    UnfinishedNote,
    UnknownInterruptedRun,
)
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.under_way import begin_revision

log: Final = logging.getLogger("alembic.evolution")


def starting_point(
    command: Command, migration: MigrationContext, found: Unfinished | None
) -> tuple[Heads, Step | None]:
    """
    Tell from which heads the *command* goes on; change nothing.

    Called under the migration lock if the command changes anything. The heads are those
    that are stored, unless a revision was interrupted (*found*) which the command would run
    from the other end of it only: then they are those of that end, and the step that leads
    there is given, for `set_start`.

    Raises:
        InterruptedRun: The command goes elsewhere, or asks whether the database is at a
            head (``current --check-heads``): between two versions it is at none.
    """
    heads = () if migration.purge else migration.get_current_heads()
    if found is None:
        return heads, None

    script = migration.script
    assert script is not None  # noqa: S101  # env.py is run by one
    assert migration.config is not None  # noqa: S101  # likewise
    if found.revision not in (each.revision for each in script.walk_revisions()):
        raise UnknownInterruptedRun(found.revision, found.direction)
    # Of a chain with branches, "base" would be the end of all of them.
    base = "base" if len(script.get_bases()) == 1 else f"{found.revision}@base"
    below = to_tuple(script.get_revision(found.revision).down_revision, (base,))
    ways = [
        typed(migration.config, f"upgrade {found.revision}"),
        typed(migration.config, f"downgrade {below[0]}"),
    ]
    interrupted = InterruptedRun(found.revision, found.direction, *ways)
    if not command.runs_revisions:
        if command.checks_heads:
            raise interrupted
        log.warning(
            "the %s of %s was interrupted: the database is between two versions until "
            "an upgrade or a downgrade has been run",
            found.direction,
            found.revision,
        )
        return heads, None
    if _would_run(command, migration, heads, found.revision):
        log.info("continuing %s, whose %s was interrupted", found.revision, found.direction)
        return heads, None
    over = _step_over(script, heads, found.revision)
    if over is None:
        raise interrupted
    other = heads_after(over, migration, heads)
    if not _would_run(command, migration, other, found.revision):
        raise interrupted
    log.info(
        "the %s of %s was interrupted, and this command reverses it",
        found.direction,
        found.revision,
    )
    return other, over


def set_start(migration: MigrationContext, step: Step) -> None:
    """
    Set the version as if *step* had been run, in a transaction of its own.

    Called when nothing can refuse the command any more, before ``run_migrations()``.
    """
    heads = migration.get_current_heads()
    connection = migration.connection
    assert connection is not None  # noqa: S101  # on line there is one
    connection.rollback()
    log.info("the version is first set past %s", step)
    with connection.begin():
        set_heads_after(step, migration, heads)


def check_ahead(
    command: Command, migration: MigrationContext, start: Heads, note: UnfinishedNote
) -> int:
    """
    Let every step from *start* refuse before the first one is run; count the steps.

    A revision says what it would refuse in functions ``check_upgrade`` and
    ``check_downgrade``, which change nothing.
    """
    if not command.plans_ahead:
        return 0
    steps = command.steps(start, migration)
    with naming_revisions():
        if _fires_event_triggers(migration, steps):
            _try_event_triggers(migration, steps, note)
        with operations_of(migration):
            for step in steps:
                _check(step, note)
        for step in steps[:1]:
            _rehearse(step, migration, note)
    return len(steps)


def gather_ahead(
    command: Command,
    migration: MigrationContext,
    start: Heads,
    note: UnfinishedNote,
    found: Foreseen,
) -> list[RevisionStep]:
    """
    Let every step from *start* tell what it would refuse and do, within `gathering`.

    Returns:
        The steps, in the order in which *command* would run them.
    """
    steps = [each for each in command.steps(start, migration) if isinstance(each, RevisionStep)]
    connection = migration.connection
    rehearsal = Rehearsal(connection) if connection is not None else None
    with naming_revisions(), operations_of(migration):
        # What is tried is created as the owner of the tables, with the rights that the run needs.
        refused = found.troubled & {"rights", "owners"}
        if not refused and _fires_event_triggers(migration, steps):
            with found.looking("event triggers"):
                _try_event_triggers(migration, steps, note)
        for step in steps:
            with found.looking("checks of the revisions"):
                _check(step, note)
        for step in steps:
            running_revision.set(_running(step, note))
            with found.looking("operations"):
                rehearse(step, migration, rehearsal)
    found.refusals[:] = without_repeats(found.refusals)
    return steps


def with_checks(
    command: Command,
    note: UnfinishedNote | None = None,
    check_first: Callable[[], None] = lambda: None,
) -> FindSteps:
    """
    Give what lists the steps of *command*, and checks and notes each before it is run.

    On line the first step is not checked again: `check_ahead` has done it, just before.
    Offline, without *note*, each check prints what the script has to check. *check_first* is
    called before the first step, when the version table is there and has not been written.
    """

    def find_steps(heads: Heads, migration: MigrationContext) -> Iterable[Step]:
        check_first()
        for number, step in enumerate(command.find_steps(heads, migration)):
            if number and note:
                wait_for_locks(migration)
            if number or not note:
                _check(step, note)
            if number and note:
                _rehearse(step, migration, note)
                if migration.connection is not None and migration.dialect.name == "postgresql":
                    # Of a check that has tried something the id of the transaction would be left.
                    migration.connection.rollback()
            if note and isinstance(step, RevisionStep):
                begin_revision(step.revision.revision)
                if migration.connection is not None and migration.dialect.name == "postgresql":
                    name_session(migration.connection)
                # After that commit, which is no change of the revision.
                note.begin(step.revision.revision, _direction(step))
            if isinstance(step, RevisionStep):
                running_revision.set(_running(step, note))
            yield step

    return find_steps


def wait_for_locks(migration: MigrationContext) -> None:
    """Let what a transaction of PostgreSQL reads wait up to lock-wait for an exclusive lock."""
    if migration.connection is not None and migration.dialect.name == "postgresql":
        seconds = Settings.of(migration.environment_context).lock_wait
        run(migration.connection, f"SET LOCAL lock_timeout = '{1000 * seconds:.0f}ms'")


def _fires_event_triggers(migration: MigrationContext, steps: Sequence[Step]) -> bool:
    connection = migration.connection
    return (
        connection is not None
        and connection.dialect.name == "postgresql"
        and any(isinstance(step, RevisionStep) for step in steps)
        and has_event_triggers(connection)
    )


def _try_event_triggers(
    migration: MigrationContext, steps: Sequence[Step], note: UnfinishedNote
) -> None:
    """Let event triggers refuse what *steps* are going to send."""
    assert migration.connection is not None  # noqa: S101  # as was looked at
    rehearsal = Rehearsal(migration.connection)
    with gathering():  # what these tell is told when they are checked
        for step in steps:
            if isinstance(step, RevisionStep):
                running_revision.set(_running(step, note))
                with suppress(OperationRefused, NotImplementedError):
                    rehearse(step, migration, rehearsal)
    running_revision.set(None)
    refuse_event_triggers(migration, rehearsal.written.getvalue())


def _check(step: Step, note: UnfinishedNote | None) -> None:
    if isinstance(step, RevisionStep):  # a stamp runs nothing
        check = getattr(step.revision.module, f"check_{_direction(step)}", None)
        if check:
            running_revision.set(_running(step, note))
            check()


def _rehearse(step: Step, migration: MigrationContext, note: UnfinishedNote) -> None:
    if isinstance(step, RevisionStep):
        running_revision.set(_running(step, note))
        rehearse(step, migration)


def _running(step: RevisionStep, note: UnfinishedNote | None) -> RunningRevision:
    name = step.revision.revision

    def is_noted() -> bool:
        return note is not None and note.found is not None and note.found.revision == name

    return RunningRevision(name, is_noted(), is_noted)


def _direction(step: Step) -> str:
    return "upgrade" if step.is_upgrade else "downgrade"


def _would_run(command: Command, migration: MigrationContext, heads: Heads, revision: str) -> bool:
    try:
        steps = command.steps(heads, migration)
    except CommandError:  # not to be reached from there
        return False
    return any(
        isinstance(step, RevisionStep) and step.revision.revision == revision for step in steps
    )


def _step_over(script: ScriptDirectory, heads: Heads, revision: str) -> Step | None:
    """Give the step that leads from *heads* to the other end of *revision*, if they are at one."""
    if revision in heads:
        return step_of(script, revision, "downgrade")
    up = step_of(script, revision, "upgrade")
    before = applied(script, heads)
    return up if revision not in before and before.issuperset(up.from_revisions) else None


def refuse_external_transaction(connection: Connection) -> None:
    """
    Refuse to run revisions in a transaction of the caller's, where that cannot be.

    Raises:
        EvolutionError: It is one of PostgreSQL.
        ForeignKeysEnforced: It is one of SQLite in which foreign keys are enforced.
    """
    if connection.dialect.name == "sqlite":
        refuse_enforced_foreign_keys(connection)
        return
    raise EvolutionError(
        "the connection is in a transaction, and a revision takes several on PostgreSQL; "
        "hand over a connection that is in none (engine.connect(), not engine.begin(); "
        "commit what was read before), or the engine; nothing was changed"
    )
