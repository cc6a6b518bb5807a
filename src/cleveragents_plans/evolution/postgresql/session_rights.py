"""Rights that PUBLIC has, unless they were revoked, and without which no run comes to its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.server import RightsMissing


def refuse_missing_session_rights(
    connection: Connection, tables: Collection[str], schema: str | None, target: str
) -> None:
    """
    Refuse a role that lacks what a run needs besides the rights on *tables*.

    That are temporary tables, the language of its functions, which the owner of a table needs, too,
    and the views of the server that tell who is in the way.

    Args:
        connection: The connection that migrates; catalogs are read.
        tables: Names of tables, without a schema; those that do not exist are left out.
        schema: Their schema; None is the first of the search path.
        target: What to call the database in messages.

    Raises:
        RightsMissing: It, or the owner of a table, lacks some.
    """
    names = {"tables": list(tables), "schema": schema}
    _refuse(connection, f"{_LANGUAGE}{_TEMPORARY}{_VIEWS}{_FUNCTIONS}", names, target)


def refuse_hidden_sessions(connection: Connection, target: str) -> None:
    """
    Refuse a role that may not see which session migrates the database.

    Raises:
        RightsMissing: It may not.
    """
    _refuse(connection, f"{_NO_ROWS}{_VIEWS}{_FUNCTIONS}", {}, target, migrates=False)


def _refuse(
    connection: Connection,
    query: str,
    names: Mapping[str, object],
    target: str,
    *,
    migrates: bool = True,
) -> None:
    views, functions = _SHOW_SESSIONS
    if migrates:
        views, functions = views + _SHOW_REPLICAS[0], functions + _SHOW_REPLICAS[1] + _LOCKING
    found = run(connection, query, {**names, "views": views, "functions": functions}).all()
    if not found:
        return
    role = found[0].role
    lacks = [f"may not {each.what} {each.name}" for each in found if each.role == role]
    grants = [f"GRANT {each.right} {each.name} TO {role}" for each in found if each.role == role]
    raise RightsMissing(target, role, ", and ".join(lacks), f"{', and '.join(grants)} first")


# Views of pg_catalog, and the functions behind them, which the role of the reader calls.
_SHOW_SESSIONS = (
    ["pg_locks", "pg_stat_activity", "pg_prepared_xacts"],
    ["pg_lock_status()", "pg_stat_get_activity(integer)", "pg_prepared_xact()"],
)
_SHOW_REPLICAS = (
    ["pg_stat_replication", "pg_replication_slots"],
    ["pg_stat_get_wal_senders()", "pg_get_replication_slots()"],
)
_LOCKING = ["pg_try_advisory_lock(integer, integer)", "pg_advisory_unlock(integer, integer)"]

_LANGUAGE = """\
SELECT quote_ident(o.role) AS role, 'use the language' AS what, 'USAGE ON LANGUAGE' AS right,
       quote_ident(l.lanname) AS name
  FROM (SELECT current_user AS role
         UNION
        SELECT pg_get_userbyid(c.relowner)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND c.relname = ANY(CAST(%(tables)s AS text[]))
           AND n.nspname = coalesce(%(schema)s, current_schema())) o
  JOIN pg_language l ON l.lanname = 'plpgsql' AND NOT has_language_privilege(o.role, l.oid, 'USAGE')
"""
_NO_ROWS = "SELECT NULL AS role, NULL AS what, NULL AS right, NULL AS name WHERE false"
_TEMPORARY = """\
 UNION ALL
SELECT quote_ident(current_user), 'create temporary tables in the database',
       'TEMPORARY ON DATABASE', quote_ident(current_database())
 WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
"""
_VIEWS = """\
 UNION ALL
SELECT quote_ident(current_user), 'read', 'SELECT ON', v.name
  FROM (SELECT 'pg_catalog.' || unnest(CAST(%(views)s AS text[])) AS name) v
 WHERE NOT has_table_privilege(v.name, 'SELECT')
"""
_FUNCTIONS = """\
 UNION ALL
SELECT quote_ident(current_user), 'call', 'EXECUTE ON FUNCTION', f.name
  FROM (SELECT 'pg_catalog.' || unnest(CAST(%(functions)s AS text[])) AS name) f
 WHERE NOT has_function_privilege(f.name, 'EXECUTE')
"""
