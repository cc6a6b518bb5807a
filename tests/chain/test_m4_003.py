"""m4_003 adds where a plan is to be executed, beside clients that go on working."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from support.databases import ENGINES, database_at
from support.revision_database import RevisionDatabase, plan_id
from support.revisions import A5_004, HEAD, M4_003, M8_001
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


@pytest.mark.parametrize("column", COLUMNS.split(", "))
def test_downgrade_past_later_revisions_is_refused_before_any_change_by_a_view_of_a_column(
    database: RevisionDatabase, column: str
):
    database.upgrade(HEAD)
    database.run(f"CREATE VIEW mine AS SELECT {column} FROM v3_plans")
    before = database_hash(database.url), schema_dump(database.url)

    found = preflight(chain_config(database.url, level=None), A5_004)
    with pytest.raises(EvolutionError, match=r"view (public\.)?mine") as refused:
        database.downgrade(A5_004)

    assert (database_hash(database.url), schema_dump(database.url)) == before
    [block] = found.blocks
    assert block.found in str(refused.value).replace(str(database.url), "sqlite://")


def test_downgrade_past_later_revisions_names_only_what_others_have_made_of_a_column(
    server: RevisionDatabase, caplog: pytest.LogCaptureFixture
):
    server.upgrade(HEAD)
    server.run("CREATE INDEX mine ON v3_plans (execution_environment)")

    server.downgrade(A5_004)

    # Before the first step, and before this one.
    [made] = {each for each in caplog.messages if "is dropped with what is made from it" in each}
    assert "execution_environment of v3_plans" in made
    assert "from it: index public.mine; an upgrade does not make that again" in made


def test_check_of_two_columns_with_another_name_stops_the_downgrade(server: RevisionDatabase):
    server.upgrade(HEAD)
    server.run(
        "ALTER TABLE v3_plans ADD CONSTRAINT mine"
        " CHECK (execution_env_priority IS NULL OR execution_environment IS NOT NULL)"
    )
    with pytest.raises(EvolutionError, match="constraint mine on table"):
        server.downgrade(A5_004)
    assert server.run("SELECT version_num FROM alembic_version") == [(HEAD,)]


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
