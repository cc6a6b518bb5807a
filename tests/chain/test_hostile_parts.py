"""Some of our tables that another role has made are not written, nor believed to be all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, Table

from cleveragents_plans.cli import main
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.evolution.postgresql.table_owners import raise_if_foreign_tables
from cleveragents_plans.persistence import Base
from support.databases import ENGINES, SERVERS, database_at, empty_database, migrate, of_role
from support.revisions import A5_004, HEAD, M4_003, M8_001
from support.rows import schema_dump
from support.scripts import run_psql, script
from support.toys import execute

CLERK = "partial_clerk"
FIRE = (
    "CREATE SEQUENCE public.fired",
    "CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM nextval('public.fired'); RETURN coalesce(new, old); END$$",
)
TRIGGER = (
    "CREATE TRIGGER fire BEFORE INSERT OR UPDATE OR DELETE ON public.{} FOR EACH ROW"
    " EXECUTE FUNCTION public.fire()"
)
VERSION = "CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY)"
COMMANDS = [
    ["upgrade", "--create"], ["stamp", A5_004], ["stamp", "--purge", M4_003], ["downgrade", "base"],
    ["preflight"], ["verify", "--repair", "roots"],
]  # fmt: skip


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of a superuser, in whose schema another role may create objects."""
    with empty_database(request.param, tmp_path) as url:
        rights = f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}"
        execute(url, f"CREATE ROLE {CLERK} LOGIN", rights)
        yield url
        execute(url, f"DROP OWNED BY {CLERK} CASCADE", f"DROP ROLE {CLERK}")


def fired(url: str) -> bool:
    [(called,)] = execute(url, "SELECT is_called FROM fired")
    return bool(called)


@pytest.mark.parametrize("version", [None, A5_004, M4_003])
@pytest.mark.parametrize("table", ["v3_plans", "plan_projects"])
def test_superuser_writes_no_part_of_the_tables_of_another_role(
    url: str, table: str, version: str | None, capfd: pytest.CaptureFixture[str]
):
    execute(
        of_role(url, CLERK),
        *FIRE,
        VERSION,
        *([f"INSERT INTO alembic_version VALUES ('{version}')"] if version else []),
        f"CREATE TABLE public.{table} (plan_id varchar(26) PRIMARY KEY)",
        TRIGGER.format(table),
    )

    for typed in COMMANDS:
        capfd.readouterr()
        assert main([*typed, "--url", url]) != 0, typed
        said = "".join(capfd.readouterr())
        assert "run `cleveragents-plans stamp" not in said, typed
        assert f"public.alembic_version belongs to {CLERK}, and the tables lack" in said
        assert f"as {CLERK}" not in said
    assert execute(url, "SELECT * FROM alembic_version") == ([(version,)] if version else [])

    execute(url, TRIGGER.format("alembic_version"))
    for typed in COMMANDS:
        assert main([*typed, "--url", url]) != 0, typed
    assert not fired(url)


BOSS, TEAM, OPERATOR = "partial_boss", "partial_team", "partial_operator"


@pytest.fixture
def team(url: str) -> Iterator[str]:
    """A role with CREATEROLE has a part of the tables, by a role of its own; give its URL."""
    boss = of_role(url, BOSS)
    execute(
        url,
        f"CREATE ROLE {OPERATOR} LOGIN",
        f"CREATE ROLE {BOSS} LOGIN CREATEROLE",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {BOSS}, {OPERATOR}",
    )
    execute(boss, f"CREATE ROLE {TEAM}", f"GRANT {TEAM} TO {BOSS}")
    execute(url, f"GRANT CREATE ON SCHEMA public TO {TEAM}")
    execute(
        boss,
        f"SET ROLE {TEAM}; {VERSION}; INSERT INTO alembic_version VALUES ('{M4_003}');"
        " CREATE TABLE public.v3_plans (plan_id varchar(26) PRIMARY KEY)",
    )
    yield boss
    roles = f"{BOSS}, {TEAM}, {OPERATOR}"
    execute(url, f"DROP OWNED BY {roles} CASCADE", f"DROP ROLE IF EXISTS {roles}, partial_more")


