"""A program upgrades, downgrades and looks by a call, whatever it has of its database."""

from __future__ import annotations

import asyncio
import inspect as python
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import StaticPool, create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from cleveragents_plans import Plan, PlanRepository, open_async_engine, open_engine
from cleveragents_plans.persistence import database_url
from cleveragents_plans.schema import create_schema, current, downgrade, upgrade
from support.databases import ENGINES, empty_database
from support.online import client
from support.revisions import HEAD, M4_003

PUBLIC = "'public'::regnamespace::oid::int"


@contextmanager
def engine_of(url):
    engine = create_engine(url)
    yield engine
    engine.dispose()


@contextmanager
def connection_of(url):
    with engine_of(url) as engine, engine.connect() as connection:
        yield connection


@contextmanager
def itself(url):
    yield url


@contextmanager
def parsed(url):
    yield database_url(url)


TARGETS = {"text": itself, "URL": parsed, "Engine": engine_of, "Connection": connection_of}


@pytest.fixture(params=TARGETS)
def target(request, empty_url):
    with TARGETS[request.param](empty_url) as target:
        yield target


def test_schema_is_upgraded_and_downgraded(target, empty_url, capfd):
    upgrade(target, M4_003)
    assert current(target) == M4_003
    upgrade(target)
    assert current(target) == current(target, check_heads=True) == HEAD
    upgrade(target)
    downgrade(target, M4_003)
    with pytest.raises(CommandError, match="not on all head revisions"):
        current(target, check_heads=True)
    downgrade(target, "base")
    assert current(target) is None
    assert "".join(capfd.readouterr()) == ""


def test_async_engine_is_awaited(empty_url, capfd):
    async def all_of_it():
        engine = open_async_engine(empty_url)
        try:
            assert await upgrade(engine, M4_003) is None
            assert await current(engine) == M4_003
            await upgrade(engine)
            assert await current(engine, check_heads=True) == HEAD
            await downgrade(engine, M4_003)
            return await current(engine)
        finally:
            await engine.dispose()

    assert asyncio.run(all_of_it()) == M4_003
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(
    "make", [create_engine, lambda url: create_engine(url, poolclass=StaticPool), open_engine]
)
def test_database_in_memory_is_upgraded_by_its_engine(make):
    engine = make("sqlite://")
    upgrade(engine)

    assert current(engine) == HEAD
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM v3_plans").scalar() == 0
    engine.dispose()


def test_database_that_connections_share_in_memory_is_upgraded_by_its_engine():
    engine = open_engine("sqlite:///file:/shared?uri=true&vfs=memdb")
    with engine.connect() as kept:
        for act in (upgrade, lambda target: downgrade(target, M4_003), upgrade):
            act(engine)

        assert current(engine, check_heads=True) == HEAD
        assert kept.exec_driver_sql("SELECT count(*) FROM v3_plans").scalar() == 0
    engine.dispose()


def test_database_in_memory_is_upgraded_by_its_async_engine():
    async def upgraded():
        engine = create_async_engine("sqlite+aiosqlite://")
        await upgrade(engine)
        found = await current(engine)
        await engine.dispose()
        return found

    assert asyncio.run(upgraded()) == HEAD


def test_event_loop_runs_while_postgresql_is_upgraded(postgresql_url, caplog):
    async def upgraded():
        engine = open_async_engine(postgresql_url)
        with client(postgresql_url, autocommit=False) as other:
            other.execute("CREATE TABLE in_use ()")
            other.commit()
            # Another process migrates: the run waits for the lock, and sleeps meanwhile.
            from cleveragents_plans.evolution.runner.migration_lock import _KEY

            other.execute(f"SELECT pg_advisory_lock({_KEY}, {PUBLIC})")
            running = asyncio.create_task(upgrade(engine))
            # It would not come back from one of these sleeps.
            while "another process is migrating" not in caplog.text:
                await asyncio.sleep(0.01)
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert not running.done()
            other.execute(f"SELECT pg_advisory_unlock({_KEY}, {PUBLIC})")
            other.commit()
        await running
        await engine.dispose()

    with caplog.at_level(logging.INFO, "alembic.evolution"):
        asyncio.run(upgraded())
    assert current(postgresql_url) == HEAD


@pytest.mark.parametrize(
    "engine", ["sqlite", pytest.param("postgresql-18", marks=pytest.mark.slow)]
)
def test_tasks_and_threads_upgrade_each_its_own_database(engine, tmp_path):
    if engine not in ENGINES:
        pytest.fail(f"{engine} is not installed")
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()

    async def two(urls):
        engines = [open_async_engine(url) for url in urls]
        await asyncio.gather(*(upgrade(engine) for engine in engines))
        for engine in engines:
            await engine.dispose()

    with (
        empty_database(engine, folders[0]) as a,
        empty_database(engine, folders[1]) as b,
        empty_database(engine, folders[2]) as c,
        empty_database(engine, folders[3]) as d,
        ThreadPoolExecutor(3) as pool,
    ):
        work = [pool.submit(upgrade, a), pool.submit(upgrade, b)]
        work.append(pool.submit(lambda: asyncio.run(two([c, d]))))
        for each in work:
            each.result(120)

        assert [current(url, check_heads=True) for url in (a, b, c, d)] == [HEAD] * 4


