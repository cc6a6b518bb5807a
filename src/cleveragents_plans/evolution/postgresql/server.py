"""The PostgreSQL server, its rights and the session on it: what a run needs of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run

#: What each session of ours is set to, whatever is set for the role or the database. Rows that a
#: policy hides would be taken for rows that do not exist: the server raises an error instead. Types
#: and definitions are compared as the server writes them without needless quotes, and numbers as
#: they are stored. A lock that is not obtained in time must not end the session. The body of a
#: function that cannot be parsed is refused when it is created, not when a row is written.
OF_EACH_SESSION: Final = {
    "row_security": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "extra_float_digits": "3",
    "exit_on_error": "off",
    "check_function_bodies": "on",
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
