"""Commands that read run nothing that another role puts in the place of a table meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.persistence import Base
from support.broken import libpq
from support.databases import SERVERS, database_at, of_role
from support.revisions import HEAD
from support.toys import execute

CLERK = "swapping_clerk"
READERS = [
    ["status"], ["history"], ["preflight"], ["verify", "--quick"], ["plans"], ["tree", "p"],
    ["show", "p"], ["spec"], ["throttle", "pause"], ["verify", "--repair", "roots"],
]  # fmt: skip
PLAN = (
    "INSERT INTO v3_plans (plan_id, root_plan_id, automation_profile, effective_profile_snapshot,"
    " action_name, created_at, updated_at) VALUES ('p', 'p', 'manual', '{}', 'local/tidy', '', '')"
)
EVIL = (
    "CREATE FUNCTION evil() RETURNS varchar LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM pg_catalog.nextval('public.fired'); RETURN 'x'; END$$"
)


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of a superuser in whose schema another role may create objects."""
    with database_at(HEAD, request.param, tmp_path) as url:
        rights = f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}"
        execute(url, PLAN, f"CREATE ROLE {CLERK} LOGIN", rights)
        execute(of_role(url, CLERK), "CREATE SEQUENCE fired", EVIL)
        yield url
        execute(url, f"DROP OWNED BY {CLERK} CASCADE", f"DROP ROLE {CLERK}")


@contextmanager
def swapped(url: str, table: str, *by: str) -> Iterator[None]:
    """Keep *table* locked until another session waits for it; then send *by* and commit."""
    with psycopg.connect(libpq(of_role(url, CLERK))) as clerk:
        clerk.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())

        def swap() -> None:
            until = time.monotonic() + 20
            waits = "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
            while not execute(url, waits) and time.monotonic() < until:
                time.sleep(0.05)
            for each in by:
                clerk.execute(each.encode())
            clerk.commit()

        thread = threading.Thread(target=swap)
        thread.start()
        yield
        thread.join()


def own_all(url: str) -> None:
    """Let the other role have all tables: only then is it believed."""
    for table in (*Base.metadata.tables, "alembic_version", "evolution_runs"):
        execute(url, f"ALTER TABLE {table} OWNER TO {CLERK}")


def fired(url: str) -> bool:
    [(called,)] = execute(url, "SELECT is_called FROM fired")
    return bool(called)


@pytest.mark.parametrize("schema", ["public", "shared"])
def test_version_table_of_another_role_is_not_read(
    url: str, schema: str, capfd: pytest.CaptureFixture[str]
):
    database = make_url(url).database
    execute(
        url,
        *(["DROP TABLE alembic_version", "DROP TABLE evolution_runs"] * (schema == "public")),
        "CREATE SCHEMA shared",
        f"GRANT USAGE, CREATE ON SCHEMA shared TO {CLERK}",
        f"ALTER DATABASE {database} SET search_path = shared, public",
    )
    execute(
        of_role(url, CLERK),
        f"CREATE TABLE {schema}.alembic_version (version_num varchar(32))",
        f"INSERT INTO {schema}.alembic_version VALUES ('{HEAD}')",
        f"GRANT ALL ON {schema}.alembic_version TO PUBLIC",
    )
    for typed in READERS:
        capfd.readouterr()
        code = main([*typed, "-q", "--url", url])
        said = capfd.readouterr()

        assert code == ExitStatus.REFUSED, typed
        assert f"{schema}.alembic_version belongs to {CLERK}, and other tables" in said.err
        assert said.err.count("\n") == 1


@pytest.mark.parametrize("command", ["verify", "show p", "plans --project x", "preflight"])
def test_table_that_becomes_a_view_while_it_is_waited_for_is_not_read(
    url: str, command: str, capfd: pytest.CaptureFixture[str]
):
    own_all(url)
    view = "CREATE VIEW plan_projects AS SELECT public.evil() AS plan_id, public.evil() AS project"
    with swapped(url, "plan_projects", "DROP TABLE plan_projects", view):
        code = main([*command.split(), "-q", "--url", url])
    said = capfd.readouterr()

    assert not fired(url)
    assert code == ExitStatus.REFUSED
    # The second look of `preflight` finds a view.
    assert "public.plan_projects was replaced just now; run the same" in said.err or (
        command == "preflight" and "public.plan_projects is a view; expected a table" in said.err
    )


def test_table_that_is_turned_into_a_view_is_not_read(url: str, capfd: pytest.CaptureFixture[str]):
    """As it can be before PostgreSQL 16; later versions refuse the rule."""
    own_all(url)
    [(columns,)] = execute(
        url,
        "SELECT string_agg(format('public.evil()::%s AS %I', format_type(atttypid, atttypmod),"
        " attname), ', ' ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'plan_projects'::regclass AND attnum > 0",
    )
    # Without indexes and constraints.
    execute(
        of_role(url, CLERK),
        "CREATE TABLE copied AS TABLE plan_projects",
        "DROP TABLE plan_projects",
        "ALTER TABLE copied RENAME TO plan_projects",
    )
    rule = f'CREATE RULE "_RETURN" AS ON SELECT TO plan_projects DO INSTEAD SELECT {columns}'
    [(version,)] = execute(url, "SELECT current_setting('server_version_num')::int")
    with swapped(url, "plan_projects", *([rule] if version < 160000 else [])):
        main(["verify", "-q", "--url", url])
    said = capfd.readouterr()

    assert not fired(url)
    assert ("was replaced just now" in said.err) == (version < 160000)


