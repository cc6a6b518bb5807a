"""Find out whether PostgreSQL would alter a table, before a lock on it is asked for."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.read_locks import lock_known
from cleveragents_plans.evolution.postgresql.search_path import path_statement

#: Dropped columns count, too. https://www.postgresql.org/docs/current/limits.html
_MAX_COLUMNS = 1600
_OF_COLUMNS = re.compile(r"\s*(ADD|DROP)\s+COLUMN\b", re.IGNORECASE)


class TableUnfit(EvolutionError):
    """
    PostgreSQL would refuse to alter a table, or to write what it is to hold afterwards.

    Attributes:
        table: The table.
    """

    def __init__(self, table: str, found: str, remedy: str) -> None:
        super().__init__(f"{table} {found}; {remedy}; nothing was changed")
        self.table = table


class _Table(NamedTuple):
    #: How many columns it ever had.
    columns: int
    names: list[str]
    not_null: list[str]
    #: Columns of other tables that hold its rows.
    users: list[str]
    #: The type that it is made of (CREATE TABLE … OF), if so.
    of_type: str | None
    #: The table that it is a partition of, if so.
    partition_of: str | None
    #: A foreign table that inherits from it, if there is one.
    foreign: str | None


@checks("columns")
def check_alterable(
    op: Op, table: str, *actions: str, adds: Collection[str] = (), default_of: Collection[str] = ()
) -> None:
    """
    Find out whether PostgreSQL would alter *table*; change nothing.

    The *actions* are tried on an empty temporary copy of it, where event triggers fire and
    values are converted as they would be. ACCESS SHARE on *table* for some milliseconds. On
    SQLite, offline, and where there is no such table yet, it does nothing.

    Args:
        op: Alembic's ``op``.
        table: The table.
        actions: What is to follow ``ALTER TABLE …`` once.
        adds: Names of columns that they add, unless these are there.
        default_of: Columns whose defaults are to be written.

    Raises:
        TableUnfit: It has too many columns, a column of another table is of its row
            type, it is made of a type or a partition, a foreign table inherits from it, or
            PostgreSQL refuses an action or a default.
    """
    context = op.get_context()
    if context.dialect.name == "sqlite" or context.as_sql:
        return
    connection, name = op.get_bind(), qualified(context, table)
    row = run(connection, _TABLE, {"table": name}).first() if lock_known(connection, name) else None
    if row is None:
        return
    found = _Table(*row)
    missing = [column for column in adds if column not in found.names]
    if found.columns + len(missing) > _MAX_COLUMNS:
        raise TableUnfit(
            table,
            f"has or had {found.columns} columns, and PostgreSQL allows {_MAX_COLUMNS}, dropped "
            f"ones included: {' and '.join(missing)} cannot be added",
            "copy it into a new table, or move columns to another one",
        )
    if found.of_type and (missing or any(_OF_COLUMNS.match(action) for action in actions)):
        raise TableUnfit(
            table,
            f"is made of the type {found.of_type}, so that PostgreSQL adds no column to it, and "
            "drops none",
            f"run ALTER TABLE {name} NOT OF",
        )
    if missing and found.partition_of:
        raise TableUnfit(
            table,
            f"is a partition of {found.partition_of}, so that PostgreSQL adds no column to it",
            f"run ALTER TABLE {found.partition_of} DETACH PARTITION {name}",
        )
    if found.foreign:
        raise TableUnfit(
            table,
            f"is inherited by the foreign table {found.foreign}: PostgreSQL alters that, but not "
            "the table of the other server",
            f"run ALTER TABLE {found.foreign} NO INHERIT {name} for the time of this run",
        )
    if missing and found.users:
        raise TableUnfit(
            table,
            f"is the type of {' and '.join(found.users)}, so that PostgreSQL adds no column to it",
            "drop these columns, or change their types",
        )
    # Columns of tables that inherit are merged with what is added.
    merged = run(connection, _MERGED, {"table": name, "columns": missing}) if missing else ()
    heirs = [f"CREATE TEMPORARY TABLE {heir} ({columns})" for heir, columns in merged]
    _try(connection, table, name, found, heirs, actions, default_of)


def _try(
    connection: Connection,
    table: str,
    name: str,
    found: _Table,
    heirs: Collection[str],
    actions: Collection[str],
    default_of: Collection[str],
) -> None:
    quote = connection.dialect.identifier_preparer.quote
    copy = "pg_temp.evolution_copy"
    nullable = ", ".join(f"ALTER COLUMN {each} DROP NOT NULL" for each in found.not_null)
    statements = [
        *path_statement(connection),
        f"CREATE TEMPORARY TABLE evolution_copy (LIKE {name})",
        *([f"ALTER TABLE {copy} {nullable}"] if nullable else []),
        *(f"{heir} INHERITS ({copy})" for heir in heirs),
        *(f"ALTER TABLE {copy} {action}" for action in actions),
        *(f"INSERT INTO {copy} ({quote(each)}) VALUES (DEFAULT)" for each in default_of),
    ]
    nested = connection.begin_nested()
    statement = ""
    try:
        for statement in statements:
            run(connection, statement)
    except DBAPIError as error:
        said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or error.orig
        raise TableUnfit(
            table,
            f"cannot be altered: PostgreSQL refuses `{statement[:120]}` on a copy of it "
            f"({' '.join(str(said).split())[:300]})",
            "remove the cause (a function of an event trigger may need a search_path of its own), "
            "and run the same command again",
        ) from error
    finally:
        nested.rollback()


#: A table, and those that inherit from it.
FAMILY: Final = """\
family (oid) AS (
  SELECT CAST(to_regclass(%(table)s) AS oid)
  UNION
  SELECT i.inhrelid FROM family JOIN pg_inherits i ON i.inhparent = family.oid
)"""

# Of its row type, and of those of tables that inherit: by arrays, domains, ranges and composite
# types, too.
_TABLE = f"""\
WITH RECURSIVE {FAMILY}, used (oid) AS (
  SELECT c.reltype FROM family JOIN pg_class c ON c.oid = family.oid
  UNION
  SELECT more.oid FROM used CROSS JOIN LATERAL (
    SELECT t.oid FROM pg_type t WHERE t.typelem = used.oid OR t.typbasetype = used.oid
    UNION ALL
    SELECT r.reltype FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
     WHERE a.atttypid = used.oid AND r.relkind = 'c' AND NOT a.attisdropped
    UNION ALL
    SELECT unnest(ARRAY[g.rngtypid, g.rngmultitypid]) FROM pg_range g
     WHERE g.rngsubtype = used.oid) AS more
   WHERE used.oid <> 0
)
SELECT c.relnatts,
       ARRAY(SELECT CAST(a.attname AS text) FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attnotnull AND NOT a.attisdropped),
       ARRAY(SELECT CAST(a.attrelid AS regclass) || '.' || quote_ident(a.attname)
               FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
              WHERE a.atttypid IN (SELECT used.oid FROM used WHERE used.oid <> 0)
                AND r.relkind IN ('r', 'p', 'm') AND NOT a.attisdropped ORDER BY 1),
       CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END,
       (SELECT CAST(CAST(i.inhparent AS regclass) AS text) FROM pg_inherits i
         WHERE i.inhrelid = c.oid AND c.relispartition),
       (SELECT CAST(CAST(f.oid AS regclass) AS text)
          FROM family JOIN pg_class f ON f.oid = family.oid
         WHERE f.relkind = 'f' ORDER BY 1 LIMIT 1)
  FROM pg_class c WHERE c.oid = to_regclass(%(table)s)"""

# Temporary tables of their names, with those columns of tables that inherit.
_MERGED = f"""\
WITH RECURSIVE {FAMILY}
SELECT DISTINCT ON (1) quote_ident(c.relname),
       string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod), ', ')
  FROM family JOIN pg_class c ON c.oid = family.oid
  JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
   AND a.attname = ANY(CAST(%(columns)s AS text[]))
 WHERE c.oid <> to_regclass(%(table)s) AND c.relname <> 'evolution_copy'
 GROUP BY c.oid, c.relname"""
