"""Objects that another role plants beside the tables are never run, used or dropped."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from cleveragents_plans import evolution
from cleveragents_plans.cli import main
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.evolution.postgresql import lock_requests, locks
from cleveragents_plans.evolution.postgresql.locks import LockNotObtained
from cleveragents_plans.evolution.postgresql.statement_watch import StatementBlocked
from cleveragents_plans.evolution.runner import environment
from cleveragents_plans.persistence import Base, open_engine, references
from support.broken import libpq
from support.databases import SERVERS, chain, database_at, migrate, of_role, roll_back
from support.former_release import true_roots
from support.revisions import HEAD, M4_003, M8_001
from support.rows import schema_dump
from support.statements import dying_at
from support.toys import execute

CLERK, CLIENT = "planting_clerk", "plain_client"

#: An operator or a function whose types are just those of the arguments is preferred, wherever
#: on the search path it is.
TYPES = ["text", "varchar", "bpchar", "name", "oid", "int4", "int8"]
OPERATORS = ["=", "<>", "<", ">", "<=", ">=", "~", "!~", "||", "<@", "&", "-", "+"]
SOURCES = Path(evolution.__file__).parent.rglob("*.py")
WORDS = sorted(
    {word for file in SOURCES for word in re.findall(r"\b([a-z_]+)\(", file.read_text())}
)

RECORD = (
    "LANGUAGE plpgsql AS $body$ BEGIN"
    " INSERT INTO public.called VALUES (current_user, %4$L); RETURN NULL; END $body$"
)
PLANT_OPERATORS = f"""\
DO $plant$ DECLARE operator text; l text; r text; BEGIN
  FOR operator, l, r IN SELECT o, a, b FROM unnest(ARRAY{OPERATORS}) o,
                                            unnest(ARRAY{TYPES}) a, unnest(ARRAY{TYPES}) b LOOP
    EXECUTE format('CREATE FUNCTION public.%3$I(%1$s, %2$s) RETURNS boolean {RECORD}',
                   l, r, 'op_' || md5(operator || l || r), operator);
    EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.%I)',
                   operator, l, r, 'op_' || md5(operator || l || r));
  END LOOP;
END $plant$"""
# Every function that is called anywhere, for text as it is and for what columns are.
PLANT_FUNCTIONS = f"""\
DO $plant$ DECLARE planted record; BEGIN
  FOR planted IN
    SELECT DISTINCT p.proname AS name, p.prorettype::regtype::text AS result,
           replace(oidvectortypes(p.proargtypes), 'text', other) AS arguments
      FROM pg_catalog.pg_proc p, unnest(ARRAY['text', 'varchar', 'bpchar', 'name']) other
     WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(ARRAY{WORDS})
       AND p.prokind = 'f' AND NOT p.proretset
       AND p.prorettype NOT IN ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype)
       AND oidvectortypes(p.proargtypes) !~ 'internal|cstring|any|"'
  LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION public.%1$I(%2$s) RETURNS %3$s {RECORD}',
                     planted.name, planted.arguments, planted.result, planted.name);
    EXCEPTION WHEN duplicate_function OR invalid_function_definition THEN NULL;
    END;
  END LOOP;
END $plant$"""
PLANT_TYPES = (
    "CREATE FUNCTION public.seen(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS"
    " $$BEGIN INSERT INTO public.called VALUES (current_user, 'a domain'); RETURN true; END$$",
    *(
        f"CREATE DOMAIN public.{name} AS pg_catalog.text CHECK (public.seen(VALUE))"
        for name in ("text", "varchar", "regclass", "name", "bool")
    ),
    "CREATE TYPE public.thing AS (a pg_catalog.int4)",
    *(
        f"CREATE FUNCTION public.to_thing(pg_catalog.{name}) RETURNS public.thing LANGUAGE plpgsql"
        " AS $$BEGIN INSERT INTO public.called VALUES (current_user, 'a cast'); RETURN NULL; END$$;"
        f" CREATE CAST (pg_catalog.{name} AS public.thing)"
        f" WITH FUNCTION public.to_thing(pg_catalog.{name}) AS IMPLICIT"
        for name in ("varchar", "text", "int4")
    ),
    *(
        f"CREATE FUNCTION public.rows_of_{name}() RETURNS SETOF pg_catalog.int4 LANGUAGE plpgsql"
        f" AS $$BEGIN INSERT INTO public.called VALUES (current_user, '{name}'); RETURN; END$$;"
        f" CREATE VIEW public.{name} AS SELECT public.rows_of_{name}()"
        for name in ("pg_class", "pg_settings", "pg_attribute", "pg_constraint", "pg_locks",
                     "pg_trigger", "pg_namespace", "pg_proc", "pg_stat_activity")
    ),
)  # fmt: skip
PLAN = (
    "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
    " VALUES ('{}', {}, 'local/tidy', '', '')"
)


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database before m8_001, in which two other roles exist; one may create objects."""
    with database_at(M4_003, request.param, tmp_path) as url:
        execute(
            url,
            f"CREATE ROLE {CLERK} LOGIN",
            f"CREATE ROLE {CLIENT} LOGIN",
            f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON v3_plans TO {CLIENT}",
            *(PLAN.format(f"0{n}", f"'0{n - 1}'" if n % 3 else "NULL") for n in range(9)),
            "UPDATE v3_plans SET root_plan_id = '00' WHERE plan_id IN ('01', '02')",
            'UPDATE v3_plans SET automation_profile = \'{"profile_name": "ci"}\''
            " WHERE plan_id > '05'",
        )
        yield url
        execute(url, f"DROP OWNED BY {CLERK}, {CLIENT} CASCADE", f"DROP ROLE {CLERK}, {CLIENT}")