def test_version_table_of_a_role_that_may_act_as_the_owner_is_read(url: str):
    execute(
        url,
        *(
            f"ALTER TABLE {table} OWNER TO {CLERK}"
            for table in ("alembic_version", "evolution_runs")
        ),
    )
    assert main(["status", "-q", "--url", url]) == ExitStatus.REFUSED
    execute(url, f"GRANT postgres TO {CLERK}")
    assert main(["status", "-q", "--url", url]) == 0


def test_version_table_of_a_member_that_may_not_act_as_the_owner_is_not_read(
    url: str, capfd: pytest.CaptureFixture[str]
):
    [(version,)] = execute(url, "SELECT current_setting('server_version_num')::int")
    if version < 160000:
        pytest.skip("each member may SET ROLE before PostgreSQL 16")
    execute(
        url,
        f"GRANT postgres TO {CLERK} WITH INHERIT FALSE, SET FALSE",
        f"ALTER TABLE alembic_version OWNER TO {CLERK}",
    )

    assert main(["status", "-q", "--url", url]) == ExitStatus.REFUSED
    assert f"alembic_version belongs to {CLERK}, and other tables" in capfd.readouterr().err

    for may_act in ("INHERIT FALSE, SET TRUE", "INHERIT TRUE, SET FALSE"):
        execute(url, f"GRANT postgres TO {CLERK} WITH {may_act}")
        assert main(["status", "-q", "--url", url]) == 0, may_act


def test_membership_that_the_other_role_granted_itself_lets_no_table_of_it_be_read(
    url: str, capfd: pytest.CaptureFixture[str]
):
    """A role with CREATEROLE makes anyone a member of its own."""
    execute(url, f"ALTER ROLE {CLERK} CREATEROLE", "CREATE ROLE swapping_owner LOGIN")
    execute(
        of_role(url, CLERK), "CREATE ROLE swapping_team", "GRANT swapping_team TO swapping_owner"
    )
    for table in (*Base.metadata.tables, "alembic_version", "evolution_runs"):
        execute(url, f"ALTER TABLE {table} OWNER TO swapping_owner")
    execute(url, "ALTER TABLE plan_invariants OWNER TO swapping_team")

    owner = of_role(url, "swapping_owner")
    for reader in (url, owner):
        assert main(["status", "-q", "--url", reader]) == ExitStatus.REFUSED
        said = capfd.readouterr().err
        assert "plan_invariants belongs to swapping_team, and other tables of this chain" in said
        assert "those of swapping_owner, run ALTER TABLE public.plan_invariants OWNER TO" in said

    execute(url, f"SET ROLE {CLERK}; REVOKE swapping_team FROM swapping_owner; RESET ROLE")
    execute(url, "GRANT swapping_team TO swapping_owner")
    assert main(["status", "-q", "--url", owner]) == 0
    assert main(["status", "-q", "--url", url]) == ExitStatus.REFUSED
    execute(
        url,
        "DROP OWNED BY swapping_team, swapping_owner CASCADE",
        "DROP ROLE swapping_team, swapping_owner",
    )


@pytest.mark.parametrize("version_table", ["alembic_version", "plans_version"])
def test_group_of_the_owner_lets_no_table_of_another_member_be_read(
    url: str, version_table: str, capfd: pytest.CaptureFixture[str]
):
    """That the owner is a member of a role says nothing of that role's other members."""
    owner, reader = of_role(url, "swapping_owner"), of_role(url, "swapping_reader")
    execute(
        url,
        "CREATE ROLE swapping_owner LOGIN",
        "CREATE ROLE swapping_reader LOGIN",
        f"CREATE ROLE swapping_team ROLE swapping_owner, {CLERK}",
        "GRANT CREATE ON SCHEMA public TO swapping_team",
        # As a restore of the four tables alone leaves it.
        "DROP TABLE alembic_version, evolution_runs",
        *(f"ALTER TABLE {table} OWNER TO swapping_owner" for table in Base.metadata.tables),
        "ALTER FUNCTION v3_plans_fill() OWNER TO swapping_owner",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO swapping_reader",
    )
    execute(
        of_role(url, CLERK),
        "CREATE FUNCTION public.act() RETURNS void LANGUAGE plpgsql AS $$BEGIN IF current_user"
        f" NOT IN ('{CLERK}', 'swapping_team') THEN RAISE EXCEPTION 'evil ran'; END IF; END$$",
        "CREATE FUNCTION public.evil(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM public.act(); RETURN $1; END$$",
        f"SET ROLE swapping_team; CREATE TABLE {version_table} (version_num varchar(32));"
        f" INSERT INTO {version_table} VALUES ('{HEAD}'); RESET ROLE",
        f"CREATE INDEX ON {version_table} ((public.evil('x') || version_num))",
        f"GRANT SELECT ON {version_table} TO PUBLIC",
    )
    options = ["-q", "-x", f"version-table={version_table}", "--url"]
    with pytest.raises(Exception, match="evil ran"):  # it is a trap
        execute(url, f"SELECT * FROM {version_table}")

    for role, typed in [(reader, ["status"]), *((url, each) for each in READERS)]:
        capfd.readouterr()
        code = main([*typed, *options, role])
        said = capfd.readouterr().err

        assert code == ExitStatus.REFUSED, typed
        assert f"public.{version_table} belongs to swapping_team, and other tables" in said
        assert "evil ran" not in said
        assert said.count("\n") == 1

    # Who has made the owner a member lets it read what all members do; `verify` says what to mind.
    execute(of_role(url, CLERK), f"DROP INDEX {version_table}_expr_idx")
    assert main(["verify", *options, owner]) == ExitStatus.FOUND
    said = " ".join("".join(capfd.readouterr()).split())
    assert "PostgreSQL's and those of swapping_owner, run ALTER TABLE public." in said
    both = "swapping_owner, swapping_team, swapping_reader"
    execute(url, f"DROP OWNED BY {both} CASCADE", f"DROP ROLE {both}")
