"""One migrated database per engine for the whole run, emptied after each test."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository
from cleveragents_plans.persistence import open_engine
from support.databases import ENGINES, database_at

_TABLES = ("plan_projects", "plan_arguments", "plan_invariants", "v3_plans")


@pytest.fixture(scope="session", params=ENGINES)
def migrated_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An engine on a database at the head of the chain; tests that write to it roll back."""
    with database_at("head", request.param, tmp_path_factory.mktemp("kept")) as url:
        engine = open_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def engine(migrated_engine: Engine) -> Iterator[Engine]:
    """An engine on a database at the head of the chain, emptied afterwards."""
    yield migrated_engine
    if migrated_engine.dialect.name == "sqlite":
        # Without foreign keys, which the tests of corrupt rows break.
        with closing(sqlite3.connect(str(migrated_engine.url.database))) as connection:
            for table in _TABLES:
                connection.execute(f"DELETE FROM {table}")
            connection.commit()
    else:
        with migrated_engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {', '.join(_TABLES)}")


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session whose work is rolled back, unless the test commits it."""
    with Session(engine) as session:
        yield session


@pytest.fixture
def repository(session: Session) -> PlanRepository:
    """A repository on that session."""
    return PlanRepository(session)
