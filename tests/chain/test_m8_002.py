"""The indexes are created once, whatever was there, and dropped alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, inspect

from cleveragents_plans.cli import main
from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.operations import indexes as indexes_of_any_engine
from cleveragents_plans.evolution.postgresql.index_rows import RowsTooWide
from support import postgres
from support.broken import libpq
from support.databases import ENGINES, SERVERS, database_at, empty_database, migrate, roll_back
from support.faults import execute
from support.revisions import HEAD, M4_003, M8_001, M8_002
from support.rows import schema_dump

OURS = {
    "v3_plans": {
        "ix_v3_plans_parent_plan_id",
        "ix_v3_plans_queued",
        "ix_v3_plans_processing",
        "ix_v3_plans_open",
        "ix_v3_plans_completed_roots",
        "ix_v3_plans_namespace",
        "ix_v3_plans_created_at",
    },
    "plan_projects": {"ix_plan_projects_project_name"},
}


@pytest.fixture(params=ENGINES)
def before(request: pytest.FixtureRequest, tmp_path: Path):
    with database_at(M8_001, request.param, tmp_path) as url:
        yield url


def indexes(url: str, table: str) -> set[str]:
    engine = create_engine(url, poolclass=NullPool)
    found = {str(index["name"]) for index in inspect(engine).get_indexes(table)}
    engine.dispose()
    return found


def test_upgrade_creates_the_indexes_and_downgrade_drops_them(before: str):
    schema, had = schema_dump(before), {table: indexes(before, table) for table in OURS}

    migrate(before, M8_002)
    assert {table: indexes(before, table) - had[table] for table in OURS} == OURS
    roll_back(before, M8_001)

    assert [each for each in schema_dump(before) if "alembic_version" not in each[:3]] == [
        each for each in schema if "alembic_version" not in each[:3]
    ]


def test_equal_index_under_another_name_is_used_and_stays(before: str):
    execute(
        before,
        "CREATE INDEX by_operator ON v3_plans (parent_plan_id) WHERE parent_plan_id IS NOT NULL",
        "CREATE INDEX by_name ON plan_projects (project_name, plan_id)",
    )

    migrate(before, M8_002)

    assert "ix_v3_plans_parent_plan_id" not in indexes(before, "v3_plans")
    assert "ix_plan_projects_project_name" not in indexes(before, "plan_projects")
    roll_back(before, M8_001)
    assert "by_operator" in indexes(before, "v3_plans")
    assert "by_name" in indexes(before, "plan_projects")


@pytest.mark.parametrize("engine", SERVERS)
def test_indexes_of_a_restored_dump_are_dropped_and_known(engine: str, tmp_path: Path):
    programs = postgres.binaries()[engine]
    with database_at(HEAD, engine, tmp_path) as source, empty_database(engine, tmp_path) as url:
        had = {table: indexes(source, table) for table in OURS}
        dump = subprocess.run(
            [programs / "pg_dump", libpq(source)], capture_output=True, check=True
        )
        restore = [programs / "psql", "-Xqv", "ON_ERROR_STOP=1", libpq(url)]
        subprocess.run(restore, input=dump.stdout, capture_output=True, check=True)

        roll_back(url, M8_001)
        assert {table: had[table] - indexes(url, table) for table in OURS} == OURS
        migrate(url, HEAD)
        assert {table: indexes(url, table) for table in OURS} == had
        assert main(["verify", "-q", "--url", url]) == 0


def test_index_that_is_not_equal_is_no_reason_to_leave_one_out(before: str):
    execute(before, "CREATE INDEX by_operator ON v3_plans (parent_plan_id)")

    migrate(before, M8_002)

    assert {"by_operator", "ix_v3_plans_parent_plan_id"} <= indexes(before, "v3_plans")


def test_downgrade_keeps_an_index_of_an_operator_that_has_the_name_of_one_of_ours(
    before: str, caplog: pytest.LogCaptureFixture
):
    migrate(before, M8_002)
    execute(
        before,
        "DROP INDEX ix_v3_plans_created_at",
        "CREATE INDEX ix_v3_plans_created_at ON v3_plans (created_at, created_by)",
    )

    roll_back(before, M8_001)

    assert indexes(before, "v3_plans") & OURS["v3_plans"] == {"ix_v3_plans_created_at"}
    assert "ix_v3_plans_created_at is kept: it is " in caplog.text
    with pytest.raises(OperationRefused, match="ix_v3_plans_created_at is the name of"):
        migrate(before, M8_002)


def test_tables_without_a_version_are_told_from_those_of_the_revision_before(
    before: str, capfd: pytest.CaptureFixture[str]
):
    for revision in (M8_001, M8_002):
        migrate(before, revision)
        execute(before, "DELETE FROM alembic_version")

        assert main(["upgrade", "--url", before]) == 1

        assert f"they look as {revision} makes them" in capfd.readouterr().err
        assert main(["stamp", "--url", before, "--purge", revision]) == 0


def test_index_that_an_operator_dropped_is_no_wrong_version(before: str):
    migrate(before, M8_002)
    execute(before, "DROP INDEX ix_v3_plans_created_at")

    assert main(["upgrade", "--url", before]) == 0


@pytest.mark.parametrize("before", [e for e in ENGINES if e != "sqlite"], indirect=True)
def test_invalid_index_is_built_anew(before: str):
    execute(
        before,
        "CREATE INDEX ix_v3_plans_namespace ON v3_plans (namespace, plan_id)",
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'ix_v3_plans_namespace'::regclass",
    )

    migrate(before, M8_002)

    assert not [each for each in schema_dump(before) if "(not valid)" in each[3]]
    assert "ix_v3_plans_namespace" in indexes(before, "v3_plans")


WIDE = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200) i)"


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("revision", [M4_003, M8_001])
def test_row_too_wide_for_an_index_is_named_before_any_change(
    server: str, revision: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(revision, server, tmp_path) as url:
        execute(url, PLAN.format("01", "'x'"))
        execute(url, PLAN.format("02", WIDE))
        before = schema_dump(url)
        said = "rows of public.v3_plans are too wide in created_at for an index"
        capfd.readouterr()

        assert main(["preflight", "--url", url]) == 1
        assert said in " ".join(capfd.readouterr().out.split())
        with pytest.raises(RowsTooWide, match=rf"{said}.*such as 02; correct or delete"):
            migrate(url, M8_002)

        assert schema_dump(url) == before
        execute(url, "UPDATE v3_plans SET created_at = '' WHERE plan_id = '02'")
        migrate(url, M8_002)


@pytest.mark.parametrize("server", SERVERS)
def test_row_too_wide_that_is_written_during_the_run_is_named(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with database_at(M8_001, server, tmp_path) as url:
        execute(url, PLAN.format("02", WIDE))
        monkeypatch.setattr(indexes_of_any_engine, "refuse_wide_rows", lambda *_: None)

        with pytest.raises(RowsTooWide, match=r"such as 02.*the INVALID index was dropped"):
            migrate(url, M8_002)


PLAN = (
    "INSERT INTO v3_plans (plan_id, root_plan_id, action_name, created_at, updated_at)"
    " VALUES ('{0}', '{0}', 'local/tidy', {1}, '')"
)
