"""The PostgreSQL server, its rights and the session on it: what a run needs of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.trust import SET_ROLE

#: What each session of ours is set to, whatever is set for the role or the database. Rows that a
#: policy hides would be taken for rows that do not exist: the server raises an error instead. Types
#: and definitions are compared as the server writes them without needless quotes, and numbers as
#: they are stored. A lock that is not obtained in time must not end the session.
OF_EACH_SESSION: Final = {
    "row_security": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "extra_float_digits": "3",
    "exit_on_error": "off",
}

# A timeout would end the run at the same statement each time. A snapshot that is older than a
# lock would show rows as they were before it. A host that failed must not hold the migration lock
# for the two hours that TCP waits by default, nor while a statement runs.
_SESSION = {
    **OF_EACH_SESSION,
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "10s",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "10s",
}


# Settings by which the planner chooses, besides those that switch a method off: with another choice
# each batch of a backfill would read the whole table.
# https://www.postgresql.org/docs/current/runtime-config-query.html
_PLANNER = re.compile(
    r"enable_\w+|(seq|random)_page_cost|cpu_\w+_cost|(from|join)_collapse_limit"
    r"|cursor_tuple_fraction|plan_cache_mode"
)


class ServerReadOnly(EvolutionError):
    """
    Nothing can be written on the server, or in this session.

    Attributes:
        target: What the database is called.
    """

    def __init__(self, target: str, found: str, remedy: str) -> None:
        super().__init__(
            f"{target} {found}; expected one to write to: {remedy}; nothing was changed"
        )
        self.target = target


class RightsMissing(EvolutionError):
    """
    The role lacks a right without which the run would stop half way.

    Attributes:
        target: What the database is called.
        role: The role.
    """

    def __init__(self, target: str, role: str, lacks: str, remedy: str) -> None:
        super().__init__(f"{target}: the role {role} {lacks}; {remedy}; nothing was changed")
        self.target = target
        self.role = role


class SessionReplicates(EvolutionError):
    """
    The session applies changes as a replica does: without triggers, and without foreign keys.

    Attributes:
        target: What the database is called.
    """

    def __init__(self, target: str, source: str) -> None:
        super().__init__(
            f"{target}: session_replication_role is replica for this run (it comes from: {source}),"
            " so neither triggers nor foreign keys would be applied to what it writes; set "
            "session_replication_role = origin there; nothing was changed"
        )
        self.target = target


def refuse_read_only(connection: Connection, target: str) -> None:
    """
    Refuse a server on which nothing can be written, and a session that writes as a replica.

    Raises:
        ServerReadOnly: It is a standby, or transactions are read-only by a setting.
        SessionReplicates: A setting turns triggers and foreign keys off.
    """
    standby, source, replicates = run(connection, _READ_ONLY).one()
    if standby:
        raise ServerReadOnly(
            target,
            "is a standby, which replays what the primary writes",
            "connect to the primary (with several hosts in the URL, target_session_attrs=primary "
            "finds it)",
        )
    if source is not None:
        raise ServerReadOnly(
            target,
            "is read-only for this run (default_transaction_read_only is on; it comes from: "
            f"{source})",
            "set default_transaction_read_only = off there",
        )
    if replicates is not None:
        raise SessionReplicates(target, replicates)


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
            raise RightsMissing(
                target,
                role,
                f"cannot become {owner}, who owns {table}",
                f"run it as {owner} or as a superuser, or GRANT {owner} TO {role} first",
            )
        if not row["writes"] and row["inherits"]:
            raise RightsMissing(
                target,
                role,
                f"may not read and write {table}: {owner}, who owns it, was revoked the right to",
                f"GRANT SELECT, UPDATE ON {table} TO {owner} first",
            )
        if not row["writes"]:
            raise RightsMissing(
                target,
                role,
                f"may not read and write {table}: it does not inherit the rights of {owner}",
                f"run it as {owner}, or GRANT {owner} TO {role} with INHERIT first",
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
    connection: Connection, tables: Collection[str], schema: str, target: str
) -> None:
    """
    Refuse a role that may not read *tables*.

    Args:
        connection: The connection that reads; catalogs are read.
        tables: Names of tables, without a schema; those that do not exist are left out.
        schema: Their schema.
        target: What to call the database in messages.

    Raises:
        RightsMissing: It may not read one of them.
    """
    names = {"tables": list(tables), "schema": schema}
    for table, role, owner in run(connection, _UNREADABLE, names):
        raise RightsMissing(
            target,
            role,
            f"may not read {table}",
            f"run it as {owner}, or GRANT SELECT ON {table} TO {role} first",
        )


def configure_session(connection: Connection) -> None:
    """
    Override settings of the role and the database, for the session.

    The *connection* is in autocommit: a limit of the role's on idle transactions would end one
    between two statements.
    """
    calls = [
        f"pg_catalog.set_config('{name}', '{value}', false)"
        for name, value in session_settings(connection, _SESSION).items()
    ]
    run(connection, f"SELECT {', '.join(calls)}")


def session_settings(connection: Connection, wanted: Mapping[str, str]) -> dict[str, str]:
    """
    Give what a session is to be set to, whatever is set for the role or the database.

    That is what is *wanted* of settings that the server knows, and the server's own values of those
    by which the planner chooses.
    """
    # The search path may still be that of the role, so no operator stands in this statement.
    query = "SELECT name, boot_val, context FROM pg_catalog.pg_settings"
    known = {name: (value, context) for name, value, context in run(connection, query)}
    planner = {
        name: value
        for name, (value, context) in known.items()
        if context == "user" and _PLANNER.fullmatch(name)
    }
    return planner | {name: value for name, value in wanted.items() if name in known}


# Where the setting comes from: a role, a database, the configuration file, the URL.
_READ_ONLY = """\
SELECT pg_is_in_recovery(),
       max(source) FILTER (WHERE name = 'default_transaction_read_only' AND setting = 'on'),
       max(source) FILTER (WHERE name = 'session_replication_role' AND setting = 'replica')
  FROM pg_settings"""

# The tablespace of the database takes no right, and one that does not exist is passed over.
# https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-DEFAULT-TABLESPACE
_FORBIDDEN_TABLESPACE = """\
(SELECT quote_ident(t.spcname) FROM pg_tablespace t
          WHERE t.spcname = current_setting('default_tablespace')
            AND t.oid <> (SELECT dattablespace FROM pg_database WHERE datname = current_database())
            AND NOT has_tablespace_privilege({0}, t.oid, 'CREATE'))"""

_RIGHTS = f"""\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS table,
       quote_ident(n.nspname) AS schema,
       quote_ident(o.rolname) AS owner, quote_ident(current_user) AS role,
       pg_has_role(c.relowner, {SET_ROLE}) AS becomes_owner,
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
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), quote_ident(current_user),
       quote_ident(o.rolname)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles o ON o.oid = c.relowner
 WHERE c.relkind IN ('r', 'p') AND c.relname = ANY(CAST(%(tables)s AS text[]))
   AND n.nspname = %(schema)s AND NOT has_table_privilege(c.oid, 'SELECT')
 ORDER BY c.relname"""

_CREATES = f"""\
SELECT quote_ident(current_user), quote_ident(coalesce(%(schema)s, current_schema())),
       has_schema_privilege(coalesce(%(schema)s, current_schema()), 'CREATE'),
       {_FORBIDDEN_TABLESPACE.format("current_user")}"""
