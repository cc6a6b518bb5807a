"""Values for the rows of a SQLite table, in one UPDATE."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from cleveragents_plans.evolution.errors import BackfillNeverEnds, EvolutionError, OperationRefused
from cleveragents_plans.evolution.lookups import names_of
from cleveragents_plans.evolution.misspellings import column_in, suggestion
from cleveragents_plans.evolution.op import Op, execute_as_written
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.run_figures import record_rows
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite.tokens import fold, quote


class ForeignKeyBroken(EvolutionError):
    """
    A backfill wrote references to rows that do not exist; foreign keys are off meanwhile.

    Attributes:
        table: The table.
        rows: How many rows do so now and did not before.
    """

    def __init__(self, table: str, rows: int) -> None:
        super().__init__(
            f"the backfill of {table} makes {rows} rows refer to rows that do not exist; correct "
            "the revision and run the same command again; nothing was changed"
        )
        self.table = table
        self.rows = rows


def fill(op: Op, table: str, values: Mapping[str, str], needs: str, label: str) -> int:
    """
    Write *values* into the rows, called ``t``, that need it; give how many they are.

    Raises:
        OperationRefused: SQLite does not understand it.
        BackfillNeverEnds: Rows that were written need it still.
        ForeignKeyBroken: Rows refer to none.
    """
    sets = ", ".join(f"{quote(column)} = {value}" for column, value in values.items())
    update = f"UPDATE {quote(table)} AS t SET {sets} WHERE {needs}"
    context = op.get_context()
    if context.as_sql:
        execute_as_written(op, update)
        return 0
    connection = op.get_bind()
    before = _violations(connection, table, values)
    with heartbeat(label, Settings.of(context.environment_context).report_every):
        try:
            written = connection.exec_driver_sql(update).rowcount
            left = connection.exec_driver_sql(
                f"SELECT count(*) FROM {quote(table)} AS t WHERE {needs}"
            ).scalar_one()
        except OperationalError as error:
            column = column_in(str(error.orig)) or ""
            remedy = suggestion(column, names_of(op, "column", table), "correct the revision")
            raise OperationRefused(
                "backfill", f"SQLite refuses it ({error.orig})", remedy
            ) from error
    if left:
        raise BackfillNeverEnds(table, f"{left} rows need it once they are written")
    if (broken := _violations(connection, table, values) - before) > 0:
        raise ForeignKeyBroken(table, broken)
    record_rows(written)
    return written


def _violations(connection: Connection, table: str, columns: Mapping[str, str]) -> int:
    """Count the rows of *table* that break a foreign key, if one has any of the *columns*."""
    keys = connection.exec_driver_sql(f"PRAGMA main.foreign_key_list({quote(table)})")
    if not {fold(key[3]) for key in keys} & set(map(fold, columns)):
        return 0
    try:
        check = connection.exec_driver_sql(f"PRAGMA main.foreign_key_check({quote(table)})")
    except DBAPIError:  # a key to columns that are not unique cannot be checked
        return 0
    return len(check.all())
