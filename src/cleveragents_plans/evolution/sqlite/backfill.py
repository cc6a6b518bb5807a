"""Values for the rows of a SQLite table, in one UPDATE."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from cleveragents_plans.evolution.errors import BackfillNeverEnds, EvolutionError, OperationRefused
from cleveragents_plans.evolution.lookups import names_of
from cleveragents_plans.evolution.misspellings import column_in, suggestion
from cleveragents_plans.evolution.op import Op, execute_as_written
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.run_figures import record_rows
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite.tokens import fold, quote

# A type of numbers; DATE and the like are declared by those who store text.
_NUMERIC = re.compile(r"INT|REAL|FLOA|DOUB|NUMERIC|DECIMAL|BOOL", re.IGNORECASE)


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
        OperationRefused: SQLite does not understand it, or a column gets values that its type does
            not take, which SQLite would store as they are.
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
    misfits = _misfits(connection, table, values)
    with heartbeat(label, Settings.of(context.environment_context).report_every):
        try:
            written = connection.exec_driver_sql(update).rowcount
            left = connection.exec_driver_sql(
                f"SELECT count(*) FROM {quote(table)} AS t WHERE {needs}"
            ).scalar_one()
        except IntegrityError as error:
            if getattr(error.orig, "sqlite_errorname", "") != "SQLITE_CONSTRAINT_DATATYPE":
                raise
            raise OperationRefused(
                "backfill", f"SQLite refuses it ({error.orig})", "correct the revision"
            ) from error
        except OperationalError as error:
            column = column_in(str(error.orig)) or ""
            remedy = suggestion(column, names_of(op, "column", table), "correct the revision")
            raise OperationRefused(
                "backfill", f"SQLite refuses it ({error.orig})", remedy
            ) from error
    if left:
        raise BackfillNeverEnds(table, f"{left} rows need it once they are written")
    for column, (declared, rows) in _misfits(connection, table, values).items():
        if (more := rows - misfits[column][1]) > 0:
            found = f"{more} values do not fit {table}.{column}, which is of the type {declared}"
            raise OperationRefused("backfill", found, "correct the revision")
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


def _misfits(
    connection: Connection, table: str, columns: Mapping[str, str]
) -> dict[str, tuple[str, int]]:
    """
    Count what *columns* of numbers in *table* have besides: by column, its type and how many.

    SQLite stores what it cannot convert (https://www.sqlite.org/datatype3.html, section 3). This
    reads every row.
    """
    written = set(map(fold, columns))
    numeric = {
        name: declared
        for _, name, declared, *_ in connection.exec_driver_sql(
            f"PRAGMA main.table_xinfo({quote(table)})"
        )
        if fold(name) in written and _NUMERIC.search(declared)
    }
    if not numeric:
        return {}
    counts = ", ".join(
        f"count(*) FILTER (WHERE typeof({quote(name)}) IN ('text', 'blob'))" for name in numeric
    )
    row = connection.exec_driver_sql(f"SELECT {counts} FROM {quote(table)}").one()
    return {
        name: (declared, rows) for (name, declared), rows in zip(numeric.items(), row, strict=True)
    }
