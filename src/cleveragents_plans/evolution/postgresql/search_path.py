"""
The search path of the session that migrates: system schemas only.

PostgreSQL looks up operators and functions in every schema of the search path, and prefers
the one whose argument types fit best, wherever it stands. A role that may create objects
in one of these schemas can so have its own code run by any role that sends a statement there,
a superuser included (CVE-2018-1058). The session that migrates therefore searches
``pg_catalog`` and, last, ``pg_temp``, where operators and functions are never looked up;
every other name is written with its schema.
See https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-PATTERNS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Dialect, event
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.postgresql.connection import run

if TYPE_CHECKING:
    import psycopg

SYSTEM_SCHEMAS = "pg_catalog, pg_temp"
SET_SYSTEM_SCHEMAS = f"SET LOCAL search_path = {SYSTEM_SCHEMAS}"

#: That setting of a function in ``pg_proc``, as it may have been written there: quoted where
#: ``quote_all_identifiers`` was on.
SETTINGS = (f"search_path={SYSTEM_SCHEMAS}", 'search_path="pg_catalog", "pg_temp"')

#: What is remembered of each connection: the setting of the role, the schemas that it means, and
#: the search path for triggers.
FORMER, SCHEMAS = "evolution.search_path", "evolution.schemas"
OF_TRIGGERS = "evolution.search_path_of_triggers"


@contextmanager
def search_path_restored(connection: Connection) -> Iterator[None]:
    """Restore the search path of a transaction at the end, unless that was aborted."""
    former = run(connection, "SELECT pg_catalog.current_setting('search_path')").scalar_one()
    try:
        yield
    finally:
        with suppress(DBAPIError):
            query = "SELECT set_config('search_path', %(path)s, true)"
            run(connection, query, {"path": former})


@contextmanager
def after_triggers(connection: Connection) -> Iterator[None]:
    """
    Search system schemas only, although rows were written (see `as_triggers_expect`).

    At the end the path is again that of the role: deferred triggers fire later.
    """
    with search_path_restored(connection):
        run(connection, SET_SYSTEM_SCHEMAS)
        yield


def searching_system_schemas(driver: psycopg.Connection) -> psycopg.Connection:
    """Let a connection of the driver, in autocommit, search system schemas only."""
    driver.execute(f"SET search_path = {SYSTEM_SCHEMAS}".encode())
    return driver


def as_triggers_expect(connection: Connection) -> tuple[str, dict[str, str]]:
    """
    Give a condition that is true, and its parameters, for a statement that writes rows.

    Triggers, and functions in CHECKs, of the table may count on the search path of the role.
    The names in the statement are looked up before it runs, in system schemas; the condition
    sets the path of the role when it runs, before the first row is written, until the end of
    the transaction: what else is sent in it has to be sent with `after_triggers`. Triggers
    BEFORE ... FOR EACH STATEMENT are the only ones to run earlier. The path has the schemas that
    were there when the run began, without one that another role has created under the name of
    the role that migrates (``$user``).
    """
    condition = "(SELECT set_config('search_path', %(search_path)s, true)) IS NOT NULL"
    return condition, {"search_path": connection.info[OF_TRIGGERS]}


#: The condition of `as_triggers_expect` for an UPDATE of a script (see `restrict_script`; without
#: that the session's own path is the role's); `SET_SYSTEM_SCHEMAS` has to come after it.
IN_A_SCRIPT = """\
(SELECT set_config('search_path', current_setting('evolution.search_path', true), true))
    IS NOT NULL"""


def path_for_ddl(connection: Connection) -> str:
    """
    Give the search path for statements that change the schema.

    These are system schemas, unless there are event triggers whose functions have no search
    path of their own: they may count on that of the role. Of that path those schemas are left
    in which no other role may create objects, or has created operators or functions: the
    statement itself is looked up there, too. Trusted are superusers, the role that migrates,
    and the owner of the database.
    """
    searched = {"searched": connection.info[SCHEMAS]}
    schemas = run(connection, _PATH_OF_EVENT_TRIGGERS, searched).scalar_one()
    return f"pg_catalog, {schemas}, pg_temp" if schemas else SYSTEM_SCHEMAS


def path_statement(connection: Connection) -> list[str]:
    """Give what to send before statements that change the schema, for their `path_for_ddl`."""
    path = path_for_ddl(connection)
    if path == SYSTEM_SCHEMAS:
        return []
    literal = path.replace("'", "''")
    return [f"SELECT set_config('search_path', '{literal}', true)"]


def safe(owner_trusted: str) -> str:
    """
    Give a condition: no other role may create objects in the schema, or has operators or functions.

    Args:
        owner_trusted: The condition on which the owner of the schema is none of these roles.
    """

    def foreign(role: str) -> str:
        return f"""NOT (
         {role} IN (d.datdba, to_regrole(quote_ident(current_user)),
                    to_regrole('pg_database_owner'))
         OR EXISTS (SELECT FROM pg_roles r WHERE r.oid = {role} AND r.rolsuper)
         OR ({role} = n.nspowner AND {owner_trusted}))"""

    return f"""\