def plant(url: str) -> None:
    execute(url, "CREATE TABLE called (by text, what text)", "GRANT INSERT ON called TO PUBLIC")
    execute(of_role(url, CLERK), PLANT_OPERATORS, PLANT_FUNCTIONS, *PLANT_TYPES)
    [(functions,)] = execute(url, "SELECT count(*) FROM pg_proc WHERE proname = 'substr'")
    assert functions > 3


def called(url: str) -> list[tuple]:
    return execute(url, "SELECT DISTINCT pg_catalog.upper(by), pg_catalog.upper(what) FROM called")


def test_nothing_that_another_role_planted_runs_with_the_rights_of_whoever_migrates(url: str):
    expected = true_roots(url)
    plant(url)

    migrate(url, HEAD)
    execute(
        url,
        "SET search_path = pg_catalog;"
        " UPDATE public.v3_plans SET effective_profile_snapshot = '[1]' WHERE plan_id = '03'",
    )
    roll_back(url, M4_003)
    migrate(url, HEAD)

    assert called(url) == []
    assert dict(execute(url, "SELECT plan_id, root_plan_id FROM v3_plans")) == expected
    roll_back(url, "base", "drop-plans=yes")
    assert called(url) == []


READ = [
    ["status"], ["history"], ["preflight"], ["preflight", "--down", M4_003], ["verify"], ["plans"],
    ["plans", "--phase", "execute", "--tag", "x", "--project", "p", "--open"],
    ["tree", "01"], ["show", "01"], ["show", "01", "--raw"],
    ["spec"], ["current"], ["throttle", "pause"], ["verify", "--repair", "roots"],
]  # fmt: skip


