"""PostgreSQL as administrators set it up: roles, policies, limits and publications."""

from __future__ import annotations

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
from support.databases import database_at, empty_database, migrate, roll_back
from support.faults import Migration
from support.online import client
from support.revisions import M4_003, M8_001
from support.rows import database_hash, schema_dump
from support.statements import dying_at

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


@pytest.mark.slow
def test_limits_set_for_the_database_do_not_break_a_run(url: str):
    migrate(url, M4_003)
    rows = ", ".join(f"('{n:06}', 'a', '', '')" for n in range(20))
    run(
        url,
        f"INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at) VALUES {rows}",
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(2.2); RETURN NEW; END'",
        "CREATE TRIGGER dawdle BEFORE UPDATE ON v3_plans FOR EACH ROW"
        " WHEN (NEW.plan_id = '000007') EXECUTE FUNCTION dawdle()",
    )
    name = make_url(url).database
    for setting in (
        "statement_timeout = '2s'",
        "transaction_timeout = '2s'",
        "idle_in_transaction_session_timeout = '2s'",
        "lock_timeout = '1ms'",
        "default_transaction_isolation = 'serializable'",
    ):
        run(url, f'ALTER DATABASE "{name}" SET {setting}')

    with resting_before("UPDATE public.alembic_version", 2.2):
        migrate(url, M8_001)
        roll_back(url, M4_003)
    migrate(url, M8_001)

    assert run(url, "SELECT count(*) FROM v3_plans WHERE root_plan_id = plan_id") == [(20,)]


def test_run_waits_for_a_lock_where_an_error_would_end_the_session(url: str):
    migrate(url, M4_003)
    run(url, f'ALTER DATABASE "{make_url(url).database}" SET exit_on_error = on')
    with client(url, autocommit=False) as other:
        other.execute("LOCK TABLE v3_plans IN ACCESS SHARE MODE")
        upgrade = Migration(url, M8_001, "report-every=0.5")
        upgrade.wait_for("waiting for a lock on ")
        other.rollback()
    ended = upgrade.ended()

    assert ended.status == 0, ended.said