NOT EXISTS (
         SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
          WHERE a.privilege_type = 'CREATE' AND {foreign("a.grantee")})
   AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND {foreign("p.proowner")})
   AND NOT EXISTS (
         SELECT FROM pg_operator o WHERE o.oprnamespace = n.oid AND {foreign("o.oprowner")})"""


_PATH_OF_EVENT_TRIGGERS = f"""\
SELECT string_agg(quote_ident(n.nspname), ', ' ORDER BY searched.place)
  FROM unnest(CAST(%(searched)s AS text[])) WITH ORDINALITY AS searched (name, place)
  JOIN pg_namespace n ON n.nspname = searched.name
  JOIN pg_database d ON d.datname = current_database()
 WHERE n.nspname <> 'pg_catalog' AND EXISTS (
         SELECT FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
          WHERE e.evtenabled IN ('O', 'A') AND NOT EXISTS (
                  SELECT FROM unnest(p.proconfig) AS setting WHERE setting LIKE 'search_path=%%'))
   AND {safe("false")}"""


@contextmanager
def event_triggers_served(connection: Connection) -> Iterator[None]:
    """Let DDL that Alembic and SQLAlchemy write run with `path_for_ddl`."""

    def before(
        connection: Connection, _cursor: Any, _sql: str, _values: Any, execution: Any, _many: bool
    ) -> None:
        if execution is not None and execution.isddl:
            _search(connection, path_for_ddl(connection))

    def after(
        connection: Connection, _cursor: Any, _sql: str, _values: Any, execution: Any, _many: bool
    ) -> None:
        if execution is not None and execution.isddl:
            _search(connection, SYSTEM_SCHEMAS)

    event.listen(connection, "before_cursor_execute", before)
    event.listen(connection, "after_cursor_execute", after)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", before)
        event.remove(connection, "after_cursor_execute", after)


def _search(connection: Connection, path: str) -> None:
    run(connection, "SELECT set_config('search_path', %(path)s, false)", {"path": path})


@contextmanager
def named_in(connection: Connection, schema: str) -> Iterator[None]:
    """Let tables that Alembic's own operations name without a schema be those of *schema*."""
    former = connection.get_execution_options().get("schema_translate_map")
    connection.execution_options(schema_translate_map={None: schema})
    try:
        yield
    finally:
        connection.execution_options(schema_translate_map=former)


def write_schema(dialect: Dialect, schema: str) -> None:
    """Let *dialect* write *schema* before every table that has none, where nothing is sent."""
    dialect.identifier_preparer.schema_for_object = lambda table: table.schema or schema


#: The search path of triggers, of the schemas that were *searched*. That of temporary tables has
#: another name in another session.
PATH_OF_TRIGGERS = """\
SELECT coalesce(string_agg(CASE WHEN n.nspname LIKE 'pg\\_temp\\_%%' THEN 'pg_temp'
                                ELSE quote_ident(n.nspname) END, ', ' ORDER BY searched.place), '')
  FROM unnest(CAST(%(searched)s AS text[])) WITH ORDINALITY AS searched (name, place)
  JOIN pg_namespace n ON n.nspname = searched.name
  JOIN pg_roles o ON o.oid = n.nspowner
  JOIN pg_database d ON d.datname = current_database()
 WHERE n.nspname <> current_user OR o.rolsuper OR o.rolname = current_user OR o.oid = d.datdba"""


def restrict_script(schema: str) -> str:
    """
    Give the first statements of a script for *schema*, which is a name without quotes.

    The script then searches system schemas only, but for the triggers of rows that it writes
    (see `IN_A_SCRIPT`). Where the tables would have been found, or created, in another schema, it
    raises. Deferred constraints and constraint triggers are checked at the end of each statement:
    no table is altered while a row of it waits for its check until COMMIT.
    """
    searched = "current_setting('evolution.search_path')"
    of_triggers = PATH_OF_TRIGGERS.replace("%(searched)s", searched).replace("%%", "%")
    return f"""\
SET CONSTRAINTS ALL IMMEDIATE;
SET LOCAL quote_all_identifiers = off;
SELECT pg_catalog.set_config('evolution.schema',
  CAST(pg_catalog.current_schema() AS pg_catalog.text), true);
SELECT pg_catalog.set_config('evolution.search_path',
  CAST(pg_catalog.current_schemas(false) AS pg_catalog.text), true);
{SET_SYSTEM_SCHEMAS};
SELECT set_config('evolution.search_path', ({of_triggers}), true);
DO $schema$ BEGIN
  IF current_setting('evolution.schema') <> '{schema}' THEN
    RAISE EXCEPTION USING MESSAGE = 'this script is for the schema {schema}, not for '
      || current_setting('evolution.schema'),
      HINT = 'write it with -x schema=NAME, or set search_path = {schema} first';
  END IF;
END $schema$;"""
