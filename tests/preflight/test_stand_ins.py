"""Batches are tried out without the triggers that the run drops before it writes any."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from support.databases import SERVERS, database_with, migrate, roll_back
from support.former_release import write_former_release
from support.revisions import HEAD, M4_003
from support.rows import schema_dump
from support.toys import execute

FUNCTION = "SELECT prosrc FROM pg_proc WHERE proname = 'v3_plans_fill'"


def plans(url: str) -> None:
    """Write plans, as an application does at the newest revision."""
    roll_back(url, M4_003)
    write_former_release(url, 200, 7)
    migrate(url, HEAD)


@pytest.mark.parametrize("engine", SERVERS)
def test_trigger_that_a_downgrade_drops_first_does_not_refuse_a_trial(engine: str, tmp_path: Path):
    with database_with(plans, engine, tmp_path) as url:
        # The function goes on naming the former schema.
        execute(
            url,
            "ALTER SCHEMA public RENAME TO app",
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app',"
            " current_database()); END $$",
        )
        before = schema_dump(url), execute(url, FUNCTION)

        found = preflight(chain_config(url), M4_003)

        assert not found.blocks
        assert found.estimate is not None
        assert (schema_dump(url), execute(url, FUNCTION)) == before
        roll_back(url, M4_003)


@pytest.mark.parametrize("engine", SERVERS)
def test_trigger_of_the_application_refuses_a_trial(engine: str, tmp_path: Path):
    with database_with(plans, engine, tmp_path) as url:
        execute(
            url,
            "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'not today'; END $$",
            "CREATE TRIGGER mine BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION mine()",
        )

        (block,) = preflight(chain_config(url), M4_003).blocks

        assert "in the function mine(): not today" in block.found


@pytest.mark.parametrize(
    "column",
    [
        "$stand_in$;commit;create table public.mine();do $stand_in$",
        "a$stand_in$ b",
        "it's \\ $$",
    ],
)
@pytest.mark.parametrize("checked", ["on", "off"])
def test_name_of_a_column_is_no_sql_of_a_trial(column: str, checked: str, tmp_path: Path):
    with database_with(plans, "postgresql-18", tmp_path) as url:
        execute(
            url,
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET check_function_bodies ="
            f" {checked}', current_database()); END $$",
            f"ALTER TABLE v3_plans ADD COLUMN \"{column}\" text DEFAULT '' NOT NULL",
        )
        before = schema_dump(url), execute(url, FUNCTION)

        found = preflight(chain_config(url), M4_003)

        assert not found.blocks
        assert found.estimate is not None
        assert (schema_dump(url), execute(url, FUNCTION)) == before
