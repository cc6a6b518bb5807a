"""Connect to a database; a server that is not there yet can be waited for."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

from cleveragents_plans.evolution.postgresql.blockers import Deadline
from cleveragents_plans.evolution.reporting import reasons
from cleveragents_plans.evolution.runner.connection_errors import (
    ConnectionFailed,
    LoginRefused,
    report_connection_failed,
)
from cleveragents_plans.evolution.settings import Settings

_POLL_SECONDS = 0.5
# Seconds; libpq waits for no less than two.
_LOOK = 2
_ATTEMPT = 10
# What the server says while all its connections are in use: that passes.
_FULL = ("too many clients", "too many connections", "remaining connection slots")
_NO_DATABASE = 'database "{}" does not exist'


def connect(engine: Engine, target: str, settings: Settings) -> Connection:
    """
    Connect to the database of *engine*, which *target* names without a password.

    A server of PostgreSQL that does not answer, or is starting, is waited for as long as
    ``wait-for-db`` says; a heartbeat around this call says why. One that refuses the role, the
    password or the database is not: it would refuse them again.

    Raises:
        ConnectionFailed: It cannot be reached in time.
        LoginRefused: The server answers, and refuses the connection.
    """
    if (engine.dialect.name, engine.dialect.driver) != ("postgresql", "psycopg"):
        with report_connection_failed(target, engine.url):
            return engine.connect()
    deadline = Deadline(settings.wait_for_db, settings.report_every)
    last: ConnectionFailed | None = None
    answered = False
    with reasons(lambda: last.reason if last else ""), _attempts_limited(engine, deadline):
        while True:
            try:
                with report_connection_failed(target, engine.url):
                    return engine.connect()
            except ConnectionFailed as failed:
                last = failed
            answers = _answers(engine, last)
            if answers and answered:
                raise LoginRefused(target, last.reason + _createdb(engine, last)) from last
            if not answers:
                if deadline.left <= 0:
                    raise last
                time.sleep(min(_POLL_SECONDS, max(deadline.left, 0)))
            # One that has begun to answer may have done so after it was tried.
            answered = answers


@contextmanager
def _attempts_limited(engine: Engine, deadline: Deadline) -> Iterator[None]:
    """Let an attempt end though nothing answers, if there can be another one."""

    def limit(_dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
        parameters.setdefault("connect_timeout", _ATTEMPT)

    if deadline.left <= 0:
        yield
        return
    event.listen(engine, "do_connect", limit)
    try:
        yield
    finally:
        event.remove(engine, "do_connect", limit)


def _answers(engine: Engine, failed: ConnectionFailed) -> bool:
    """
    Tell whether the server accepts connections, though not this one.

    What a failed connection says depends on the language of the server; libpq reads its
    SQLSTATE in ``PQping`` only (https://www.postgresql.org/docs/current/libpq-connect.html). A URL
    with which no server would be asked counts as refused as well.
    """
    # An extra of the package.
    from psycopg import Error, pq
    from psycopg.conninfo import make_conninfo

    if any(words in failed.reason for words in _FULL):
        return False
    try:
        conninfo = make_conninfo(**{**_parameters(engine), "connect_timeout": _LOOK})
    except Error:
        return True
    return pq.PGconn.ping(conninfo.encode()) in (pq.Ping.OK, pq.Ping.NO_ATTEMPT)


def _createdb(engine: Engine, failed: ConnectionFailed) -> str:
    """Say how the database is created that does not exist, if that is why."""
    url = engine.url
    name = url.database or url.username or ""
    if _NO_DATABASE.format(name) not in failed.reason:
        return ""
    given = _parameters(engine)
    options = [("-h", "host"), ("-p", "port"), ("-U", "user")]
    words = [part for flag, key in options if key in given for part in (flag, str(given[key]))]
    return (
        "; an upgrade creates tables and no database, with --create neither: run "
        f"`{shlex.join(['createdb', *words, '--', name])}` first"
    )


def _parameters(engine: Engine) -> dict[str, Any]:
    """Give what libpq is told of the database."""
    _, given = engine.dialect.create_connect_args(engine.url)
    return {name: value for name, value in given.items() if isinstance(value, str | int)}
