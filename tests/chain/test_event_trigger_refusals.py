"""Event triggers that refuse a command of a run: found out before its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cleveragents_plans import schema
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from support import postgres
from support.databases import SERVERS, database_at, migrate, of_role, roll_back
from support.online import client
from support.revisions import HEAD, M4_003, M8_001
from support.rows import schema_dump
from support.toys import execute

TAGS = ["CREATE TABLE", "CREATE TABLE AS", "CREATE INDEX", "CREATE FUNCTION", "CREATE TRIGGER",
        "REVOKE", "COMMENT", "ALTER TABLE", "DROP TRIGGER", "DROP FUNCTION", "DROP INDEX",
        "DROP TABLE"]  # fmt: skip


def rule(
    event: str, *tags: str, body: str = "BEGIN RAISE 'no % today', tg_tag; END"
) -> tuple[str, str]:
    """Give the statements that create an event trigger for these command tags, or all."""
    listed = ", ".join(f"'{tag}'" for tag in tags)
    return (
        f"CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ {body} $$",
        f"CREATE EVENT TRIGGER house_rule ON {event}"
        f"{f' WHEN TAG IN ({listed})' if tags else ''} EXECUTE FUNCTION forbid()",
    )


EACH = "DECLARE o record; BEGIN FOR o IN SELECT * FROM pg_event_trigger_dropped_objects() LOOP"
NO_TABLE_IS_DROPPED = f"""{EACH}
  IF o.object_type = 'table' AND NOT o.is_temporary THEN
    RAISE 'tables are not dropped here: %', o.object_identity;
  END IF; END LOOP; END"""
NO_COLUMN_IS_DROPPED = NO_TABLE_IS_DROPPED.replace("'table'", "'table column'")


@pytest.fixture(params=SERVERS)
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the former release."""
    with database_at(M4_003, request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=SERVERS)
