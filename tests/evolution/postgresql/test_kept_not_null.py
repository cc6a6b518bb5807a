"""What PostgreSQL keeps of a table that has relatives or keys of its own: refused beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config, current
from support.databases import SERVERS, database_at, migrate, roll_back
from support.revisions import HEAD, M4_003
from support.rows import schema_dump
from support.toys import execute

NEWEST, *_ = SERVERS
WITHOUT_KEYS = """\
DO $$ DECLARE k record; BEGIN
  FOR k IN SELECT CAST(conrelid AS regclass) AS name, conname FROM pg_constraint
            WHERE contype = 'f' OR (contype = 'p' AND conrelid = 'v3_plans'::regclass)
            ORDER BY contype LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', k.name, k.conname);
  END LOOP; END $$"""
#: What is there, and what a downgrade says of it.
KEPT = {
    "replica identity": (
        ("CREATE UNIQUE INDEX mine ON v3_plans (root_plan_id, plan_id)",
         "ALTER TABLE v3_plans REPLICA IDENTITY USING INDEX mine"),
        "root_plan_id NOT NULL for the replica identity mine of public.v3_plans; run ALTER TABLE "
        "public.v3_plans REPLICA IDENTITY DEFAULT, and run the same command again",
    ),
    "primary key": (
        (WITHOUT_KEYS, "CREATE UNIQUE INDEX mine ON v3_plans (plan_id)",
         "ALTER TABLE v3_plans ADD CONSTRAINT own PRIMARY KEY (plan_id, root_plan_id)"),
        "root_plan_id NOT NULL for the primary key own of public.v3_plans; make it a unique index",
    ),
    "replica identity of a table that inherits": (
        ("CREATE TABLE heir () INHERITS (v3_plans)",
         "CREATE UNIQUE INDEX mine ON heir (automation_profile)",
         "ALTER TABLE heir REPLICA IDENTITY USING INDEX mine"),
        "automation_profile NOT NULL for the replica identity mine of public.heir; run ALTER",
    ),
}  # fmt: skip
INHERITED = (
    "CREATE TABLE base (root_plan_id varchar(26) NOT NULL)",
    "ALTER TABLE v3_plans INHERIT base",
)
PRIMARY_KEY_OF_AN_HEIR = ("CREATE TABLE heir (PRIMARY KEY (root_plan_id)) INHERITS (v3_plans)",)
#: What is there, and what an upgrade says of it.
UNFIT = {
    "partition": (
        ("CREATE TABLE own (LIKE v3_plans) PARTITION BY LIST (phase)",
         "ALTER TABLE own ATTACH PARTITION v3_plans DEFAULT"),
        "v3_plans is a partition of public.own, so that PostgreSQL adds no column to it; run "
        "ALTER TABLE public.own DETACH PARTITION public.v3_plans; nothing was changed",
    ),
    "column of a table that inherits": (
        ("CREATE TABLE heir (effective_profile_snapshot int) INHERITS (v3_plans)",),
        '(child table "heir" has different type for column "effective_profile_snapshot")',
    ),
}  # fmt: skip
NOT_MERGED = (
    "CREATE TABLE heir () INHERITS (v3_plans)",
    "ALTER TABLE heir ADD CONSTRAINT own NOT NULL root_plan_id NO INHERIT",
)


def refused(url: str, down: str | None = None) -> str:
    """Let a run be refused, and a preflight say the same; give the words."""
    before, revision = schema_dump(url), current(url)
    blocks = [each.found for each in preflight(chain_config(url), down).blocks]
    with pytest.raises(EvolutionError) as error:
        roll_back(url, down) if down else migrate(url, HEAD)
    assert blocks == [str(error.value)]
    assert (schema_dump(url), current(url)) == (before, revision)
    return blocks[0]


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize(("statements", "told"), KEPT.values(), ids=KEPT)
def test_downgrade_is_refused_beforehand_by_what_keeps_a_not_null(
    statements: tuple[str, ...], told: str, engine: str, tmp_path: Path
):
    with database_at(HEAD, engine, tmp_path) as url:
        execute(url, *statements)

        assert f"v3_plans has to keep {told}" in refused(url, M4_003)


def test_not_null_that_is_inherited_is_kept_since_postgresql_18(tmp_path: Path):
    with database_at(HEAD, NEWEST, tmp_path) as url:
        execute(url, *INHERITED)

        assert refused(url, M4_003) == (
            "v3_plans has to keep root_plan_id NOT NULL for the table public.base, from which it "
            "inherits; run ALTER TABLE public.base ALTER COLUMN root_plan_id DROP NOT NULL, and "
            "run the same command again; nothing was changed"
        )
        execute(url, "ALTER TABLE base ALTER COLUMN root_plan_id DROP NOT NULL")
        roll_back(url, M4_003)


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize("statements", [INHERITED, PRIMARY_KEY_OF_AN_HEIR])
def test_downgrade_is_refused_only_where_postgresql_would_refuse_it(
    statements: tuple[str, ...], engine: str, tmp_path: Path
):
    """What one version keeps for a relative, another one drops."""
    with database_at(HEAD, engine, tmp_path) as url:
        execute(url, *statements)
        accepted = not preflight(chain_config(url), M4_003).blocks

        assert accepted == ((engine == NEWEST) == (statements is PRIMARY_KEY_OF_AN_HEIR))
        if accepted:
            roll_back(url, M4_003)


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize(("statements", "told"), UNFIT.values(), ids=UNFIT)
def test_upgrade_is_refused_beforehand_by_relatives_that_cannot_have_the_column(
    statements: tuple[str, ...], told: str, engine: str, tmp_path: Path
):
    with database_at(M4_003, engine, tmp_path) as url:
        execute(url, *statements)

        assert told in refused(url)


def test_not_null_that_an_heir_does_not_share_is_refused_beforehand(tmp_path: Path):
    with database_at(M4_003, NEWEST, tmp_path) as url:
        execute(url, *NOT_MERGED)

        assert refused(url) == (
            "v3_plans is inherited by public.heir, whose NOT NULL own of root_plan_id is NO "
            "INHERIT; run ALTER TABLE public.heir ALTER CONSTRAINT own INHERIT, and run the same "
            "command again; nothing was changed"
        )
        execute(url, "ALTER TABLE heir ALTER CONSTRAINT own INHERIT")
        migrate(url, HEAD)
