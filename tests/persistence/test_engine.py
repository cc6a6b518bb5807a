"""Engines on which a transaction is a transaction."""

from __future__ import annotations

import sys

import pytest
from sqlalchemy import text

from cleveragents_plans.persistence import (
    DatabaseUrlError,
    database_url,
    open_async_engine,
    open_engine,
    read_only,
)


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///plans.db", "sqlite"),
        ("sqlite+pysqlite:///plans.db", "sqlite"),
        ("sqlite+aiosqlite:///plans.db", "sqlite"),
        ("postgres://u@h/d", "postgresql+psycopg"),
        ("postgresql://u@h/d", "postgresql+psycopg"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg"),
        ("postgresql+psycopg_async://u@h/d", "postgresql+psycopg"),
    ],
)
def test_a_url_leads_to_one_driver_per_engine(given, driver):
    assert database_url(given).drivername == driver
    assert database_url(database_url(given)) == database_url(given)


@pytest.mark.parametrize("given", ["plans.db", "", "postgresql://u:p@ss@h:port/d"])
def test_what_is_no_url_is_refused_without_repeating_it(given):
    with pytest.raises(DatabaseUrlError, match="cannot be read") as caught:
        database_url(given)

    assert "p@ss" not in str(caught.value)


def test_another_engine_is_refused():
    with pytest.raises(DatabaseUrlError, match="'mysql', which is not supported"):
        database_url("mysql://u:secret@h/d")


@pytest.mark.parametrize(
    "url", ["sqlite://user:secret@host/plans.db", "sqlite:///plans.db?timeout=secret"]
)
def test_parts_that_the_driver_refuses_are_refused(url):
    with pytest.raises(DatabaseUrlError, match="parts that its driver refuses") as caught:
        open_engine(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite:///plans.db", "postgresql://u:secret@h/d"])
def test_an_option_that_does_not_exist_is_named(url):
    with pytest.raises(TypeError, match="'colour'") as caught:
        open_engine(url, colour="red")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("opened", "url", "module", "package"),
    [
        (open_engine, "postgresql://u@h/d", "psycopg", r"'cleveragents-plans\[postgresql\]'"),
        (open_async_engine, "postgresql://u@h/d", "psycopg", r"'cleveragents-plans\[postgresql\]'"),
        (open_async_engine, "sqlite:///plans.db", "aiosqlite", r"'cleveragents-plans\[asyncio\]'"),
        (open_async_engine, "sqlite:///plans.db", "greenlet", r"'cleveragents-plans\[asyncio\]'"),
    ],
)
def test_a_driver_that_is_missing_is_named_with_what_to_install(
    monkeypatch, opened, url, module, package
):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(DatabaseUrlError, match=f"'{module}' is not installed; .* {package}$"):
        opened(url)


def test_another_driver_for_asyncio_is_refused():
    with pytest.raises(DatabaseUrlError, match=r"'postgresql\+asyncpg', which is not supported"):
        open_async_engine("postgresql+asyncpg://u@h/d")


def test_a_connection_keeps_foreign_keys_and_a_write_ahead_log(sqlite_url):
    engine = open_engine(sqlite_url)
    with engine.connect() as connection:
        found = [
            connection.scalar(text(f"PRAGMA {name}"))
            for name in ("foreign_keys", "journal_mode", "synchronous", "busy_timeout")
        ]
    engine.dispose()

    assert found == [1, "wal", 2, 30_000]


def test_a_migrating_connection_leaves_the_journal_as_it_is(sqlite_url):
    engine = open_engine(sqlite_url, migrating=True)
    with engine.connect() as connection:
        found = [
            connection.scalar(text(f"PRAGMA {name}")) for name in ("foreign_keys", "journal_mode")
        ]

    assert found == [0, "delete"]


def test_a_schema_change_is_part_of_its_transaction(sqlite_url):
    engine = open_engine(sqlite_url)
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
        connection.rollback()
        tables = connection.scalar(text("SELECT count(*) FROM sqlite_schema"))
    engine.dispose()

    assert tables == 0


def test_a_writer_takes_its_turn_at_the_beginning_and_a_reader_does_not(sqlite_url):
    engine = open_engine(sqlite_url, connect_args={"timeout": 0})
    with (
        engine.connect() as writer,
        read_only(engine).connect() as reader,
        engine.connect() as late,
    ):
        writer.execute(text("CREATE TABLE t (a INTEGER)"))
        assert reader.scalar(text("SELECT count(*) FROM sqlite_schema")) == 0
        with pytest.raises(Exception, match="database is locked"):
            late.execute(text("SELECT 1"))
        writer.commit()
    engine.dispose()
