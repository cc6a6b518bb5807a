"""A schema that another role has created to be found first is neither read nor written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from cleveragents_plans.cli import main
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.persistence import open_engine, references
from support.databases import SERVERS, chain, database_at, migrate, of_role, roll_back
from support.revisions import HEAD, M4_003, M8_001
from support.scripts import run_psql, script
from support.toys import execute

SQUATTER, TENANT = "schema_squatter", "schema_tenant"
COMMANDS = [
    ["upgrade"], ["downgrade", "base", "-x", "drop-plans=yes"], ["stamp", "head"], ["current"],
    ["preflight"], ["status"], ["history"], ["verify"], ["verify", "--repair", "roots"],
    ["throttle", "pause"], ["plans"], ["spec"],
]  # fmt: skip
FIRE = (
    "CREATE SEQUENCE {0}.fired",
    "CREATE FUNCTION {0}.fire() RETURNS trigger LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM nextval('{0}.fired'); RETURN new; END$$",
    "CREATE TABLE {0}.alembic_version (version_num varchar(64))",
    f"INSERT INTO {{0}}.alembic_version VALUES ('{M4_003}')",
    "CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON {0}.alembic_version"
    " FOR EACH ROW EXECUTE FUNCTION {0}.fire()",
    "GRANT ALL ON {0}.alembic_version TO PUBLIC",
)
TABLES = ("CREATE TABLE {0}.v3_plans (plan_id varchar(26))", "GRANT ALL ON {0}.v3_plans TO PUBLIC")
PLANTED = {"a version table": FIRE, "all tables": (*FIRE, *TABLES), "plans": (*FIRE[:2], *TABLES)}


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of a superuser, in which another role may create schemas."""
    with database_at(M4_003, request.param, tmp_path) as url:
        execute(
            url,
            f"CREATE ROLE {SQUATTER} LOGIN",
            f"CREATE ROLE {TENANT} LOGIN",
            f"GRANT CREATE ON DATABASE {make_url(url).database} TO {SQUATTER}",
        )
        yield url
        roles = f"{SQUATTER}, {TENANT}"
        execute(url, f"DROP OWNED BY {roles} CASCADE", f"DROP ROLE {roles}")


