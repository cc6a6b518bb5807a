"""What a run would refuse, found by the functions that refuse it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cleveragents_plans.evolution.foreseen import Foreseen
from cleveragents_plans.evolution.operations.names import refuse_taken_names
from cleveragents_plans.evolution.postgresql.replication import check_replication
from cleveragents_plans.evolution.postgresql.server import refuse_read_only
from cleveragents_plans.evolution.postgresql.table_rights import refuse_missing_rights
from cleveragents_plans.evolution.runner.alembic_internals import Command
from cleveragents_plans.evolution.runner.steps import gather_ahead, starting_point
from cleveragents_plans.evolution.runner.version_state import VersionState
from cleveragents_plans.persistence import Base
from cleveragents_plans.schema.chain import APPLICATION
from cleveragents_plans.schema.database import Database


@dataclass(slots=True)
class Ahead:
    """The steps of a command, and what they tell."""

    found: Foreseen
    steps: list[str] = field(default_factory=list)


def look_ahead(database: Database, command: Command, found: Foreseen) -> Ahead:
    """
    Let all that comes before the first change of *command* refuse, and every step of it.

    The order is that of a run. Where the version is refused, no step is known.

    Args:
        database: On PostgreSQL in a transaction in which something can be tried out.
        command: The command.
        found: What is being gathered.

    Raises:
        CommandError: *command* leads to no revision.
    """
    tables = [*Base.metadata.tables]
    connection, options = database.connection, database.options
    if database.schema is not None:
        versions = database.migration.version_table_schema
        with found.looking("writable server"):
            refuse_read_only(connection, database.shown)
        with found.looking("rights"):
            names = [*tables, options.version_table]
            refuse_missing_rights(connection, names, database.schema, database.shown)
        with found.looking("owners"):
            refuse_taken_names(connection, tables, options.version_table, database.schema, versions)
    migration, note = database.migration, database.note
    before = len(found.refusals)
    with found.looking("version"):
        state = VersionState(migration, options, tables, APPLICATION.version_table)
        state.check(command, unfinished=note.found is not None)
        start, _ = starting_point(command, migration, note.found)
    if len(found.refusals) > before:
        return Ahead(found)
    steps = gather_ahead(command, migration, start, note, found)
    if steps and database.schema is not None:
        with found.looking("replication"):
            check_replication(connection, tables, database.schema)
    return Ahead(found, [step.revision.revision for step in steps])
