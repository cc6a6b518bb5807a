"""Where a database has version tables, and tables of given names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Result, column, func, inspect, select
from sqlalchemy import table as sql_table

from cleveragents_plans.evolution.operations.names import require_tables
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.read_locks import lock_as_found
from cleveragents_plans.evolution.postgresql.trust import IS_MEMBER, TRUSTED_OWNER, TRUSTED_ROLE
from cleveragents_plans.evolution.settings import BadSetting


@dataclass(frozen=True, slots=True)
class VersionTable:
    """A table in which Alembic keeps the version of a chain."""

    name: str
    #: None on SQLite.
    schema: str | None
    #: Whether this run uses the tables of its schema.
    is_used: bool
    revisions: frozenset[str]


def require_version_table(connection: Connection, table: str, schema: str | None) -> None:
    """
    Refuse a version table that is another table, before it is read.

    Raises:
        NameTaken: It is a view, or the like.
        BadSetting: It has no column ``version_num``.
    """
    require_tables(connection, [table], schema)
    if connection.dialect.name == "postgresql":
        # In one statement: another session may drop the table between two.
        names = {"table": table, "schema": schema}
        fits = run(connection, _HAS_VERSION, names).scalar() is not False
    else:
        inspector = inspect(connection)
        fits = not inspector.has_table(table) or "version_num" in (
            column["name"] for column in inspector.get_columns(table)
        )
    if not fits:
        raise BadSetting("version-table", table, "a table that only Alembic uses")


def version_tables(
    connection: Connection, schemas: Collection[str | None], tables: Collection[str]
) -> list[VersionTable]:
    """
    Find the version tables that may be read: those with a column ``version_num``.

    On PostgreSQL a table must belong to a role that is trusted: one that is not could put a view
    of its own in the place of its table while this session waits for a lock on it. Trusted are
    superusers, this role, the owner of the database, and those who own the schemas that the run
    uses, or tables of the chain there; a role may well own another schema. Where tenants have
    thousands of schemas, some hundred are looked at, those that the run uses first: a server has
    room for some thousand locks only (max_locks_per_transaction).

    Locks: ACCESS SHARE on each, until the transaction ends.

    Args:
        connection: The connection that migrates.
        schemas: The schemas that the run uses; on SQLite it is None.
        tables: Names of the tables of the chain.
    """
    found: list[VersionTable] = []
    on_postgresql = connection.dialect.name == "postgresql"
    found_tables = (
        run(
            connection,
            _POSTGRESQL,
            {"tables": list(tables), "used": list(schemas), "most": _MAX_TABLES},
        )
        if on_postgresql
        else run(connection, _SQLITE)
    ).all()
    for schema, name, quoted, oid in found_tables:
        if oid is not None:
            lock_as_found(connection, quoted, oid)
        start = func.substr(column("version_num"), 1, _MAX_LENGTH)
        rows: Result[Any] = connection.execute(
            select(start).select_from(sql_table(name, schema=schema)).limit(100)
        )
        revisions = frozenset(str(revision) for revision in rows.scalars())
        found.append(VersionTable(name, schema, schema in schemas, revisions))
    return found


def schemas_with(
    connection: Connection, tables: Collection[str], schema: str | None
) -> dict[str, tuple[str, bool]]:
    """
    Find the schemas of PostgreSQL with one of *tables*, but *schema*.

    Given are the tables' owners, and whether these and the owner of the schema are trusted:
    superusers, this role and those that it is a member of, and the owner of the database.
    """
    parameters = {"tables": list(tables), "schema": schema}
    return {row[0]: (row[1], row[2]) for row in run(connection, _OTHER_SCHEMAS, parameters)}


# Each takes two locks, one for its index.
_MAX_TABLES = 500
# No revision has a longer name; others may store what fills the memory of this process.
_MAX_LENGTH = 200

_SQLITE = """\
SELECT NULL, m.name, NULL, NULL FROM sqlite_master m JOIN pragma_table_info(m.name) c
 WHERE m.type = 'table' AND c.name = 'version_num' ORDER BY m.name"""

_POSTGRESQL = f"""\
SELECT n.nspname, c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.oid
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles o ON o.oid = c.relowner
 WHERE a.atttypid = ANY(ARRAY['text', 'varchar', 'bpchar']::regtype[])
   AND ({TRUSTED_ROLE} OR {TRUSTED_OWNER} AND n.nspname = ANY(%(used)s::text[])
        OR c.relowner IN (SELECT t.relowner FROM pg_class t
                            JOIN pg_namespace s ON s.oid = t.relnamespace
                           WHERE t.relname = ANY(%(tables)s::text[])
                             AND s.nspname = ANY(%(used)s::text[])))
   AND a.attname = 'version_num' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
   -- A policy of another role's table would run its functions.
   AND NOT c.relrowsecurity
   AND n.nspname !~ '^pg_(temp|toast)' AND has_schema_privilege(n.oid, 'USAGE')
   AND has_table_privilege(c.oid, 'SELECT')
 ORDER BY coalesce(n.nspname = ANY(%(used)s::text[]), false) DESC, 1, 2 LIMIT %(most)s"""

_HAS_VERSION = """\
SELECT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
                  AND a.attname = 'version_num' AND NOT a.attisdropped)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = %(table)s::text AND c.relkind IN ('r', 'p')
   AND n.nspname = coalesce(%(schema)s::text, current_schema())"""

_OTHER_SCHEMAS = f"""\
SELECT n.nspname, string_agg(DISTINCT pg_get_userbyid(c.relowner)::text, ' and '),
       bool_and(NOT EXISTS (
         SELECT FROM pg_roles o JOIN pg_database d ON d.datname = current_database()
          WHERE o.oid IN (c.relowner, n.nspowner) AND o.oid <> d.datdba AND NOT o.rolsuper
            AND o.rolname NOT IN (current_user, 'pg_database_owner') AND NOT {IS_MEMBER}))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY(%(tables)s::text[]) AND c.relkind IN ('r', 'p')
   AND n.nspname <> %(schema)s::text AND n.nspname !~ '^pg_(temp|toast)'
 GROUP BY n.nspname ORDER BY 1"""
