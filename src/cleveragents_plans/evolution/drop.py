"""Dropping tables only when nothing is lost by it, or when the loss is wanted."""

from __future__ import annotations

from alembic.operations import MigrateOperation, Operations
from sqlalchemy import Connection, text

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.locks import ShortLockOp


class RowsInTheWay(EvolutionError):
    """
    The table still has rows, and nobody said that they may go.

    Attributes:
        table: The table.
        rows: How many rows it has.
    """

    def __init__(self, table: str, rows: int, anyway: str) -> None:
        super().__init__(
            f"{table} holds {rows} rows, which this step would drop; keep a backup and give "
            f"`-x {anyway}=yes` if that is wanted; nothing was changed"
        )
        self.table = table
        self.rows = rows


class TablesInTheWay(EvolutionError):
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


@Operations.register_operation("drop_tables_unless_rows")
class DropTablesOp(MigrateOperation):
    """Drop a table and its children, unless the table has rows."""

    def __init__(self, table: str, *, children: tuple[str, ...], anyway: str) -> None:
        self.table = table
        self.children = children
        self.anyway = anyway

    @classmethod
    def drop_tables_unless_rows(
        cls, operations: Operations, table: str, *, children: tuple[str, ...] = (), anyway: str
    ) -> None:
        """
        Drop *children* and then *table*, if *table* is empty or ``-x <anyway>=yes`` was given.

        ACCESS EXCLUSIVE on all of them on PostgreSQL, for as long as dropping takes; the
        rows are looked for under that lock. Offline the script looks and raises.

        Raises:
            RowsInTheWay: The table has rows.
            TablesInTheWay: A foreign key of another table refers to it.
        """
        operations.invoke(cls(table, children=children, anyway=anyway))


@Operations.implementation_for(DropTablesOp)
def _drop_tables(operations: Operations, drop: DropTablesOp) -> None:
    context = operations.get_context()
    environment = context.environment_context
    given = environment.get_x_argument(as_dictionary=True) if environment else {}
    wanted = given.get(drop.anyway) == "yes"
    statements = [f"DROP TABLE {name}" for name in (*drop.children, drop.table)]
    postgresql = context.dialect.name == "postgresql"
    if not context.as_sql:
        connection = operations.get_bind()
        referring = _referring(connection, drop, postgresql)
        if referring:
            raise TablesInTheWay(drop.table, referring)
        rows = connection.execute(text(f"SELECT count(*) FROM {drop.table}")).scalar_one()
        if rows and not wanted:
            raise RowsInTheWay(drop.table, rows, drop.anyway)
    if not postgresql:
        for statement in statements:
            operations.execute(statement)
        return
    if not wanted:
        statements.insert(0, _RAISE_IF_ROWS.format(t=drop.table, anyway=drop.anyway))
    operations.invoke(ShortLockOp(drop.table, statements, schema=None))


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
      USING HINT = 'keep a backup and give -x {anyway}=yes if that is wanted';
  END IF;
END $drop$"""

_REFERRING_POSTGRESQL = """\
SELECT DISTINCT conrelid::regclass::text AS name FROM pg_constraint
 WHERE contype = 'f' AND confrelid = to_regclass(:t) ORDER BY 1"""

_REFERRING_SQLITE = """\
SELECT DISTINCT m.name FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
 WHERE m.type = 'table' AND lower(f."table") = lower(:t) ORDER BY 1"""
