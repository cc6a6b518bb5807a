"""Statements in one round trip: the one that fails is named, and nothing else is said."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.postgresql.connection import transaction
from cleveragents_plans.evolution.postgresql.pipeline import run_in_pipeline
from support.databases import empty_database

# The answer to what is sent before it arrives while it is being sent.
LONG = f"SELECT 1 /* {'x' * 10_000_000} */"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with empty_database("postgresql-18", tmp_path) as url:
        engine = open_engine(url, migrating=True, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection


@pytest.mark.parametrize("after", [[], ["SELECT 2"], [LONG, "SELECT 2"]])
def test_statement_that_fails_is_named_and_the_driver_is_silent(
    connection: Connection, after: list[str], caplog: pytest.LogCaptureFixture
):
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DBAPIError) as failed,
        transaction(connection),
    ):
        run_in_pipeline(connection, ["SELECT 1", "SELECT 1/0", *after])

    assert failed.value.statement == "SELECT 1/0"
    assert caplog.messages == []
    assert connection.exec_driver_sql("SELECT 3").scalar_one() == 3


def test_interruption_in_a_pipeline_is_raised_and_the_driver_is_silent(
    connection: Connection, caplog: pytest.LogCaptureFixture
):
    def statements() -> Iterator[str]:
        yield "SELECT 1/0"
        raise KeyboardInterrupt

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(KeyboardInterrupt),
        transaction(connection),
    ):
        run_in_pipeline(connection, statements())  # type: ignore[arg-type]

    assert caplog.messages == []
    logging.getLogger("psycopg").warning("of others")
    assert caplog.messages == ["of others"]