def test_events_are_logged_where_logging_asks(empty_url, capfd, caplog):
    with caplog.at_level(logging.INFO, "alembic"):
        upgrade(empty_url)

    assert f"Running upgrade {M4_003}" in caplog.text
    assert "".join(capfd.readouterr()) == ""


def test_signal_handlers_and_loggers_of_the_application_stay(sqlite_url):
    import signal

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    logger = logging.getLogger("alembic")
    state = (logger.level, list(logger.handlers))

    upgrade(sqlite_url)

    assert [signal.getsignal(number) for number in numbers] == before
    assert (logger.level, list(logger.handlers)) == state


def test_plans_are_dropped_only_when_it_is_asked_for(empty_url):
    upgrade(empty_url)
    engine = open_engine(empty_url, poolclass=NullPool)
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(Plan.create("local/lint"))

    with pytest.raises(CommandError, match="drop-plans"):
        downgrade(empty_url, "base")
    assert current(empty_url) is not None
    downgrade(empty_url, "base", drop_plans=True)
    assert current(empty_url) is None


def test_version_table_and_settings_are_options(empty_url):
    upgrade(empty_url, version_table="plans_version", settings={"lock_wait": 5})

    assert current(empty_url, version_table="plans_version") == HEAD
    with pytest.raises(CommandError, match=r"version-table=plans_version"):
        upgrade(empty_url)
    with pytest.raises(CommandError, match="lock_wiat"):
        upgrade(empty_url, version_table="plans_version", settings={"lock_wiat": 5})


def test_schema_of_postgresql_is_an_option(postgresql_url):
    with client(postgresql_url) as connection:
        connection.execute("CREATE SCHEMA app")
    upgrade(postgresql_url, schema="app")

    with pytest.raises(CommandError, match="the schema app"):
        upgrade(postgresql_url)
    upgrade(postgresql_url, allow_second_schema=True)

    assert current(postgresql_url, schema="app") == current(postgresql_url) == HEAD


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("mysql://u:secret@h/d", "'mysql', which is not supported"),
        ("", "is empty"),
        ("sqlite://", "in memory"),
        ("postgresql://u:secret@127.0.0.1:1/d", "cannot be opened"),
        (None, "is of the type NoneType"),
        (5, "is of the type int"),
    ],
)
def test_target_that_cannot_be_used_is_refused_in_one_line(target, found, capfd):
    for act in (upgrade, current):
        with pytest.raises(CommandError, match=found) as refused:
            act(target)
        assert "\n" not in str(refused.value)
        assert "secret" not in str(refused.value)
    assert "".join(capfd.readouterr()) == ""


def test_environment_names_no_database_for_a_call(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/other.db")

    upgrade(f"sqlite:///{tmp_path}/wanted.db")

    assert [file.name for file in tmp_path.iterdir()] == ["wanted.db"]


def test_run_in_a_thread_is_not_stopped_by_one_that_waits(tmp_path):
    """A second thread waits for the first one, which goes on."""
    order = []

    def work(name):
        upgrade(f"sqlite:///{tmp_path}/{name}.db")
        order.append(name)

    threads = [threading.Thread(target=work, args=[name]) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(order) == ["a", "b", "c"]


def test_signatures_say_what_can_be_chosen():
    for function in (upgrade, downgrade, current):
        names = [*python.signature(function).parameters]
        assert names[0] == "target"
        assert {"version_table", "schema"} <= set(names)
    assert make_url("sqlite://")  # a URL is a target, too


@pytest.mark.parametrize("wrong", [5, "", "a\0b", "\udcff"])
@pytest.mark.parametrize(
    "call",
    [
        lambda url, wrong: upgrade(url, version_table=wrong),
        lambda url, wrong: upgrade(url, schema=wrong),
        lambda url, wrong: downgrade(url, "base", version_table=wrong),
        lambda url, wrong: current(url, version_table=wrong),
        lambda url, wrong: create_schema(url, version_table=wrong),
    ],
)
def test_name_that_no_table_can_have_is_refused_in_one_line(tmp_path, call, wrong):
    file = tmp_path / "plans.db"

    with pytest.raises(CommandError, match=r"(version_table|schema) is .*; expected a name") as it:
        call(f"sqlite:///{file}", wrong)

    assert str(it.value).isprintable()
    assert not file.exists()
