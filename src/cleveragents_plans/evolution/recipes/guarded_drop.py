"""Dropping tables only when nothing is lost by it, or when the loss is wanted."""

from __future__ import annotations

from collections.abc import Sequence

from alembic.operations import MigrateOperation, Operations
from sqlalchemy import Connection, text

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.locks import ExclusiveLockOp


class TableNotEmpty(EvolutionError):
    """
    The table still has rows, and nobody said that they may go.

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


@Operations.register_operation("check_drop_tables", "check_drop_tables")
@Operations.register_operation("drop_tables", "drop_tables")
class DropTablesOp(MigrateOperation):
    """Drop a table and its children, unless rows or other tables are in the way."""

    def __init__(
        self, table: str, *, children: Sequence[str], confirm_option: str, only_check: bool = False
    ) -> None:
        self.table = table
        self.children = children
        self.confirm_option = confirm_option
        self.only_check = only_check

    @classmethod
    def check_drop_tables(
        cls,
        operations: Operations,
        table: str,
        *,
        children: Sequence[str] = (),
        confirm_option: str,
    ) -> None:
        """
        Raise what `drop_tables` would raise now; drop nothing.

        Raises:
            TableNotEmpty: The table has rows.
            TableReferenced: A foreign key of another table refers to it.
        """
        operations.invoke(
            cls(table, children=children, confirm_option=confirm_option, only_check=True)
        )

    @classmethod
    def drop_tables(
        cls,
        operations: Operations,
        table: str,
        *,
        children: Sequence[str] = (),
        confirm_option: str,
    ) -> None:
        """
        Drop *children*, if they exist, and *table*, if it is empty or ``-x <anyway>=yes`` is given.

        ACCESS EXCLUSIVE on all of them on PostgreSQL, for as long as dropping takes; the
        rows are looked for under that lock, and the version changes with them. Offline the
        script looks and raises.

        Raises:
            TableNotEmpty: The table has rows.
            TableReferenced: A foreign key of another table refers to it.
        """
        operations.invoke(cls(table, children=children, confirm_option=confirm_option))


@Operations.implementation_for(DropTablesOp)
def _drop_tables(operations: Operations, drop: DropTablesOp) -> None:
    context = operations.get_context()
    environment = context.environment_context
    given = environment.get_x_argument(as_dictionary=True) if environment else {}
    wanted = given.get(drop.confirm_option) == "yes"
    postgresql = context.dialect.name == "postgresql"
    if not context.as_sql:
        _refuse(operations.get_bind(), drop, wanted, postgresql)
    if drop.only_check:
        return
    statements = [f"DROP TABLE IF EXISTS {name}" for name in drop.children]
    statements.append(f"DROP TABLE {drop.table}")
    if not postgresql:
        for statement in statements:
            operations.execute(statement)
        return
    if not wanted:
        statements.insert(
            0, _RAISE_IF_ROWS.format(t=drop.table, confirm_option=drop.confirm_option)
        )
    operations.invoke(ExclusiveLockOp(drop.table, statements, in_version_transaction=True))


def _refuse(connection: Connection, drop: DropTablesOp, wanted: bool, postgresql: bool) -> None:
    referring = _referring(connection, drop, postgresql)
    if referring:
        raise TableReferenced(drop.table, referring)
    rows = connection.execute(text(f"SELECT count(*) FROM {drop.table}")).scalar_one()
    if rows and not wanted:
        raise TableNotEmpty(drop.table, rows, drop.confirm_option)


def _referring(connection: Connection, drop: DropTablesOp, postgresql: bool) -> list[str]:
    query = text(_REFERRING_POSTGRESQL if postgresql else _REFERRING_SQLITE)
    found = connection.execute(query, {"t": drop.table}).scalars()
    return [name for name in found if name not in (drop.table, *drop.children)]


# An operator's script has nobody to ask, so it carries the question with it; on line it
# closes the gap between the count and the lock.
_RAISE_IF_ROWS = """\
DO $drop$ BEGIN
  IF EXISTS (SELECT 1 FROM {t}) THEN
    RAISE EXCEPTION '{t} holds rows, which this step would drop'
      USING HINT = 'keep a backup and give -x {confirm_option}=yes if that is wanted';
  END IF;
END $drop$"""

_REFERRING_POSTGRESQL = """\
SELECT DISTINCT conrelid::regclass::text AS name FROM pg_constraint
 WHERE contype = 'f' AND confrelid = to_regclass(:t) ORDER BY 1"""

_REFERRING_SQLITE = """\
SELECT DISTINCT m.name FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
 WHERE m.type = 'table' AND lower(f."table") = lower(:t) ORDER BY 1"""
