"""Tables that were moved to another schema in the middle of a run: what stops the next one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Kind, verify
from support.broken import store_family
from support.databases import SERVERS, database_with, migrate, roll_back
from support.revisions import M4_003, M8_001
from support.toys import execute

TABLES = (
    "v3_plans", "plan_projects", "plan_arguments", "plan_invariants", "alembic_version",
    "evolution_runs",
)  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
def test_function_that_stayed_behind_an_unfinished_revision_is_named_with_what_to_type(
    server: str, tmp_path: Path
):
    with database_with(store_family, server, tmp_path) as url:
        roll_back(url, M8_001)
        execute(
            url,
            "CREATE SCHEMA app",
            *(f"ALTER TABLE {each} SET SCHEMA app" for each in TABLES),
            f'ALTER DATABASE "{make_url(url).database}" SET search_path = app',
            f"COMMENT ON TABLE app.alembic_version IS '[unfinished downgrade of {M8_001}]'",
        )
        with pytest.raises(EvolutionError, match=r"public\.v3_plans_fill"):
            roll_back(url, M4_003)

        with read_database(chain_config(url), "verify") as database:
            [found] = [each for each in verify(database).faults if each.kind != Kind.UNFINISHED]
        assert found.kind == Kind.TRIGGER_CHANGED
        assert "public.v3_plans_fill()" in found.found
        typed = re.findall(r"DROP (?:TRIGGER \w+ ON|FUNCTION) [\w.()]+", found.remedy)
        execute(url, *typed)

        roll_back(url, M4_003)
        migrate(url, "head")
        with read_database(chain_config(url), "verify") as database:
            assert verify(database).findings == ()