def refuses(url: str, capfd: pytest.CaptureFixture[str]) -> bool:
    capfd.readouterr()
    for typed in (["upgrade"], ["status"]):
        assert main([*typed, "--url", url]) != 0
    said = "".join(capfd.readouterr())
    assert ("and the tables lack" in said) == (f"belongs to {TEAM}, and" in said)
    return f"belongs to {TEAM}, and" in said


@pytest.mark.parametrize("by", [BOSS, "postgres"])
def test_superuser_trusts_no_role_that_it_was_made_a_member_of(
    url: str, team: str, by: str, capfd: pytest.CaptureFixture[str]
):
    execute(of_role(url, by), f"GRANT {TEAM} TO postgres")

    assert refuses(url, capfd)


def test_role_trusts_one_that_another_made_it_a_member_of_only_if_that_one_is_trusted(
    url: str, team: str, capfd: pytest.CaptureFixture[str]
):
    operator = of_role(url, OPERATOR)
    execute(team, f"GRANT {TEAM} TO {OPERATOR}")
    assert refuses(operator, capfd)

    # Each membership on the way counts.
    execute(url, f"CREATE ROLE partial_more ROLE {OPERATOR}")
    execute(team, f"GRANT {TEAM} TO partial_more")
    assert refuses(operator, capfd)

    execute(team, f"REVOKE {TEAM} FROM partial_more, {OPERATOR}")
    execute(url, f"GRANT {TEAM} TO partial_more")
    assert not refuses(operator, capfd)
    execute(url, f"REVOKE {TEAM} FROM partial_more", f"GRANT {TEAM} TO {OPERATOR}")
    assert not refuses(operator, capfd)


def test_membership_that_gives_no_right_gives_no_trust(
    url: str, team: str, capfd: pytest.CaptureFixture[str]
):
    [(version,)] = execute(url, "SELECT current_setting('server_version_num')::int")
    if version < 160000:
        pytest.skip("each member may SET ROLE before PostgreSQL 16")
    operator = of_role(url, OPERATOR)
    execute(url, f"GRANT {TEAM} TO {OPERATOR} WITH INHERIT FALSE, SET FALSE")

    assert refuses(operator, capfd)
    for may_act in ("INHERIT FALSE, SET TRUE", "INHERIT TRUE, SET FALSE"):
        execute(url, f"GRANT {TEAM} TO {OPERATOR} WITH {may_act}")
        assert not refuses(operator, capfd), may_act


def test_superuser_fires_no_trigger_of_the_owner_on_the_version_table(
    url: str, capfd: pytest.CaptureFixture[str]
):
    clerk = of_role(url, CLERK)
    migrate(clerk, M4_003)
    execute(clerk, *FIRE, TRIGGER.format("alembic_version"))

    for typed in (["upgrade"], ["stamp", A5_004], ["preflight"]):
        capfd.readouterr()
        assert main([*typed, "--url", url]) == 1
        said = " ".join("".join(capfd.readouterr()).split())
        assert "public.alembic_version has the trigger fire, whose function" in said
        assert "drop that" in said
    assert not fired(url)

    # Its own rights are the owner's, who may do as it likes.
    migrate(clerk, M8_001)
    assert fired(url)
    execute(clerk, "DROP TRIGGER fire ON alembic_version")
    migrate(url, HEAD)


