"""m4_003 adds where a plan is to be executed, beside clients that go on working."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from support.databases import ENGINES, database_at
from support.revision_database import RevisionDatabase, plan_id
from support.revisions import A5_004, M4_003, M8_001
from support.rows import database_hash, schema_dump
from support.statements import dying_at

A, B = map(plan_id, (1, 2))
COLUMNS = "execution_environment, execution_env_priority"


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RevisionDatabase]:
    """A database of the revision before, with two plans."""
    with database_at(A5_004, request.param, tmp_path) as url:
        created = RevisionDatabase(url)
        created.plan(A)
        created.plan(B, parent=A, root=A, profile='{"profile_name": "ci"}')
        yield created


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RevisionDatabase]:
    """An empty database of the revision before, on PostgreSQL."""
    with database_at(A5_004, "postgresql-18", tmp_path) as url:
        created = RevisionDatabase(url)
        yield created


def test_stored_plans_ask_for_no_environment(database: RevisionDatabase):
    database.upgrade(M4_003)

    assert database.run(f"SELECT {COLUMNS} FROM v3_plans") == [(None, None)] * 2


def test_priority_is_one_of_two_words_or_null(database: RevisionDatabase):
    database.upgrade(M4_003)

    for word in ("fallback", "override"):
        database.run("UPDATE v3_plans SET execution_env_priority = :word", word=word)
    with pytest.raises(IntegrityError, match="ck_v3_plans_execution_env_priority"):
        database.run("UPDATE v3_plans SET execution_env_priority = 'always'")

    assert set(database.column("execution_env_priority").values()) == {"override"}


def test_downgrade_drops_both_columns_and_keeps_the_plans(database: RevisionDatabase):
    before = database_hash(database.url, {"alembic_version"}), schema_dump(database.url)

    database.upgrade(M4_003)
    database.run("UPDATE v3_plans SET execution_environment = 'container'")
    database.downgrade(A5_004)

    after = database_hash(database.url, {"alembic_version"}), schema_dump(database.url)
    assert after == before


def test_check_of_the_upgrade_is_valid(server: RevisionDatabase):
    server.upgrade(M4_003)

    assert server.run(
        "SELECT convalidated FROM pg_constraint"
        " WHERE conname = 'ck_v3_plans_execution_env_priority'"
    ) == [(True,)]


def test_killed_upgrade_can_be_repeated(server: RevisionDatabase):
    with dying_at("VALIDATE CONSTRAINT"):
        server.upgrade(M4_003)
    interrupted = schema_dump(server.url)
    server.upgrade(M4_003)
    repeated = schema_dump(server.url)
    server.downgrade(A5_004)
    server.upgrade(M4_003)

    assert interrupted != repeated
    assert schema_dump(server.url) == repeated


def test_killed_upgrade_is_undone_by_the_downgrade(server: RevisionDatabase):
    before = schema_dump(server.url)

    with dying_at("VALIDATE CONSTRAINT"):
        server.upgrade(M4_003)
    assert schema_dump(server.url) != before
    server.downgrade(A5_004)

    assert schema_dump(server.url) == before


def test_killed_downgrade_changes_nothing_and_either_direction_is_open(server: RevisionDatabase):
    server.upgrade(M4_003)
    before = schema_dump(server.url)

    with dying_at("UPDATE public.alembic_version"):
        server.downgrade(A5_004)

    assert schema_dump(server.url) == before
    server.upgrade(M8_001)
    server.downgrade("base")
    assert {entry[1] for entry in schema_dump(server.url)} <= {"alembic_version", ""}
