"""Databases for tests: both engines, built by the chain, thrown away afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import postgres
from support.databases import ENGINES, empty_database, migrate


def pytest_report_header() -> str:
    servers = ", ".join(f"{name} at {folder}" for name, folder in postgres.binaries().items())
    return f"databases: sqlite, {servers}"


@pytest.fixture(params=ENGINES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database on each engine."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def migrated_url(empty_url: str) -> str:
    """A database at the head of the chain, on each engine."""
    migrate(empty_url, "head")
    return empty_url


@pytest.fixture(params=[name for name in ENGINES if name != "sqlite"])
def postgresql_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database on each PostgreSQL."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'plans.db'}"