def test_tables_of_an_owner_that_are_all_there_are_migrated_by_a_superuser(url: str):
    migrate(of_role(url, CLERK), A5_004)

    migrate(url, HEAD)

    assert execute(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.parametrize("engine", ENGINES)
def test_tables_that_lack_a_part_are_not_advised_to_be_stamped(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    with database_at(A5_004, engine, tmp_path) as url:
        others = [name for name in Base.metadata.tables if name != "v3_plans"]
        execute(url, "DELETE FROM alembic_version", f"DROP TABLE {others[0]}")

        for word in ("upgrade", "status", "preflight", "verify"):
            assert main([word, "--url", url]) != 0
            said = " ".join("".join(capfd.readouterr()).split())
            assert f"they lack the table {others[0]}, and no revision leaves them so" in said
            assert "cleveragents-plans stamp" not in said

        assert main(["stamp", A5_004, "--url", url]) == 0
        assert f"the tables lack the table {others[0]}, which {A5_004} has" in caplog.text

        execute(url, "DELETE FROM alembic_version", *(f"DROP TABLE {it}" for it in others[1:]))
        with pytest.raises(EvolutionError, match=f"they lack the table {others[0]}, "):
            migrate(url, HEAD)


SCRIPTS = {
    "upgrade": (A5_004, f"{A5_004}:{M4_003}", {}),
    "upgrade to the head": (M4_003, f"{M4_003}:{HEAD}", {}),
    "downgrade": (HEAD, f"{HEAD}:{M8_001}", {"back": True}),
    "stamp": (M4_003, f"{M4_003}:{HEAD}", {"stamp": True}),
    "stamp of an empty database": (HEAD, HEAD, {"stamp": True}),
    "first upgrade": (HEAD, HEAD, {}),
}
LACKING = {
    "the child tables": ["plan_projects", "plan_arguments", "plan_invariants"],
    "one": ["plan_projects"],
    "the table of plans": ["v3_plans"],
    "the version table": ["alembic_version"],
    "none": [],
}


PARTS = [
    *((of, "the child tables") for of in SCRIPTS),
    ("upgrade", "one"), ("upgrade", "the version table"),
    ("upgrade to the head", "the table of plans"),
    ("downgrade", "none"), ("first upgrade", "none"),
    ("stamp of an empty database", "the version table"),
]  # fmt: skip


@pytest.mark.parametrize(("of", "lacking"), PARTS)
def test_script_refuses_a_part_of_the_tables_of_another_role(url: str, of: str, lacking: str):
    version, revisions, how = SCRIPTS[of]
    clerk = of_role(url, CLERK)
    migrate(clerk, version)
    execute(
        clerk,
        *(f"DROP TABLE {each} CASCADE" for each in LACKING[lacking]),
        "CREATE FUNCTION public.act() RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
        f" IF current_user <> '{CLERK}' THEN RAISE EXCEPTION 'evil ran'; END IF; END $$",
        "CREATE FUNCTION public.evil(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM public.act(); RETURN $1; END $$",
        *(
            f"CREATE INDEX ON {table} ((public.evil('x') || {key}))"
            for table, key in (("alembic_version", "version_num"), ("v3_plans", "plan_id"))
            if table not in LACKING[lacking]
        ),
    )
    before = schema_dump(url)
    printed = script(url, revisions, **how)

    done = run_psql(url, printed)

    first = of in ("first upgrade", "stamp of an empty database")
    if lacking == "none" and not first:
        assert "evil ran" in done.stderr  # the owner of all of them is trusted
    elif lacking == "the version table" and of == "stamp of an empty database":
        assert done.returncode == 0, done.stderr  # all that it does not create
    else:
        assert "evil ran" not in done.stderr
        assert f"belongs to {CLERK}, and th" in done.stderr
        assert done.returncode != 0
        assert schema_dump(url) == before
    if lacking == "one":  # those whom it belongs to may do with it what they like
        assert f"belongs to {CLERK}" not in run_psql(clerk, printed).stderr


def test_script_that_creates_a_further_table_is_run_by_a_superuser(url: str):
    """The tables of a revision are those that it found and those that it creates."""
    clerk = of_role(url, CLERK)
    migrate(clerk, HEAD)
    execute(clerk, "DROP TABLE plan_invariants")
    every = {*Base.metadata.tables, "alembic_version"}

    for created, refused in (({"plan_invariants"}, False), ({"plan_projects"}, True)):
        sql = raise_if_foreign_tables(
            Base.metadata.tables, "alembic_version", "public", every - created, created
        )
        assert (run_psql(url, sql).returncode != 0) == refused


def test_script_expects_no_table_of_a_later_revision(url: str):
    clerk = of_role(url, CLERK)
    migrate(clerk, M4_003)
    later = Table("later", Base.metadata, Column("id", Integer, primary_key=True))
    try:
        up, down = (
            script(url, f"{M4_003}:{M8_001}"),
            script(url, f"{M8_001}:{M4_003}", back=True),
        )
    finally:
        Base.metadata.remove(later)

    for printed in (up, down):
        done = run_psql(url, printed)
        assert done.returncode == 0, done.stderr
    execute(clerk, "DROP TABLE plan_projects")
    assert "the tables lack plan_projects" in run_psql(url, up).stderr
