"""What an operation finds out of the database before it changes anything."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal

from sqlalchemy import Connection, Inspector, inspect
from sqlalchemy.engine.interfaces import ReflectedColumn, ReflectedIndex
from sqlalchemy.exc import SAWarning
from sqlalchemy.sql.elements import ClauseElement

from cleveragents_plans.evolution.errors import OperationRefused, running_revision
from cleveragents_plans.evolution.expressions import Sql
from cleveragents_plans.evolution.misspellings import is_misspelt, suggestion
from cleveragents_plans.evolution.op import Op, qualified, schema_of
from cleveragents_plans.evolution.rehearsal import Rehearsal

log: Final = logging.getLogger("alembic.evolution")

_inspectors: ContextVar[dict[Connection, Inspector] | None] = ContextVar("inspectors", default=None)

#: What an operation can drop of a table.
Kind = Literal["column", "index", "constraint", "trigger"]


def on_sqlite(op: Op) -> bool:
    """Tell whether the database is SQLite; it is PostgreSQL otherwise."""
    return op.get_context().dialect.name == "sqlite"


def sql_of(op: Op, expression: str | Sql) -> str:
    """Give the text of *expression* for the engine at hand."""
    if isinstance(expression, str):
        return expression
    return expression.sqlite if on_sqlite(op) else expression.postgresql


def qualified_name(op: Op, table: str, schema: str | None = None) -> str:
    """
    Write the name of *table* for SQL of a revision's own, quoted where needed.

    On PostgreSQL with its schema, as a revision searches system schemas only.

    Args:
        op: Alembic's ``op``.
        table: The table.
        schema: Its schema, if it is not that of the chain's tables.
    """
    return qualified(op.get_context(), table, schema)


def ddl(op: Op, element: ClauseElement) -> str:
    """Write *element* as the engine's SQL, which is to be sent character by character."""
    # With the parameter style of a driver, every % would be doubled.
    make_dialect: Any = type(op.get_context().dialect)
    dialect = make_dialect(paramstyle="named")
    return str(element.compile(dialect=dialect)).strip()


def _inspector(op: Op, *names: str) -> Inspector | None:
    """Give what tells of the database; nothing offline, or where *names* are not known yet."""
    context = op.get_context()
    rehearsal: Rehearsal | None = context.opts.get(Rehearsal.OPTION)
    if rehearsal is not None:
        return inspect(rehearsal.connection) if rehearsal.knows(*names) else None
    return None if context.as_sql else inspect(op.get_bind())


@contextmanager
def each_table_once() -> Iterator[None]:
    """Let `columns_of` and `indexes_of` ask once for each table, because nothing changes it."""
    token = _inspectors.set({})
    try:
        yield
    finally:
        _inspectors.reset(token)


def _reflected(op: Op) -> Inspector:
    connection, known = op.get_bind(), _inspectors.get()
    return (
        inspect(connection) if known is None else known.setdefault(connection, inspect(connection))
    )


def columns_of(op: Op, table: str) -> dict[str, ReflectedColumn]:
    """Give the columns of *table* by their names, as SQLAlchemy reflects them; none, no table."""
    found, schema = _reflected(op), schema_of(op.get_context())
    if not found.has_table(table, schema=schema):
        return {}
    return {column["name"]: column for column in columns_found(found, table, schema)}


def columns_found(found: Inspector, table: str, schema: str | None) -> list[ReflectedColumn]:
    """Reflect the columns of *table*, also those of a type that SQLAlchemy does not know."""
    with warnings.catch_warnings():
        # That of an extension: a column of an operator's own, or one that a check is to refuse.
        warnings.filterwarnings("ignore", "Did not recognize type", SAWarning)
        return found.get_columns(table, schema=schema)