def test_commands_that_read_run_nothing_that_another_role_planted(
    url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(url, HEAD)
    execute(
        url, "UPDATE v3_plans SET created_at = '2026-03-14T00:05:32.000000+00:00'",
        "UPDATE v3_plans SET updated_at = created_at",
        "UPDATE v3_plans SET root_plan_id = '02' WHERE plan_id = '01'",
    )  # fmt: skip
    plant(url)

    for typed in READ:
        main([*typed, "--url", url])
    said = capfd.readouterr()

    assert "1 root" in said.out  # was repaired
    assert "no run is under way" in said.err
    assert "operator" not in said.err
    assert called(url) == []


def test_look_for_foreign_keys_runs_no_operator_of_another_role(url: str):
    migrate(url, HEAD)
    execute(
        url,
        "CREATE TABLE other (plan_id varchar(26) REFERENCES v3_plans)",
        "INSERT INTO other VALUES ('01')",
    )
    execute(
        of_role(url, CLERK),
        "CREATE SEQUENCE public.compared",
        "CREATE FUNCTION public.compare(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM nextval('public.compared'); RETURN false; END$$",
        "CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = public.compare)",
    )
    engine = open_engine(url)
    with Session(engine) as session:
        conditions = references.tree_is_referenced(session)
    engine.dispose()

    assert len(conditions) == 1
    assert execute(url, "SELECT is_called FROM compared") == [(False,)]


def test_statements_that_event_triggers_watch_run_nothing_that_another_role_planted(url: str):
    plant(url)
    execute(
        url,
        "CREATE FUNCTION ignore() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_catalog.now(); END$$",
        "CREATE EVENT TRIGGER ignore ON ddl_command_end EXECUTE FUNCTION ignore()",
    )

    migrate(url, HEAD)
    roll_back(url, M4_003)
    execute(url, "DROP EVENT TRIGGER ignore")

    assert called(url) == []


def test_triggers_run_nothing_that_another_role_planted_when_a_client_writes(url: str):
    plant(url)
    migrate(url, HEAD)

    first, second, third = (
        PLAN.replace("v3_plans", "public.v3_plans").format(plan, parent)
        for plan, parent in (("20", "NULL"), ("21", "'20'"), ("22", "'21'"))
    )
    # What a client calls itself is its own affair, such as the conversion of a value.
    execute(
        of_role(url, CLIENT),
        f"SET search_path = pg_catalog; {first}; {second}; SET search_path = public; {third};"
        " UPDATE public.v3_plans SET automation_profile = NULL",
    )

    assert called(url) == []
    assert execute(
        url,
        "SELECT root_plan_id, automation_profile FROM v3_plans"
        " WHERE plan_id OPERATOR(pg_catalog.=) '22'",
    ) == [("20", "balanced")]


ARCHIVE = "v3_plans_snapshot_archive"
COLUMNS = "(plan_id varchar(26), effective_profile_snapshot text, created_at text)"
FUNCTION = (
    "CREATE FUNCTION public.{}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
    " INSERT INTO public.called VALUES (current_user, 'a trigger'); RETURN new; END$$"
)
TRIGGER = "CREATE TRIGGER t BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION public.planted()"
SQUATTED = {
    "the archive": [f"CREATE TABLE public.{ARCHIVE} {COLUMNS}"],
    "the archive with a trigger": [
        f"CREATE TABLE public.{ARCHIVE} {COLUMNS}",
        FUNCTION.format("planted"),
        TRIGGER.format(f"public.{ARCHIVE}"),
    ],
    "a view for an archive": [f"CREATE VIEW public.{ARCHIVE} AS SELECT 1 AS plan_id"],
    "the index of the archive": [
        "CREATE TABLE public.other (a int)",
        f"CREATE INDEX uq_{ARCHIVE}_plan_id ON public.other (a)",
    ],
    "the function of a trigger": [FUNCTION.format("v3_plans_fill")],
    "the function of a downgrade": [FUNCTION.format("v3_plans_keep")],
    "an index of a later revision": [
        "CREATE TABLE public.other (a int)",
        "CREATE INDEX ix_v3_plans_queued ON public.other (a)",
    ],
    "a table for an index": ["CREATE TABLE public.ix_v3_plans_namespace (a int)"],
}


@pytest.mark.parametrize("planted", SQUATTED.values(), ids=SQUATTED)
def test_names_that_another_role_has_taken_are_refused_before_any_change(
    url: str, planted: list[str]
):
    execute(url, "CREATE TABLE called (by text, what text)", "GRANT INSERT ON called TO PUBLIC")
    before = schema_dump(url)
    execute(of_role(url, CLERK), *planted)
    taken = schema_dump(url)

    for _ in range(2):
        with pytest.raises(EvolutionError, match="rename") as refused:
            migrate(url, HEAD)
        assert "\n" not in str(refused.value)
    assert schema_dump(url) == taken

    execute(url, f"DROP OWNED BY {CLERK}", f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}")
    assert schema_dump(url) == before
    migrate(url, HEAD)
    up = schema_dump(url)
    # On the way down they are refused, too, and what is there already is not touched.
    if not any(name in "".join(planted) for name in ("v3_plans_fill", "ix_v3_plans")):
        execute(of_role(url, CLERK), *planted)
        with pytest.raises(EvolutionError, match="rename"):
            roll_back(url, M4_003)
        execute(url, f"DROP OWNED BY {CLERK}", f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}")
        assert schema_dump(url) == up
    assert execute(url, "SELECT * FROM called") == []


@pytest.mark.parametrize("table", ["alembic_version", "plan_projects"])
def test_tables_of_the_chain_that_another_role_owns_are_refused(url: str, table: str):
    execute(url, f"ALTER TABLE {table} OWNER TO {CLERK}")
    before = schema_dump(url)

    with pytest.raises(EvolutionError, match=rf"{table} belongs to {CLERK}, and other tables"):
        migrate(url, HEAD)

    assert schema_dump(url) == before


def test_superuser_is_told_whose_rights_triggers_of_an_owner_have(
    url: str, caplog: pytest.LogCaptureFixture
):
    for table in ("alembic_version", *Base.metadata.tables):
        execute(url, f"ALTER TABLE {table} OWNER TO {CLERK}")
    execute(
        of_role(url, CLERK),
        "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RETURN new; END$$",
        "CREATE TRIGGER touch BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION touch()",
    )

    migrate(of_role(url, CLERK), M8_001)
    assert "rights of this superuser" not in caplog.text
    roll_back(url, M4_003)

    rights = f"with the rights of this superuser (to avoid that, run it as {CLERK})"
    told = f"is written, {rights}: touch;"
    assert told in caplog.text


DOWN, UP = (roll_back, M4_003), (migrate, M8_001)
RACES = {
    "the archive": (DOWN, SQUATTED["the archive with a trigger"]),
    "the function of a downgrade": (DOWN, [FUNCTION.format("v3_plans_keep")]),
    "the function of an upgrade": (UP, [FUNCTION.format("v3_plans_fill")]),
    "the index of the archive": (DOWN, SQUATTED["the index of the archive"]),
    "the index of the archive of an upgrade": (UP, SQUATTED["the index of the archive"]),
    "a function that an upgrade drops": (UP, [FUNCTION.format("v3_plans_unfill")]),
}


@pytest.mark.parametrize(("run", "planted"), RACES.values(), ids=RACES)
def test_names_that_another_role_takes_while_a_superuser_waits_for_the_lock_are_refused(
    url: str, monkeypatch: pytest.MonkeyPatch, run: Any, planted: list[str]
):
    go, revision = run
    if go is roll_back:
        migrate(url, M8_001)
    execute(url, "CREATE TABLE called (by text, what text)", "GRANT INSERT ON called TO PUBLIC")
    before = schema_dump(url)
    real_take = locks.take_lock

    def take_slowly(*arguments: Any) -> None:
        if planted:
            execute(of_role(url, CLERK), *planted)
            planted.clear()
        real_take(*arguments)

    planted = [*planted]
    monkeypatch.setattr(locks, "take_lock", take_slowly)

    said = r"belongs to another role than public\.v3_plans|is the name of something else; rename"
    with pytest.raises(EvolutionError, match=said):
        go(url, revision)

    assert planted == []
    execute(url, f"DROP OWNED BY {CLERK}", f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}")
    assert schema_dump(url) == before
    assert execute(url, "SELECT * FROM called") == []
    go(url, revision)


CREATED = {
    "a table of the first revision": ["CREATE TABLE public.plan_projects (a int)"],
    "a type for a table": ["CREATE TYPE public.plan_invariants AS ENUM ('a')"],
    "an index for a primary key": [
        "CREATE TABLE public.other (a int)",
        "CREATE INDEX pk_plan_arguments ON public.other (a)",
    ],
    "a type for the archive": [f"CREATE TYPE public.{ARCHIVE} AS ENUM ('a')"],
    "a domain over an array": ["CREATE DOMAIN public.v3_plans AS pg_catalog.int4[]"],
    "a type for the version table": ["CREATE TYPE public.alembic_version AS ENUM ('a')"],
    "a table for the index of the version table": [
        "CREATE TABLE public.alembic_version_pkc (a pg_catalog.int4)"
    ],
    "a sequence for the index of the version table": ["CREATE SEQUENCE alembic_version_pkc"],
    **{name: planted for name, planted in SQUATTED.items() if "trigger" not in name},
    "a function": SQUATTED["the function of a trigger"],
}


@pytest.mark.parametrize("planted", CREATED.values(), ids=CREATED)
def test_names_that_another_role_has_taken_are_refused_before_the_first_table_is_created(
    url: str, planted: list[str]
):
    roll_back(url, "base", "drop-plans=yes")
    execute(url, "DROP TABLE alembic_version, evolution_runs")
    execute(of_role(url, CLERK), *planted)
    before = schema_dump(url)

    with pytest.raises(EvolutionError, match="rename") as refused:
        migrate(url, HEAD)

    assert "\n" not in str(refused.value)
    assert schema_dump(url) == before
    assert execute(url, "SELECT to_regclass('evolution_runs')") == [(None,)]


def test_names_that_postgresql_chooses_itself_hinder_no_run(url: str):
    roll_back(url, "base", "drop-plans=yes")
    execute(url, "DROP TABLE alembic_version, evolution_runs")
    execute(
        of_role(url, CLERK),
        "CREATE TYPE public._v3_plans AS ENUM ('a')",
        "CREATE SEQUENCE public.evolution_runs_pkey",
    )

    migrate(url, HEAD)

    assert execute(url, "SELECT outcome FROM evolution_runs") == [("done",)]


NO_TRIGGER_FUNCTION = {
    "function": "CREATE FUNCTION v3_plans_fill() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "procedure": "CREATE PROCEDURE v3_plans_keep() LANGUAGE sql AS 'SELECT 1'",
}


@pytest.mark.parametrize("planted", NO_TRIGGER_FUNCTION.values(), ids=NO_TRIGGER_FUNCTION)
def test_function_of_the_owner_that_is_none_of_a_trigger_is_refused(url: str, planted: str):
    execute(url, planted)
    before = schema_dump(url)

    with pytest.raises(EvolutionError, match="is no function of a trigger; rename or drop it"):
        migrate(url, HEAD)

    assert schema_dump(url) == before


def test_function_that_another_role_has_made_is_refused_by_create_all(url: str):
    roll_back(url, "base", "drop-plans=yes")
    execute(of_role(url, CLERK), FUNCTION.format("v3_plans_fill"))
    engine = open_engine(url)

    with pytest.raises(DBAPIError, match="belongs to another role than v3_plans"):
        Base.metadata.create_all(engine)

    engine.dispose()


UNCOMMITTED = {
    "the archive": (DOWN, f"CREATE TABLE public.{ARCHIVE} (a int)"),
    "a function": (UP, FUNCTION.format("v3_plans_fill")),
}


@pytest.mark.parametrize(("run", "planted"), UNCOMMITTED.values(), ids=UNCOMMITTED)
def test_session_that_has_not_committed_a_name_of_ours_is_named_and_no_other(
    url: str, run: Any, planted: str, monkeypatch: pytest.MonkeyPatch
):
    # The server says who it is while a statement waits; on a busy machine that is too late.
    monkeypatch.setattr(lock_requests, "_RUNGS_MS", (10, 1000))
    go, revision = run
    if go is roll_back:
        migrate(url, M8_001)
    before = schema_dump(url)
    engine, innocent = open_engine(of_role(url, CLERK)), open_engine(of_role(url, CLIENT))
    with engine.connect() as holder, innocent.connect() as reader:
        holder.exec_driver_sql(planted)
        pid = holder.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        reader.execution_options(isolation_level="AUTOCOMMIT")
        other = reader.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

        with pytest.raises(LockNotObtained) as refused:
            go(url, revision, "lock-wait=5")

        assert f"pid {pid} " in str(refused.value)
        assert "not committed" in str(refused.value)
        assert f"pid {other} " not in str(refused.value)
        holder.rollback()
    engine.dispose()
    innocent.dispose()
    assert schema_dump(url) == before
    go(url, revision)


FIRST = {
    "the version table": "CREATE TABLE public.alembic_version (a int)",
    "the index of the version table": "CREATE TABLE public.alembic_version_pkc (a int)",
    "a table of the first revision": "CREATE TABLE public.plan_projects (a int)",
    "an index of the first revision": "CREATE TABLE public.ix_v3_plans_action_name (a int)",
    "a type": "CREATE TYPE public.v3_plans AS ENUM ('a')",
}


@pytest.mark.parametrize("planted", FIRST.values(), ids=FIRST)
def test_session_that_has_not_committed_a_name_is_named_by_the_first_run(
    url: str, planted: str, caplog: pytest.LogCaptureFixture
):
    roll_back(url, "base", "drop-plans=yes")
    execute(url, "DROP TABLE alembic_version, evolution_runs")
    engine, innocent = open_engine(of_role(url, CLERK)), open_engine(of_role(url, CLIENT))
    with engine.connect() as holder, innocent.connect() as reader:
        pid = holder.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        other = reader.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        holder.exec_driver_sql(planted)

        caplog.set_level(logging.INFO, "alembic.evolution")
        with pytest.raises(StatementBlocked, match="-x lock-wait=SECONDS") as refused:
            migrate(url, HEAD, "lock-wait=4", "report-every=2")

        assert refused.value.waited > 3
        assert f"pid {pid} " in str(refused.value)
        assert "not committed" in str(refused.value)
        assert f"pid {other} " not in str(refused.value)
        assert f"end these sessions (SELECT pg_terminate_backend({pid}))" in str(refused.value)
        holder.rollback()
    engine.dispose()
    innocent.dispose()
    said = r"`CREATE (TABLE public\.|INDEX )\w+ .*elapsed\); waiting for pid"
    assert re.search(said, caplog.text)
    assert "does not say how far" not in caplog.text
    migrate(url, HEAD)


def test_prepared_transaction_that_has_a_name_is_named_by_the_first_run(url: str):
    roll_back(url, "base", "drop-plans=yes")
    engine = open_engine(of_role(url, CLERK))
    with engine.connect() as holder:
        holder.exec_driver_sql("CREATE TABLE public.plan_projects (a int)")
        holder.exec_driver_sql("PREPARE TRANSACTION 'half done'")
    engine.dispose()

    try:
        with pytest.raises(StatementBlocked, match="prepared transaction for") as refused:
            migrate(url, HEAD, "lock-wait=4")
    finally:
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            admin.execute("ROLLBACK PREPARED 'half done'")

    assert "ROLLBACK PREPARED 'half done'" in str(refused.value)
    migrate(url, HEAD)


def test_version_table_that_another_role_created_first_is_refused(url: str):
    roll_back(url, "base", "drop-plans=yes")
    execute(url, "DROP TABLE alembic_version")
    execute(of_role(url, CLERK), "CREATE TABLE public.alembic_version (version_num varchar(32))")

    with pytest.raises(EvolutionError, match=f"belongs to {CLERK}, alone; rename or drop it"):
        migrate(url, HEAD)

    assert execute(url, "SELECT to_regclass('v3_plans')") == [(None,)]


VERSION_TABLE = [
    "CREATE TABLE public.alembic_version (version_num varchar(32))",
    "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON public.alembic_version"
    " FOR EACH ROW EXECUTE FUNCTION public.fire()",
    "GRANT ALL ON public.alembic_version TO PUBLIC",
]
VERSION_VIEW = [
    "CREATE FUNCTION public.read() RETURNS varchar LANGUAGE plpgsql AS"
    " $$BEGIN RETURN nextval('public.fired'); END$$",
    "CREATE VIEW public.alembic_version AS SELECT public.read() AS version_num",
    "GRANT ALL ON public.alembic_version TO PUBLIC",
]


@pytest.mark.parametrize("planted", [VERSION_TABLE, VERSION_VIEW], ids=["table", "view"])
def test_version_table_that_is_created_while_the_lock_is_waited_for_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch, planted: list[str]
):
    roll_back(url, "base", "drop-plans=yes")
    execute(url, "DROP TABLE alembic_version")
    real_lock = environment.migration_lock

    def lock_of_a_slow_run(*arguments: Any) -> Any:
        execute(
            of_role(url, CLERK),
            "CREATE SEQUENCE public.fired",
            "CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN PERFORM nextval('public.fired'); RETURN new; END$$",
            *planted,
        )
        return real_lock(*arguments)

    monkeypatch.setattr(environment, "migration_lock", lock_of_a_slow_run)

    with pytest.raises(EvolutionError, match=f"belongs to {CLERK}, alone|is a view"):
        migrate(url, HEAD)

    assert execute(url, "SELECT is_called FROM fired") == [(False,)]


