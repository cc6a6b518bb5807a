"""The PostgreSQL server and the session on it: what a run needs of them, and makes sure of."""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run

log: Final = logging.getLogger("alembic.evolution")

# The first version with CREATE OR REPLACE TRIGGER.
_MIN_VERSION = 14

# A time limit would break the run at the same place each time. A snapshot that is older
# than a lock would show rows as they were before it. Rows that a policy hides would be
# taken for rows that do not exist: the server is to raise an error instead. And a host
# that died must not keep the migration lock for the two hours that TCP waits by itself.
_SESSION = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "10s",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


def refuse_old_server(connection: Connection, target: str) -> None:
    """
    Refuse a version of PostgreSQL that the chain's statements are not for.

    *target* is what to call the database in messages.

    Raises:
        EvolutionError: The server is older than PostgreSQL 14.
    """
    version = connection.dialect.server_version_info or ()
    if connection.dialect.name == "postgresql" and version < (_MIN_VERSION,):
        raise EvolutionError(
            f"{target} is PostgreSQL {'.'.join(map(str, version))}; expected {_MIN_VERSION} or "
            "newer: upgrade the server first; nothing was changed"
        )


def configure_session(connection: Connection) -> None:
    """Let the session depend on nothing that was set for the role or the database."""
    known = run(connection, "SELECT name FROM pg_settings").scalars()
    for name in _SESSION.keys() & set(known):
        run(connection, f"SELECT set_config('{name}', '{_SESSION[name]}', false)")
    connection.commit()


def warn_of_replicas(connection: Connection) -> None:
    """
    Log what a migration means for those who read from replicas, if there are any.

    A replica takes a strong lock when it replays one; whoever reads there waits for it
    while it waits for those who read longer.
    """
    replicas = run(connection, _REPLICAS).scalars().all()
    if replicas:
        log.warning(
            "replicas are attached (%s): a strong lock, however short here, waits there for "
            "longer queries on the table, and later readers wait behind it, for as long as "
            "max_standby_streaming_delay says there (30 s, unless it was set); then those "
            "queries are cancelled",
            ", ".join(sorted({*replicas})),
        )


# Whoever may not see more of the others sees their names. Logical subscribers and backups
# replay no locks; in its first moments nobody can be told from them.
_REPLICAS = """\
SELECT r.application_name FROM pg_stat_replication r
 WHERE r.state IS DISTINCT FROM 'startup'
   AND r.application_name NOT IN ('pg_basebackup', 'pg_receivewal')
   AND NOT EXISTS (SELECT FROM pg_replication_slots s
                    WHERE s.active_pid = r.pid AND s.slot_type = 'logical')"""
