"""A trigger that no revision made is named by verify, whichever table of the chain has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Kind, verify
from support.databases import ONE_OF_EACH, database_at
from support.toys import execute

ARCHIVE = "CREATE TABLE v3_plans_snapshot_archive (plan_id text, created_at text)"
FUNCTION = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'"


@pytest.mark.parametrize("engine", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("table", "severity"),
    [
        ("alembic_version", "fault"),
        ("v3_plans_snapshot_archive", "fault"),
        ("plan_projects", "note"),
        ("v3_plans", "note"),
    ],
)
def test_trigger_of_a_table_of_the_chain_is_named(
    engine: str, tmp_path: Path, table: str, severity: str
):
    with database_at("head", engine, tmp_path) as url:
        runs = "FOR EACH ROW EXECUTE FUNCTION f()"
        if engine == "sqlite":
            runs = "BEGIN SELECT 1; END"
        else:
            execute(url, FUNCTION)
        execute(url, ARCHIVE, f"CREATE TRIGGER t AFTER UPDATE ON {table} {runs}")

        with read_database(chain_config(url), "verify") as database:
            found = verify(database, quick=True).findings

        named = [(each.kind, each.severity) for each in found if each.subject == f"{table}.t"]
        assert named == [(Kind.TRIGGER_EXTRA, severity)]
        if severity == "fault":
            [remedy] = [each.remedy for each in found if each.subject == f"{table}.t"]
            execute(url, remedy)