@contextmanager
def resting_before(words: str, seconds: float) -> Iterator[None]:
    """Do nothing for so long, in the transaction of each statement with *words* in it."""

    def rest(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if words in statement:
            time.sleep(seconds)
            rested.append(statement)

    rested: list[str] = []
    event.listen(Engine, "before_cursor_execute", rest)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", rest)
    assert rested


def test_rows_hidden_by_a_policy_are_not_taken_for_missing_rows(url: str, clerk: str):
    migrate(url, M8_001)
    run(
        url,
        PLAN.format("01", "NULL"),
        'UPDATE v3_plans SET effective_profile_snapshot = \'{"name":"x"}\'',
        f"GRANT ALL ON SCHEMA public TO {ROLE}",
        f"ALTER TABLE v3_plans OWNER TO {ROLE}",
        f"ALTER FUNCTION v3_plans_fill() OWNER TO {ROLE}",
        f"ALTER TABLE alembic_version OWNER TO {ROLE}",
        *(
            f"ALTER TABLE plan_{name} OWNER TO {ROLE}"
            for name in ("projects", "arguments", "invariants")
        ),
        "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE v3_plans FORCE ROW LEVEL SECURITY",
        "CREATE POLICY no_rows ON v3_plans USING (false)",
    )
    before = database_hash(url)["v3_plans"]

    with pytest.raises(CommandError, match="row-level security"):
        roll_back(clerk, M4_003)
    with pytest.raises(CommandError, match="row-level security"):
        roll_back(clerk, "base")

    assert database_hash(url)["v3_plans"] == before


def test_trigger_fills_in_for_a_client_that_may_only_insert_and_read(url: str, clerk: str):
    run(url, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    migrate(url, M8_001)
    run(url, f"GRANT SELECT, INSERT ON v3_plans TO {ROLE}")

    run(clerk, PLAN.format("01", "NULL"), PLAN.format("02", "'01'"), PLAN.format("03", "'02'"))

    roots = run(url, "SELECT plan_id, root_plan_id FROM v3_plans ORDER BY 1")
    assert roots == [("01", "01"), ("02", "01"), ("03", "01")]


def test_temporary_table_of_the_same_name_does_not_mislead_the_trigger(url: str):
    migrate(url, M8_001)

    run(
        url,
        PLAN.format("01", "NULL"),
        "CREATE TEMP TABLE v3_plans (plan_id text, parent_plan_id text, root_plan_id text)",
        "INSERT INTO pg_temp.v3_plans VALUES ('01', NULL, 'nonsense')",
        PLAN.replace("v3_plans", "public.v3_plans").format("02", "'01'"),
    )

    assert run(url, "SELECT root_plan_id FROM v3_plans WHERE plan_id = '02'") == [("01",)]


def test_objects_made_by_a_superuser_belong_to_the_owner_of_the_plans(url: str, clerk: str):
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
    with dying_at("VALIDATE CONSTRAINT"):
        migrate(url, M8_001)
    migrate(clerk, M8_001)

    assert run(url, owner) == [(ROLE,)]
    assert run(url, "SELECT effective_profile_snapshot FROM v3_plans") == [("[1]",)]


OWNED = [
    f"ALTER TABLE {table} OWNER TO {ROLE}"
    for table in (
        *("v3_plans", "plan_projects", "plan_arguments", "plan_invariants"),
        "alembic_version",
    )
]


def test_role_that_does_not_own_the_table_is_refused_in_one_line(url: str, clerk: str):
    migrate(url, M4_003)
    run(url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")

    with pytest.raises(CommandError, match="cannot become postgres, who owns") as refused:
        migrate(clerk, M8_001)

    assert "\n" not in str(refused.value)
    assert run(url, "SELECT version_num FROM alembic_version") == [(M4_003,)]


@pytest.mark.parametrize("server", list(postgres.binaries()))
def test_downgrade_drops_the_check_that_an_interrupted_upgrade_left(server: str, tmp_path: Path):
    with database_at(M4_003, server, tmp_path) as url:
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


def test_run_does_not_wait_for_readers_of_the_version_table(url: str):
    migrate(url, M4_003)
    with open_engine(url, poolclass=NullPool).connect() as client:
        client.exec_driver_sql("SELECT * FROM alembic_version").all()

        migrate(url, M8_001, "lock-wait=1")
        roll_back(url, M4_003, "lock-wait=1")


def test_failed_commit_is_not_reported_as_a_success(url: str):
    migrate(url, M4_003)
    run(
        url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'not today'; END$$",
        "CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON alembic_version"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    )

    with pytest.raises(
        CommandError, match=r"`COMMIT` in the function public\.refuse\(\): not today"
    ):
        migrate(url, M8_001)
    run(url, "DROP TRIGGER refuse ON alembic_version")
    migrate(url, M8_001)

    assert run(url, "SELECT version_num FROM alembic_version") == [(M8_001,)]


def test_published_tables_are_migrated_and_snapshots_restored(url: str):
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


def test_function_that_runs_as_the_owner_is_refused_to_triggers_of_other_roles(
    url: str, clerk: str
):
    migrate(url, M8_001)

    with pytest.raises(ProgrammingError, match="permission denied for function"):
        run(
            clerk,
            "CREATE TEMP TABLE mine (plan_id text, parent_plan_id text, root_plan_id text)",
            "CREATE TRIGGER peek BEFORE INSERT ON mine"
            " FOR EACH ROW EXECUTE FUNCTION public.v3_plans_fill()",
        )


@pytest.mark.parametrize(
    "check", ["automation_profile::json IS NOT NULL", "length(action_name) > 2"]
)
def test_check_stops_a_run_only_if_it_would_refuse_what_is_written(url: str, check: str):
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


def test_operators_and_functions_of_other_roles_are_never_run_by_the_trigger(url: str, clerk: str):
    migrate(url, M8_001)
    run(
        url,
        "CREATE TABLE called (by text)",
        "GRANT INSERT ON called TO PUBLIC",
        f"GRANT CREATE ON SCHEMA public TO {ROLE}",
        f"GRANT SELECT, INSERT, UPDATE ON v3_plans TO {ROLE}",
    )
    for name, operator in (("hijack_eq", "="), ("hijack_ne", "<>")):
        run(
            clerk,
            f"CREATE FUNCTION public.{name}(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS"
            " $$BEGIN INSERT INTO public.called VALUES (current_user);"
            f" RETURN $1::text {operator} $2::text; END$$",
            f"CREATE OPERATOR public.{operator} (LEFTARG = varchar, RIGHTARG = varchar,"
            f" FUNCTION = public.{name})",
        )
    run(
        clerk,
        "CREATE FUNCTION public.btrim(varchar, varchar) RETURNS text LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO public.called VALUES (current_user); RETURN $1::text; END$$",
    )

    run(clerk, PLAN.format("A", "NULL"), PLAN.format("B", "'A'"), PLAN.format("C", "'B'"))

    assert run(url, "SELECT by FROM called") == []
    assert run(url, "SELECT plan_id, root_plan_id FROM v3_plans ORDER BY 1") == [
        ("A", "A"), ("B", "A"), ("C", "A"),
    ]  # fmt: skip
