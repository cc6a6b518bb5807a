"""
The schema of a run: the one that is named, or that the search path of the role finds.

A role with CREATE on the database can create a schema to be found first. What that holds is
believed, and what its tables run has the rights of the role that migrates, so that it is refused.
See https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-PATTERNS.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.search_path import (
    FORMER,
    OF_TRIGGERS,
    PATH_OF_TRIGGERS,
    SCHEMAS,
    SYSTEM_SCHEMAS,
    safe,
)
from cleveragents_plans.evolution.postgresql.trust import IS_MEMBER, TRUSTED_OWNER
from cleveragents_plans.evolution.printable import identifier

# The schema is written into the text of functions, where these characters end a quotation.
_UNFIT = re.compile(r"[$'\\{}\x00-\x1f]")


class SchemaNotUsable(EvolutionError):
    """There is no such schema, none on the search path, or one that cannot be used."""


def use_schema(
    connection: Connection, schema: str | None, *tables: Collection[str], local: bool = False
) -> str:
    """
    Find the schema of a run; let the session search system schemas only from now on.

    It is *schema*, or else the first one of the search path that holds one of the first
    *tables*; where there is none, one of the next; in the end the first one, in which tables
    are created. The search path is remembered: for functions that the triggers of a table run
    (see `as_triggers_expect`), and for event triggers (see `path_for_ddl`).

    Args:
        connection: The connection that migrates.
        schema: The schema that is wanted.
        tables: Names of tables, those that count most first.
        local: Do so until the transaction ends.

    Raises:
        SchemaNotUsable: There is none, or its name cannot be written into functions; or it was
            not named, and another role could have created it to be found (see `find_schema`), or
            created tables in it to be found before those of another schema.
    """
    connection.info[FORMER], connection.info[SCHEMAS] = run(connection, _SEARCHED).one()
    scope = "LOCAL" if local else "SESSION"
    run(connection, f"SET {scope} search_path = {SYSTEM_SCHEMAS}")
    searched = {"searched": connection.info[SCHEMAS]}
    connection.info[OF_TRIGGERS] = run(connection, PATH_OF_TRIGGERS, searched).scalar_one()
    if schema is not None:
        return _existing(connection, schema)
    found = find_schema(connection, *tables)
    if tables:
        _refuse_doubtful(connection, found, tables[0])
    return found


def searched_schemas(connection: Connection) -> tuple[str, ...]:
    """Name the schemas that were searched before `use_schema`, in their order."""
    return tuple(connection.info[SCHEMAS])


def search_schema(connection: Connection, schema: str | None, *, local: bool = False) -> str:
    """
    Let names without a schema mean *schema*, for the session or the transaction (*local*).

    For commands that compare what SQLAlchemy reflects, which is found by the search path.
    Without a *schema* the first one of the search path is used. No other one is searched.

    Raises:
        SchemaNotUsable: There is none, or roles that are not trusted may create objects in it:
            their operators and functions would be run. The owner of the schema is trusted where
            it was named.
    """
    found = use_schema(connection, schema, local=local)
    named = {"schema": found, "named": schema is not None}
    if not run(connection, _IS_TRUSTED, named).scalar_one():
        raise SchemaNotUsable(
            f"other roles have, or may create, functions or operators in the schema {found}, "
            "and this command would run them with your rights; run it on a database of your own, "
            f"or drop them and run REVOKE CREATE ON SCHEMA {identifier(found)} FROM these roles; "
            "nothing was changed"
        )
    query = "SELECT set_config('search_path', quote_ident(%(schema)s), %(local)s)"
    run(connection, query, {"schema": found, "local": local})
    return found


def find_schema(connection: Connection, *tables: Collection[str]) -> str:
    """
    Find the first schema that was searched before `use_schema` with one of *tables*.

    A role with CREATE on the database can create a schema to be found: of the name that ``$user``
    stands for, or of one on the search path that is not there. What is in it would be believed,
    and what its tables run would run with the rights of this role. Trusted are the schemas of
    superusers, of this role and of the owner of the database, and another one if it is not
    called as this role is, and no other role's schema on the path has such tables too.

    Raises:
        SchemaNotUsable: There is none, it is not trusted, or its name cannot be written into
            functions.
    """
    searched: list[str] = connection.info[SCHEMAS]
    every = [name for names in tables for name in names]
    rows = run(connection, _OWNERS, {"searched": searched, "tables": every}).all()
    owners = {row.schema: row for row in reversed(rows)}
    for names in tables:
        found = next((row for row in rows if row.name in names), None)
        if found is not None:
            break
    else:
        if not rows:
            raise SchemaNotUsable(_NO_SCHEMA.format(connection.info[FORMER] or "empty"))
        found = owners[rows[0].schema]
    if found.trusted:
        return checked_schema(found.schema)
    others = [row for row in rows if row.name is not None and row.owner != found.owner]
    if found.of_user or others:
        other = f", and {others[0].schema} has tables of this chain, too" if others else ""
        user = ' ("$user" in the search path)' if found.of_user else ""
        raise SchemaNotUsable(
            f"the schema {identifier(found.schema)}{user} belongs to {found.owner}{other}: a role "
            "with CREATE on the database could have created it to be found first; expected one "
            "of this role, of a superuser or of the owner of the database: give -x schema=NAME, "
            "with the schema of the tables, or drop the one of no use; nothing was changed"
        )
    return checked_schema(found.schema)


def _refuse_doubtful(connection: Connection, schema: str, tables: Collection[str]) -> None:
    """Refuse *schema* for tables of a role that is not trusted, where others have such, too."""
    searched = {"searched": connection.info[SCHEMAS], "schema": schema, "tables": list(tables)}
    for table, owner, other in run(connection, _DOUBTFUL, searched):
        raise SchemaNotUsable(
            f"{table} belongs to {owner}, and {other} has tables of this chain of another role: "
            "a role that may create objects in the first schema could have created them to be "
            "found; give -x schema=NAME, with the schema of the tables, or drop those of no use; "
            "nothing was changed"
        )


def checked_schema(name: str) -> str:
    """
    Give the *name* of a schema, if tables stay in it, and it can be written into functions.

    Raises:
        SchemaNotUsable: It is one of PostgreSQL's own, such as that of temporary tables, or its
            name cannot be written.
    """
    # PostgreSQL lets no other schema have such a name.
    if name.startswith("pg_") or name == "information_schema":
        temporary = "the schema of temporary tables, which go with their session"
        what = temporary if name.startswith(("pg_temp", "pg_toast_temp")) else "a system schema"
        raise SchemaNotUsable(
            f"the schema would be {name}, {what}; expected one for the tables: "
            "give -x schema=NAME, or set search_path for the role, with that one first; "
            "nothing was changed"
        )
    if _UNFIT.search(name):
        raise SchemaNotUsable(
            f"the schema is called {name!r}; expected a name without $ ' \\ {{ }} and control "
            "characters, which cannot be written into functions: rename the schema; "
            "nothing was changed"
        )
    return name


def _existing(connection: Connection, schema: str) -> str:
    checked_schema(schema)
    query = "SELECT FROM pg_namespace WHERE nspname = %(schema)s::text"
    if not run(connection, query, {"schema": schema}).all():
        raise SchemaNotUsable(
            f"there is no schema {schema!r} in this database; expected one that exists: check "
            "the name, or run CREATE SCHEMA; nothing was changed"
        )
    return schema


_NO_SCHEMA = (
    "the search path ({}) has no schema that exists and may be used; expected one in which the "
    "tables are or can be: give -x schema=NAME, or set search_path for the role; "
    "nothing was changed"
)

_SEARCHED = """\
SELECT pg_catalog.current_setting('search_path'),
       CAST(pg_catalog.current_schemas(false) AS pg_catalog.text[])"""

_OWNERS = """\
SELECT n.nspname::text AS schema, quote_ident(o.rolname) AS owner, c.relname::text AS name,
       o.rolsuper OR o.oid = d.datdba
       OR o.rolname IN (current_user, 'pg_database_owner') AS trusted,
       n.nspname = current_user AS of_user
  FROM unnest(%(searched)s::text[]) WITH ORDINALITY AS searched (name, place)
  JOIN pg_namespace n ON n.nspname = searched.name
  JOIN pg_roles o ON o.oid = n.nspowner
  JOIN pg_database d ON d.datname = current_database()
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = ANY(%(tables)s::text[])
 ORDER BY searched.place"""

_DOUBTFUL = f"""\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), quote_ident(o.rolname),
       quote_ident(another.nspname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles o ON o.oid = c.relowner
  JOIN pg_class other ON other.relowner <> c.relowner AND other.relnamespace <> n.oid
  JOIN pg_namespace another ON another.oid = other.relnamespace
 WHERE n.nspname = %(schema)s::text AND another.nspname = ANY(%(searched)s::text[])
   AND c.relname = ANY(%(tables)s::text[]) AND c.relkind IN ('r', 'p')
   AND other.relname = ANY(%(tables)s::text[]) AND other.relkind IN ('r', 'p')
   AND NOT {TRUSTED_OWNER} AND NOT {IS_MEMBER} ORDER BY 1, 3 LIMIT 1"""

_IS_TRUSTED = f"""\
SELECT {safe("%(named)s")}
  FROM pg_namespace n JOIN pg_database d ON d.datname = current_database()
 WHERE n.nspname = %(schema)s"""
