"""Sessions block a run that hold a transaction open, and not clients at work."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import NullPool, create_engine

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.preflight import sessions
from cleveragents_plans.preflight.findings import Block
from support.broken import libpq
from support.databases import database_at, of_role
from support.online import client
from support.revisions import M4_003

TABLE = "public.v3_plans"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        yield url


@pytest.fixture
def other(url: str) -> Iterator[psycopg.Connection]:
    """A client that is connected all along."""
    with psycopg.connect(libpq(url)) as connection:
        yield connection


@pytest.fixture
def unprivileged(url: str) -> Iterator[str]:
    """The URL for a role to which the states of other sessions are hidden."""
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with client(url) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    yield of_role(url, role)
    with client(url) as connection:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def read(other: psycopg.Connection) -> None:
    other.execute(f"SELECT count(*) FROM {TABLE}".encode())


def ahead(url: str, before: Callable[[], object] = lambda: None) -> list[Block]:
    """Look in a transaction that has looked at the sessions *before* already, as a preflight's."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        run(connection, "SELECT count(*) FROM pg_stat_activity")
        before()
        return [*sessions.sessions_ahead(connection, [TABLE], builds_indexes=True)]


def test_session_is_shown_as_it_is_and_not_as_it_was(
    url: str, other: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "MIN_AGE", 0.0)

    (found,) = ahead(url, lambda: read(other))

    assert f"pid {other.info.backend_pid}, user postgres, idle in transaction, open" in found.found


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long was waited, which is not done."""
    seconds: list[float] = []
    monkeypatch.setattr(sessions.time, "sleep", seconds.append)
    return seconds


def test_transaction_of_unknown_age_blocks_if_it_is_there_still(
    unprivileged: str, other: psycopg.Connection, slept: list[float]
):
    read(other)

    (found,) = ahead(unprivileged)

    assert f"pid {other.info.backend_pid}, user postgres, AccessShareLock" in found.found
    assert slept == [sessions.MIN_AGE]


def test_client_at_work_whose_state_is_hidden_is_no_block(
    unprivileged: str, other: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
):
    def go_on(_: float) -> None:
        other.rollback()
        read(other)

    read(other)
    monkeypatch.setattr(sessions.time, "sleep", go_on)

    assert ahead(unprivileged) == []


def test_client_whose_activities_are_not_tracked_is_no_block_while_it_works(
    url: str, other: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
):
    """Its age is not known to a superuser, either: that of its connection says nothing."""

    def go_on(_: float) -> None:
        other.rollback()
        read(other)

    other.execute("SET track_activities = off")
    other.commit()
    read(other)
    (found,) = ahead(url)
    assert "AccessShareLock" in found.found
    monkeypatch.setattr(sessions.time, "sleep", go_on)

    assert ahead(url) == []


def test_transaction_of_known_age_is_looked_at_once(
    url: str, other: psycopg.Connection, slept: list[float]
):
    read(other)

    ahead(url)

    assert slept == []
