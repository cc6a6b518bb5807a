"""``--sql`` writes a script that does what the on-line run does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import make_url

from cleveragents_plans.evolution.errors import running_revision
from support import postgres
from support.databases import empty_database, migrate, roll_back
from support.former_release import write_former_release
from support.revisions import M4_003, M8_001
from support.rows import database_hash, schema_dump
from support.scripts import run_psql, script
from support.toys import execute


@pytest.fixture(params=list(postgres.binaries()))
def pair(request: pytest.FixtureRequest, tmp_path: Path):
    with (
        empty_database(request.param, tmp_path) as one,
        empty_database(request.param, tmp_path) as other,
    ):
        yield one, other


def test_script_of_the_whole_chain_builds_the_schema_of_the_chain(pair):
    online, offline = pair
    migrate(online, M8_001)

    done = run_psql(offline, script(offline, M8_001))

    assert done.returncode == 0, done.stderr
    assert schema_dump(offline) == schema_dump(online)


def assert_scripts_do_what_runs_do(online: str, offline: str) -> None:
    migrate(online, M8_001)

    done = run_psql(offline, script(offline, f"{M4_003}:{M8_001}"))
    assert done.returncode == 0, done.stderr
    assert database_hash(offline) == database_hash(online)
    assert schema_dump(offline) == schema_dump(online)

    roll_back(online, M4_003)
    done = run_psql(offline, script(offline, f"{M8_001}:{M4_003}", back=True))
    assert done.returncode == 0, done.stderr
    assert database_hash(offline) == database_hash(online)
    assert schema_dump(offline) == schema_dump(online)


def test_script_gives_the_rows_of_the_online_run_up_and_down(pair):
    for url in pair:
        write_former_release(url, plans=2_000, seed=5)
    assert_scripts_do_what_runs_do(*pair)


DEFERRED = {
    "a foreign key": "DO $$ DECLARE name text; BEGIN FOR name IN SELECT conname FROM pg_constraint"
    " WHERE conrelid = 'v3_plans'::regclass AND contype = 'f' LOOP EXECUTE format("
    "'ALTER TABLE v3_plans ALTER CONSTRAINT %I DEFERRABLE INITIALLY DEFERRED', name);"
    " END LOOP; END $$",
    "a constraint trigger": "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RETURN NULL; END'; CREATE CONSTRAINT TRIGGER look AFTER UPDATE ON v3_plans"
    " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()",
}


@pytest.mark.parametrize("deferred", DEFERRED.values(), ids=DEFERRED)
def test_script_alters_a_table_whose_constraints_wait_until_the_commit(pair, deferred: str):
    for url in pair:
        write_former_release(url, plans=100)
        assert run_psql(url, f"{deferred};").returncode == 0

    assert_scripts_do_what_runs_do(*pair)


AUDITED = {
    "a trigger": "TRIGGER note AFTER UPDATE ON v3_plans FOR EACH ROW",
    "a deferred trigger": "CONSTRAINT TRIGGER note AFTER UPDATE ON v3_plans"
    " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
}


@pytest.mark.parametrize("trigger", AUDITED.values(), ids=AUDITED)
def test_trigger_finds_its_tables_by_the_search_path_of_the_role(pair, trigger: str):
    """In a run and in a script; none of both leaves the path to the statements after it."""
    for url in pair:
        write_former_release(url, plans=100)
        done = run_psql(
            url,
            "CREATE TABLE audit (plan_id text, path text);\n"
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO audit"
            " VALUES (new.plan_id, current_setting('search_path')); RETURN NULL; END$$;\n"
            f"CREATE {trigger} EXECUTE FUNCTION note();",
        )
        assert done.returncode == 0, done.stderr

    assert_scripts_do_what_runs_do(*pair)

    audited = "SELECT count(*), min(path), max(path) FROM audit"
    online, offline = (execute(url, audited) for url in pair)
    assert online == offline
    assert online[0][0] > 0
    assert {*online[0][1:]} == {"public"}


def test_function_of_a_script_is_the_same_where_all_identifiers_are_quoted(pair):
    url, _ = pair
    write_former_release(url, plans=10)
    execute(url, f"ALTER DATABASE {make_url(url).database} SET quote_all_identifiers = on")

    done = run_psql(url, script(url, f"{M4_003}:{M8_001}"))

    assert done.returncode == 0, done.stderr
    settings = "SELECT proconfig FROM pg_proc WHERE proname = 'v3_plans_fill'"
    assert execute(url, settings) == [(["search_path=pg_catalog, pg_temp"],)]


def test_script_is_one_transaction_that_a_cycle_rolls_back(pair):
    url, _ = pair
    write_former_release(url, plans=100)
    sql = script(url, f"{M4_003}:{M8_001}")
    run_psql(url, "UPDATE v3_plans SET parent_plan_id = plan_id, root_plan_id = NULL")
    before = database_hash(url), schema_dump(url)

    done = run_psql(url, sql)

    assert done.returncode != 0
    assert "own ancestors" in done.stderr
    assert (database_hash(url), schema_dump(url)) == before
    assert sql.count("COMMIT;") == 1


def test_script_ends_as_the_role_that_began_it(pair):
    url, _ = pair
    write_former_release(url, plans=10)
    sql = script(url, f"{M4_003}:{M8_001}")
    begin = "CREATE ROLE plans_script; GRANT ALL ON SCHEMA public TO plans_script;\n"
    for table in ("v3_plans", "alembic_version"):
        begin += f"ALTER TABLE {table} OWNER TO plans_script;\n"
    end = "\nSELECT 1 / (current_user = 'plans_script')::int; RESET ROLE;\n"
    end += "REASSIGN OWNED BY plans_script TO postgres; DROP OWNED BY plans_script;\n"
    end += "DROP ROLE plans_script;"

    done = run_psql(url, f"{begin}SET ROLE plans_script;\n{sql}{end}")

    assert done.returncode == 0, done.stderr


PLANTED = {
    "the function": "CREATE FUNCTION v3_plans_fill() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RETURN new; END'",
    "the archive": "CREATE TABLE v3_plans_snapshot_archive (plan_id varchar(26),"
    " effective_profile_snapshot text, created_at text)",
    "the index of the archive": "CREATE TABLE other (a int); CREATE INDEX"
    " uq_v3_plans_snapshot_archive_plan_id ON other (a)",
    "the version table": "ALTER TABLE alembic_version OWNER TO planting_clerk",
    "a trigger of the version table": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RETURN new; END'; ALTER FUNCTION f() OWNER TO planting_clerk; CREATE TRIGGER t"
    " BEFORE UPDATE ON alembic_version FOR EACH ROW EXECUTE FUNCTION f()",
    "a table of the chain": "ALTER TABLE plan_projects OWNER TO planting_clerk",
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_script_refuses_objects_of_another_role(pair, planted: str):
    url, _ = pair
    write_former_release(url, plans=10)
    sql = script(url, f"{M4_003}:{M8_001}")
    role = "CREATE ROLE planting_clerk; GRANT CREATE ON SCHEMA public TO planting_clerk"
    mine = "" if "ALTER" in planted else "SET ROLE planting_clerk; "
    plant = run_psql(url, f"{role}; {mine}{planted};")
    assert plant.returncode == 0, plant.stderr
    before = database_hash(url), schema_dump(url)

    done = run_psql(url, sql)

    assert done.returncode != 0
    said = "belongs to (another role than public.v3_plans|planting_clerk)|name of something else"
    assert re.search(said, done.stderr)
    assert (database_hash(url), schema_dump(url)) == before
    drop = "REASSIGN OWNED BY planting_clerk TO postgres; DROP OWNED BY planting_clerk"
    run_psql(url, f"{drop}; DROP ROLE planting_clerk;")


@pytest.mark.parametrize("back", [False, True])
def test_script_refuses_row_security_that_hides_plans_from_their_owner(pair, back: bool):
    url, _ = pair
    write_former_release(url, plans=10)
    if back:
        migrate(url, M8_001)
    sql = script(url, f"{M8_001}:{M4_003}" if back else f"{M4_003}:{M8_001}", back=back)
    force = "CREATE ROLE bound_owner; GRANT CREATE, USAGE ON SCHEMA public TO bound_owner;"
    owned = ["TABLE v3_plans", "TABLE alembic_version", *(
        f"TABLE plan_{name}" for name in ("projects", "arguments", "invariants"))]  # fmt: skip
    owned += ["FUNCTION v3_plans_fill()"] if back else []
    force += "".join(f"ALTER {each} OWNER TO bound_owner;" for each in owned)
    force += "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
    assert run_psql(url, force).returncode == 0
    before = database_hash(url), schema_dump(url)

    done = run_psql(url, sql)

    assert done.returncode != 0
    assert "row-level security is forced on the owner of public.v3_plans" in done.stderr
    assert (database_hash(url), schema_dump(url)) == before
    run_psql(url, "DROP OWNED BY bound_owner CASCADE; DROP ROLE bound_owner;")


def test_script_down_to_base_refuses_to_drop_plans(pair):
    url, _ = pair
    write_former_release(url, plans=100)

    done = run_psql(url, script(url, f"{M4_003}:base", back=True))

    assert done.returncode != 0
    assert "v3_plans holds rows" in done.stderr


def test_script_for_sqlite_is_refused_with_a_remedy(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(CommandError, match="without --sql"):
        script(sqlite_url, M8_001)

    assert capsys.readouterr().out == ""


def test_script_leaves_no_revision_behind_that_a_later_message_would_name():
    """As in a process that prints a script, and then migrates."""
    script("postgresql://postgres@/plans", f"{M4_003}:{M8_001}")

    assert running_revision.get() is None