@pytest.mark.parametrize("command", ["current", "status", "verify"])
def test_view_that_has_the_name_of_the_version_table_is_not_read(
    url: str, command: str, capfd: pytest.CaptureFixture[str]
):
    execute(url, "DROP TABLE alembic_version")
    execute(of_role(url, CLERK), "CREATE SEQUENCE public.fired", *VERSION_VIEW)

    assert main([command, "--url", url]) == 1

    assert "public.alembic_version is a view; expected a table" in capfd.readouterr().err
    assert execute(url, "SELECT is_called FROM fired") == [(False,)]


def test_version_table_with_a_trigger_of_another_role_is_refused(url: str):
    execute(
        of_role(url, CLERK),
        "CREATE SEQUENCE public.fired",
        "CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM nextval('public.fired'); RETURN new; END$$",
    )
    execute(
        url,
        "CREATE TRIGGER t BEFORE UPDATE ON alembic_version FOR EACH ROW EXECUTE FUNCTION fire()",
    )

    with pytest.raises(EvolutionError, match=rf"the trigger t, whose function .* to {CLERK}"):
        migrate(url, HEAD)

    assert execute(url, "SELECT is_called FROM fired") == [(False,)]


def test_version_table_of_another_role_in_an_earlier_schema_is_refused(url: str):
    database = make_url(url).database
    execute(
        url,
        "CREATE SCHEMA shared",
        f"GRANT USAGE, CREATE ON SCHEMA shared TO {CLERK}",
        f"ALTER DATABASE {database} SET search_path = shared, public",
    )
    execute(
        of_role(url, CLERK),
        "CREATE TABLE shared.alembic_version (version_num varchar(32))",
        "INSERT INTO shared.alembic_version VALUES ('m4_003_plan_env_columns')",
        "GRANT ALL ON shared.alembic_version TO PUBLIC",
    )

    with pytest.raises(EvolutionError, match=r"shared\.alembic_version"):
        migrate(url, HEAD)
    with pytest.raises(EvolutionError, match=r"shared\.alembic_version"):
        roll_back(url, "base", "drop-plans=yes")


