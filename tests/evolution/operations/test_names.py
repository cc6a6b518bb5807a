"""What has the name of a table of the chain, and is none, is refused by every command alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from support.databases import ENGINES, empty_database, migrate
from support.revisions import M8_001
from support.toys import execute

COMMANDS = ["current", "status", "verify", "upgrade", "stamp head", "downgrade base"]
ARCHIVE = "CREATE TABLE v3_plans_snapshot_archive (plan_id, effective_profile_snapshot, created_at)"


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        yield url


def run(url: str, command: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capfd.readouterr()
    status = main([*command.split(), "--log", "plain", "--url", url])
    # The first line names the database.
    return status, capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "view", ["CREATE VIEW v3_plans AS SELECT 1 AS plan_id", "CREATE INDEX v3_plans ON other (a)"]
)
def test_view_or_index_that_has_the_name_of_a_table_is_refused_alike(
    url: str, view: str, capfd: pytest.CaptureFixture[str]
):
    execute(url, "CREATE TABLE other (a integer)", view)

    said = {run(url, command, capfd) for command in COMMANDS}

    [(status, line)] = said
    assert status == 1
    assert "v3_plans is an index" in line or "v3_plans is a view; expected a table" in line


@pytest.mark.parametrize(
    ("table", "renamed"), [("V3_Plans", "v3_plans"), ("ALEMBIC_version", "alembic_version")]
)
def test_table_whose_name_differs_in_case_is_refused_alike_on_sqlite(
    tmp_path: Path, table: str, renamed: str, capfd: pytest.CaptureFixture[str]
):
    url = f"sqlite:///{tmp_path}/plans.db"
    migrate(url, "head")
    execute(url, f"ALTER TABLE {renamed} RENAME TO x", f"ALTER TABLE x RENAME TO {table}")

    [(status, line)] = {run(url, command, capfd) for command in COMMANDS}

    assert status == 1
    assert f"{table} is a table whose name differs in case from {renamed}" in line

    # The remedy is what it says.
    [first, second] = line.split("run ")[1].split(", otherwise")[0].split(" and ")
    execute(url, first, second)
    assert main(["verify", "--url", url]) == 0


def test_virtual_table_is_refused_as_a_table_of_the_chain(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    url = f"sqlite:///{tmp_path}/plans.db"
    execute(url, "CREATE VIRTUAL TABLE v3_plans USING fts5(plan_id)")

    assert {run(url, command, capfd)[0] for command in COMMANDS} == {1}


@pytest.mark.parametrize(
    "taken",
    [
        "CREATE TABLE Plan_Projects (a integer)",
        "CREATE VIEW plan_invariants AS SELECT 1 AS a",
        "CREATE TABLE ix_v3_plans_root_plan_id (a integer)",
        "CREATE TABLE ix_v3_plans_queued (a integer)",
        ARCHIVE,
        "CREATE TABLE uq_v3_plans_snapshot_archive_plan_id (a integer)",
    ],
)
def test_names_that_are_taken_are_refused_before_the_first_change_on_sqlite(
    tmp_path: Path, taken: str, capfd: pytest.CaptureFixture[str]
):
    url = f"sqlite:///{tmp_path}/plans.db"
    execute(url, taken)
    before = execute(url, "SELECT * FROM sqlite_schema")

    status, line = run(url, "upgrade", capfd)

    assert status == 1
    assert "rename" in line
    assert execute(url, "SELECT * FROM sqlite_schema") == before


def test_trigger_of_the_archive_is_refused_on_sqlite(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    url = f"sqlite:///{tmp_path}/plans.db"
    migrate(url, M8_001)
    trigger = "CREATE TRIGGER t AFTER INSERT ON v3_plans_snapshot_archive BEGIN SELECT 1; END"
    execute(url, ARCHIVE, trigger)

    status, line = run(url, "downgrade m4_003_plan_env_columns", capfd)

    assert status == 1
    assert 'archive has the trigger t; expected none; run DROP TRIGGER "t"' in line
