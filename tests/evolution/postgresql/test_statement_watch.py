"""Whatever takes long says so every few seconds, and for what it waits."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.postgresql import statement_watch
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.statement_watch import StatementWatch
from support import postgres
from support.bouncers import pgbouncer
from support.databases import SERVERS, database_at, migrate
from support.faults import Migration
from support.online import client
from support.proxy import Proxy, tcp_proxy
from support.revisions import M4_003, M8_001


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[postgres.PostgresServer]:
    """A server of its own, whose configuration can be changed."""
    own = postgres.PostgresServer(
        postgres.binaries()[request.param],
        {"wal_level": "replica", "synchronous_commit": "on"},
        within=postgres.memory_folder(),
    )
    yield own
    own.close()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A database of the former release on one server."""
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("goal", [M8_001, M4_003])
def test_synchronous_replica_that_has_stopped_is_named(server: postgres.PostgresServer, goal: str):
    url = server.create_database()
    migrate(url, M8_001 if goal == M4_003 else M4_003)
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'berlin, paris'")
    server.execute("SELECT pg_reload_conf()")
    try:
        run = Migration(url, goal, "report-every=0.5")
        run.wait_for("waiting for a synchronous replica")
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")
    ended = run.ended()

    assert ended.status == 0, ended.said
    assert "synchronous_standby_names is 'berlin, paris', attached: none; start the replica" in (
        ended.said
    )


def test_statement_that_waits_for_another_session_names_it(url: str):
    with client(url, autocommit=False) as other:
        other.execute("SET application_name = 'console'")
        other.execute("UPDATE alembic_version SET version_num = version_num")
        run = Migration(url, M8_001, "report-every=0.5")
        run.wait_for("`UPDATE public.alembic_version")
        other.rollback()
    ended = run.ended()

    assert ended.status == 0, ended.said
    (line, *_) = [
        line for line in ended.said.splitlines() if "`UPDATE public.alembic_version" in line
    ]
    assert " elapsed); waiting for pid " in line
    assert " console (idle in transaction for " in line


def test_check_that_waits_for_another_session_names_it(url: str):
    with client(url, autocommit=False) as other:
        other.execute("SET application_name = 'console'")
        other.execute("LOCK TABLE v3_plans")
        run = Migration(url, M8_001, "report-every=0.5")
        run.wait_for("elapsed); waiting for pid ")
        other.rollback()
    ended = run.ended()

    assert ended.status == 0, ended.said
    assert " console (idle in transaction for " in ended.said


def test_statement_that_is_quick_is_not_mentioned(url: str):
    ended = Migration(url, M8_001, "report-every=100").ended()

    assert "elapsed)" not in ended.said


def test_connecting_that_takes_long_is_said():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://app@127.0.0.1:{silent.getsockname()[1]}/plans"
        run = Migration(url, M8_001, "report-every=0.5")
        with silent.accept()[0]:
            run.wait_for(f"connecting to {url} (")
    ended = run.ended()

    assert "cannot be opened" in ended.said


UNSEEN = {
    "a second connection is refused": "ALTER ROLE {role} CONNECTION LIMIT 1",
    "the state of sessions is not tracked": "ALTER ROLE {role} SET track_activities = off",
    "the state is hidden from the role": "CREATE ROLE {role}_owner; GRANT {role}_owner TO {role};"
    " ALTER ROLE {role} SET role = {role}_owner",
}


@pytest.mark.parametrize("given", UNSEEN.values(), ids=UNSEEN)
def test_statement_that_takes_long_goes_on_where_its_state_cannot_be_seen(
    postgresql_url: str,
    given: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level("INFO", "alembic.evolution")
    monkeypatch.setattr(statement_watch, "_SILENCE", 0.3)
    role = f"unseen_{uuid.uuid4().hex[:8]}"
    with client(postgresql_url) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN;{given.format(role=role)}".encode())
    url = make_url(postgresql_url).set(username=role)
    engine = open_engine(url, migrating=True)
    try:
        with engine.connect() as connection, StatementWatch(connection, 0.1):
            assert run(connection, "SELECT 1 FROM pg_sleep(2)").scalar_one() == 1
    finally:
        with client(postgresql_url) as owner:
            owner.execute(f"DROP ROLE {role}; DROP ROLE IF EXISTS {role}_owner".encode())

    assert "`SELECT 1 FROM pg_sleep(2)` (" in caplog.text


def test_statement_that_takes_long_goes_on_behind_a_full_pool(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str
):
    caplog.set_level("INFO", "alembic.evolution")
    monkeypatch.setattr(statement_watch, "_SILENCE", 0.3)
    monkeypatch.setattr(statement_watch, "_PATIENCE", 0.1)
    with pgbouncer(url, "session", default_pool_size=1) as via:
        engine = open_engine(via, migrating=True)
        with engine.connect() as connection, StatementWatch(connection, 0.1):
            assert run(connection, "SELECT 1 FROM pg_sleep(2)").scalar_one() == 1
        engine.dispose()

    assert "a second connection gets no answer" in caplog.text


STOPPED = """\
import logging, sys
from cleveragents_plans.cli import main
from cleveragents_plans.evolution.postgresql import statement_watch

class Impatient(logging.Handler):
    # From then on, so that a busy machine is not taken for a network that is stopped.
    def emit(self, record):
        if "waiting for pid" in record.getMessage():
            statement_watch._SILENCE, statement_watch._PATIENCE = 1.0, float(sys.argv[2])

logging.getLogger("alembic.evolution").addHandler(Impatient())
sys.exit(main(["upgrade", "--url", sys.argv[1], "-x", "report-every=0.5"]))
"""


def lost(proxy: Proxy, stop: Callable[[], object], patience: float) -> str:
    """
    What a run says that waits for another session, and whose network is stopped then.

    For *patience* seconds it waits for a second connection.
    """
    run = subprocess.Popen(
        [sys.executable, "-c", STOPPED, proxy.url, str(patience)],
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(120, run.kill)
    guard.start()
    assert run.stderr is not None
    said = ""
    for line in run.stderr:
        said += line
        if "waiting for pid" in line:
            break
    stop()
    said += run.communicate()[1]
    guard.cancel()
    assert run.returncode == 75, said
    assert " was lost (" in said.splitlines()[-1]
    return said


@pytest.mark.slow
def test_proxy_that_stops_without_closing_ends_the_run(url: str):
    # It goes on to acknowledge what it is sent, so that keepalives do not notice.
    with tcp_proxy(url) as proxy, client(url, autocommit=False) as other:
        other.execute("UPDATE alembic_version SET version_num = version_num")

        assert "gets no answer" in lost(proxy, proxy.passes.clear, 1)


@pytest.mark.slow
def test_answer_that_does_not_arrive_ends_the_run(url: str):
    # The way of one connection is stopped, and others are open: as a NAT forgets one.
    with tcp_proxy(url) as proxy, client(url, autocommit=False) as other:
        other.execute("UPDATE alembic_version SET version_num = version_num")

        def stop() -> None:
            proxy.stop_former()
            other.rollback()  # so that the server finishes the statement

        assert "the server has finished it, and the answer does not arrive" in lost(proxy, stop, 30)