def test_commands_that_compare_tables_run_no_operator_of_another_role(url: str):
    migrate(url, HEAD)
    execute(
        of_role(url, CLERK),
        "CREATE SEQUENCE public.compared",
        "CREATE FUNCTION public.compare(name, varchar) RETURNS boolean LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM nextval('public.compared');"
        " RETURN $1::text OPERATOR(pg_catalog.=) $2::text; END$$",
        "CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = varchar, FUNCTION = public.compare)",
    )

    for extra in ((), ("schema=public",)):
        with pytest.raises(EvolutionError, match="functions or operators in the schema public"):
            command.check(chain(url, *extra))
    assert execute(url, "SELECT is_called FROM compared") == [(False,)]

    execute(url, f"DROP OWNED BY {CLERK}")
    command.check(chain(url))
    # What it may create at any moment is as bad as what is there.
    execute(url, f"GRANT CREATE ON SCHEMA public TO {CLERK}")
    with pytest.raises(EvolutionError, match="REVOKE CREATE ON SCHEMA public"):
        command.check(chain(url))


def test_first_statements_of_a_connection_run_no_operator_of_another_role(url: str):
    execute(
        of_role(url, CLERK),
        "CREATE SEQUENCE public.compared",
        # What a transaction that is rolled back has done to a sequence stays.
        "CREATE FUNCTION public.compare(oid, regtype) RETURNS boolean LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM nextval('public.compared'); RETURN false; END$$",
        "CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regtype, FUNCTION = public.compare)",
    )

    migrate(url, HEAD)
    engine = open_engine(url)
    with engine.connect():
        pass
    engine.dispose()

    assert execute(url, "SELECT is_called FROM compared") == [(False,)]