def plant(url: str, schema: str, planted: tuple[str, ...]) -> None:
    statements = (f"CREATE SCHEMA {schema}", f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC", *planted)
    execute(of_role(url, SQUATTER), *(each.format(schema) for each in statements))


def fired(url: str, schema: str) -> bool:
    [(called,)] = execute(url, f"SELECT is_called FROM {schema}.fired")
    return bool(called)


def refused(url: str, capfd: pytest.CaptureFixture[str], schema: str) -> None:
    capfd.readouterr()
    for typed in COMMANDS:
        assert main([*typed, "--url", url]) != 0, typed
        out, err = capfd.readouterr()
        said = err.splitlines()[-1]
        assert f"the schema {schema}" in said, (typed, out, err)
        assert f"belongs to {SQUATTER}" in said
        assert "-x schema=NAME" in said
        assert "Traceback" not in out + err


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_schema_that_has_the_name_of_the_role_is_refused_if_another_role_owns_it(
    url: str, planted: tuple[str, ...], capfd: pytest.CaptureFixture[str]
):
    plant(url, "postgres", planted)

    refused(url, capfd, 'postgres ("$user" in the search path)')
    migrate(url, HEAD, "schema=public")

    assert execute(url, "SELECT version_num FROM public.alembic_version") == [(HEAD,)]
    assert not fired(url, "postgres")


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_schema_of_the_search_path_that_another_role_has_created_is_refused(
    url: str, planted: tuple[str, ...], capfd: pytest.CaptureFixture[str]
):
    execute(url, f"ALTER DATABASE {make_url(url).database} SET search_path = app, public")
    plant(url, "app", planted)

    refused(url, capfd, "app")

    assert not fired(url, "app")


TYPES = ("oid", "name", "text", "regclass", "regtype", "pg_node_tree", "pg_lsn", "timestamptz")


def test_table_that_has_the_name_of_a_type_of_the_server_stops_no_command(
    url: str, capfd: pytest.CaptureFixture[str]
):
    """Where the search path has pg_catalog last, it is looked up there after all others."""
    plant(url, "app", tuple(f"CREATE TABLE {{0}}.{each} (id integer)" for each in TYPES))
    database = make_url(url).database
    execute(url, f"ALTER DATABASE {database} SET search_path = public, app, pg_catalog")

    done = run_psql(url, script(url, f"{M4_003}:{M8_001}"))
    assert done.returncode == 0, done.stderr

    for typed in ("current", "preflight", "upgrade", "status", "history", "verify", "plans"):
        assert main([typed, "--url", url]) == 0, capfd.readouterr()
    engine = open_engine(url)
    with Session(engine) as session:
        assert references.tree_is_referenced(session) == []
    engine.dispose()


def test_schema_of_another_role_gets_no_tables(url: str):
    roll_back(url, "base", "drop-plans=yes")
    execute(url, "DROP TABLE alembic_version, evolution_runs")
    plant(url, "postgres", ())

    with pytest.raises(EvolutionError, match=r"the schema postgres .* belongs to"):
        migrate(url, HEAD)
    with pytest.raises(EvolutionError, match=r"the schema postgres .* belongs to"):
        command.check(chain(url))

    assert execute(url, "SELECT to_regclass('postgres.v3_plans')") == [(None,)]


OPERATOR = (
    "CREATE SEQUENCE {0}.fired",
    "CREATE FUNCTION {0}.compare(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM nextval('{0}.fired');"
    " RETURN $1::text OPERATOR(pg_catalog.=) $2::text; END$$",
    "CREATE OPERATOR {0}.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = {0}.compare)",
)


def test_schema_of_another_role_is_not_searched_for_triggers(url: str):
    plant(url, "postgres", OPERATOR)
    execute(
        url,
        "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
        " VALUES ('01', 'local/tidy', '', '')",
        "CREATE FUNCTION public.seen() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM 'public.v3_plans'::regclass, 'v3_plans'::regclass;"
        " IF new.plan_id = old.plan_id THEN RETURN new; END IF; RETURN new; END$$",
        "CREATE TRIGGER seen BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION public.seen()",
    )

    main(["preflight", "--url", url])
    migrate(url, HEAD)
    roll_back(url, M4_003)

    assert not fired(url, "postgres")


def test_schema_of_another_role_is_not_searched_for_event_triggers(url: str):
    plant(url, "postgres", OPERATOR)
    execute(
        url,
        "CREATE FUNCTION public.seen() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM FROM v3_plans; END$$",
        "CREATE EVENT TRIGGER squatted ON ddl_command_end WHEN TAG IN ('ALTER TABLE')"
        " EXECUTE FUNCTION public.seen()",
    )

    try:
        migrate(url, HEAD)
        roll_back(url, M4_003)
    finally:
        execute(url, "DROP EVENT TRIGGER squatted")

    assert not fired(url, "postgres")


@pytest.mark.parametrize("path", ["tenant", "tenant, public"])
def test_schema_of_the_role_that_owns_the_tables_is_used(url: str, path: str):
    roll_back(url, "base", "drop-plans=yes")
    execute(
        url,
        "DROP TABLE alembic_version, evolution_runs",
        f"CREATE SCHEMA tenant AUTHORIZATION {TENANT}",
        f"ALTER DATABASE {make_url(url).database} SET search_path = {path}",
    )
    migrate(of_role(url, TENANT), M4_003)

    migrate(url, HEAD)

    assert execute(url, "SELECT version_num FROM tenant.alembic_version") == [(HEAD,)]


def test_schema_of_another_role_is_not_advised(url: str, capfd: pytest.CaptureFixture[str]):
    roll_back(url, "base", "drop-plans=yes")
    execute(url, "DROP TABLE alembic_version, evolution_runs")
    plant(url, "a_first", TABLES)
    capfd.readouterr()

    assert main(["upgrade", "--url", url]) == 1
    said = capfd.readouterr().err
    assert (
        f"the schema a_first of this database has tables of this chain (they belong in a_first "
        f"to the role {SQUATTER})" in said
    )
    assert "give -x schema=NAME of your own, or -x allow-second-schema=yes" in said

    execute(url, "CREATE SCHEMA ours", "CREATE TABLE ours.v3_plans (plan_id text)")
    assert main(["upgrade", "--url", url]) == 1
    assert "give -x schema=ours, or" in capfd.readouterr().err


def test_schemas_of_another_role_are_not_all_named_by_verify(
    url: str, capfd: pytest.CaptureFixture[str]
):
    for number in range(13):
        plant(url, f"other_{number:02}", TABLES)
    capfd.readouterr()

    main(["verify", "--url", url])
    said = " ".join(capfd.readouterr().out.split())
    assert said.count("another schema has a table of plans, too") == 10
    assert "and 3 more schemas have a table of plans" in said
