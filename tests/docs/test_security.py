"""The page on security: each promise has its test, and its SQL replaces what ran before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, insert, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from cleveragents_plans import BUILT_IN_PROFILES as BUILT_IN
from cleveragents_plans import (
    AutomationProfile,
    AutomationProfileRef,
    ChangeNotAllowed,
    InvalidFields,
    LifecyclePlanModel,
    NotEditable,
    Plan,
    PlanRepository,
    SafetyProfile,
    SchemaMissing,
    SnapshotIsFrozen,
    SnapshotUnreadable,
    UnknownProfile,
    open_engine,
)
from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.domain.profiles import THRESHOLDS
from cleveragents_plans.evolution.postgresql.privileges import HOLDERS, revoke_all
from support.databases import (
    ONE_OF_EACH,
    ROOT,
    SERVERS,
    database_at,
    empty_database,
    of_role,
)
from support.revisions import M8_001
from support.toys import execute

PAGE = (ROOT / "docs" / "security.md").read_text()

FORMER = """\
CREATE OR REPLACE FUNCTION public.v3_plans_fill() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS
$$BEGIN new.root_plan_id := coalesce(new.root_plan_id, new.plan_id); RETURN new; END$$;
GRANT EXECUTE ON FUNCTION public.v3_plans_fill() TO PUBLIC;
CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT ON public.v3_plans
FOR EACH ROW EXECUTE FUNCTION public.v3_plans_fill();
ALTER TABLE public.v3_plans ENABLE TRIGGER v3_plans_fill"""
AS_IT_IS = """\
SELECT pg_get_functiondef(p.oid), p.proacl::text, p.proowner, pg_get_triggerdef(t.oid), t.tgenabled
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgname = 'v3_plans_fill'"""


def block(begin: str) -> str:
    """Give the block of SQL that begins so."""
    [found] = [
        each for each in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) if each.startswith(begin)
    ]
    return found


def test_every_promise_names_tests_that_exist():
    [table] = re.findall(r"## What is defended against\n(.*?)\n## ", PAGE, re.DOTALL)
    promises = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(promises) >= 8
    for promise in promises:
        cells = promise.split("|")
        files = [ROOT / name for name in re.findall(r"`(tests/[\w/]+\.py)`", cells[2])]
        tests = re.findall(r"`(test_\w+)`", cells[2])
        assert files and tests, promise  # noqa: PT018
        defined = "".join(file.read_text() for file in files)
        assert [name for name in tests if f"def {name}(" not in defined] == []


@pytest.mark.parametrize("server", SERVERS)
def test_sql_of_the_page_replaces_the_function_of_a_former_upgrade(server: str, tmp_path: Path):
    sql = block("BEGIN;")
    with database_at(M8_001, server, tmp_path) as url:
        created = execute(url, AS_IT_IS)
        execute(url, FORMER)
        assert execute(url, AS_IT_IS) != created

        execute(url, sql.replace("BEGIN;", "", 1).rsplit("COMMIT;", 1)[0])

        assert execute(url, AS_IT_IS) == created


@pytest.mark.parametrize("server", SERVERS)
def test_sql_of_the_page_closes_the_archive_of_a_former_downgrade(server: str, tmp_path: Path):
    sql = block("SET search_path").removeprefix("SET search_path = pg_catalog, pg_temp;\n")
    assert sql.strip() == revoke_all("public.v3_plans_snapshot_archive") + ";"
    with database_at(M8_001, server, tmp_path) as url:
        execute(
            url,
            "CREATE TABLE v3_plans_snapshot_archive AS SELECT plan_id FROM v3_plans",
            "GRANT SELECT (plan_id), DELETE ON v3_plans_snapshot_archive TO PUBLIC",
            sql,
        )

        held = HOLDERS.format(oid="'public.v3_plans_snapshot_archive'::regclass")
        assert execute(url, held) == []


TABLES = (
    "v3_plans", "plan_projects", "plan_arguments", "plan_invariants", "alembic_version",
    "evolution_runs",
)  # fmt: skip
MOVED = {
    "the schema is renamed": ["ALTER SCHEMA public RENAME TO app"],
    "the tables are moved": [
        "CREATE SCHEMA app", *(f"ALTER TABLE {each} SET SCHEMA app" for each in TABLES)
    ],
}  # fmt: skip
WRITTEN_BY_A_FORMER_RELEASE = (
    "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
    " VALUES (repeat('7', 26), 'local/a', '2026-01-01T00:00:00.000000+00:00',"
    " '2026-01-01T00:00:00.000000+00:00')"
)


@pytest.mark.parametrize("moved", MOVED.values(), ids=MOVED)
@pytest.mark.parametrize("server", SERVERS)
def test_sql_that_verify_names_replaces_the_function_of_another_schema(
    server: str, moved: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", server, tmp_path) as url:
        execute(url, *moved, f'ALTER DATABASE "{make_url(url).database}" SET search_path = app')
        with pytest.raises((DBAPIError, SchemaMissing)):
            execute(url, WRITTEN_BY_A_FORMER_RELEASE)
        ran(url, "status")
        assert "plans that a former release writes may be refused" in capfd.readouterr().out
        assert ran(url, "verify") == ExitStatus.FOUND
        [heading] = set(re.findall(r'by the SQL of "(.*?)" in', capfd.readouterr().out))
        [section] = re.findall(rf"^## {heading}\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
        assert block("BEGIN;") in section

        sql = block("BEGIN;").replace("public.", "app.")
        execute(url, sql.replace("BEGIN;", "", 1).rsplit("COMMIT;", 1)[0])
        execute(url, WRITTEN_BY_A_FORMER_RELEASE)

        assert ran(url, "verify") == ExitStatus.DONE
        for dropped in re.findall(r"DROP FUNCTION [\w.]+\(\)", capfd.readouterr().out):
            execute(url, dropped)
        query = "SELECT count(*) FROM pg_proc WHERE proname = 'v3_plans_fill'"
        assert [tuple(row) for row in execute(url, query)] == [(1,)]


@pytest.mark.parametrize("server", SERVERS)
def test_policy_of_the_page_refuses_plans_below_one_that_is_hidden(server: str, tmp_path: Path):
    hidden = Plan.create("local/top", created_by="other")
    below = hidden.spawn("below", created_by="other")
    with database_at("head", server, tmp_path) as url:
        app = of_role(url, "plans_app")
        execute(
            url, "CREATE ROLE plans_app LOGIN", "GRANT USAGE ON SCHEMA public TO plans_app",
            "GRANT ALL ON v3_plans, plan_projects, plan_arguments, plan_invariants TO plans_app",
        )  # fmt: skip
        try:
            add(url, hidden, below)
            execute(
                url, "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY",
                "CREATE POLICY tenant ON v3_plans TO plans_app USING (created_by = 'acme')",
            )  # fmt: skip
            insert_below = (
                "INSERT INTO v3_plans (plan_id, parent_plan_id, root_plan_id, created_by,"
                " action_name, created_at, updated_at)"
                " VALUES ('{}', '{}', {}, 'acme', 'local/x', '', '') RETURNING root_plan_id"
            )
            # What the page says of a policy that looks at neither.
            assert execute(app, insert_below.format("x1", below.plan_id, "NULL")) == [
                (hidden.plan_id,)
            ]
            execute(
                url, "DELETE FROM v3_plans WHERE plan_id = 'x1'",
                "DROP POLICY tenant ON v3_plans", block("-- row-level security"),
            )  # fmt: skip

            top = Plan.create("local/top", created_by="acme")
            child = top.spawn("child", created_by="acme")
            add(app, top, child, child.spawn("grandchild", created_by="acme"))
            [(root,)] = execute(app, insert_below.format("x2", child.plan_id, "NULL"))
            for parent, given in (
                (below.plan_id, "NULL"),
                (below.plan_id, f"'{top.plan_id}'"),
                (below.plan_id, "'x3'"),
                (child.plan_id, f"'{hidden.plan_id}'"),
            ):
                with pytest.raises(ProgrammingError, match="violates row-level security policy"):
                    execute(app, insert_below.format("x3", parent, given))
            with pytest.raises(ProgrammingError, match="violates row-level security policy"):
                execute(app, f"UPDATE v3_plans SET parent_plan_id = '{below.plan_id}'")
            seen = execute(app, "SELECT DISTINCT root_plan_id FROM v3_plans")
        finally:
            execute(url, "DROP OWNED BY plans_app CASCADE", "DROP ROLE plans_app")

    assert root == top.plan_id
    assert seen == [(top.plan_id,)]


def add(url: str, *plans: Plan) -> None:
    engine = open_engine(url, poolclass=NullPool)
    with Session(engine) as session:
        PlanRepository(session).add_all(plans)
        session.commit()
    engine.dispose()


def test_roles_of_the_script_can_do_what_the_table_says_and_no_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with empty_database("postgresql-18", tmp_path) as url:
        name = make_url(url).database or ""
        roles = ("plans_owner", "plans_app", "plans_reader", "plans_operator", "plans_backup")
        of = {role: make_url(url).set(username=role).render_as_string(False) for role in roles}
        made = block("-- roles").replace("DATABASE plans", f'DATABASE "{name}"').split(";")[:-1]
        execute(url, f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
        execute(url, "REVOKE ALL ON SCHEMA public FROM PUBLIC", *made)
        try:
            assert ran(of["plans_owner"], "preflight") == ExitStatus.DONE
            assert ran(of["plans_owner"], "upgrade", "--max-replica-lag", "10") == ExitStatus.DONE
            execute(of["plans_owner"], *block("-- tables").split(";")[:-1])

            assert ran(of["plans_app"], "status", "--wait", "1") == ExitStatus.DONE
            for command in ("status", "verify", "history", "plans", "spec"):
                assert ran(of["plans_operator"], command) == ExitStatus.DONE
            assert ran(of["plans_operator"], "throttle", "pause") == ExitStatus.REFUSED
            assert "no run is under way" in capfd.readouterr().err
            assert ran(of["plans_reader"], "status") == ExitStatus.REFUSED
            assert "may not read public.alembic_version" in capfd.readouterr().err
            write_and_read(of["plans_app"])
            for role in ("plans_reader", "plans_operator"):
                with pytest.raises(ProgrammingError, match="permission denied"):
                    write_and_read(of[role])
                assert read(of[role]) == 1
            with pytest.raises(ProgrammingError, match="permission denied"):
                execute(of["plans_app"], "SELECT * FROM evolution_runs")
            for role in roles[1:]:
                trusted = f"has_table_privilege('{role}', c.oid, 'TRIGGER, REFERENCES')"
                found = f"SELECT relname FROM pg_class c WHERE relkind = 'r' AND {trusted}"
                assert execute(url, found) == []
            for table in ("v3_plans", "evolution_runs", "alembic_version"):
                execute(of["plans_backup"], f"SELECT * FROM {table}")
            assert ran(of["plans_owner"], "verify", "--repair", "roots") == ExitStatus.DONE
        finally:
            dropped = ", ".join(roles)
            execute(url, f"DROP OWNED BY {dropped}", f"DROP ROLE {dropped}")


@pytest.mark.parametrize("server", SERVERS)
def test_trigger_on_the_table_of_a_role_with_references_runs_as_whoever_deletes_before_18(
    server: str, tmp_path: Path
):
    role = "plans_referring"
    with database_at("head", server, tmp_path) as url:
        execute(
            url,
            f"CREATE ROLE {role} LOGIN",
            f"GRANT USAGE, CREATE ON SCHEMA public TO {role}",
            f"GRANT REFERENCES ON v3_plans TO {role}",
            "CREATE TABLE called (by text)",
            "GRANT INSERT ON called TO PUBLIC",
            "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
            " VALUES ('01', 'local/x', '', '')",
        )
        execute(
            make_url(url).set(username=role).render_as_string(False),
            "CREATE TABLE mine (plan_id varchar REFERENCES v3_plans ON DELETE CASCADE)",
            "INSERT INTO mine VALUES ('01')",
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN INSERT INTO called VALUES (current_user); RETURN NULL; END$$",
            "CREATE CONSTRAINT TRIGGER tell AFTER DELETE ON mine DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION tell()",
        )

        [(who, version)] = execute(
            url, "SELECT current_user, current_setting('server_version_num')::int"
        )
        execute(url, "DELETE FROM v3_plans")

        assert execute(url, "SELECT by FROM called") == [(role if version >= 180000 else who,)]
        execute(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def ran(url: str, *typed: str) -> int:
    return main([*typed, "--url", url])


def read(url: str) -> int:
    engine = open_engine(url, poolclass=NullPool)
    with Session(engine) as session:
        return len(PlanRepository(session).list())


def write_and_read(url: str) -> None:
    """Store two plans, take one and delete the other."""
    engine = open_engine(url, poolclass=NullPool)
    with Session(engine) as session, session.begin():
        plans = PlanRepository(session)
        gone = plans.add(Plan.create("local/x"))
        plans.add(Plan.create("local/x"))
        plans.delete_tree(gone.plan_id)
        assert len(plans.claim()) == 1


@pytest.mark.parametrize(
    ("command", "option"),
    [("status", "schema"), ("upgrade", "schema"), ("upgrade", "version-table"),
     ("status", "version-table"), ("verify", "each-schema")],
)  # fmt: skip
def test_name_on_the_command_line_is_no_sql(command: str, option: str, tmp_path: Path):
    planted = "x' OR true; DROP TABLE v3_plans CASCADE; --"
    with database_at("head", "postgresql-18", tmp_path) as url:
        for name in (planted, planted.replace("'", '"')):
            assert ran(url, command, f"--{option}", name) != ExitStatus.DONE

        assert read(url) == 0


def test_error_of_the_database_has_no_parameters_where_they_are_hidden(tmp_path: Path):
    with database_at("head", "sqlite", tmp_path) as url:
        for hidden in (False, True):
            engine = open_engine(url, hide_parameters=hidden)
            with Session(engine) as session, pytest.raises(IntegrityError) as error:
                session.execute(
                    insert(LifecyclePlanModel).values(plan_id="a", description="secret")
                )
            engine.dispose()

            assert ("secret" in str(error.value)) != hidden


# What a plan may do without a person


@pytest.fixture(params=ONE_OF_EACH)
def plans(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PlanRepository]:
    with database_at("head", request.param, tmp_path) as url:
        engine = open_engine(url, poolclass=NullPool)
        with Session(engine) as session:
            yield PlanRepository(session)
        engine.dispose()


def renamed(plan: Plan, name: str) -> Plan:
    return plan.model_copy(update={"automation_profile": AutomationProfileRef(profile_name=name)})


def test_name_of_the_profile_changes_by_an_unchecked_save_only_and_the_snapshot_counts(
    plans: PlanRepository,
):
    plan = plans.add(Plan.create("local/x", profile="manual"))
    with pytest.raises(NotEditable):
        plan.edit(automation_profile="full-auto")  # type: ignore[call-arg]
    with pytest.raises(ChangeNotAllowed, match="automation_profile cannot change"):
        plans.save(renamed(plan, "full-auto"))

    saved = plans.save(renamed(plan, "full-auto"), unchecked=True)

    assert saved.automation_profile.profile_name == "full-auto"
    assert saved.effective_profile == saved.resolved_profile().profile == BUILT_IN["manual"]


def test_name_of_the_profile_counts_where_there_is_no_snapshot(plans: PlanRepository):
    plan = plans.add(Plan.create("local/x", profile="manual"))
    plans._session.execute(text("UPDATE v3_plans SET effective_profile_snapshot = '{}'"))
    bare = plans.get(plan.plan_id)
    assert bare.effective_profile is None
    assert bare.resolved_profile().profile == BUILT_IN["manual"]

    saved = plans.save(renamed(bare, "full-auto"), unchecked=True)
    assert saved.resolved_profile().profile == BUILT_IN["full-auto"]
    unknown = plans.save(renamed(saved, "local/gone"), unchecked=True)
    for ask in (unknown.resolved_profile, unknown.spawn):
        with pytest.raises(UnknownProfile):
            ask()


def test_snapshot_of_a_stored_plan_is_frozen_even_for_an_unchecked_save(plans: PlanRepository):
    plan = plans.add(Plan.create("local/x", profile="manual"))
    other = BUILT_IN["full-auto"].snapshot()
    with pytest.raises(SnapshotIsFrozen):
        plan.model_copy(update={"effective_profile_snapshot": other})

    built = Plan(**{**dict(plan), "effective_profile_snapshot": other})
    with pytest.raises(SnapshotIsFrozen):
        plans.save(built, unchecked=True)


def test_child_may_have_a_more_permissive_profile_than_its_parent(plans: PlanRepository):
    parent = plans.add(Plan.create("local/x", profile="manual"))

    assert plans.add(parent.spawn()).effective_profile == BUILT_IN["manual"]
    assert plans.add(parent.spawn(profile="full-auto")).effective_profile == BUILT_IN["full-auto"]


def test_what_a_snapshot_lacks_is_filled_in_as_the_page_says():
    sparse = AutomationProfile.from_snapshot('{"name": "local/x", "newer_limit": 1, "safety": {}}')

    assert sparse is not None
    assert {getattr(sparse, name) for name in THRESHOLDS} == {1.0}
    assert sparse.safety == SafetyProfile()
    safe = sparse.safety
    assert (safe.require_sandbox, safe.require_checkpoints) == (True, True)
    assert (safe.allow_unsafe_tools, safe.require_human_approval) == (False, False)
    assert (safe.max_cost_per_plan, safe.max_total_cost) == (None, None)
    assert safe.allowed_skill_categories == ()
    with pytest.raises(SnapshotUnreadable):
        AutomationProfile.from_snapshot('{"name": "local/x", "edit_code": 2}')


# What of a plan can be read where

SECRET = "hunter2"


def secretive() -> Plan:
    """A plan with the secret in every field that is for content."""
    plan = Plan.create(
        "local/x", description="d" * 40 + SECRET, definition_of_done=SECRET, tags=[SECRET],
        arguments={SECRET: SECRET}, invariants=[SECRET], project_links=[SECRET],
        execution_environment=SECRET, strategy_actor=SECRET,
    )  # fmt: skip
    edited = plan.edit(validation_summary={"a": SECRET}, sandbox_refs=[SECRET])
    return edited.fail(SECRET, {"a": SECRET})


@pytest.mark.parametrize("show", [repr, str, "{}".format], ids=["repr", "str", "format"])
def test_plan_shows_its_id_name_standing_and_the_start_of_its_description(show: Any):
    plan = secretive()
    row = LifecyclePlanModel.from_domain(plan)

    assert SECRET not in show(plan)
    assert all(each in show(plan) for each in (plan.plan_id, "local/x", "d" * 40, "errored"))
    assert SECRET not in show(row)
    assert all(each in show(row) for each in (plan.plan_id, "local/x", "errored"))
    assert "d" * 40 not in show(row)


def test_listing_and_tree_print_no_content_of_a_plan_and_show_prints_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with database_at("head", "sqlite", tmp_path) as url:
        engine = open_engine(url, poolclass=NullPool)
        with Session(engine) as session, session.begin():
            plan = PlanRepository(session).add(secretive())
        engine.dispose()
        for command in (["plans"], ["tree", plan.plan_id]):
            assert ran(url, *command) == ExitStatus.DONE
            assert ran(url, *command, "--json") == ExitStatus.DONE
            said = capsys.readouterr().out
            assert SECRET not in said
            fields = set(json.loads(said[said.index("{") :])["plans"][0])
            assert fields == {
                *("plan_id", "parent_plan_id", "root_plan_id", "namespaced_name", "action_name"),
                *("phase", "processing_state", "created_by", "created_at", "updated_at"),
            }
        for options in ([], ["--raw"], ["--json"]):
            assert ran(url, "show", plan.plan_id, *options) == ExitStatus.DONE
            assert SECRET in capsys.readouterr().out


def test_error_about_fields_has_names_and_no_values():
    with pytest.raises(InvalidFields) as error:
        Plan.create("local/x", tags=SECRET, description=f"{SECRET}\0")

    assert SECRET not in str(error.value)
    assert all(name in str(error.value) for name in ("tags", "description"))
