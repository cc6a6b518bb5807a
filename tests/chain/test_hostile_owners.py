"""Tables of a role that is not trusted run nothing: not even what planning a SELECT evaluates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import make_url
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from cleveragents_plans.cli import main, status
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.evolution.runner.migration_lock import lock_key
from cleveragents_plans.persistence import Base
from cleveragents_plans.schema import database
from support.broken import libpq
from support.databases import SERVERS, chain, empty_database, migrate, of_role
from support.revisions import HEAD, M4_003
from support.toys import execute

CLERK, OWNER = "indexing_clerk", "plain_owner"
READERS = [
    ["status"], ["status", "--wait", "0.1"], ["history"], ["preflight"],
    ["preflight", "--down", M4_003], ["verify"], ["verify", "--quick"], ["plans"], ["tree", "p"],
    ["show", "p"], ["throttle", "pause"], ["verify", "--repair", "roots"], ["current"],
    ["current", "--check-heads"],
]  # fmt: skip
RUNS = [["upgrade"], ["stamp", HEAD], ["stamp", "--purge", HEAD], ["downgrade", M4_003]]
EVIL = (
    # It looks like a constant to the planner, and calls what may do anything.
    "CREATE FUNCTION evil.act() RETURNS void LANGUAGE plpgsql AS"
    f" $$BEGIN IF current_user <> '{CLERK}' THEN RAISE EXCEPTION 'evil ran'; END IF; END$$",
    "CREATE FUNCTION evil.evil(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM evil.act(); RETURN $1; END$$",
)
VERSION = [
    "CREATE TABLE public.alembic_version (version_num varchar(64) PRIMARY KEY)",
    f"INSERT INTO public.alembic_version VALUES ('{HEAD}')",
]


def created(*tables: str) -> list[str]:
    return [
        str(CreateTable(each).compile(dialect=postgresql.dialect()))
        for each in Base.metadata.sorted_tables
        if each.name in tables
    ]


def indexed(*tables: str) -> list[str]:
    return [
        statement
        for each in tables
        for statement in (
            f"CREATE INDEX ON {each} ((evil.evil('x')"
            f" || {'version_num' if each.endswith('version') else 'plan_id'}))",
            f"GRANT ALL ON {each} TO PUBLIC",
        )
    ]


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of a superuser, in whose schema two other roles may create objects."""
    with empty_database(request.param, tmp_path) as url:
        execute(
            url,
            f"CREATE ROLE {CLERK} LOGIN",
            f"CREATE ROLE {OWNER} LOGIN",
            f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}, {OWNER}",
            f"CREATE SCHEMA evil AUTHORIZATION {CLERK}",
            "GRANT USAGE ON SCHEMA evil TO PUBLIC",
        )
        execute(of_role(url, CLERK), *EVIL)
        yield url
        both = f"{CLERK}, {OWNER}"
        execute(url, f"DROP OWNED BY {both} CASCADE", f"DROP ROLE {both}")


def version_alone(url: str) -> str:
    execute(of_role(url, CLERK), *VERSION, *indexed("alembic_version"))
    return f"public.alembic_version belongs to {CLERK}, alone; rename or drop it"


def plans_alone(url: str) -> str:
    execute(of_role(url, CLERK), *created("v3_plans"), *indexed("v3_plans"))
    return f"public.v3_plans belongs to {CLERK}, alone; rename or drop it"


def plans_beside_a_version(url: str) -> str:
    execute(url, *VERSION)
    execute(of_role(url, CLERK), *created("v3_plans"), *indexed("v3_plans"))
    return f"public.v3_plans belongs to {CLERK}, and other tables of this chain to postgres"


def all_tables_beside_a_version(url: str) -> str:
    execute(url, *VERSION)
    tables = [*Base.metadata.tables]
    execute(of_role(url, CLERK), *created(*tables), *indexed(*tables))
    return f"belongs to {CLERK}, and other tables of this chain to postgres"


def plans_and_version(url: str) -> str:
    tables = ("v3_plans", "alembic_version")
    execute(of_role(url, CLERK), *VERSION, *created("v3_plans"), *indexed(*tables))
    return f"public.alembic_version belongs to {CLERK}, and the tables lack"


