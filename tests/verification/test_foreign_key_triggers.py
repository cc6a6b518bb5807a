"""Foreign keys whose triggers are disabled are a fault of verify, and a warning of preflight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Finding, Kind, verify
from support.databases import database_at
from support.revisions import HEAD, M4_003
from support.toys import execute

ON_POSTGRESQL = ("postgresql-15", "postgresql-18")
GONE = "01ZZZZZZZZZZZZZZZZZZZZZZZZ"
BREAKS = {
    "v3_plans": (
        "INSERT INTO v3_plans (plan_id, root_plan_id, action_name, created_at, updated_at) VALUES "
        f"('01NNNNNNNNNNNNNNNNNNNNNNNN', '{GONE}', 'local/a', '2026-01-01T00:00:00.000000+00:00',"
        " '2026-01-01T00:00:00.000000+00:00')",
        Kind.ROOT_NOT_STORED,
    ),
    "plan_projects": (
        "INSERT INTO plan_projects (plan_id, project_name, position) VALUES "
        f"('{GONE}', 'local/p', 0)",
        Kind.PLAN_NOT_STORED,
    ),
}


def faults(url: str) -> Sequence[Finding]:
    with read_database(chain_config(url), "verify") as database:
        return verify(database).faults


@pytest.mark.parametrize("engine", ON_POSTGRESQL)
@pytest.mark.parametrize("table", BREAKS)
def test_disabled_triggers_of_foreign_keys_are_found_and_then_what_broke_the_keys(
    engine: str, table: str, tmp_path: Path
):
    breaks, kind = BREAKS[table]
    with database_at(HEAD, engine, tmp_path) as url:
        execute(url, f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        if table == "v3_plans":  # what is advised for it does not mend the rest
            execute(url, "ALTER TABLE v3_plans ENABLE ALWAYS TRIGGER v3_plans_fill")
        execute(url, breaks)

        [found] = [each for each in faults(url) if each.kind is Kind.TRIGGER_DISABLED]
        assert found.subject == table
        assert f"fk_{table}_" in found.found
        statements, _, then = found.remedy.partition(", as a superuser; ")
        assert "verify" in then
        execute(url, *statements.split("; "))

        assert {each.kind for each in faults(url)} == {kind}


@pytest.mark.parametrize("engine", ON_POSTGRESQL)
def test_disabled_triggers_of_foreign_keys_are_warned_of_before_an_upgrade(
    engine: str, tmp_path: Path
):
    with database_at(M4_003, engine, tmp_path) as url:
        execute(url, "ALTER TABLE v3_plans DISABLE TRIGGER ALL")

        [warning] = [each for each in preflight(chain_config(url)).warnings if "ENABLE" in each]
        [found] = [each for each in faults(url) if each.kind is Kind.TRIGGER_DISABLED]

    assert found.found in warning
    assert found.remedy in warning