@pytest.mark.parametrize(
    ("direction", "snapshot"),
    [(DOWN, "[1]"), (DOWN, "{}"), (UP, "[1]")],
    ids=["downgrade", "downgrade without snapshots", "upgrade"],
)
def test_objects_that_another_role_makes_of_ours_during_a_run_do_not_keep_it_from_ending(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    direction: Any,
    snapshot: str,
):
    go, revision = direction
    migrate(url, M8_001)
    kept = f"effective_profile_snapshot = '{snapshot}'"
    execute(url, f"UPDATE v3_plans SET {kept} WHERE plan_id = '03'")
    if go is migrate:
        roll_back(url, M4_003)
    clerk = of_role(url, CLERK)
    execute(clerk, "CREATE TABLE public.mine AS SELECT ''::varchar AS plan_id")
    said: list[str] = []
    real_take = locks.take_lock
    ours = [f"public.v3_plans_{name}()" for name in ("fill", "unfill", "keep")]

    def take_while_others_create(*arguments: Any) -> None:
        for statement in (
            *(f"CREATE TRIGGER z BEFORE INSERT ON public.mine FOR EACH ROW"
              f" EXECUTE FUNCTION {function}" for function in ours),
            # To create a view that calls a function, no right on it is needed.
            *(f"CREATE VIEW public.calls_{n} AS SELECT 1 AS a WHERE {function} IS NULL"
              for n, function in enumerate(ours)),
            f"CREATE VIEW public.snapshots AS SELECT plan_id FROM public.{ARCHIVE}",
        ):  # fmt: skip
            try:
                execute(clerk, statement)
            except DBAPIError as error:
                said.append(str(error.orig))
        real_take(*arguments)

    monkeypatch.setattr(locks, "take_lock", take_while_others_create)

    go(url, revision)

    monkeypatch.undo()
    for name in ("unfill", "keep") if go is roll_back else ("fill",):
        assert any(f"for function public.v3_plans_{name}" in each for each in said)
    assert execute(url, "SELECT FROM pg_trigger WHERE tgrelid = 'mine'::regclass") == []
    views = f"SELECT viewname FROM pg_views WHERE viewowner = '{CLERK}' ORDER BY 1"
    made = [name for (name,) in execute(url, views)]
    called = ["calls_0", "calls_1", "calls_2"] if go is roll_back else ["calls_0"]
    assert made == [*called, "snapshots"]
    execute(url, "DROP VIEW snapshots")
    # What was left hinders no other run, and is dropped by the next one that nothing hinders.
    migrate(url, M8_001)
    warned = "v3_plans_unfill() is used by view public.calls_1: it is left" in caplog.text
    assert warned == (go is roll_back)
    assert execute(url, f"SELECT {kept} FROM v3_plans WHERE plan_id = '03'") == [(True,)]
    execute(url, f"DROP OWNED BY {CLERK}")
    roll_back(url, M4_003)
    assert execute(url, f"SELECT count(*) FROM pg_class WHERE relname = '{ARCHIVE}'") == [
        (int(snapshot != "{}"),)
    ]
    migrate(url, M8_001)
    left = "SELECT proname FROM pg_proc WHERE proname LIKE 'v3_plans%'"
    assert execute(url, left) == [("v3_plans_fill",)]
    assert execute(url, f"SELECT to_regclass('{ARCHIVE}')") == [(None,)]