def missing_parts(op: Op, expected: Mapping[str, Iterable[str]]) -> list[str]:
    """
    Name what is not there of the tables that are *expected*, with their columns.

    Of a column that is there in capitals it says so: SQLite itself compares names without case.
    """
    found = []
    quote = op.get_context().dialect.identifier_preparer.quote
    for table, columns in expected.items():
        present = columns_of(op, table)
        if not present:
            found.append(f"the table {table}")
            continue
        spelled = {name.lower(): name for name in present}
        for name in [name for name in columns if name not in present]:
            other = spelled.get(name.lower())
            rename = (
                f"ALTER TABLE {quote(table)} RENAME COLUMN {quote(other or '')} TO {quote(name)}"
            )
            found.append(
                f"the column {table}.{name}" + (f" ({other} is there: {rename})" if other else "")
            )
    return found


def indexes_of(op: Op, table: str) -> dict[str, ReflectedIndex]:
    """Give the indexes of *table* by their names, as SQLAlchemy reflects them; none, no table."""
    found, schema = _reflected(op), schema_of(op.get_context())
    if not found.has_table(table, schema=schema):
        return {}
    return {str(index["name"]): index for index in _indexes(found, table, schema)}


def require_table(
    op: Op, operation: str, table: str, columns: Iterable[str] = (), schema: str | None = None
) -> str | None:
    """
    Refuse a table, or *columns* of it, that are not there; offline nothing can be found out.

    Returns:
        The schema of the table; None on SQLite.

    Raises:
        OperationRefused: One of them is not there.
    """
    where = f" in the schema {schema}" if schema else ""
    schema = schema_of(op.get_context(), schema)
    found = _inspector(op)
    if found is None:
        return schema
    if not found.has_table(table, schema=schema):
        if _inspector(op, table) is None:
            return schema
        known = found.get_table_names(schema=schema)
        raise OperationRefused(
            operation, f"there is no table {table}{where}", suggestion(table, known)
        )
    if columns:
        known = [column["name"] for column in columns_found(found, table, schema)]
        for column in columns:
            if column not in known and _inspector(op, column) is not None:
                raise OperationRefused(
                    operation, f"{table} has no column {column}", suggestion(column, known)
                )
    return schema


def require_key(op: Op, operation: str, table: str, key: str, schema: str | None = None) -> None:
    """
    Refuse a *key* of *table* that is not one column in which all rows differ.

    Raises:
        OperationRefused: It has two columns, or several rows may have the same value of it.
    """
    if not key.isidentifier() and any(sign in key for sign in ",() "):
        raise OperationRefused(
            operation,
            f"the key {key!r} of {table} is not the name of one column",
            "name one column that the primary key or a unique index covers alone",
        )
    schema = require_table(op, operation, table, [key], schema)
    found = _inspector(op, key)
    if found is None or not found.has_table(table, schema=schema):
        return
    rehearsal = Rehearsal.of(op)
    connection = rehearsal.connection if rehearsal else op.get_bind()
    name = table if on_sqlite(op) else qualified(op.get_context(), table, schema)
    if not is_key(connection, name, key):
        primary = found.get_pk_constraint(table, schema=schema)["constrained_columns"]
        covered = f" (the primary key is {', '.join(primary)})" if primary else ""
        raise OperationRefused(
            operation,
            f"rows of {table} may be equal in {key}{covered}",
            "name one column that the primary key or a unique index covers alone",
        )


def is_key(connection: Connection, table: str, key: str) -> bool:
    """
    Tell whether the primary key, or a unique index of all rows, covers *key* alone.

    An index that was not built to its end is none. Catalogs are read only.

    Args:
        connection: The connection that migrates.
        table: The table; on PostgreSQL as in SQL, with its schema.
        key: The column.
    """
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql(_KEY_ON_SQLITE, (table, key, table, table, key))
    else:
        found = connection.exec_driver_sql(_KEY_ON_POSTGRESQL, {"table": table, "key": key})
    return bool(found.scalar_one())


