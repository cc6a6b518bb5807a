"""Whether PostgreSQL would let a column be NULL, or forbid it, where the table has relatives."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.alterations import FAMILY, TableUnfit
from cleveragents_plans.evolution.postgresql.connection import run


@checks("columns")
def check_drop_not_null(op: Op, table: str, *columns: str) -> None:
    """
    Find out whether PostgreSQL would drop the NOT NULL of *columns* of *table*; change nothing.

    Reads catalogs. On SQLite, offline, and where there is no such table yet, it does nothing.

    Raises:
        TableUnfit: A column is in a primary key or a replica identity, is an identity column, or
            inherits its NOT NULL.
    """
    _check(op, table, _KEPT, columns)


@checks("columns")
def check_set_not_null(op: Op, table: str, *columns: str) -> None:
    """
    Find out whether tables that inherit let *columns* of *table* be NOT NULL; change nothing.

    Reads catalogs. On SQLite, offline, and where there is no such table yet, it does nothing.

    Raises:
        TableUnfit: A table that inherits has a NOT NULL of its own that is NO INHERIT.
    """
    _check(op, table, _NOT_MERGED, columns)


def refuse_kept_not_null(
    connection: Connection, table: str, name: str, columns: Sequence[str]
) -> None:
    """
    Refuse to drop the NOT NULL of *columns* of *table*, *name* in SQL, as `check_drop_not_null`.

    Raises:
        TableUnfit: PostgreSQL would not drop one.
    """
    _refuse(connection, table, _KEPT, name, columns)


def _check(op: Op, table: str, query: str, columns: Sequence[str]) -> None:
    context = op.get_context()
    if context.dialect.name == "postgresql" and not context.as_sql:
        _refuse(op.get_bind(), table, query, qualified(context, table), columns)


def _refuse(
    connection: Connection, table: str, query: str, name: str, columns: Sequence[str]
) -> None:
    row = run(connection, query, {"table": name, "columns": list(columns)}).first()
    if row is not None:
        found, remedy = row
        raise TableUnfit(table, found, f"{remedy}, and run the same command again")


_MAJOR = "CAST(current_setting('server_version_num') AS integer) / 10000"
_NAMED = "CAST(CAST({} AS regclass) AS text)"

# Of the tables that inherit, PostgreSQL 18 lets those keep it that have it from elsewhere, too.
_KEPT = f"""\
WITH RECURSIVE family (oid, name, attnum, top) AS (
  SELECT a.attrelid, a.attname, a.attnum, true FROM pg_attribute a
   WHERE a.attrelid = to_regclass(%(table)s) AND NOT a.attisdropped
     AND a.attname = ANY(CAST(%(columns)s AS text[]))
  UNION
  SELECT a.attrelid, a.attname, a.attnum, false
    FROM family JOIN pg_inherits i ON i.inhparent = family.oid
    JOIN pg_attribute a ON a.attrelid = i.inhrelid AND a.attname = family.name
   WHERE {_MAJOR} < 18 OR EXISTS (
           SELECT FROM pg_constraint k
            WHERE k.conrelid = a.attrelid AND CAST(k.contype AS text) = 'n'
              AND k.conkey = ARRAY[a.attnum] AND NOT k.conislocal AND k.coninhcount = 1)
), kept (top, name, found, remedy) AS (
  SELECT f.top, f.name,
         CASE WHEN i.indisprimary THEN 'the primary key ' ELSE 'the replica identity ' END
         || quote_ident(c.relname) || ' of ' || {_NAMED.format("f.oid")},
         CASE WHEN i.indisprimary THEN 'make it a unique index or leave the column out of it'
              ELSE 'run ALTER TABLE ' || {_NAMED.format("f.oid")} || ' REPLICA IDENTITY DEFAULT'
         END
    FROM family f JOIN pg_index i ON i.indrelid = f.oid AND f.attnum = ANY(i.indkey)
    JOIN pg_class c ON c.oid = i.indexrelid
   WHERE i.indisprimary OR i.indisreplident
  UNION ALL
  SELECT f.top, f.name, 'an identity of ' || {_NAMED.format("f.oid")},
         'run ALTER TABLE ' || {_NAMED.format("f.oid")} || ' ALTER COLUMN ' || quote_ident(f.name)
         || ' DROP IDENTITY'
    FROM family f JOIN pg_attribute a ON a.attrelid = f.oid AND a.attnum = f.attnum
   WHERE a.attidentity <> ''
  UNION ALL
  SELECT f.top, f.name, 'the table ' || {_NAMED.format("p.attrelid")} || ', from which it inherits',
         'run ALTER TABLE ' || {_NAMED.format("p.attrelid")} || ' ALTER COLUMN '
         || quote_ident(f.name) || ' DROP NOT NULL'
    FROM family f JOIN pg_inherits h ON h.inhrelid = f.oid
    JOIN pg_attribute p ON p.attrelid = h.inhparent AND p.attname = f.name AND p.attnotnull
    JOIN pg_class own ON own.oid = f.oid
   WHERE f.top AND CASE WHEN {_MAJOR} < 18 THEN own.relispartition ELSE EXISTS (
           SELECT FROM pg_constraint k
            WHERE k.conrelid = f.oid AND CAST(k.contype AS text) = 'n'
              AND k.conkey = ARRAY[f.attnum] AND k.coninhcount > 0) END
)
SELECT 'has to keep ' || quote_ident(name) || ' NOT NULL for ' || found, remedy
  FROM kept ORDER BY top DESC, name, found LIMIT 1"""

# NOT NULL is a constraint since PostgreSQL 18, where it can be left out of what inherits.
_NOT_MERGED = f"""\
WITH RECURSIVE {FAMILY}
SELECT 'is inherited by ' || {_NAMED.format("k.conrelid")} || ', whose NOT NULL '
       || quote_ident(k.conname) || ' of ' || quote_ident(a.attname) || ' is NO INHERIT',
       'run ALTER TABLE ' || {_NAMED.format("k.conrelid")} || ' ALTER CONSTRAINT '
       || quote_ident(k.conname) || ' INHERIT'
  FROM family JOIN pg_constraint k ON k.conrelid = family.oid
  JOIN pg_attribute a ON a.attrelid = k.conrelid AND k.conkey = ARRAY[a.attnum]
 WHERE k.conrelid <> to_regclass(%(table)s) AND CAST(k.contype AS text) = 'n' AND k.connoinherit
   AND a.attname = ANY(CAST(%(columns)s AS text[])) ORDER BY 1 LIMIT 1"""
