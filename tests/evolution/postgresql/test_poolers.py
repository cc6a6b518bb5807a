"""Poolers that a run cannot use are refused before anything is set, and others serve it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from alembic.util import CommandError

from cleveragents_plans.evolution.postgresql.poolers import PoolerFound
from support import postgres
from support.bouncers import pgbouncer, pgpool
from support.databases import database_at, migrate
from support.faults import Migration, State, models
from support.online import client
from support.pooler import transaction_pooler
from support.revisions import M4_003, M8_001

SETTINGS = """\
SELECT name || '=' || setting FROM pg_settings WHERE name IN (
 'lock_timeout', 'synchronous_commit', 'enable_hashjoin', 'row_security', 'client_min_messages',
 'statement_timeout', 'idle_in_transaction_session_timeout', 'jit', 'search_path', 'role')
 ORDER BY name"""
LOCKS = """\
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A database of the former release; what a pooler does depends on no version."""
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        yield url


def settings(url: str) -> list[tuple[object, ...]]:
    with client(url) as connection:
        return connection.execute(SETTINGS).fetchall()


def sessions_of_the_pool(via: str, number: int = 4) -> list[list[tuple[object, ...]]]:
    """What clients that come later find set, each in a session of its own."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client(via, autocommit=False)) for _ in range(number)]
        return [each.execute(SETTINGS).fetchall() for each in clients]


@contextmanager
def clients_at_work(via: str, number: int = 4) -> Iterator[None]:
    """Let clients of the application use the pool."""
    over = threading.Event()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        with client(via, autocommit=False) as connection:
            connection.prepare_threshold = None
            while not over.is_set():
                connection.execute("SELECT count(*) FROM v3_plans").fetchall()
                connection.commit()
                over.wait(chance.random() / 200)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def assert_refused(via: str, url: str, *words: str, usual: list[tuple[object, ...]]) -> None:
    before = State.of(url)
    with pytest.raises(CommandError) as refused:
        migrate(via, M8_001)
    told = str(refused.value)
    assert all(word in told for word in (*words, "connect to the server itself")), told
    assert "\n" not in told
    assert State.of(url) == before
    with client(url) as connection:
        assert connection.execute(LOCKS).fetchone() == (0,)
    assert all(found == usual for found in sessions_of_the_pool(via, 1))


@pytest.mark.parametrize(
    "options", [{}, {"default_pool_size": 1}, {"server_round_robin": 1}], ids=str
)
def test_pooler_in_transaction_mode_is_refused(url: str, options: dict[str, int]):
    with pgbouncer(url, "transaction", **options) as via:
        assert_refused(via, url, "gives each transaction another one", usual=settings(url))


@pytest.mark.parametrize("options", [{}, {"default_pool_size": 2}], ids=str)
def test_pooler_in_transaction_mode_is_refused_beside_clients(url: str, options: dict[str, int]):
    with pgbouncer(url, "transaction", **options) as via:
        for _ in range(5):
            with clients_at_work(via), pytest.raises(PoolerFound, match="each transaction"):
                migrate(via, M8_001)

        assert all(found == settings(url) for found in sessions_of_the_pool(via, 2))


def test_pooler_in_statement_mode_is_refused(url: str):
    with pgbouncer(url, "statement") as via, pytest.raises(CommandError) as refused:
        migrate(via, M8_001)

    assert "a pooler in statement mode: connect to the server itself" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_pooler_that_resets_no_session_is_refused(url: str):
    with pgbouncer(url, "session", server_reset_query="") as via:
        assert_refused(via, url, "does not reset a session", usual=settings(url))


def test_pooler_that_a_client_cannot_tell_from_the_server_is_refused(url: str):
    # It passes the server's greeting on.
    with transaction_pooler(url) as via, pytest.raises(PoolerFound, match="each transaction"):
        migrate(via, M8_001)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 20])
def test_pooler_in_session_mode_serves_a_run(tmp_path: Path, size: int):
    model = models("postgresql-18", 200)
    with (
        model.copy("gaps", tmp_path) as url,
        pgbouncer(url, "session", default_pool_size=size) as via,
    ):
        usual = settings(url)

        migrate(via, M8_001)

        assert State.of(url) == model.states["new"]
        assert all(found == usual for found in sessions_of_the_pool(via, 1))


@pytest.mark.fault
def test_run_that_is_killed_leaves_nothing_in_the_pool(tmp_path: Path):
    with (
        models("postgresql-18", 200).copy("gaps", tmp_path) as url,
        pgbouncer(url, "session") as via,
    ):
        usual = settings(url)
        for point in ("WITH RECURSIVE", "VALIDATE", "LOCK TABLE"):
            assert Migration(via, M8_001, victim=("--die-at", point)).ended().killed
            assert all(found == usual for found in sessions_of_the_pool(via))

            # Directly, so that it is another session than the one in the pool.
            done = Migration(url, M4_003, "migration-lock-wait=60").ended()
            assert done.status == 0, done.said


@pytest.mark.slow
def test_two_runs_through_a_pool_of_one_do_not_both_have_the_lock(url: str):
    with pgbouncer(url, "session", default_pool_size=1) as via:
        runs = [Migration(via, M8_001) for _ in range(2)]
        ended = [run.ended() for run in runs]

    assert [run.status for run in ended] == [0, 0], ended
    assert sum("Running upgrade" in run.said for run in ended) == 1


def test_pgpool_is_refused():
    server = postgres.PostgresServer(
        postgres.binaries()["postgresql-18"],
        {"wal_level": "replica"},
        within=postgres.memory_folder(),
    )
    try:
        url = server.create_database()
        migrate(url, M4_003)
        with server.replica() as replica, pgpool(url, replica.url()) as via:
            with pytest.raises(PoolerFound, match="Pgpool-II, which sends SELECTs to standbys"):
                migrate(via, M8_001)
            with client(url) as connection:
                version = connection.execute("SELECT version_num FROM alembic_version")
                assert version.fetchall() == [(M4_003,)]
    finally:
        server.close()


def test_direct_connection_is_the_only_one(url: str, monkeypatch: pytest.MonkeyPatch):
    def second(*_: object) -> None:
        raise AssertionError("a second connection was made")

    monkeypatch.setattr("cleveragents_plans.evolution.postgresql.poolers.second_connection", second)

    migrate(url, M8_001)