DEFAULT_RIGHTS = {
    "everywhere": "",
    "of the owner": "FOR ROLE CURRENT_USER ",
    "in the schema": "IN SCHEMA public ",
}


@pytest.mark.parametrize("where", DEFAULT_RIGHTS.values(), ids=DEFAULT_RIGHTS)
def test_rights_that_others_get_by_default_do_not_let_them_choose_what_is_restored(
    url: str, where: str
):
    snapshot = "effective_profile_snapshot = '[1]'"
    execute(
        url,
        f"ALTER DEFAULT PRIVILEGES {where} GRANT ALL ON TABLES TO {CLERK}",
        f"ALTER DEFAULT PRIVILEGES {where} GRANT ALL ON FUNCTIONS TO {CLERK} WITH GRANT OPTION",
        "DROP TABLE IF EXISTS evolution_runs",
    )
    clerk = of_role(url, CLERK)
    execute(clerk, "CREATE TABLE public.mine AS SELECT ''::varchar AS plan_id")
    migrate(url, M8_001)
    execute(url, f"UPDATE v3_plans SET {snapshot} WHERE plan_id = '03'")

    for statement in ("DROP COLUMN effective_profile_snapshot", None):
        if statement:  # both functions of a downgrade are there
            with dying_at(statement):
                roll_back(url, M4_003)
        else:
            roll_back(url, M4_003)
        functions = execute(url, "SELECT oid::regprocedure FROM pg_proc WHERE proname ~ '^v3_'")
        assert len(functions) == (2 if statement else 0)
        for (function,) in functions:
            with pytest.raises(DBAPIError, match="permission denied"):
                execute(
                    clerk,
                    "CREATE TRIGGER z BEFORE INSERT ON public.mine FOR EACH ROW EXECUTE FUNCTION "
                    + function,
                )
        for forged in (
            f"INSERT INTO {ARCHIVE} SELECT plan_id, '[2]', created_at FROM v3_plans",
            f"UPDATE {ARCHIVE} SET effective_profile_snapshot = '[2]'",
            f"DELETE FROM {ARCHIVE}",
            f"SELECT plan_id FROM {ARCHIVE}",
            "DELETE FROM evolution_runs",
        ):
            with pytest.raises(DBAPIError, match="permission denied"):
                execute(clerk, forged)
        assert execute(url, f"SELECT plan_id FROM {ARCHIVE}") == [("03",)]
    migrate(url, HEAD)
    assert execute(url, f"SELECT plan_id FROM v3_plans WHERE {snapshot}") == [("03",)]
    assert rights_of_others(url) == []


def test_functions_that_others_may_execute_are_closed_when_they_are_replaced(url: str):
    migrate(url, M8_001)
    execute(url, f"GRANT EXECUTE ON FUNCTION v3_plans_fill() TO {CLERK}, PUBLIC")

    execute(url, "DELETE FROM alembic_version", f"INSERT INTO alembic_version VALUES ('{M4_003}')")
    migrate(url, M8_001)

    assert rights_of_others(url) == []


