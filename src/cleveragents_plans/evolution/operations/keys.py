"""Whether rows can be told apart by the column that batches, look-ups and foreign keys go by."""

from __future__ import annotations

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.lookups import columns_of, is_key, on_sqlite, qualified_name
from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.read_locks import lock_known


@checks("keys")
def check_key(op: Op, table: str, key: str) -> None:
    """
    Find out whether all rows of *table* differ in *key*, and stay so; change nothing.

    A restore of PostgreSQL that did not come to its end has rows, and no keys yet; nor has a copy
    by ``CREATE TABLE AS``. Where there is no such table yet, and offline, it does nothing. Reads
    catalogs; where PostgreSQL allows NULL, ACCESS SHARE for one look into the index.

    Args:
        op: Alembic's ``op``.
        table: The table.
        key: The column.

    Raises:
        OperationRefused: Neither the primary key nor a valid unique index covers *key* alone, or
            a row of PostgreSQL has NULL there.
    """
    if op.get_context().as_sql:
        return
    connection = op.get_bind()
    if on_sqlite(op):
        if columns_of(op, table) and not is_key(connection, table, key):
            raise OperationRefused(
                "check_key",
                _MAY_BE_EQUAL.format(table, key),
                f"restore the table from a backup, or run CREATE UNIQUE INDEX uq_{table}_{key} ON "
                f"{table} ({key}), and the same command again",
            )
        return
    name = qualified_name(op, table)
    if not lock_known(connection, name):
        return
    if not is_key(connection, name, key):
        raise OperationRefused(
            "check_key",
            _MAY_BE_EQUAL.format(name, key),
            f"run ALTER TABLE {name} ADD PRIMARY KEY ({key}), and look what else a restore has "
            "left out (`cleveragents-plans verify`), then run the same command again",
        )
    if not columns_of(op, table)[key]["nullable"]:
        return
    if run(connection, _NULL.format(name, key)).scalar_one():
        raise OperationRefused(
            "check_key",
            f"a row of {name} has NULL for {key}",
            f"give it a key, or delete it, and run ALTER TABLE {name} ALTER COLUMN {key} SET NOT "
            "NULL, then the same command again",
        )


_MAY_BE_EQUAL = (
    "rows of {0} may be equal in {1}, which no primary key and no valid unique index covers alone"
)
_NULL = "SELECT EXISTS (SELECT FROM {0} WHERE {1} IS NULL)"
