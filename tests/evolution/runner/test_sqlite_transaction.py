"""A run on SQLite is one transaction, on a connection of ours or of the caller's."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, StaticPool, create_engine, event, inspect
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from cleveragents_plans import open_async_engine, open_engine, schema
from cleveragents_plans.evolution.runner.error_lines import VersionChanged
from cleveragents_plans.evolution.runner.sqlite_transaction import DriverInAutocommit
from cleveragents_plans.evolution.sqlite.transaction import FileLocked
from cleveragents_plans.schema import chain_config
from support.autocommit import in_autocommit
from support.former_release import write_former_release
from support.revisions import HEAD, M4_003


def on(connection: object, *x: str) -> Config:
    config = chain_config(extra=x)
    config.attributes["connection"] = connection
    return config


def begin_listener(statement: str):
    def listen(engine):
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(statement))
        return engine

    return listen


ENGINES = {
    "as SQLAlchemy makes it": create_engine,
    "as open_engine makes it": open_engine,
    "with a transaction that begins DEFERRED": lambda url, **options: begin_listener("BEGIN")(
        create_engine(url, **options)
    ),
    "in autocommit": lambda url, **options: create_engine(
        url, isolation_level="AUTOCOMMIT", **options
    ),
    "with a driver in autocommit": lambda url, **options: create_engine(
        url, connect_args=in_autocommit(True), **options
    ),
    "with a driver that begins at once": lambda url, **options: create_engine(
        url, connect_args=in_autocommit(False), **options
    ),
    "as open_engine makes it with a driver in autocommit": lambda url, **options: open_engine(
        url, connect_args=in_autocommit(True), **options
    ),
}


@pytest.fixture(params=ENGINES)
def make_engine(request):
    return ENGINES[request.param]


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path: Path) -> str:
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/plans.db"


def version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def test_engine_of_the_caller_is_migrated_and_stays_as_it_was(make_engine, url: str):
    engine = make_engine(url)
    pragmas = ("foreign_keys", "busy_timeout")
    with engine.connect() as connection:
        before = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]

    command.upgrade(on(engine), "head")

    with engine.connect() as connection:
        assert version(connection) == HEAD
        after = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    assert after == before
    command.downgrade(on(engine), M4_003)
    with engine.connect() as connection:
        assert version(connection) == M4_003
    engine.dispose()


def test_connection_in_no_transaction_is_migrated_and_is_in_none_afterwards(make_engine, url: str):
    engine = make_engine(url)
    with engine.connect() as connection:
        command.upgrade(on(connection), "head")

        assert not connection.in_transaction()
        driver = connection.connection.driver_connection
        # What False means is that the driver is always in one.
        assert driver.in_transaction == (getattr(driver, "autocommit", None) is False)
        assert version(connection) == HEAD
    engine.dispose()


@pytest.mark.parametrize("autocommit", [True, False])
def test_autocommit_of_the_driver_stays_as_it_was(tmp_path: Path, autocommit: bool):
    url = f"sqlite:///{tmp_path}/plans.db"
    engine = create_engine(url, connect_args=in_autocommit(autocommit))
    with engine.connect() as connection:
        command.upgrade(on(connection), "head")

        assert connection.connection.driver_connection.autocommit is autocommit
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / "plans.db")) as driver:
        assert driver.execute("SELECT version_num FROM alembic_version").fetchone() == (HEAD,)


def test_transaction_that_the_driver_cannot_commit_is_refused(url: str):
    engine = create_engine(url, connect_args=in_autocommit(True), poolclass=StaticPool)
    with (
        engine.begin() as connection,
        pytest.raises(DriverInAutocommit, match="a commit does nothing; hand over"),
    ):
        command.upgrade(on(connection), "head")
    with engine.connect() as connection:
        assert version(connection) is None
    engine.dispose()


def test_transaction_that_the_driver_has_begun_is_kept(url: str):
    engine = create_engine(url, connect_args=in_autocommit(False), poolclass=StaticPool)
    with engine.connect() as connection:
        with connection.begin():
            command.upgrade(on(connection), "head")
        assert version(connection) == HEAD
    engine.dispose()


def test_driver_of_asyncio_in_autocommit_is_migrated(url: str):
    engine = create_async_engine(async_url(url), connect_args=in_autocommit(True))

    assert asyncio.run(upgraded(engine, begin=False)) == HEAD


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_transaction_of_the_caller_is_kept(url: str, end: str):
    engine = create_engine(url, poolclass=StaticPool)
    with engine.connect() as connection:
        transaction = connection.begin()
        connection.exec_driver_sql("CREATE TABLE theirs (id INTEGER)")
        connection.exec_driver_sql("INSERT INTO theirs VALUES (1)")

        command.upgrade(on(connection), "head")

        assert transaction.is_active
        getattr(transaction, end)()
    with engine.connect() as connection:
        assert version(connection) == (HEAD if end == "commit" else None)
        assert inspect(connection).has_table("v3_plans") == (end == "commit")
    engine.dispose()


def test_rows_survive_a_migration_in_a_transaction_of_the_caller(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/plans.db"
    write_former_release(url, plans=50, seed=3)
    engine = create_engine(url)
    with engine.begin() as connection:
        children = "SELECT count(*) FROM plan_projects"
        before = connection.exec_driver_sql(children).scalar()
        command.upgrade(on(connection), "head")
        assert connection.exec_driver_sql("SELECT count(*) FROM v3_plans").scalar() == 50
        assert connection.exec_driver_sql(children).scalar() == before > 0
    engine.dispose()


def test_transaction_that_enforces_foreign_keys_is_refused_before_any_change(url: str):
    engine = open_engine(url, poolclass=StaticPool)
    with engine.connect() as connection, connection.begin():
        with pytest.raises(CommandError, match=r"in a transaction in which SQLite enforces") as no:
            command.upgrade(on(connection), "head")

        assert "engine.connect(), not engine.begin()" in str(no.value)
        assert version(connection) is None
    engine.dispose()


def test_version_can_be_read_in_a_transaction_of_the_caller(
    url: str, capsys: pytest.CaptureFixture[str]
):
    engine = open_engine(url, poolclass=StaticPool)
    command.upgrade(on(engine), "head")
    with engine.connect() as connection, connection.begin() as transaction:
        command.current(on(connection), check_heads=True)
        command.upgrade(on(connection), "head")  # nothing to do

        assert transaction.is_active
    assert HEAD in capsys.readouterr().out
    engine.dispose()


def test_failure_leaves_the_file_of_the_caller_as_it_was(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/plans.db"
    write_former_release(url, plans=5, seed=1)
    with sqlite3.connect(tmp_path / "plans.db") as file:
        file.execute("UPDATE v3_plans SET parent_plan_id = plan_id, root_plan_id = NULL")
        before = list(file.iterdump())
    file.close()
    engine = create_engine(url)

    with pytest.raises(CommandError, match="own ancestor"):
        command.upgrade(on(engine), "head")

    with engine.connect() as connection:
        assert list(connection.connection.driver_connection.iterdump()) == before
        assert not connection.connection.driver_connection.in_transaction
    engine.dispose()


@pytest.mark.parametrize("journal", ["off", "memory"])
def test_failure_is_rolled_back_where_the_application_keeps_no_journal(
    tmp_path: Path, journal: str
):
    url = f"sqlite:///{tmp_path}/plans.db"
    write_former_release(url, plans=300, seed=1)
    with closing(sqlite3.connect(tmp_path / "plans.db")) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON alembic_version"
            " BEGIN SELECT RAISE(ABORT, 'not today'); END"
        )
        before = [*connection.iterdump()]
    engine = create_engine(url, poolclass=NullPool)
    pragma = "PRAGMA journal_mode"
    # Of a small cache, pages are written before the end.
    given = f"{pragma} = {journal}; PRAGMA cache_size = 5"
    event.listen(engine, "connect", lambda driver, _: driver.executescript(given))

    with engine.connect() as connection:
        with pytest.raises(CommandError, match="not today"):
            command.upgrade(on(connection), "head")
        assert connection.exec_driver_sql(pragma).scalar() == journal

    with closing(sqlite3.connect(tmp_path / "plans.db")) as connection:
        assert [*connection.iterdump()] == before


def test_run_on_a_connection_of_the_caller_waits_for_other_writers(tmp_path: Path):
    file = tmp_path / "plans.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 0.1})
    with pytest.raises(FileLocked):
        command.upgrade(on(engine, "migration-lock-wait=0.1"), "head")

    threading.Timer(1, other.rollback).start()
    command.upgrade(on(engine), "head")

    with engine.connect() as connection:
        assert version(connection) == HEAD
    other.close()
    engine.dispose()


def async_url(url: str) -> str:
    return url.replace("sqlite:", "sqlite+aiosqlite:")


async def upgraded(engine: AsyncEngine, *, begin: bool) -> str | None:
    """Do what Alembic's cookbook does, and read the version afterwards."""
    async with engine.begin() if begin else engine.connect() as connection:
        await connection.run_sync(lambda sync: command.upgrade(on(sync), "head"))
    async with engine.connect() as connection:
        found = await connection.run_sync(version)
    await engine.dispose()
    return found


