"""Trial batches without the triggers that a run drops before: their functions are replaced."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import as_table_owner, run
from cleveragents_plans.evolution.postgresql.search_path import (
    SYSTEM_SCHEMAS,
    path_statement,
    search_path_restored,
)


def stand_in(connection: Connection, table: str, triggers: Sequence[str]) -> None:
    """
    Let *triggers* of *table*, the quoted name, do nothing until the savepoint is rolled back.

    To drop them would take ACCESS EXCLUSIVE. Their functions are replaced, which locks one row of
    the catalog each. The run drops NOT NULL, too: until then the former value is kept for a NULL.
    """
    found = list(run(connection, _FUNCTIONS, {"table": table, "names": list(triggers)}).scalars())
    if not found:
        return
    columns = run(connection, _NOT_NULL, {"table": table}).scalars()
    kept = "".join(f"    new.{each} := coalesce(new.{each}, old.{each});\n" for each in columns)
    body = f"BEGIN\n  IF tg_op = 'UPDATE' THEN\n{kept}  END IF;\n  RETURN new;\nEND"
    # A literal of the server's: the owner of the table chooses the names of columns, and no quote
    # or dollar sign in one may end the body.
    query = "SELECT quote_literal(%(body)s), current_setting('role')"
    literal, role = run(connection, query, {"body": body}).one()
    with search_path_restored(connection):
        for statement in (*path_statement(connection), as_table_owner(table.replace("'", "''"))):
            run(connection, statement)
        for function in found:
            run(
                connection,
                f"CREATE OR REPLACE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql"
                f" SET search_path = {SYSTEM_SCHEMAS} AS {literal}",
            )
        run(connection, "SELECT set_config('role', %(role)s, true)", {"role": role})


# Those of another role are refused elsewhere.
_FUNCTIONS = """\
SELECT DISTINCT CAST(p.pronamespace AS regnamespace) || '.' || quote_ident(p.proname) || '()'
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_proc p ON p.oid = t.tgfoid AND p.proowner = c.relowner
 WHERE t.tgrelid = to_regclass(%(table)s) AND t.tgname = ANY(CAST(%(names)s AS text[]))
   AND t.tgtype & 1 <> 0 ORDER BY 1"""

_NOT_NULL = """\
SELECT quote_ident(a.attname) FROM pg_attribute a
 WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attnotnull AND a.attgenerated = '' AND a.attidentity = '' ORDER BY a.attnum"""
