"""The rights on the tables, and in their schema, that a run and a look need."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.server import RightsMissing


def refuse_missing_rights(
    connection: Connection, tables: Collection[str], schema: str | None, target: str
) -> None:
    """
    Refuse a role that may not change *tables*, or create them where there are none.

    What a run creates belongs to the owner of the table that it is for, so the role must be
    able to become that owner, who must be able to create objects in the schema.

    Args:
        connection: The connection that migrates; catalogs are read.
        tables: Names of tables, without a schema.
        schema: Their schema; None is the first of the search path.
        target: What to call the database in messages.

    Raises:
        RightsMissing: It lacks a right.
    """
    names = {"tables": list(tables), "schema": schema}
    found = run(connection, _RIGHTS, names).mappings().all()
    for row in found:
        table, owner, role, schema = (row[name] for name in ("table", "owner", "role", "schema"))
        if not row["becomes_owner"]:
            run_as = f"run it as {owner} or as" if row["owner_logs_in"] else "run it as"
            raise RightsMissing(
                target,
                role,
                f"cannot become {owner}, who owns {table}",
                f"{run_as} a superuser, or {row['membership']} first",
            )
        if not row["writes"] and row["inherits"]:
            raise RightsMissing(
                target,
                role,
                f"may not read and write {table}: {owner}, who owns it, was revoked the right to",
                f"GRANT SELECT, UPDATE ON {table} TO {owner} first",
            )
        if not row["writes"]:
            run_as = acting_as(owner, row["owner_name"], row["owner_logs_in"])
            raise RightsMissing(
                target,
                role,
                f"may not read and write {table}: it does not inherit the rights of {owner}",
                f"{run_as}, or {row['membership']} first",
            )
        if not row["owner_creates"]:
            raise RightsMissing(
                target,
                owner,
                f"owns {table} and may not create objects in the schema {schema}",
                f"GRANT CREATE ON SCHEMA {schema} TO {owner} first",
            )
        _refuse_tablespace(target, owner, row["tablespace"])
    if not found:
        role, schema, creates, tablespace = run(connection, _CREATES, names).one()
        if not creates:
            raise RightsMissing(
                target,
                role,
                f"may not create tables in the schema {schema}",
                f"GRANT CREATE ON SCHEMA {schema} TO {role} first",
            )
        _refuse_tablespace(target, role, tablespace)


def acting_as(quoted: str, name: str, can_log_in: bool) -> str:
    """
    Say how a command is run as a role that this one may become.

    Args:
        quoted: The role, as in SQL.
        name: Its name.
        can_log_in: Whether it can.
    """
    if can_log_in:
        return f"run it as {quoted}"
    # Spaces end an option, and a backslash keeps them.
    escaped = re.sub(r"([\\\s])", r"\\\1", name)
    return f"run it with PGOPTIONS={shlex.quote(f'-c role={escaped}')}"


def _refuse_tablespace(target: str, owner: str, tablespace: str | None) -> None:
    if tablespace is not None:
        raise RightsMissing(
            target,
            owner,
            f"may not create objects in the tablespace {tablespace}, which default_tablespace "
            "names for this run",
            f"GRANT CREATE ON TABLESPACE {tablespace} TO {owner}, or set default_tablespace = '' "
            "for the role that migrates first",
        )


def refuse_unreadable_tables(
    connection: Connection, tables: Collection[tuple[str | None, str]], target: str
) -> None:
    """
    Refuse a role that may not read all of *tables*, every column of them.

    Args:
        connection: The connection that reads; catalogs are read.
        tables: Each with its schema, or None for the first of the search path; those that do not
            exist are left out.
        target: What to call the database in messages.

    Raises:
        RightsMissing: It may not read some, which are named all.
    """
    schemas, names = [each[0] for each in tables], [each[1] for each in tables]
    found = run(connection, _UNREADABLE, {"schemas": schemas, "tables": names}).all()
    if not found:
        return
    unreadable, role = ", ".join(each.table for each in found), found[0].role
    owners = {each.owner for each in found if each.owner_logs_in}
    # One role that could read all of them.
    is_one = len({each.owner for each in found}) == len(owners) == 1
    run_as = f"run it as {owners.pop()}, or " if is_one else ""
    raise RightsMissing(
        target,
        role,
        f"may not read {unreadable}",
        f"{run_as}GRANT SELECT ON {unreadable} TO {role} first",
    )


# The tablespace of the database takes no right, and one that does not exist is passed over.
# https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-DEFAULT-TABLESPACE
_FORBIDDEN_TABLESPACE = """\
(SELECT quote_ident(t.spcname) FROM pg_tablespace t
          WHERE t.spcname = current_setting('default_tablespace')
            AND t.oid <> (SELECT dattablespace FROM pg_database WHERE datname = current_database())
            AND NOT has_tablespace_privilege({0}, t.oid, 'CREATE'))"""

# The privilege of pg_has_role with which a member may SET ROLE: from PostgreSQL 16 on a membership
# need not give it.
_SET_ROLE = """\
CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END"""

# What lets a member act as the owner *o* and have its rights: before PostgreSQL 16 the member
# inherits or not, since then each membership does. There the words change one that is there, too.
_MEMBERSHIP = """\
'GRANT ' || quote_ident(o.rolname) || ' TO ' || quote_ident(current_user)
       || CASE WHEN current_setting('server_version_num')::int >= 160000
               THEN ' WITH INHERIT TRUE, SET TRUE'
               WHEN (SELECT NOT me.rolinherit FROM pg_roles me WHERE me.rolname = current_user)
               THEN ' and ALTER ROLE ' || quote_ident(current_user) || ' INHERIT'
               ELSE '' END"""

_RIGHTS = f"""\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS table,
       quote_ident(n.nspname) AS schema,
       quote_ident(o.rolname) AS owner, quote_ident(current_user) AS role,
       o.rolname AS owner_name, o.rolcanlogin AS owner_logs_in, {_MEMBERSHIP} AS membership,
       pg_has_role(c.relowner, {_SET_ROLE}) AS becomes_owner,
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'UPDATE') AS writes,
       pg_has_role(c.relowner, 'USAGE') AS inherits,
       has_schema_privilege(c.relowner, n.oid, 'CREATE') AS owner_creates,
       {_FORBIDDEN_TABLESPACE.format("c.relowner")} AS tablespace
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles o ON o.oid = c.relowner
 WHERE c.relkind IN ('r', 'p') AND c.relname = ANY(CAST(%(tables)s AS text[]))
   AND n.nspname = coalesce(%(schema)s, current_schema())
 ORDER BY c.relname"""

_UNREADABLE = """\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS table,
       quote_ident(current_user) AS role,
       quote_ident(o.rolname) AS owner, o.rolcanlogin AS owner_logs_in
  FROM unnest(CAST(%(schemas)s AS text[]), CAST(%(tables)s AS text[])) AS w (schema, name)
  JOIN pg_namespace n ON n.nspname = coalesce(w.schema, current_schema())
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
  JOIN pg_roles o ON o.oid = c.relowner
 WHERE c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, 'SELECT')
 ORDER BY c.relname"""

_CREATES = f"""\
SELECT quote_ident(current_user), quote_ident(coalesce(%(schema)s, current_schema())),
       has_schema_privilege(coalesce(%(schema)s, current_schema()), 'CREATE'),
       {_FORBIDDEN_TABLESPACE.format("current_user")}"""