def test_first_tables_are_created_without_rights_of_others_to_write_the_version(
    url: str,
):
    roll_back(url, "base", "drop-plans=yes")
    execute(
        url,
        "DROP TABLE alembic_version, evolution_runs",
        f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {CLERK}, PUBLIC",
        f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {CLERK}",
    )

    migrate(url, HEAD)

    assert rights_of_others(url) == []


def test_function_of_create_all_can_be_executed_by_its_owner_only(url: str):
    roll_back(url, "base", "drop-plans=yes")
    execute(url, f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {CLERK}")

    engine = open_engine(url)
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
    engine.dispose()

    assert rights_of_others(url) == []


def test_trigger_of_another_role_that_runs_a_function_of_ours_is_refused_before_any_change(
    url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(url, HEAD)
    execute(url, f"GRANT EXECUTE ON FUNCTION v3_plans_fill() TO {CLERK}")
    execute(
        of_role(url, CLERK),
        "CREATE TABLE public.mine AS SELECT ''::varchar AS plan_id",
        "CREATE TRIGGER z BEFORE INSERT ON public.mine FOR EACH ROW"
        " EXECUTE FUNCTION v3_plans_fill()",
    )
    before = schema_dump(url)
    said = f"is run by the trigger z on public.mine, which belongs to {CLERK}; drop that trigger"
    capfd.readouterr()

    assert main(["preflight", "--url", url, "--down", M4_003]) == 1
    assert said in " ".join(capfd.readouterr().out.split())
    with pytest.raises(EvolutionError, match=said):
        roll_back(url, M4_003)

    assert [each for each in schema_dump(url) if each not in before] == []
    execute(url, "DROP TRIGGER z ON mine")
    roll_back(url, M4_003)


def rights_of_others(url: str) -> list[tuple]:
    return execute(
        url,
        "SELECT p.proname, a.grantee::regrole::text, a.privilege_type FROM pg_proc p,"
        " aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        " WHERE p.proname ~ '^v3_plans' AND a.grantee <> p.proowner"
        " UNION ALL SELECT c.relname, a.grantee::regrole::text, a.privilege_type FROM pg_class c,"
        " aclexplode(c.relacl) a WHERE a.grantee <> c.relowner AND a.privilege_type <> 'SELECT'"
        f" AND c.relname IN ('{ARCHIVE}', 'evolution_runs', 'alembic_version')",
    )


USING = {
    "a function of the row type of the archive": (
        M4_003, f"FUNCTION public.uses({ARCHIVE}) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    "a column of the row type of the archive": (M4_003, f"TABLE public.uses (x {ARCHIVE})"),
    "an array of rows of the archive": (M4_003, f"TABLE public.uses (x {ARCHIVE}[])"),
    "a view of the archive": (M4_003, f"VIEW public.uses AS SELECT plan_id FROM {ARCHIVE}"),
    "a view of a child table": (HEAD, "VIEW public.uses AS SELECT plan_id FROM plan_projects"),
    "a function of the row type of plans": (
        HEAD, "FUNCTION public.uses(v3_plans) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("at", "created"), USING.values(), ids=USING)
def test_what_another_role_makes_of_an_object_that_a_run_drops_is_refused_before_any_change(
    url: str, at: str, created: str, capfd: pytest.CaptureFixture[str]
):
    migrate(url, HEAD)
    execute(url, "UPDATE v3_plans SET effective_profile_snapshot = '[1]' WHERE plan_id = '03'")
    go, target, given = roll_back, "base", ("drop-plans=yes",)
    if at == M4_003:
        roll_back(url, M4_003)
        go, target, given = migrate, HEAD, ()
    execute(of_role(url, CLERK), f"CREATE {created}")
    before = schema_dump(url)
    capfd.readouterr()

    down = ["--down", target, "-x", *given] if given else []
    assert main(["preflight", "--url", url, *down]) == 1
    for _ in range(2):
        with pytest.raises(EvolutionError, match=r"which this run would drop, is used by") as error:
            go(url, target, *given)

    assert "uses" in str(error.value)
    assert str(error.value) in " ".join(capfd.readouterr().out.split())
    assert schema_dump(url) == before
    execute(url, f"DROP OWNED BY {CLERK}")
    go(url, target, *given)


def test_look_at_an_index_runs_no_function_of_another_role(url: str):
    execute(url, "CREATE SEQUENCE ran", "GRANT ALL ON SEQUENCE ran TO PUBLIC")
    execute(
        of_role(url, CLERK),
        "CREATE FUNCTION public.planted(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM nextval('public.ran'); RETURN $1; END$$",
    )
    execute(
        url,
        # The first of them, so that it would be looked at before the other one is refused.
        "CREATE INDEX a ON v3_plans (planted(automation_profile))"
        " WHERE planted(automation_profile) <> ''",
        "CREATE INDEX b ON v3_plans ((automation_profile::jsonb ->> 'profile_name'))",
        "ALTER SEQUENCE ran RESTART",
    )

    with pytest.raises(EvolutionError, match="v3_plans has the index b, which would refuse"):
        migrate(url, M8_001)

    assert execute(url, "SELECT is_called FROM ran") == [(False,)]
