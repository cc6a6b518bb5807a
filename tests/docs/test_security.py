"""The page on security: each promise has its test, and its SQL replaces what ran before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import NullPool, insert, make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository, open_engine
from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from support.databases import ROOT, SERVERS, database_at, empty_database
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


def test_roles_of_the_script_can_do_what_the_table_says_and_no_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with empty_database("postgresql-18", tmp_path) as url:
        name = make_url(url).database or ""
        roles = ("plans_owner", "plans_app", "plans_reader", "plans_operator")
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
        finally:
            dropped = ", ".join(roles)
            execute(url, f"DROP OWNED BY {dropped}", f"DROP ROLE {dropped}")


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