def child_and_version(url: str) -> str:
    tables = ("plan_projects", "alembic_version")
    child = "CREATE TABLE plan_projects (plan_id text)"
    execute(of_role(url, CLERK), *VERSION, child, *indexed(*tables))
    return f"public.alembic_version belongs to {CLERK}, and the tables lack others of this chain"


def child_of_the_owner_s_plans(url: str) -> str:
    migrate(of_role(url, OWNER), HEAD)
    execute(url, "DROP TABLE plan_invariants", f"GRANT REFERENCES ON v3_plans TO {CLERK}")
    execute(of_role(url, CLERK), *created("plan_invariants"), *indexed("plan_invariants"))
    return f"public.plan_invariants belongs to {CLERK}, and other tables of this chain to {OWNER};"


def plans_in_an_earlier_schema(url: str) -> str:
    in_app(url)
    execute(of_role(url, CLERK), *created("v3_plans"), *indexed("v3_plans"))
    return f"public.v3_plans belongs to {CLERK}, and app has tables of this chain of another role"


def all_in_an_earlier_schema(url: str) -> str:
    in_app(url)
    tables = [*Base.metadata.tables]
    execute(of_role(url, CLERK), *VERSION, *created(*tables), *indexed(*tables, "alembic_version"))
    return f"belongs to {CLERK}, and app has tables of this chain of another role"


def version_in_an_earlier_schema(url: str) -> str:
    in_app(url)
    execute(of_role(url, CLERK), *VERSION, *indexed("alembic_version"))
    return f"public.alembic_version belongs to {CLERK}, and other tables of this chain to {OWNER}"


def in_app(url: str) -> None:
    execute(
        url,
        "CREATE SCHEMA app",
        f"GRANT USAGE, CREATE ON SCHEMA app TO {OWNER}",
        f"ALTER DATABASE {make_url(url).database} SET search_path = public, app",
    )
    migrate(of_role(url, OWNER), HEAD, "schema=app")


PLANTED = [
    version_alone, plans_alone, plans_beside_a_version, all_tables_beside_a_version,
    plans_and_version, child_and_version, child_of_the_owner_s_plans, plans_in_an_earlier_schema,
    all_in_an_earlier_schema, version_in_an_earlier_schema,
]  # fmt: skip


def trapped_table(url: str) -> str:
    [(name,)] = execute(
        url,
        "SELECT min(indrelid::regclass::text) FROM pg_index"
        " WHERE pg_get_indexdef(indexrelid) ~ 'evil'",
    )
    return str(name)


@pytest.mark.parametrize("role", ["postgres", OWNER])
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_index_of_another_role_is_evaluated_by_no_command(
    url: str, plant: Callable[[str], str], role: str, capfd: pytest.CaptureFixture[str]
):
    expected = plant(url)
    # Else `check` is refused for what could be created at any moment.
    execute(url, f"REVOKE CREATE ON SCHEMA public FROM {CLERK}, {OWNER}")
    with pytest.raises(Exception, match="evil ran"):  # it is a trap
        execute(of_role(url, role), "SELECT * FROM " + trapped_table(url))

    for typed in [*READERS, *RUNS]:
        capfd.readouterr()
        code = main([*typed, "-q", "--url", of_role(url, role)])
        said = capfd.readouterr().err

        assert code == ExitStatus.REFUSED, typed
        assert "evil ran" not in said, typed
        assert expected in said, typed
        assert said.count("\n") == 1, typed
        assert not re.search(rf"(OWNER TO|as|GRANT) {CLERK}", said), typed
    if OWNER not in expected and " app " not in expected:  # whose functions `check` refuses
        with pytest.raises(EvolutionError, match=re.escape(expected)):
            command.check(chain(of_role(url, role)))


