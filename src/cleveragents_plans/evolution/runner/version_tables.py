"""Where a database has version tables, and tables of given names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Result, column, select
from sqlalchemy import table as sql_table

from cleveragents_plans.evolution.postgresql.connection import run


@dataclass(frozen=True, slots=True)
class VersionTable:
    """A table in which Alembic keeps the version of a chain."""

    name: str
    #: None on SQLite.
    schema: str | None
    #: Whether this run uses the tables of its schema.
    is_used: bool
    revisions: frozenset[str]


def version_tables(connection: Connection, schemas: Collection[str | None]) -> list[VersionTable]:
    """
    Find the version tables that may be read: those with a column ``version_num``.

    Locks: ACCESS SHARE for a moment on each.

    Args:
        connection: The connection that migrates.
        schemas: The schemas that the run uses; on SQLite it is None.
    """
    found: list[VersionTable] = []
    query = _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE
    for schema, name in run(connection, query).all():
        rows: Result[Any] = connection.execute(
            select(column("version_num")).select_from(sql_table(name, schema=schema)).limit(100)
        )
        revisions = frozenset(str(revision) for revision in rows.scalars())
        found.append(VersionTable(name, schema, schema in schemas, revisions))
    return found


def schemas_with(connection: Connection, tables: Collection[str], schema: str | None) -> list[str]:
    """Find the schemas of PostgreSQL with one of *tables*, other than *schema*."""
    parameters = {"tables": list(tables), "schema": schema}
    return list(run(connection, _OTHER_SCHEMAS, parameters).scalars())


_SQLITE = """\
SELECT NULL, m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
 WHERE m.type = 'table' AND c.name = 'version_num' ORDER BY m.name"""

_POSTGRESQL = """\
SELECT n.nspname, c.relname
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attname = 'version_num' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
   -- A policy of another role's table would run its functions.
   AND NOT c.relrowsecurity
   AND n.nspname !~ '^pg_(temp|toast)' AND has_schema_privilege(n.oid, 'USAGE')
   AND has_table_privilege(c.oid, 'SELECT')
 ORDER BY 1, 2"""

_OTHER_SCHEMAS = """\
SELECT DISTINCT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY(%(tables)s::text[]) AND c.relkind IN ('r', 'p')
   AND n.nspname <> %(schema)s::text AND n.nspname !~ '^pg_(temp|toast)' ORDER BY 1"""
