"""
Recognise a pooler between a run and the server, before anything is set in its sessions.

The migration lock and the settings of a run belong to a session of the server. A pooler in
transaction or statement mode gives each transaction another one, and the settings to other
clients. In session mode a run has one to itself, if the pooler resets it for the next client.
"""

from __future__ import annotations

import select
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError

if TYPE_CHECKING:
    import psycopg

# Pools are small, and hand out the session that was used last, or the next one in turn: one
# round finds most of them, and in a pool that others use the sessions change all the time.
_ROUNDS = 20
# A session of the server that a full pool cannot give is waited for that long, in seconds.
_PATIENCE = 2.0
_CONNECT_TIMEOUT = 5

_CONNECT = "connect to the server itself"
_PID = "SELECT pg_backend_pid()"
# The comment is for Pgpool-II, which answers the other one from a standby.
_PID_OF_PRIMARY = f"/*NO LOAD BALANCE*/ {_PID}"
_MARK = "SELECT set_config('evolution.pooled', 'yes', false)"
_MARKED = "SELECT coalesce(current_setting('evolution.pooled', true), '')"


class PoolerFound(EvolutionError):
    """
    A pooler stands before the server, of a kind that a run cannot use.

    Attributes:
        target: What the database is called.
    """

    def __init__(self, target: str, pooler: str, remedy: str) -> None:
        super().__init__(
            f"{target} is reached through {pooler}; expected one session of the server for the "
            f"whole run: {remedy}; nothing was changed"
        )
        self.target = target


def refuse_pooler(connection: Connection, target: str) -> None:
    """
    Refuse a pooler that would not give a run one session of the server, and that one alone.

    Behind a pooler the process id that a client is told when it connects is not that of the
    server's session (of both sessions, where there are two). Then one more connection is
    opened for a moment, a few times.

    *target* is what to call the database in messages. The connection must be in no transaction.

    Raises:
        PoolerFound: The pooler shares sessions among clients, does not reset them, or is
            Pgpool-II; or that cannot be found out.
    """
    driver: Any = connection.connection.driver_connection
    if {_ask(driver, _PID), _ask(driver, _PID_OF_PRIMARY)} == {str(driver.info.backend_pid)}:
        return
    if _ask(driver, "SHOW pool_version") is not None:
        raise PoolerFound(
            target, "Pgpool-II, which sends SELECTs to standbys that may lag", _CONNECT
        )
    try:
        shared = _shares_sessions(connection)
        kept = not shared and _keeps_settings(connection)
    except connection.dialect.loaded_dbapi.Error as error:
        reason = " ".join(str(error).split())
        raise PoolerFound(
            target,
            f"a pooler whose mode cannot be found out, because it refuses a second connection "
            f"({reason})",
            _CONNECT,
        ) from error
    if shared:
        raise PoolerFound(
            target,
            "a pooler that gives each transaction another one (PgBouncer in transaction mode?)",
            f"{_CONNECT}, or to a pool in session mode",
        )
    if kept:
        raise PoolerFound(
            target,
            "a pooler that does not reset a session for its next client, which would get the "
            "locks and settings of a run that was killed",
            f"{_CONNECT}, or set server_reset_query = DISCARD ALL in PgBouncer",
        )


def second_connection(connection: Connection, name: str | None = None) -> psycopg.Connection:
    """
    Connect once more to the server that *connection* is connected to, in autocommit.

    The session has the *name*, from its first moment on, in ``pg_stat_activity``. Texts are read
    and sent as by the first one.

    Raises:
        psycopg.Error: That is not possible.
    """
    import psycopg  # an extra, which SQLite does without

    driver: Any = connection.connection.driver_connection
    parameters = _parameters(driver)
    parameters["client_encoding"] = driver.info.parameter_status("client_encoding")
    if name:
        parameters["application_name"] = name
    second = psycopg.connect(
        **parameters, password=driver.info.password or None, autocommit=True, context=driver
    )
    cursor = getattr(driver.cursor_factory, "without_asyncio", driver.cursor_factory)
    if issubclass(cursor, psycopg.Cursor):
        second.cursor_factory = cursor
    return second


def server_answers(connection: Connection) -> bool:
    """
    Tell whether the server that *connection* is connected to answers, and be it by a refusal.

    It is asked without a login (https://www.postgresql.org/docs/current/app-pg-isready.html).
    """
    from psycopg import pq  # an extra, which SQLite does without
    from psycopg.conninfo import make_conninfo

    driver: Any = connection.connection.driver_connection
    conninfo = make_conninfo(**_parameters(driver))
    return pq.PGconn.ping(conninfo.encode()) in (pq.Ping.OK, pq.Ping.REJECT)


def _parameters(driver: Any) -> dict[str, Any]:
    # Of several hosts, the one that answered.
    there = {"host": driver.info.host, "port": driver.info.port, "hostaddr": None}
    given: dict[str, Any] = driver.info.get_parameters()
    return given | there | {"connect_timeout": _CONNECT_TIMEOUT}


def _shares_sessions(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    mine = _ask(driver, _PID)
    full = False
    with closing(second_connection(connection)) as second:
        for _ in range(_ROUNDS):
            other = None if full else _ask(second, _PID)
            full = other is None  # in session mode it waits until this run ends
            if other == mine or _ask(driver, _PID) != mine:
                return True
    return False


def _keeps_settings(connection: Connection) -> bool:
    # A setting of a name that nothing else has is left behind on purpose.
    for _ in range(3):
        with closing(second_connection(connection)) as client:
            found = _ask(client, _MARKED)
            if found == "yes":
                _ask(client, "SELECT set_config('evolution.pooled', '', false)")
                return True
            if found is None:  # a full pool
                return False
            _ask(client, _MARK)
        time.sleep(0.05)  # the session is handed on when the pooler has noticed
    return False


def _ask(connection: psycopg.Connection, query: str) -> str | None:
    """Give the value that *query* answers, or None where no value comes in time."""
    pgconn = connection.pgconn
    until = time.monotonic() + _PATIENCE
    pgconn.send_query(query.encode())
    pgconn.flush()
    while pgconn.is_busy():
        if not select.select([pgconn.socket], [], [], max(0, until - time.monotonic()))[0]:
            return None
        pgconn.consume_input()
    value = None
    while (result := pgconn.get_result()) is not None:
        value = result.get_value(0, 0) if result.ntuples else value
    return None if value is None else value.decode()