@pytest.mark.parametrize("begin", [True, False], ids=["begin", "connect"])
def test_connection_of_asyncio_is_migrated_by_run_sync(url: str, begin: bool):
    engine = create_async_engine(async_url(url))

    assert asyncio.run(upgraded(engine, begin=begin)) == HEAD


def test_engine_of_asyncio_that_enforces_foreign_keys_is_migrated_by_run_sync(url: str):
    assert asyncio.run(upgraded(open_async_engine(url), begin=False)) == HEAD


def test_rows_are_migrated_through_a_driver_of_asyncio(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/plans.db"
    write_former_release(url, plans=200, seed=1)

    assert asyncio.run(upgraded(create_async_engine(async_url(url)), begin=True)) == HEAD

    with create_engine(url, poolclass=NullPool).connect() as connection:
        roots = "SELECT count(*) FROM v3_plans WHERE root_plan_id IS NULL"
        assert connection.exec_driver_sql(roots).scalar() == 0
        assert connection.exec_driver_sql("SELECT count(*) FROM v3_plans").scalar() == 200


def test_transaction_of_asyncio_is_kept(tmp_path: Path):
    async def roll_back() -> str | None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/plans.db")
        async with engine.connect() as connection:
            transaction = await connection.begin()
            await connection.run_sync(lambda sync: command.upgrade(on(sync), "head"))
            assert await connection.run_sync(version) == HEAD
            await transaction.rollback()
        async with engine.connect() as connection:
            found = await connection.run_sync(version)
        await engine.dispose()
        return found

    assert asyncio.run(roll_back()) is None


def test_connection_that_does_not_count_changed_rows_is_told_what_to_leave_out(tmp_path: Path):
    file = tmp_path / "plans.db"
    engine = create_engine(f"sqlite:///{file}")
    command.upgrade(on(engine), M4_003)
    event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA count_changes = ON"))
    engine.dispose()

    with pytest.raises(VersionChanged, match="PRAGMA count_changes = ON: leave that out of"):
        command.upgrade(on(engine), "head")

    engine.dispose()
    with closing(sqlite3.connect(file)) as left:
        assert left.execute("SELECT version_num FROM alembic_version").fetchall() == [(M4_003,)]


def test_progress_handler_of_the_application_is_there_after_a_run(sqlite_url: str):
    called: list[int] = []
    engine = create_engine(sqlite_url)
    event.listen(
        engine,
        "connect",
        lambda driver, _: driver.set_progress_handler(lambda: called.append(1), 1),
    )
    schema.upgrade(engine)
    called.clear()
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    engine.dispose()

    assert called
