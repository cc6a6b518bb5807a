"""Let a revision fail by a mistake in it before its first change, not between two of them."""

from __future__ import annotations

import logging

from alembic.runtime.migration import MigrationContext, RevisionStep

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.op import schema_of
from cleveragents_plans.evolution.rehearsal import Rehearsal
from cleveragents_plans.evolution.runner.alembic_internals import operations_of

log = logging.getLogger("alembic.evolution")


def rehearse(
    step: RevisionStep, migration: MigrationContext, rehearsal: Rehearsal | None = None
) -> None:
    """
    Run *step* as with ``--sql``, to nowhere, so that its operations look up what they name.

    On PostgreSQL only, where a revision is many transactions; on SQLite it is rolled back.
    Reads the catalog. A revision that cannot be run without a database is not rehearsed.

    Args:
        step: What is rehearsed.
        migration: The context of the run.
        rehearsal: That of the steps before it, if these were not run; what they write is not known
            to be there, and not refused.

    Raises:
        OperationRefused: A table, a column or a key is not there.
        NotImplementedError: The revision is not written yet.
    """
    connection = migration.connection
    if connection is None or connection.dialect.name != "postgresql":
        return
    rehearsal = rehearsal or Rehearsal(connection)
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        environment_context=migration.environment_context,
        opts={
            "as_sql": True,
            "literal_binds": True,
            "output_buffer": rehearsal.written,
            "table_schema": schema_of(migration),
            Rehearsal.OPTION: rehearsal,
        },
    )
    with operations_of(context):
        try:
            step.migration_fn()
        except (OperationRefused, NotImplementedError):
            raise
        except Exception as error:
            log.debug("%s cannot be rehearsed: %r", step.revision.revision, error)
