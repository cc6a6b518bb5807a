"""Any statement that writes many rows of a table in use, for a few of them at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import (
    UNDEFINED_COLUMN,
    message_of,
    running_revision,
    sqlstate,
)
from cleveragents_plans.evolution.foreseen import Backfill, foresee
from cleveragents_plans.evolution.lookups import names_of, require_key
from cleveragents_plans.evolution.op import Op, in_schema, qualified
from cleveragents_plans.evolution.postgresql.backfill import Batches, BatchRun
from cleveragents_plans.evolution.postgresql.blockers import Deadline
from cleveragents_plans.evolution.postgresql.connection import (
    online,
    require_postgresql,
    run,
    session,
    write_sql,
)
from cleveragents_plans.evolution.postgresql.empty_copy import refusing, rehearse_expressions
from cleveragents_plans.evolution.postgresql.locks import READ_CONFLICTS, retry
from cleveragents_plans.evolution.postgresql.search_path import IN_A_SCRIPT, SET_SYSTEM_SCHEMAS
from cleveragents_plans.evolution.rehearsal import Rehearsal
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")

# Of a batch, so that it is short; with a hash or merge join each would read the whole
# table. Its plan is the same for all keys, and making it anew takes a tenth of a short batch;
# were every plan made anew, so would be that of each foreign key's check, row by row. The scans
# that look for rows leave the processors to others. What is written is handed to the disk at
# once: what the system piles up stops every commit when it goes.
BATCH_SESSION: Final = {
    "lock_timeout": "20ms",
    "statement_timeout": "0",
    "synchronous_commit": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "backend_flush_after": "256kB",
    "max_parallel_workers_per_gather": "0",
}


def run_in_batches(
    op: Op,
    table: str,
    *,
    key: str,
    needs: str,
    update: str,
    first: Sequence[Any] = (),
    label: str | None = None,
    schema: str | None = None,
    vacuum: str | None = None,
    setup: Sequence[str] = (),
) -> int:
    """
    Run *update* for one range of keys of *table* after the other, until no row needs it.

    Idempotent and resumable: interrupted at any point and run again, it does the rest; a column
    that an interrupted run of the revision dropped afterwards was read before. No
    statement waits for longer than 20 ms. VACUUM runs after every tenth of the table. While no
    other client is at work, a second session writes batches, too, unless there is a *setup*.

    Args:
        op: Alembic's ``op``.
        table: The table whose rows are looked at.
        key: Its primary key, one column.
        needs: A condition over the alias ``t`` that is true for the rows to be done,
            and false once they are.
        update: Any statement whose row count says how many rows it did. In it
            ``{batch}`` stands for a condition over the alias ``t``; it should lock its
            rows ``ORDER BY`` the key, ``SKIP LOCKED``. Offline it runs once, with TRUE.
        first: Keys of rows that come before all others, in this order.
        label: What to call it in messages.
        schema: The schema of *table*, if it is not that of the chain's tables. In *needs*
            and *update* ``{schema}`` stands for it.
        vacuum: The table that *update* writes to, if it is another one.
        setup: Statements that are sent first, such as one that creates a function of
            ``pg_temp`` that *needs* and *update* call.

    Returns:
        How many rows were done; 0 offline.

    Raises:
        BackfillStuck: Rows that need it could not be done for too long.
        BackfillNeverEnds: Rows need it however often they are done; if the first batch
            shows it, it was rolled back.
        BackfillRefused: A trigger, or a foreign key to another table, refuses rows.
        NameTaken: Another table took the place of *table* meanwhile, as by RENAME.
        OperationRefused: The table or the key does not exist, several rows may have the
            same key, or PostgreSQL refuses a statement. Nothing was changed.
        WrongDialect: The database is not PostgreSQL.
    """
    context = require_postgresql(op, "run_in_batches")
    require_key(op, "backfill", table, key, schema)
    update = in_schema(context, update, schema)
    rehearse_expressions(op, "backfill", table, [needs], setup=setup, schema=schema)
    name = qualified(context, table, schema)
    if context.as_sql:
        needed = in_schema(context, needs, schema)
        rehearsal = Rehearsal.of(op)
        dropped = rehearsal.dropped_triggers(name) if rehearsal else ()
        what = label or f"filling {table}"
        foresee(Backfill(name, key, what, needed, update, {}, dropped=dropped))
        write_sql(context, *setup, update.replace("{batch}", IN_A_SCRIPT), SET_SYSTEM_SCHEMAS)
        return 0
    wanted = Batches(
        table=name,
        key=key,
        needs=in_schema(context, needs, schema),
        update=update,
        first=first,
        label=label or f"filling {table}",
        vacuum=qualified(context, vacuum or table, schema),
        by_two=not setup,  # which another session has not
    )
    settings = Settings.of(context.environment_context)
    with online(op) as connection, session(connection, **BATCH_SESSION):
        deadline, tables = Deadline.for_locks(settings), [wanted.table, wanted.vacuum]
        with refusing("backfill", names_of(op, "column", table, schema)):
            try:
                for statement in (*setup, f"EXPLAIN {update.replace('{batch}', 'FALSE')}"):
                    attempt = partial(run, connection, statement)
                    retry(connection, tables, attempt, deadline, READ_CONFLICTS)
            except DBAPIError as error:
                running = running_revision.get()
                if running is None or not running.resumed or sqlstate(error) != UNDEFINED_COLUMN:
                    raise
                log.info("%s was done: %s", wanted.label, message_of(error))
                return 0
        return BatchRun(connection, wanted, settings).to_the_end()