def names_of(op: Op, kind: Kind, table: str, schema: str | None = None) -> list[str]:
    """Name what *table* has of this *kind*; nothing offline."""
    rehearsal = Rehearsal.of(op)
    if op.get_context().as_sql and not rehearsal:
        return []
    connection = rehearsal.connection if rehearsal else op.get_bind()
    if on_sqlite(op):
        return [name for (name,) in connection.exec_driver_sql(_ON_SQLITE[kind], (table,))]
    named = {"table": qualified(op.get_context(), table, schema)}
    return [name for (name,) in connection.exec_driver_sql(_ON_POSTGRESQL[kind], named)]


def check_droppable_name(
    op: Op,
    operation: str,
    kind: Kind,
    table: str,
    name: str,
    schema: str | None = None,
    *,
    optional: bool = False,
) -> None:
    """
    Warn that *table* has no *kind* of this *name* to drop, and refuse a name that is misspelt.

    An interrupted run may have dropped it: if the revision is one that was begun before, that is
    taken for the reason. Else the name is wrong, or an operator dropped it. If it differs by a
    letter or two from one that is there, it is wrong. Offline nothing can be found out.

    Args:
        op: Alembic's ``op``.
        operation: The operation.
        kind: What is to be dropped.
        table: The table.
        name: What it is called.
        schema: The schema of *table*, if it is not that of the chain's tables.
        optional: It may never have been there, whatever is called alike.

    Raises:
        OperationRefused: The name is misspelt. Nothing was changed.
    """
    rehearsal = Rehearsal.of(op)
    if (op.get_context().as_sql and not rehearsal) or (rehearsal and not rehearsal.knows(name)):
        return
    known = names_of(op, kind, table, schema)
    if name in known or (on_sqlite(op) and name.lower() in map(str.lower, known)):
        return
    running = running_revision.get()
    if running and running.resumed:
        log.info("%s has no %s %s any more: an interrupted run dropped it", table, kind, name)
        return
    remedy = suggestion(name, known)
    # On PostgreSQL the rehearsal has refused it, or the revision itself dropped it just now.
    if is_misspelt(name, known) and running and not optional and (rehearsal or on_sqlite(op)):
        raise OperationRefused(operation, f"{table} has no {kind} {name}", remedy)
    if not rehearsal:
        log.warning(
            "%s has no %s %s, and %s dropped none; %s (unless it was dropped by hand)",
            *(table, kind, name, operation, remedy),
        )


def _indexes(found: Inspector, table: str, schema: str | None) -> list[ReflectedIndex]:
    with warnings.catch_warnings():
        # SQLAlchemy cannot reflect an index of expressions on SQLite. It is an operator's own, and
        # none that a revision means.
        warnings.filterwarnings("ignore", "Skipped unsupported reflection", SAWarning)
        return found.get_indexes(table, schema=schema)


_ON_SQLITE: Final[dict[Kind, str]] = {
    "column": "SELECT name FROM pragma_table_xinfo(?)",
    "index": "SELECT name FROM pragma_index_list(?)",
}
_ON_POSTGRESQL: Final[dict[Kind, str]] = {
    "column": "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%(table)s)"
    " AND attnum > 0 AND NOT attisdropped",
    "index": "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE i.indrelid = to_regclass(%(table)s)",
    "constraint": "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%(table)s)",
    "trigger": "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(%(table)s)"
    " AND NOT tgisinternal",
}

_KEY_ON_SQLITE: Final = """\
SELECT EXISTS (SELECT 1 FROM pragma_table_info(?) c WHERE c.pk AND lower(c.name) = lower(?)
                  AND (SELECT count(*) FROM pragma_table_info(?) other WHERE other.pk) = 1)
    OR EXISTS (SELECT 1 FROM pragma_index_list(?) i WHERE i."unique" AND NOT i.partial
                  AND (SELECT count(*) = 1 AND lower(max(c.name)) = lower(?)
                         FROM pragma_index_info(i.name) c))"""
_KEY_ON_POSTGRESQL: Final = """\
SELECT EXISTS (
  SELECT FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
   WHERE x.indrelid = to_regclass(%(table)s) AND a.attname = %(key)s AND x.indisunique
     AND x.indisvalid AND x.indpred IS NULL AND x.indnkeyatts = 1)"""
