"""PostgreSQL as administrators set it up: roles, policies and limits that get in the way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import Engine, NullPool, event, make_url
from sqlalchemy.exc import ProgrammingError

from cleveragents_plans import open_engine
from support import postgres
from support.databases import empty_database, migrate, roll_back
from support.revisions import A5_004, M4_003, M8_001
from support.rows import database_hash, schema_dump

ROLE = "plans_clerk"
PLAN = (
    "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
    " VALUES ('{}', {}, 'local/tidy', '', '')"
)


def run(url: str, *statements: str) -> list[tuple]:
    with open_engine(url, poolclass=NullPool).begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with empty_database("postgresql-18", tmp_path) as url:
        yield url


@pytest.fixture
def clerk(url: str) -> Iterator[str]:
    """A role that owns nothing; the URL by which it connects."""
    run(url, f"CREATE ROLE {ROLE} LOGIN")
    yield make_url(url).set(username=ROLE).render_as_string()
    run(url, f"DROP OWNED BY {ROLE} CASCADE", f"DROP ROLE {ROLE}")


def test_limits_that_are_set_for_the_database_do_not_break_a_run(url: str):
    migrate(url, M4_003)
    rows = ", ".join(f"('{n:06}', 'a', '', '')" for n in range(20_000))
    run(url, f"INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at) VALUES {rows}")
    name = make_url(url).database
    for setting in (
        "statement_timeout = '20ms'",
        "transaction_timeout = '250ms'",
        "idle_in_transaction_session_timeout = '50ms'",
        "lock_timeout = '1ms'",
        "default_transaction_isolation = 'serializable'",
    ):
        run(url, f'ALTER DATABASE "{name}" SET {setting}')

    migrate(url, M8_001)
    roll_back(url, M4_003)
    migrate(url, M8_001)

    assert run(url, "SELECT count(*) FROM v3_plans WHERE root_plan_id = plan_id") == [(20_000,)]


def test_plans_that_arrive_while_the_lock_is_waited_for_are_not_dropped(url: str):
    migrate(url, A5_004)
    name = make_url(url).database
    run(url, f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
    client = open_engine(url, poolclass=NullPool).connect()
    waited = []

    def commit_when_waited_for(_connection, _cursor, statement, *_):
        # Between the look at the rows and the lock, somebody's plan is committed.
        if statement.startswith("LOCK TABLE") and "NOWAIT" in statement and not waited:
            waited.append(statement)
            client.commit()

    client.exec_driver_sql(PLAN.format("01", "NULL"))
    event.listen(Engine, "before_cursor_execute", commit_when_waited_for)
    try:
        with pytest.raises(CommandError, match="holds rows"):
            roll_back(url, "base")
    finally:
        event.remove(Engine, "before_cursor_execute", commit_when_waited_for)
        client.close()

    assert waited
    assert run(url, "SELECT plan_id FROM v3_plans") == [("01",)]


def test_rows_that_a_policy_hides_are_not_taken_for_rows_that_do_not_exist(url: str, clerk: str):
    migrate(url, M8_001)
    run(
        url,
        PLAN.format("01", "NULL"),
        'UPDATE v3_plans SET effective_profile_snapshot = \'{"name":"x"}\'',
        f"GRANT ALL ON SCHEMA public TO {ROLE}",
        f"ALTER TABLE v3_plans OWNER TO {ROLE}",
        f"ALTER FUNCTION v3_plans_fill() OWNER TO {ROLE}",
        f"ALTER TABLE alembic_version OWNER TO {ROLE}",
        "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE v3_plans FORCE ROW LEVEL SECURITY",
        "CREATE POLICY nobody ON v3_plans USING (false)",
    )
    before = database_hash(url)["v3_plans"]

    with pytest.raises(CommandError, match="row-level security"):
        roll_back(clerk, M4_003)
    with pytest.raises(CommandError, match="row-level security"):
        roll_back(clerk, "base")

    assert database_hash(url)["v3_plans"] == before


def test_a_client_that_may_only_insert_and_read_is_filled_in_for(url: str, clerk: str):
    run(url, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    migrate(url, M8_001)
    run(url, f"GRANT SELECT, INSERT ON v3_plans TO {ROLE}")

    run(clerk, PLAN.format("01", "NULL"), PLAN.format("02", "'01'"), PLAN.format("03", "'02'"))

    roots = run(url, "SELECT plan_id, root_plan_id FROM v3_plans ORDER BY 1")
    assert roots == [("01", "01"), ("02", "01"), ("03", "01")]


def test_a_temporary_table_of_the_same_name_does_not_mislead_the_trigger(url: str):
    migrate(url, M8_001)

    run(
        url,
        PLAN.format("01", "NULL"),
        "CREATE TEMP TABLE v3_plans (plan_id text, parent_plan_id text, root_plan_id text)",
        "INSERT INTO pg_temp.v3_plans VALUES ('01', NULL, 'nonsense')",
        PLAN.replace("v3_plans", "public.v3_plans").format("02", "'01'"),
    )

    assert run(url, "SELECT root_plan_id FROM v3_plans WHERE plan_id = '02'") == [("01",)]


def test_what_a_superuser_migrates_belongs_to_the_owner_of_the_plans(url: str, clerk: str):
    run(url, f"GRANT ALL ON SCHEMA public TO {ROLE}")
    migrate(url, M4_003)
    run(url, *OWNED)
    owner = "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'v3_plans_fill'"

    migrate(url, M8_001)
    assert run(url, owner) == [(ROLE,)]
    run(
        url,
        PLAN.format("01", "NULL"),
        "UPDATE v3_plans SET effective_profile_snapshot = '[1]'",
    )
    roll_back(url, M4_003)
    migrate(clerk, M8_001)
    roll_back(clerk, M4_003)
    with dying_at("VALIDATE CONSTRAINT"), pytest.raises(RuntimeError):
        migrate(url, M8_001)
    migrate(clerk, M8_001)

    assert run(url, owner) == [(ROLE,)]
    assert run(url, "SELECT effective_profile_snapshot FROM v3_plans") == [("[1]",)]


@contextmanager
def dying_at(words: str) -> Iterator[None]:
    def die(_connection, _cursor, statement, *_):
        if words in statement:
            raise RuntimeError(words)

    event.listen(Engine, "before_cursor_execute", die)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", die)


OWNED = [
    f"ALTER TABLE {table} OWNER TO {ROLE}"
    for table in (
        *("v3_plans", "plan_projects", "plan_arguments", "plan_invariants"),
        "alembic_version",
    )
]


def test_who_does_not_own_the_table_is_told_in_one_line(url: str, clerk: str):
    migrate(url, M4_003)
    run(url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")

    with pytest.raises(CommandError, match="refused `") as refused:
        migrate(clerk, M8_001)

    assert "\n" not in str(refused.value)
    assert run(url, "SELECT version_num FROM alembic_version") == [(M4_003,)]


@pytest.mark.parametrize("server", list(postgres.binaries()))
def test_a_stand_in_that_an_interrupted_upgrade_left_goes_with_the_downgrade(
    server: str, tmp_path: Path
):
    with empty_database(server, tmp_path) as url:
        migrate(url, M4_003)
        former = schema_dump(url)
        migrate(url, M8_001)
        run(
            url,
            PLAN.format("01", "NULL"),
            "ALTER TABLE v3_plans ADD CONSTRAINT becoming_not_null_16"
            " CHECK (automation_profile IS NOT NULL) NOT VALID",
        )

        roll_back(url, M4_003)
        run(url, PLAN.format("02", "NULL"))

        assert schema_dump(url) == former


def test_somebody_who_looks_at_the_marker_or_the_archive_does_not_hold_a_run_up_for_ever(url: str):
    migrate(url, M4_003)
    run(url, "CREATE TABLE evolution_marker (revision text PRIMARY KEY, down_revision text,"
             " direction text NOT NULL, started_at timestamptz NOT NULL)")  # fmt: skip
    with open_engine(url, poolclass=NullPool).connect() as client:
        client.exec_driver_sql("SELECT * FROM evolution_marker").all()

        migrate(url, M8_001)

        assert client.exec_driver_sql("SELECT count(*) FROM evolution_marker").scalar() == 0
    roll_back(url, M4_003)
    assert "evolution_marker" not in {entry[1] for entry in schema_dump(url)}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-18"])
def test_ctrl_c_is_answered_with_one_line_and_the_run_can_be_repeated(engine: str, tmp_path: Path):
    with empty_database(engine, tmp_path) as url:
        migrate(url, M4_003)
        blocker = open_engine(url, poolclass=NullPool).connect()
        lock = "SELECT 1" if engine == "sqlite" else "LOCK TABLE v3_plans"
        blocker.exec_driver_sql(lock)  # the run waits, and is interrupted there
        process = subprocess.Popen(
            [sys.executable, "-m", "cleveragents_plans", "upgrade", "--url", url],
            stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            # Who runs the tests in the background has switched Ctrl-C off for them.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(2)

        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
        blocker.close()
        migrate(url, M8_001)

        assert process.returncode == 130, told
        assert "Traceback" not in told
        assert "interrupted; to go on, run the same command again" in told


def test_a_commit_that_fails_is_not_called_a_success(url: str):
    migrate(url, M4_003)
    run(
        url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'not today'; END$$",
        "CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON alembic_version"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    )

    with pytest.raises(CommandError, match="refused `COMMIT`: not today"):
        migrate(url, M8_001)
    run(url, "DROP TRIGGER refuse ON alembic_version")
    migrate(url, M8_001)

    assert run(url, "SELECT version_num FROM alembic_version") == [(M8_001,)]


def test_published_tables_are_no_hindrance_and_snapshots_come_back(url: str):
    migrate(url, M8_001)
    run(
        url,
        PLAN.format("01", "NULL"),
        "UPDATE v3_plans SET effective_profile_snapshot = '[1]'",
        "CREATE PUBLICATION everything FOR ALL TABLES",
    )

    roll_back(url, M4_003)
    migrate(url, M8_001)

    assert run(url, "SELECT effective_profile_snapshot FROM v3_plans") == [("[1]",)]


def test_nobody_else_can_make_a_trigger_of_a_function_that_runs_as_the_owner(url: str, clerk: str):
    migrate(url, M8_001)

    with pytest.raises(ProgrammingError, match="permission denied for function"):
        run(
            clerk,
            "CREATE TEMP TABLE mine (plan_id text, parent_plan_id text, root_plan_id text)",
            "CREATE TRIGGER peek BEFORE INSERT ON mine"
            " FOR EACH ROW EXECUTE FUNCTION public.v3_plans_fill()",
        )


@pytest.mark.parametrize("revision", [A5_004, M4_003])
def test_a_step_back_ends_with_its_version_or_not_at_all(url: str, revision: str):
    """Killed before the version changes, it has changed nothing; then either way is open."""
    migrate(url, revision)
    before = schema_dump(url)

    change = "UPDATE alembic_version" if revision == M4_003 else "DELETE FROM alembic_version"
    with dying_at(change), pytest.raises(RuntimeError):
        roll_back(url, "-1")
    assert schema_dump(url) == before
    migrate(url, M8_001)
    roll_back(url, "base")
    assert {entry[1] for entry in schema_dump(url)} <= {"alembic_version", ""}


def test_a_step_that_was_killed_on_the_way_up_can_be_taken_back(url: str):
    migrate(url, A5_004)
    before = schema_dump(url)

    with dying_at("VALIDATE CONSTRAINT"), pytest.raises(RuntimeError):
        migrate(url, M4_003)
    assert schema_dump(url) != before
    roll_back(url, A5_004)

    assert schema_dump(url) == before


@pytest.mark.parametrize(
    "check", ["automation_profile::json IS NOT NULL", "length(action_name) > 2"]
)
def test_a_check_stops_a_run_only_if_it_would_refuse_what_is_written(url: str, check: str):
    migrate(url, M4_003)
    run(
        url,
        PLAN.format("01", "NULL"),
        "UPDATE v3_plans SET root_plan_id = plan_id, automation_profile = '{}', action_name = 'a'",
        f"ALTER TABLE v3_plans ADD CONSTRAINT strict CHECK ({check}) NOT VALID",
    )

    if "json" in check:
        with pytest.raises(CommandError, match="the CHECK strict of v3_plans would refuse"):
            migrate(url, M8_001)
    else:  # no row that breaks it is to be written
        migrate(url, M8_001)
