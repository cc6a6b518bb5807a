"""Drop tables that are empty, or whose loss was confirmed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.connection import raise_if, run
from cleveragents_plans.evolution.postgresql.dependents import refuse_table_in_use
from cleveragents_plans.evolution.postgresql.locks import with_exclusive_lock
from cleveragents_plans.evolution.postgresql.ownership import raise_if_foreign_relation
from cleveragents_plans.evolution.postgresql.read_locks import lock_known


class TableNotEmpty(EvolutionError):
    """
    The table has rows, and their loss was not confirmed.

    Attributes:
        table: The table.
        rows: How many rows it has.
    """

    def __init__(self, table: str, rows: int, confirm_option: str) -> None:
        super().__init__(
            f"{table} holds {rows} rows, which this step would drop; keep a backup and give "
            f"`-x {confirm_option}=yes` if that is wanted; nothing was changed"
        )
        self.table = table
        self.rows = rows


class TableReferenced(EvolutionError):
    """
    Tables that are not dropped refer to one that is.

    Attributes:
        table: The table to be dropped.
        referring: The tables that refer to it.
    """

    def __init__(self, table: str, referring: list[str]) -> None:
        super().__init__(
            f"{', '.join(referring)} refer to {table}, which this step would drop; "
            "drop their foreign keys first; nothing was changed"
        )
        self.table = table
        self.referring = referring


@checks("tables to be dropped")
def check_drop_tables(
    op: Op, table: str, *, children: Sequence[str] = (), confirm_option: str
) -> None:
    """
    Raise what `drop_tables` would raise now; drop nothing.

    Raises:
        TableNotEmpty: The table has rows.
        TableReferenced: A foreign key of another table refers to one of them.
        TableInUse: A view, or something else, is made from one of them (PostgreSQL).
    """
    if op.get_context().as_sql:
        return
    connection = op.get_bind()
    names = [qualified(op.get_context(), each) for each in (table, *children)]
    name, *others = names
    for each, dropped in zip((table, *children), names, strict=True):
        if referring := _referring(connection, dropped, names):
            raise TableReferenced(each, referring)
    if connection.dialect.name != "sqlite":
        lock_known(connection, name)
        for child in others:
            run(connection, raise_if_foreign_relation(child, name))
        refuse_table_in_use(connection, name, *others)
    rows = run(connection, f"SELECT count(*) FROM {name}").scalar_one()
    if rows and not _is_confirmed(op, confirm_option):
        raise TableNotEmpty(table, rows, confirm_option)


def drop_tables(op: Op, table: str, *, children: Sequence[str] = (), confirm_option: str) -> None:
    """
    Drop *children*, if they exist, and *table*, if it is empty or the loss is confirmed.

    ACCESS EXCLUSIVE on all of them on PostgreSQL, for as long as dropping takes; the
    rows are looked for under that lock, and the version changes with them. Offline the
    script looks and raises.

    Args:
        op: Alembic's ``op``.
        table: The table.
        children: Tables that refer to it and go before it.
        confirm_option: ``-x <confirm_option>=yes`` drops a table that has rows.

    Raises:
        TableNotEmpty: The table has rows.
        TableReferenced: A foreign key of another table refers to one of them.
        TableInUse: A view, or something else, is made from one of them (PostgreSQL).
    """
    check_drop_tables(op, table, children=children, confirm_option=confirm_option)
    name, *others = (qualified(op.get_context(), each) for each in (table, *children))
    statements = [*(f"DROP TABLE IF EXISTS {other}" for other in others), f"DROP TABLE {name}"]
    if op.get_context().dialect.name == "sqlite":
        for statement in statements:
            op.execute(statement)
        return
    # On line this closes the gap between what was looked at and the lock.
    statements[:0] = [raise_if_foreign_relation(other, name) for other in others]
    if not _is_confirmed(op, confirm_option):
        statements.insert(
            0,
            raise_if(
                f"EXISTS (SELECT 1 FROM {name})",
                f"{name} holds rows, which this step would drop",
                f"keep a backup and give -x {confirm_option}=yes if that is wanted",
            ),
        )
    with_exclusive_lock(op, table, *statements, in_version_transaction=True)


def _is_confirmed(op: Op, confirm_option: str) -> bool:
    environment = op.get_context().environment_context
    given = environment.get_x_argument(as_dictionary=True) if environment else {}
    return given.get(confirm_option) == "yes"


def _referring(connection: Connection, table: str, dropped: Sequence[str]) -> list[str]:
    """List the tables that refer to *table*, all named as in SQL, except those *dropped*."""
    if connection.dialect.name == "sqlite":
        found = connection.execute(text(_REFERRING_SQLITE), {"t": table}).scalars()
        return [name for name in found if name not in dropped]
    parameters = {"table": table, "names": list(dropped)}
    return list(run(connection, _REFERRING_POSTGRESQL, parameters).scalars())


_REFERRING_POSTGRESQL = """\
SELECT DISTINCT c.conrelid::regclass::text AS name FROM pg_constraint c
 WHERE c.contype = 'f' AND c.confrelid = to_regclass(%(table)s) AND NOT EXISTS (
         SELECT FROM unnest(%(names)s::text[]) name WHERE c.conrelid = to_regclass(name))
 ORDER BY 1"""

_REFERRING_SQLITE = """\
SELECT DISTINCT m.name FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
 WHERE m.type = 'table' AND lower(f."table") = lower(:t) ORDER BY 1"""
