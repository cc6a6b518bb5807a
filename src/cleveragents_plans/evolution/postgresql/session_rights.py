"""Rights that PUBLIC has, unless they were revoked, and without which no run comes to its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NoReturn

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


def uncallable(connection: Connection, functions: Sequence[str]) -> list[str]:
    """
    Give those of *functions* that the role may not call, as `OF_EACH_COMMAND` has them.

    The search path may still be that of the role, so no operator stands in the statement.
    """
    asked = (
        f"pg_catalog.has_function_privilege('pg_catalog.{each}', 'EXECUTE')" for each in functions
    )
    may = run(connection, f"SELECT {', '.join(asked)}").one()
    return [each for each, is_callable in zip(functions, may, strict=True) if not is_callable]


def refuse_uncallable(connection: Connection, functions: Sequence[str], target: str) -> None:
    """
    Refuse a role that may not call one of *functions*, as `uncallable` has them.

    Raises:
        RightsMissing: It may not.
    """
    if missing := uncallable(connection, functions):
        role = run(connection, "SELECT pg_catalog.quote_ident(current_user)").scalar_one()
        lacks = [f"may not call pg_catalog.{each}" for each in missing]
        _raise(target, role, lacks, [f"{_GRANT}{each} TO {role}" for each in missing])


def unmeasured(connection: Connection) -> str | None:
    """Say what has to be granted for preflight to measure; None where nothing is missing."""
    missing = uncallable(connection, MEASURING)
    if not missing:
        return None
    role = run(connection, "SELECT quote_ident(current_user)").scalar_one()
    return " and ".join(f"{_GRANT}{each} TO {role}" for each in missing)


_GRANT = "GRANT EXECUTE ON FUNCTION pg_catalog."


def _raise(target: str, role: str, lacks: Sequence[str], grants: Sequence[str]) -> NoReturn:
    raise RightsMissing(target, role, ", and ".join(lacks), f"{', and '.join(grants)} first")


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
        views, functions = views + _SHOW_REPLICAS[0], OF_A_RUN
    found = run(connection, query, {**names, "views": views, "functions": functions}).all()
    if not found:
        return
    role = found[0].role
    lacks = [f"may not {each.what} {each.name}" for each in found if each.role == role]
    grants = [f"GRANT {each.right} {each.name} TO {role}" for each in found if each.role == role]
    _raise(target, role, lacks, grants)


#: Functions that commands call, SQLAlchemy among them, before they look at other rights. A table of
#: another role is a type, too: those that are no words of the grammar have their schema.
OF_EACH_COMMAND: Final = (
    "obj_description(pg_catalog.oid, pg_catalog.name)",
    "pg_collation_is_visible(pg_catalog.oid)",
    "pg_get_expr(pg_catalog.pg_node_tree, pg_catalog.oid)",
    "pg_get_indexdef(pg_catalog.oid, integer, boolean)",
    "pg_get_serial_sequence(pg_catalog.text, pg_catalog.text)",
    "pg_get_triggerdef(pg_catalog.oid, boolean)",
    "pg_get_userbyid(pg_catalog.oid)",
    "pg_has_role(pg_catalog.oid, pg_catalog.oid, pg_catalog.text)",
    "pg_is_in_recovery()",
    "pg_relation_filenode(pg_catalog.regclass)",
)
#: Those that a run calls, too.
OF_EACH_RUN: Final = (*OF_EACH_COMMAND, "pg_backend_pid()")
#: Those with which preflight measures; a run needs none of them.
MEASURING: Final = (
    "pg_indexes_size(pg_catalog.regclass)",
    "pg_relation_size(pg_catalog.regclass)",
    "pg_relation_size(pg_catalog.regclass, pg_catalog.text)",
    "pg_current_wal_insert_lsn()",
    "pg_current_wal_lsn()",
    "pg_last_wal_replay_lsn()",
    "pg_wal_lsn_diff(pg_catalog.pg_lsn, pg_catalog.pg_lsn)",
)

# Views of pg_catalog, and the functions behind them, which the role of the reader calls.
_SHOW_SESSIONS = (
    ["pg_locks", "pg_stat_activity", "pg_prepared_xacts"],
    ["pg_lock_status()", "pg_stat_get_activity(integer)", "pg_prepared_xact()"],
)
_SHOW_REPLICAS = (
    ["pg_stat_replication", "pg_replication_slots"],
    ["pg_stat_get_wal_senders()", "pg_get_replication_slots()"],
)
#: All that a run calls which can be revoked without making the server useless to any client.
OF_A_RUN: Final = [
    *_SHOW_SESSIONS[1],
    *_SHOW_REPLICAS[1],
    *OF_EACH_RUN,
    "pg_advisory_unlock(integer, integer)",
    "pg_try_advisory_lock(integer, integer)",
    "pg_blocking_pids(integer)",
    "pg_current_xact_id_if_assigned()",
    "pg_describe_object(pg_catalog.oid, pg_catalog.oid, integer)",
    "pg_get_constraintdef(pg_catalog.oid)",
    "pg_get_indexdef(pg_catalog.oid)",
    "pg_get_triggerdef(pg_catalog.oid)",
    "pg_has_role(pg_catalog.oid, pg_catalog.text)",
    "pg_partition_root(pg_catalog.regclass)",
    "pg_stat_get_progress_info(pg_catalog.text)",
]

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
