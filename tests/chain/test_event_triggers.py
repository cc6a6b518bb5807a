"""Event triggers that change each new table: a house rule of whoever runs the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cleveragents_plans import schema
from cleveragents_plans.cli import main
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from support.databases import SERVERS, empty_database, migrate, of_role, roll_back
from support.revisions import HEAD, M4_003, M8_001
from support.rows import schema_dump
from support.toys import execute

OWNER, OTHER = "new_tables_owner", "new_tables_dba"
FORCE = "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"


def rule(action: str, name: str = "house_rule") -> tuple[str, ...]:
    """Give the statements after which each new table of the schema gets *action*."""
    return (
        f"CREATE FUNCTION {name}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp AS $$"
        " DECLARE new record; BEGIN FOR new IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP"
        " IF new.object_type = 'table' AND new.schema_name = 'public' THEN"
        f" EXECUTE format('ALTER TABLE %s {action}', new.object_identity); END IF;"
        " END LOOP; END $$",
        f"CREATE EVENT TRIGGER {name} ON ddl_command_end"
        " WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')"
        f" EXECUTE FUNCTION {name}()",
    )


@pytest.fixture(params=SERVERS)
def owned(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, in which a role may create tables; the URL of a superuser."""
    with empty_database(request.param, tmp_path) as url:
        execute(url, f"CREATE ROLE {OWNER} LOGIN", f"CREATE ROLE {OTHER} LOGIN",
                f"GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}")  # fmt: skip
        yield url
        execute(url, f"DROP OWNED BY {OWNER}, {OTHER} CASCADE", f"DROP ROLE {OWNER}, {OTHER}")


@pytest.mark.parametrize("migrating", ["postgres", OWNER])
def test_event_trigger_that_gives_new_tables_away_is_named_before_any_change(
    owned: str, migrating: str
):
    url = of_role(owned, OWNER)
    migrate(url, M4_003)
    execute(owned, *rule(f"OWNER TO {OTHER}"))
    before = schema_dump(owned)

    blocks = [each.found for each in preflight(chain_config(of_role(owned, migrating))).blocks]
    with pytest.raises(EvolutionError) as refused:
        migrate(of_role(owned, migrating), HEAD)

    assert blocks == [str(refused.value)]
    assert blocks[0] == (
        f"public.v3_plans_snapshot_archive belongs to {OTHER} as soon as it is created, and "
        f"public.v3_plans to {OWNER}, by the event trigger house_rule; let that leave the tables "
        "of this schema alone, or run ALTER EVENT TRIGGER house_rule DISABLE for the time of this "
        "run, and run the same command again; nothing was changed"
    )
    assert schema_dump(owned) == before

    execute(owned, "ALTER EVENT TRIGGER house_rule DISABLE")
    migrate(of_role(owned, migrating), M8_001)
    execute(owned, "ALTER EVENT TRIGGER house_rule ENABLE")
    with pytest.raises(EvolutionError, match=r"trigger house_rule; .*; nothing was changed"):
        roll_back(of_role(owned, migrating), M4_003)
    assert schema.current(owned) == M8_001


def test_event_trigger_that_refuses_new_tables_is_found_before_any_change(owned: str):
    url = of_role(owned, OWNER)
    migrate(url, M4_003)
    execute(
        owned,
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no tables today'; END $$",
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE TABLE AS')"
        " EXECUTE FUNCTION refuse()",
    )

    (block,) = preflight(chain_config(url)).blocks
    with pytest.raises(EvolutionError) as refused:
        migrate(url, HEAD)

    assert block.found == str(refused.value)
    assert (
        "the event trigger refuse (function public.refuse()) refuses CREATE TABLE AS, tried on "
        "public.v3_plans_snapshot_archive (no tables today); let it pass the tables of this "
        "schema, or run"
    ) in block.found


def test_table_that_has_the_name_of_the_trial_is_left_alone(owned: str):
    url = of_role(owned, OWNER)
    migrate(url, M4_003)
    execute(owned, "CREATE TABLE evolution_copy AS SELECT 1 AS kept")

    assert not preflight(chain_config(url)).blocks
    migrate(url, HEAD)

    assert execute(owned, "SELECT kept FROM evolution_copy") == [(1,)]


def test_row_security_that_is_forced_on_each_new_table_is_refused_before_the_first_one(
    owned: str, capfd: pytest.CaptureFixture[str]
):
    url = of_role(owned, OWNER)
    execute(owned, *rule(FORCE))

    with pytest.raises(EvolutionError) as refused:
        migrate(url, HEAD)

    assert (
        f"public.alembic_version has row-level security that is forced on its owner {OWNER} as it "
        "is created, by the event trigger house_rule; let that leave the tables of this schema "
        "alone, or run ALTER EVENT TRIGGER house_rule DISABLE for the time of this run, and run"
    ) in str(refused.value)
    assert "v3_plans" not in str(schema_dump(owned))
    capfd.readouterr()
    assert main(["status", "--url", url]) == 3  # behind
    execute(owned, "ALTER EVENT TRIGGER house_rule DISABLE")
    migrate(url, HEAD)


def test_row_security_that_is_forced_on_the_plans_as_they_are_created_is_refused(owned: str):
    url = of_role(owned, OWNER)
    migrate(url, HEAD)
    roll_back(url, "base")
    execute(owned, *rule(FORCE))

    with pytest.raises(
        EvolutionError, match=r"; run ALTER TABLE public.v3_plans NO FORCE ROW LEVEL SECURITY, "
    ):
        migrate(url, HEAD)

    for name in ("v3_plans", "plan_projects", "plan_arguments", "plan_invariants"):
        execute(url, f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")
    migrate(url, HEAD)


@pytest.mark.parametrize("table", ["alembic_version", "v3_plans"])
def test_policies_that_bind_whoever_reads_are_told_without_sql(
    owned: str, table: str, capfd: pytest.CaptureFixture[str]
):
    url = of_role(owned, OWNER)
    migrate(url, HEAD)
    execute(url, f"ALTER TABLE {table} {FORCE}")
    capfd.readouterr()

    assert main(["verify", "--url", url]) == 1
    said = capfd.readouterr().err.splitlines()[-1]

    assert f'policy for table "{table}"; expected that the role sees all rows: run ALTER' in said
    assert "SELECT" not in said