@pytest.mark.parametrize(
    "typed",
    [["verify"], ["verify", "--repair", "roots"], ["preflight"], ["show", "p"], ["status"]],
    ids=" ".join,
)
@pytest.mark.parametrize("table", ["v3_plans", "plan_invariants", "alembic_version"])
def test_table_that_is_replaced_after_the_look_at_its_owner_is_not_read(
    url: str,
    table: str,
    typed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    migrate(url, HEAD)
    real_look = database.refuse_untrusted_owners
    swaps = [f"DROP TABLE {table} CASCADE"]

    isolation = "READ COMMITTED" if typed == ["preflight"] else "REPEATABLE READ"

    def look_and_be_late(migration: MigrationContext, *more: Any, **reads: bool) -> None:
        real_look(migration, *more, **reads)
        options = migration.connection.get_execution_options()  # type: ignore[union-attr]
        while swaps and options["isolation_level"] == isolation:
            execute(url, swaps.pop(), f"GRANT REFERENCES ON ALL TABLES IN SCHEMA public TO {CLERK}")
            statements = VERSION if table == "alembic_version" else created(table)
            execute(of_role(url, CLERK), *statements, *indexed(table))

    monkeypatch.setattr(database, "refuse_untrusted_owners", look_and_be_late)

    code = main([*typed, "-q", "--url", url])
    said = capfd.readouterr().err

    assert "evil ran" not in said
    assert not swaps
    if (table, typed) != ("plan_invariants", ["status"]):  # which reads no such row
        assert code == ExitStatus.REFUSED
        assert re.search(r"was (created by another role|replaced) just now", said)


def test_tables_of_the_application_are_read_by_a_role_that_may_only_read(
    url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(of_role(url, OWNER), HEAD)
    execute(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {CLERK}")

    for typed in (["status"], ["verify"], ["plans"], ["history"], ["current"]):
        assert main([*typed, "--url", of_role(url, CLERK)]) == 0, typed


def test_status_waits_while_the_first_run_has_created_the_version_table_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    execute(of_role(url, OWNER), VERSION[0])
    looks = []

    def look(config: Config, purpose: str) -> AbstractContextManager[database.Database]:
        looks.append(purpose)
        if len(looks) == 2:
            migrate(of_role(url, OWNER), HEAD)
        return database.read_database(config, purpose)

    monkeypatch.setattr(status, "read_database", look)

    assert main(["status", "--wait", "60", "-q", "--url", url]) == 0


@pytest.mark.parametrize("role", ["postgres", OWNER])
def test_table_that_another_role_has_taken_is_the_one_that_is_named(
    url: str, role: str, capfd: pytest.CaptureFixture[str]
):
    child_of_the_owner_s_plans(url)

    for typed in (["upgrade"], ["status"], ["preflight"]):
        assert main([*typed, "--url", of_role(url, role)]) == ExitStatus.REFUSED
        assert (
            f"public.plan_invariants belongs to {CLERK}, and other tables of this chain to {OWNER};"
            " expected one owner of all: if it is this chain's, and its indexes, statistics,"
            " triggers, defaults, CHECKs and policies call no functions but PostgreSQL's and those"
            f" of {OWNER}, run ALTER TABLE"
            f" public.plan_invariants OWNER TO {OWNER}, otherwise rename or drop it"
        ) in capfd.readouterr().err


@pytest.mark.parametrize("taken", [1, 3])
def test_no_table_is_said_to_be_given_to_a_role_that_has_taken_others(
    url: str, taken: int, capfd: pytest.CaptureFixture[str]
):
    children = [name for name in Base.metadata.tables if name != "v3_plans"][:taken]
    execute(of_role(url, OWNER), *VERSION, *created("v3_plans"))
    # As the chain of an older application leaves it, whose plans have no other tables.
    execute(url, f"GRANT REFERENCES ON v3_plans TO {CLERK}")
    execute(of_role(url, CLERK), *created(*children))

    for typed in (["upgrade"], ["status"]):
        assert main([*typed, "--url", url]) == ExitStatus.REFUSED
        said = capfd.readouterr().err
        assert "expected one owner of all" in said
        assert f"OWNER TO {CLERK}" not in said
        assert ("OWNER TO" in said) == (taken == 1)


def test_run_that_waits_for_the_lock_reads_no_table_of_runs_of_another_role(
    url: str, capfd: pytest.CaptureFixture[str]
):
    clerk = of_role(url, CLERK)
    migrate(clerk, HEAD)
    execute(
        clerk,
        "DROP TABLE plan_invariants",
        "CREATE STATISTICS odd ON (evil.evil('x') || run_id) FROM evolution_runs",
    )
    key = lock_key()["lock_class"]
    take = "SELECT pg_advisory_lock(%s, 'public'::regnamespace::oid::int)"
    with psycopg.connect(libpq(clerk), autocommit=True) as other:
        other.execute(take, [key - 2**32 if key >= 2**31 else key])

        code = main(["upgrade", "-x", "migration-lock-wait=1", "-q", "--url", url])

    said = capfd.readouterr().err
    assert code == ExitStatus.AGAIN, said
    assert "evil ran" not in said


ARCHIVE = "v3_plans_snapshot_archive"
TRAPS = {
    "expression": ("CREATE INDEX odd ON {} ((evil.evil('x') || {}))", "index"),
    "predicate": ("CREATE INDEX odd ON {0} ({1}) WHERE evil.evil('x') || {1} = ''", "index"),
    "operator class": (
        "CREATE OPERATOR CLASS evil.ops FOR TYPE text USING btree AS OPERATOR 1 <, OPERATOR 2 <=,"
        " OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 bttextcmp(text, text);"
        " CREATE INDEX odd ON {} ({} evil.ops)",
        "index",
    ),
    "statistics": ("CREATE STATISTICS odd ON (evil.evil('x') || {1}) FROM {0}", "statistics"),
}


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("role", ["postgres", OWNER])
def test_archive_of_another_role_is_not_said_to_be_taken_over_and_runs_nothing(
    url: str, role: str, trap: str, capfd: pytest.CaptureFixture[str]
):
    statement, kind = TRAPS[trap]
    migrate(of_role(url, OWNER), M4_003)
    # Only a superuser may create an operator class.
    maker = url if trap == "operator class" else of_role(url, CLERK)
    execute(
        of_role(url, CLERK),
        f"CREATE TABLE {ARCHIVE} (plan_id varchar(26), effective_profile_snapshot text,"
        " created_at text)",
        f"CREATE UNIQUE INDEX uq_{ARCHIVE}_plan_id ON {ARCHIVE} (plan_id)",
        f"CREATE INDEX plain ON {ARCHIVE} (created_at)",
    )
    execute(maker, *statement.format(ARCHIVE, "plan_id").split("; "))

    def refused() -> list[str]:
        lines = []
        for typed in (["preflight"], ["upgrade"]):
            capfd.readouterr()
            assert main([*typed, "-q", "--url", of_role(url, role)]) == ExitStatus.REFUSED
            said = " ".join("".join(capfd.readouterr()).split())
            assert "evil ran" not in said
            lines.append(said)
        return lines

    for said in refused():
        assert f"belongs to {CLERK}, and public.v3_plans to {OWNER}" in said
        assert "rename or drop it: that role may have chosen what is in it" in said
        assert "OWNER TO" not in said

    execute(url, f"ALTER TABLE {ARCHIVE} OWNER TO {OWNER}")
    for said in refused():
        remedy = f"DROP {kind.upper()} public.odd"
        assert f"public.{ARCHIVE} has the {kind} odd; expected none; run {remedy};" in said
    execute(of_role(url, CLERK if kind == "statistics" else OWNER), remedy)
    assert main(["upgrade", "-q", "--url", of_role(url, role)]) == 0


def test_table_of_runs_of_another_role_is_not_said_to_be_taken_over_and_runs_nothing(
    url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(of_role(url, OWNER), HEAD)
    [(columns,)] = execute(
        url,
        "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', '"
        " ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'evolution_runs'::regclass"
        " AND attnum > 0",
    )
    execute(url, "DROP TABLE evolution_runs")
    execute(
        of_role(url, CLERK),
        f"CREATE TABLE evolution_runs ({columns}, PRIMARY KEY (run_id))",
        TRAPS["statistics"][0].format("evolution_runs", "run_id"),
    )

    assert main(["history", "-q", "--url", url]) == ExitStatus.REFUSED
    said = capfd.readouterr().err
    assert f"belongs to {CLERK}, and not to {OWNER} as the version table does: rename or" in said
    assert "OWNER TO" not in said

    execute(url, f"ALTER TABLE evolution_runs OWNER TO {OWNER}")
    assert main(["history", "-q", "--url", url]) == ExitStatus.REFUSED
    said = capfd.readouterr().err
    assert "has the statistics odd; expected none: run DROP STATISTICS public.odd" in said
