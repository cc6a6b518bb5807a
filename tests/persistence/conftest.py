"""One migrated database per engine for the whole run, emptied after each test."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanRepository
from cleveragents_plans.persistence import open_engine
from support.databases import ENGINES, database_at
from support.plans import a_child, a_root, ulid

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


@pytest.fixture
def family(repository: PlanRepository) -> dict[str, Plan]:
    """A root with two children, one of which has a child, and another root."""
    top = a_root(1)
    left, right = a_child(2, top), a_child(3, top)
    below, other = a_child(4, left), a_root(5)
    repository.add_all([top, left, right, below, other])
    return {"top": top, "left": left, "right": right, "below": below, "other": other}


@pytest.fixture
def count(session: Session) -> Callable[[], int]:
    """Count the rows of ``v3_plans``."""
    return lambda: session.execute(text("SELECT count(*) FROM v3_plans")).scalar_one()


@pytest.fixture
def count_children(session: Session) -> Callable[[], list[int]]:
    """Count the rows of each child table."""
    counts = [text(f"SELECT count(*) FROM {table}") for table in _TABLES[:3]]
    return lambda: [session.execute(each).scalar_one() for each in counts]


@pytest.fixture
def corrupt(session: Session) -> Callable[..., None]:
    """Break the tags of plans, by their numbers."""

    def corrupt(*numbers: int) -> None:
        for number in numbers:
            session.execute(
                text("UPDATE v3_plans SET tags_json = '{' WHERE plan_id = :it"),
                {"it": ulid(number)},
            )

    return corrupt