def present(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database at the newest revision."""
    with database_at(HEAD, request.param, tmp_path) as url:
        yield url


def refused(url: str, down: str | None = None) -> str:
    """Let a run be refused, and a preflight say the same; give the words."""
    before, revision = schema_dump(url), schema.current(url)
    blocks = [each.found for each in preflight(chain_config(url), down).blocks]
    with pytest.raises(EvolutionError) as error:
        roll_back(url, down) if down else migrate(url, HEAD)
    assert blocks == [str(error.value)]
    assert (schema_dump(url), schema.current(url)) == (before, revision)
    return blocks[0]


def test_guard_of_tables_that_is_in_the_way_of_an_upgrade_is_named(former: str):
    execute(former, *rule("sql_drop", body=NO_TABLE_IS_DROPPED))

    assert refused(former) == (
        "the event trigger house_rule (function public.forbid()) refuses DROP TABLE, tried on "
        "public.v3_plans_snapshot_archive (tables are not dropped here: "
        "public.v3_plans_snapshot_archive); let it pass the tables of this schema, or run ALTER "
        "EVENT TRIGGER house_rule DISABLE as a superuser for the time of this run, and run the "
        "same command again; nothing was changed"
    )

    execute(former, "ALTER EVENT TRIGGER house_rule DISABLE")
    migrate(former, HEAD)


@pytest.mark.slow
def test_guard_of_tables_that_is_in_the_way_of_a_downgrade_is_named(present: str):
    execute(present, *rule("sql_drop", body=NO_TABLE_IS_DROPPED))

    assert "house_rule (function public.forbid()) refuses DROP TABLE" in refused(present, M4_003)

    roll_back(present, M8_001)  # which drops indexes only
    migrate(present, HEAD)


@pytest.mark.slow
def test_guard_of_columns_is_in_the_way_of_a_downgrade_only(former: str):
    execute(former, *rule("sql_drop", body=NO_COLUMN_IS_DROPPED))

    migrate(former, HEAD)

    assert "refuses ALTER TABLE … DROP COLUMN, tried on" in refused(former, M4_003)


def assert_each_command_is_found_out(url: str, event: str, migrate_url: Callable[[], None]) -> None:
    before = schema_dump(url)
    for tag in TAGS:
        execute(url, *rule(event, tag))
        with pytest.raises(EvolutionError, match=rf"^the event trigger house_rule .* {tag}, tried"):
            migrate_url()
        execute(url, "DROP EVENT TRIGGER house_rule", "DROP FUNCTION forbid")
    assert schema_dump(url) == before


@pytest.mark.slow
def test_command_that_is_forbidden_is_found_out_before_an_upgrade(former: str):
    assert_each_command_is_found_out(former, "ddl_command_start", lambda: migrate(former, HEAD))


@pytest.mark.slow
def test_command_that_is_forbidden_is_found_out_before_a_downgrade(present: str):
    assert_each_command_is_found_out(present, "ddl_command_end", lambda: roll_back(present, M4_003))


def test_all_that_one_event_trigger_forbids_is_told_at_once(former: str):
    execute(former, *rule("ddl_command_start", "CREATE INDEX", "REVOKE", "DROP TABLE"))

    tried = "tried on public.v3_plans_snapshot_archive"
    assert (
        f"refuses CREATE INDEX, {tried} (no CREATE INDEX today) and REVOKE, tried on "
        "public.v3_plans_fill() (no REVOKE today) and DROP TABLE, "
        f"{tried} (no DROP TABLE today)"
    ) in refused(former)


def test_temporary_copy_of_a_table_is_named_where_it_is_refused(former: str):
    body = f"""{EACH_CREATED}
  IF o.schema_name = 'pg_temp' THEN RAISE 'no temporary objects'; END IF; END LOOP; END"""
    execute(former, *rule("ddl_command_end", "CREATE TABLE", body=body))

    assert "refuses CREATE TABLE, tried on pg_temp.evolution_copy (no temporary" in refused(former)


def test_event_trigger_that_refuses_is_told_from_those_that_do_not(former: str):
    execute(
        former,
        "CREATE FUNCTION passes() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        *rule("ddl_command_end", "CREATE FUNCTION"),
        "CREATE EVENT TRIGGER also ON ddl_command_start EXECUTE FUNCTION passes()",
        "ALTER EVENT TRIGGER house_rule ENABLE REPLICA",
    )
    assert not preflight(chain_config(former)).blocks

    execute(former, "ALTER EVENT TRIGGER house_rule ENABLE ALWAYS")

    assert "the event trigger house_rule (" in refused(former)


def test_commands_that_a_run_does_not_send_may_be_forbidden(former: str):
    execute(former, *rule("ddl_command_start", "GRANT", "CREATE VIEW", "CREATE SCHEMA"))

    assert not preflight(chain_config(former)).blocks
    migrate(former, HEAD)
    roll_back(former, M4_003)


def test_trial_is_not_that_of_the_owner_of_a_table_whose_name_begins_like_one_of_ours(present: str):
    # Who may create nothing in the schema, so that nothing could be tried.
    execute(
        present,
        *rule("ddl_command_end", "CREATE FUNCTION"),
        "CREATE ROLE other_application",
        "CREATE TABLE i (a int)",  # a downgrade begins with public.ix_…
        "ALTER TABLE i OWNER TO other_application",
    )
    try:
        assert "refuses CREATE FUNCTION" in refused(present, M4_003)
    finally:
        execute(present, "DROP OWNED BY other_application", "DROP ROLE other_application")


def test_indexes_of_the_last_revision_alone_are_tried(former: str):
    migrate(former, M8_001)
    execute(former, *rule("ddl_command_start", "CREATE INDEX"))

    assert "refuses CREATE INDEX" in refused(former)


def test_event_trigger_that_logs_sees_the_commands_of_the_run_only(former: str):
    body = (
        "BEGIN INSERT INTO public.logged"
        " SELECT tg_tag, object_identity FROM pg_event_trigger_ddl_commands(); END"
    )
    execute(former, "CREATE TABLE logged (tag text, identity text)",
            "GRANT INSERT ON logged TO PUBLIC", *rule("ddl_command_end", body=body))  # fmt: skip

    assert not preflight(chain_config(former)).blocks
    assert execute(former, "SELECT * FROM logged WHERE identity LIKE '%trial%'") == []
    migrate(former, HEAD)

    assert execute(former, "SELECT * FROM logged WHERE identity LIKE '%trial%'") == []
    assert execute(former, "SELECT 1 FROM logged WHERE identity LIKE '%v3_plans_fill%'")


def test_names_of_a_trial_that_are_taken_are_left_alone(former: str):
    execute(
        former,
        *rule("sql_drop", body=NO_TABLE_IS_DROPPED),
        "CREATE TABLE v3_plans_trial ()",
        "CREATE TABLE v3_plans_snapshot_archive AS SELECT plan_id, CAST('{}' AS text) AS"
        " effective_profile_snapshot, created_at FROM v3_plans WITH NO DATA",
    )

    assert "tried on public.v3_plans_trial_1 (" in refused(former)


EACH_CREATED = "DECLARE o record; BEGIN FOR o IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP"
OF_A_REGISTER = f"""{EACH_CREATED}
  IF o.object_type = 'table' AND o.schema_name <> 'pg_temp' AND o.object_identity NOT IN (
       'public.v3_plans', 'public.v3_plans_snapshot_archive', 'public.alembic_version',
       'public.plan_projects', 'public.plan_arguments', 'public.plan_invariants',
       'public.evolution_runs') THEN
    RAISE '% is not registered', o.object_identity;
  END IF; END LOOP; END"""
OF_COLUMNS = f"""{EACH_CREATED}
  IF o.schema_name <> 'pg_temp' AND NOT EXISTS (
       SELECT FROM pg_attribute WHERE attrelid = o.objid AND attname = 'created_at') THEN
    RAISE '% lacks created_at', o.object_identity;
  END IF; END LOOP; END"""
OF_NAMES = f"""{EACH_CREATED}
  IF o.object_identity ~ 'trial|note' THEN
    RAISE '% is no name here', o.object_identity;
  END IF; END LOOP; END"""


@pytest.mark.parametrize(
    ("body", "tags"),
    [
        (OF_A_REGISTER, ["CREATE TABLE", "CREATE TABLE AS"]),
        (OF_COLUMNS, ["CREATE TABLE AS"]),
        (OF_NAMES, ["CREATE TABLE AS", "CREATE FUNCTION", "CREATE INDEX", "CREATE TRIGGER"]),
    ],
    ids=["register", "columns", "names"],
)
def test_rule_that_all_objects_of_the_run_obey_is_no_refusal(
    former: str, body: str, tags: list[str]
):
    execute(former, *rule("ddl_command_end", *tags, body=body))

    assert not preflight(chain_config(former)).blocks
    migrate(former, HEAD)
    assert not preflight(chain_config(former), M4_003).blocks
    roll_back(former, M4_003)


def test_role_without_rights_is_told_of_these_and_not_of_event_triggers(former: str):
    execute(former, *rule("ddl_command_end", body="BEGIN END"), "CREATE ROLE guest LOGIN",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest")  # fmt: skip
    try:
        without = preflight(chain_config(of_role(former, "guest")))
        execute(former, "ALTER EVENT TRIGGER house_rule DISABLE")
        assert preflight(chain_config(of_role(former, "guest"))).blocks == without.blocks
    finally:
        execute(former, "DROP OWNED BY guest", "DROP ROLE guest")

    assert any("cannot become" in block.found for block in without.blocks)


@pytest.mark.filterwarnings("error")
def test_event_triggers_are_not_tried_on_a_standby(tmp_path: Path):
    server = postgres.server("postgresql-18")
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        execute(url, *rule("ddl_command_end", body="BEGIN END"))
        with server.replica() as standby:
            found = preflight(chain_config(standby.url(make_url(url).database)))

    assert "event triggers" in found.unchecked


def test_what_the_disk_refuses_is_no_event_triggers_doing(former: str):
    name = make_url(former).database
    with client(former) as superuser:
        superuser.execute("SET allow_in_place_tablespaces = on")
        superuser.execute("CREATE TABLESPACE broken LOCATION ''")
        superuser.execute(f'ALTER DATABASE "{name}" SET default_tablespace = broken'.encode())
        query = (
            "SELECT current_setting('data_directory') || '/' || pg_tablespace_location(oid)"
            " FROM pg_tablespace WHERE spcname = 'broken'"
        )
        folder = Path(superuser.execute(query).fetchall()[0][0])
    execute(former, *rule("ddl_command_end", body="BEGIN END"))
    kept = folder.with_name("elsewhere")
    folder.rename(kept)
    try:
        blocks = [each.found for each in preflight(chain_config(former)).blocks]
    finally:
        kept.rename(folder)
        execute(former, f'ALTER DATABASE "{name}" RESET default_tablespace')
        with client(former) as superuser:
            superuser.execute("DROP TABLESPACE broken")

    assert not [each for each in blocks if each.startswith("the event trigger")]
