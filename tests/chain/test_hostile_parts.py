"""Some of our tables that another role has made are not written, nor believed to be all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.persistence import Base
from support.databases import ENGINES, SERVERS, database_at, empty_database, migrate, of_role
from support.revisions import A5_004, HEAD, M4_003, M8_001
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
