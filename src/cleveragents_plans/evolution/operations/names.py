"""What has the names of tables: those that are there, and those that a revision creates."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import RENAME
from cleveragents_plans.evolution.op import Op, schema_of
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.ownership import NameTaken
from cleveragents_plans.evolution.postgresql.table_owners import refuse_foreign_tables


def require_tables(connection: Connection, names: Collection[str], schema: str | None) -> None:
    """
    Refuse views and the like that have the name of a table; a table need not exist.

    SQLite does not tell upper from lower case in names, and what compares them elsewhere does: a
    table that differs in case is refused, too. Catalogs are read only.

    Args:
        connection: The connection that migrates, or reads.
        names: Names of tables, without a schema.
        schema: Their schema; None on SQLite.

    Raises:
        NameTaken: One is not an ordinary table of this name.
    """
    if connection.dialect.name == "postgresql":
        wanted = {"names": list(names), "schema": schema}
        for name, kind in run(connection, _KINDS_POSTGRESQL, wanted):
            remedy = "rename or drop it, or give -x schema=NAME of the tables"
            raise NameTaken(name, f"is {kind}; expected a table", remedy)
        return
    expected = {name.lower(): name for name in names}
    for name, kind in run(connection, _KINDS_SQLITE):
        table = expected.get(name.lower())
        if table is None:
            continue
        if kind != "a table":
            remedy = RENAME if kind == "a virtual table" else "rename or drop it"
            raise NameTaken(name, f"is {kind}; expected a table", remedy)
        if name != table:
            raise NameTaken(
                name,
                f"is a table whose name differs in case from {table}",
                f'if it is this chain\'s, run ALTER TABLE "{name}" RENAME TO renamed and ALTER '
                f"TABLE renamed RENAME TO {table}, otherwise rename it",
            )


def check_new_names(op: Op, *names: str) -> None:
    """
    Find out whether *names* are free for tables and indexes; change nothing.

    Tables, views, indexes and sequences of a schema have their names from one pool on
    PostgreSQL, and a table's row type takes that of a type, too. On SQLite triggers are apart, and
    names that differ in case are the same. Offline it does nothing.

    Args:
        op: Alembic's ``op``.
        names: The names, without a schema.

    Raises:
        NameTaken: Something has one of them.
    """
    context = op.get_context()
    if context.as_sql:
        return
    _refuse_taken(op.get_bind(), names, schema_of(context))


def refuse_taken_names(
    connection: Connection,
    tables: Collection[str],
    version_table: str,
    schema: str | None,
    version_schema: str | None,
) -> None:
    """
    Refuse tables of PostgreSQL that a run must not use; see `refuse_foreign_tables`.

    Where the version table is not there yet, the names must be free that it needs: its own, and
    that which Alembic gives the index of its primary key. Catalogs are read only.

    Args:
        connection: The connection that migrates.
        tables: Names of tables, without a schema.
        version_table: The table in which Alembic keeps the version.
        schema: The schema of the tables; None is the first of the search path.
        version_schema: The schema of the version table, likewise.

    Raises:
        NameTaken: A table is of another role, or a name is taken.
    """
    refuse_foreign_tables(connection, tables, version_table, schema, version_schema)
    there = {"table": version_table, "schema": version_schema}
    if not run(connection, _IS_TABLE, there).first():
        _refuse_taken(connection, (version_table, f"{version_table}_pkc"), version_schema)


def _refuse_taken(connection: Connection, names: Collection[str], schema: str | None) -> None:
    on_sqlite = connection.dialect.name == "sqlite"
    query = _TAKEN_SQLITE if on_sqlite else _TAKEN_POSTGRESQL
    wanted = {name.lower() if on_sqlite else name for name in names}
    for name, shown, kind in run(connection, query, None if on_sqlite else {"schema": schema}):
        if (name.lower() if on_sqlite else name) in wanted:
            remedy = RENAME if kind == "a table" else "rename or drop it"
            raise NameTaken(shown, f"is {kind}, and this run would create another one", remedy)


_KINDS_POSTGRESQL = """\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       CASE c.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
                      WHEN 'f' THEN 'a foreign table' ELSE 'an index, a sequence or a type' END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY(CAST(%(names)s AS text[])) AND c.relkind NOT IN ('r', 'p')
   AND n.nspname = coalesce(%(schema)s, current_schema()) ORDER BY c.relname"""

# Names of triggers are apart from those of tables, views and indexes.
_KINDS_SQLITE = """\
SELECT name, CASE WHEN type = 'view' THEN 'a view' WHEN type = 'index' THEN 'an index'
                  WHEN rootpage = 0 THEN 'a virtual table' ELSE 'a table' END
  FROM sqlite_schema WHERE type <> 'trigger' ORDER BY name"""

_IS_TABLE = """\
SELECT true FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = %(table)s AND n.nspname = coalesce(%(schema)s, current_schema())
   AND c.relkind IN ('r', 'p')"""

_TAKEN_SQLITE = """\
SELECT name, name, CASE type WHEN 'index' THEN 'an index' ELSE 'a ' || type END
  FROM sqlite_schema WHERE type <> 'trigger' ORDER BY name"""

_TAKEN_POSTGRESQL = """\
SELECT found.name, quote_ident(n.nspname) || '.' || quote_ident(found.name), found.kind
  FROM pg_namespace n CROSS JOIN LATERAL (
    SELECT CAST(c.relname AS text), CASE WHEN c.relkind IN ('r', 'p') THEN 'a table'
             WHEN c.relkind IN ('v', 'm') THEN 'a view' WHEN c.relkind IN ('i', 'I') THEN 'an index'
             WHEN c.relkind = 'S' THEN 'a sequence' ELSE 'a foreign table or a type' END
      FROM pg_class c WHERE c.relnamespace = n.oid
    UNION ALL
    SELECT CAST(t.typname AS text), 'a type' FROM pg_type t
     WHERE t.typnamespace = n.oid AND t.typrelid = 0
       -- PostgreSQL renames the type of an array.
       AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)) AS found (name, kind)
 WHERE n.nspname = coalesce(%(schema)s, current_schema()) ORDER BY found.name"""
