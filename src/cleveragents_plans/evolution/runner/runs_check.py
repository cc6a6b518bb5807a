"""Whether the table of runs is as a run creates it, so that nothing of others runs by its use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.added_objects import ADDED
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.trust import OWNER_IS_TRUSTED


def fault_on_postgresql(
    connection: Connection,
    table: str,
    schema: str,
    versions: str,
    columns: Sequence[str],
    right: str,
) -> tuple[bool, str | None]:
    """
    Tell whether the table is there, and why it cannot be used; catalogs are read only.

    Args:
        connection: The connection that uses it.
        table: Its name as in SQL, with the schema.
        schema: The schema.
        versions: The version table as in SQL, whose owner must own it.
        columns: Its columns and their types.
        right: What is to be done with it: ``SELECT`` or ``UPDATE``.
    """
    wanted = {
        "table": table,
        "schema": schema,
        "versions": versions,
        "columns": list(columns),
        "right": right,
    }
    found = run(connection, _ON_POSTGRESQL, wanted).all()
    return bool(found), next((str(row[0]) for row in found if row[0]), None)


def fault_on_sqlite(
    connection: Connection, table: str, columns: Sequence[str]
) -> tuple[bool, str | None]:
    """Tell whether the table of *columns* is there, and why it cannot be used."""
    found = run(connection, _ON_SQLITE, {"table": table}).all()
    return bool(found), _wrong_on_sqlite([tuple(row) for row in found], columns)


def _wrong_on_sqlite(found: list[tuple[Any, ...]], names: Sequence[str]) -> str | None:
    for kind, columns in found:
        if kind == "trigger":
            return "has a trigger; expected none: drop that"
        if kind != "table":
            return f"is a {kind}; expected a table: rename it"
        if columns.split(",") != [*names]:
            return "has other columns than a run creates: rename it"
    return None


_ON_SQLITE = """\
SELECT m.type, (SELECT group_concat(c.name, ',') FROM pragma_table_info(m.name) c)
  FROM main.sqlite_master m
 WHERE lower(m.tbl_name) = :table AND m.type IN ('table', 'view', 'trigger')"""

# A row for what is there; it says what is wrong with it, the most telling first.
# Who waits asks this; its text tells a throttle that this is no client.
_ON_POSTGRESQL = f"""\
SELECT CASE
  WHEN c.relkind <> 'r' OR c.relispartition OR c.relhassubclass
    OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
  THEN 'is no ordinary table: rename it'
  -- A snapshot may be older than what has the name now.
  WHEN to_regclass(%(table)s) IS DISTINCT FROM c.oid
  THEN 'was replaced just now: run the same command again'
  WHEN pg_get_userbyid(c.relowner) <> o.owner
  THEN 'belongs to ' || quote_ident(pg_get_userbyid(c.relowner)) || ', and not to '
       || quote_ident(o.owner) || ' as the version table does: rename '
       || CASE WHEN {OWNER_IS_TRUSTED}
               THEN 'it, or if it is this chain''s, run ALTER TABLE ' || n.name
                    || ' OWNER TO ' || quote_ident(o.owner)
               ELSE 'or drop it' END
  -- Policies that do not bind this role are not evaluated for it.
  WHEN row_security_active(c.oid)
  THEN 'has row-level security, which binds the role ' || quote_ident(current_user)
       || ': run ALTER TABLE ' || n.name || ' DISABLE ROW LEVEL SECURITY'
  WHEN added.what IS NOT NULL
  THEN 'has ' || added.what || '; expected none: run ' || added.statement
  WHEN CAST(%(columns)s AS text[]) <> (
    SELECT array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
      FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
  THEN 'has other columns than a run creates: rename it'
  -- As a restore that did not come to its end leaves it.
  WHEN NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid)
  THEN 'lacks its primary key: run ALTER TABLE ' || n.name || ' ADD PRIMARY KEY (run_id)'
  WHEN c.relpersistence = 'u' AND pg_is_in_recovery()
  THEN 'can be read on the primary only'
  WHEN NOT has_table_privilege(c.oid, CAST(%(right)s AS text))
  THEN 'is closed to the role ' || quote_ident(current_user) || ': GRANT SELECT, UPDATE ON '
       || n.name || ' TO ' || quote_ident(current_user)
       || ' (SELECT shows runs, UPDATE throttles them)'
  END
  FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
 CROSS JOIN LATERAL (
   SELECT CAST(%(table)s AS text) AS name, CAST(NULL AS text) AS index,
          (SELECT k.attnum FROM pg_attribute k
            WHERE k.attrelid = c.oid AND k.attname = 'run_id') AS key) n
 CROSS JOIN LATERAL (
   SELECT string_agg(each.what, ' and '), string_agg(each.statement, ' and ')
     FROM (
{ADDED}
     ) AS each (what, statement)) added (what, statement)
 CROSS JOIN LATERAL (
   SELECT coalesce((SELECT pg_get_userbyid(v.relowner) FROM pg_class v
                     WHERE v.oid = to_regclass(%(versions)s)), current_user) AS owner) o
 WHERE c.relname = 'evolution_runs' AND s.nspname = %(schema)s"""
