"""Values for rows that are there already, on both engines."""

from __future__ import annotations

from collections.abc import Mapping

from cleveragents_plans.evolution.expressions import Sql
from cleveragents_plans.evolution.lookups import on_sqlite, require_key, require_table, sql_of
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.batches import run_in_batches
from cleveragents_plans.evolution.postgresql.empty_copy import rehearse_expressions, rehearse_update
from cleveragents_plans.evolution.sqlite import backfill as sqlite


def backfill(
    op: Op,
    table: str,
    *,
    key: str,
    values: Mapping[str, str | Sql],
    needs: str | Sql | None = None,
    label: str | None = None,
    schema: str | None = None,
) -> int:
    """
    Write *values* into the rows of *table* that need it, until no row does.

    PostgreSQL: batches in the order of *key*, each a transaction of some milliseconds with
    ROW EXCLUSIVE on *table* and locks on its rows; rows that others lock are left for a later
    pass. A writer waits for one batch at most. VACUUM runs after every tenth of the table.
    SQLite: one UPDATE, in the one transaction of the run.

    Idempotent and resumable: rows that were written are not written again.

    Args:
        op: Alembic's ``op``.
        table: The table.
        key: Its primary key, one column.
        values: What each column gets: SQL over the row, which is ``t``, the same for both
            engines or an `Sql` (see `json_integer`).
        needs: Which rows need it; must be false once they are written. By default those
            that differ from *values*.
        label: What to call it in messages.
        schema: The schema of *table*, if it is not that of the chain's tables.

    Returns:
        How many rows were written; 0 offline.

    Raises:
        OperationRefused: The table, a column or the key does not exist, several rows may have
            the same key, or an expression is wrong or has a type that its column does not
            take. Nothing was changed.
        BackfillNeverEnds: Rows need it however often they are written; if the first batch
            shows it, it was rolled back.
        BackfillStuck: Rows that need it could not be written for too long.
    """
    require_key(op, "backfill", table, key, schema)
    schema = require_table(op, "backfill", table, values, schema)
    label = label or f"filling {table}"
    written = {column: sql_of(op, value) for column, value in values.items()}
    quote = op.get_context().dialect.identifier_preparer.quote
    if on_sqlite(op):
        lacking = [f"t.{quote(column)} IS NOT ({value})" for column, value in written.items()]
        condition = " OR ".join(lacking) if needs is None else sql_of(op, needs)
        return sqlite.fill(op, table, written, condition, label)
    lacking = [f"t.{quote(column)} IS DISTINCT FROM ({value})" for column, value in written.items()]
    condition = " OR ".join(lacking) if needs is None else sql_of(op, needs)
    name, column = qualified(op.get_context(), table, schema), quote(key)
    sets = ", ".join(f"{quote(column)} = {value}" for column, value in written.items())
    given = [each for each in (*values.values(), needs) if isinstance(each, Sql)]
    setup = list(dict.fromkeys(each.setup for each in given if each.setup))
    rehearse_expressions(op, "backfill", table, written.values(), setup=setup, schema=schema)
    rehearse_update(op, "backfill", table, written, condition, setup=setup, schema=schema)
    return run_in_batches(
        op,
        table,
        key=key,
        needs=condition,
        update=f"""\
WITH batch AS MATERIALIZED (
  SELECT {column} FROM {name} t
   WHERE {{batch}} AND ({condition}) ORDER BY {column} FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {name} t SET {sets} FROM batch WHERE t.{column} = batch.{column}""",
        label=label,
        schema=schema,
        setup=setup,
    )
