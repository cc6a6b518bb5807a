"""SQL that a message or a page says to type calls nothing that another role has planted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Kind, verify
from support.broken import A, B, C, E, break_database, store_family
from support.databases import ROOT, SERVERS, database_with, migrate, of_role, roll_back
from support.revisions import HEAD, M4_003
from support.scripts import run_psql
from support.toys import execute

CLERK = "advising_clerk"
#: An operator of just the types of the arguments is preferred to the server's for text.
OPERATORS = [
    (operator, left, right)
    for operator in ("=", "<>", "<", ">", "<=", ">=")
    for left in ("varchar", "text", "name")
    for right in ("varchar", "text", "name")
]
PLANTED = (
    "CREATE SEQUENCE public.called",
    *(
        f"CREATE FUNCTION public.op_{number}({left}, {right}) RETURNS boolean IMMUTABLE"
        " LANGUAGE plpgsql AS $$BEGIN PERFORM pg_catalog.nextval('public.called');"
        f" RETURN $1::pg_catalog.text {operator} $2::pg_catalog.text; END$$; CREATE OPERATOR"
        f" public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.op_{number})"
        for number, (operator, left, right) in enumerate(OPERATORS)
    ),
)


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with five plans, in whose schema another role may create objects."""
    with database_with(store_family, request.param, tmp_path) as url:
        rights = f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}"
        execute(url, f"CREATE ROLE {CLERK} LOGIN", rights)
        yield url
        execute(url, f"DROP OWNED BY {CLERK} CASCADE", f"DROP ROLE {CLERK}")


def plant(url: str) -> None:
    execute(of_role(url, CLERK), *PLANTED)
    execute(url, f"GRANT ALL ON SEQUENCE called TO {CLERK}")


def called(url: str) -> bool:
    [(found,)] = execute(url, "SELECT is_called FROM called")
    return bool(found)


def kept(url: str) -> list[tuple]:
    """Name what was made with an operator that was planted."""
    return execute(
        url,
        "SELECT d.classid::regclass::text FROM pg_depend d JOIN pg_operator o ON o.oid = d.refobjid"
        " WHERE d.refclassid = 'pg_operator'::regclass"
        " AND o.oprnamespace = 'public'::regnamespace",
    )


def run_typed(url: str, sql: str) -> None:
    done = run_psql(url, f"{sql};")
    assert done.returncode == 0, (sql, done.stderr)


#: What follows a statement in a remedy.
AFTER = (
    r" detaches .*| \((SQLite|each statement by itself): .*|, or its true parent"
    r"|(; otherwise|, otherwise).*"
)
FAULTS = {
    "a parent that is not stored": (
        Kind.PARENT_NOT_STORED,
        f"UPDATE v3_plans SET parent_plan_id = 'gone' WHERE plan_id = '{E}'",
    ),
    "a cycle": (
        Kind.CYCLE, f"UPDATE v3_plans SET parent_plan_id = '{C}' WHERE plan_id = '{A}'",
    ),
    "a row of no plan": (
        Kind.PLAN_NOT_STORED,
        "INSERT INTO plan_projects (plan_id, position, project_name) VALUES ('gone', 0, 'a/b')",
    ),
    "a missing CHECK": (
        Kind.CHECK_MISSING, "ALTER TABLE v3_plans DROP CONSTRAINT ck_v3_plans_phase",
    ),
    "another CHECK": (
        Kind.CHECK_CHANGED,
        "ALTER TABLE v3_plans DROP CONSTRAINT ck_v3_plans_phase, ADD CONSTRAINT ck_v3_plans_phase"
        " CHECK (phase <> 'none')",
    ),
    "a missing foreign key": (
        Kind.CONSTRAINT_MISSING, "ALTER TABLE v3_plans DROP CONSTRAINT fk_v3_plans_root_plan_id",
    ),
    "a missing index": (Kind.INDEX_MISSING, "DROP INDEX ix_v3_plans_queued"),
    "another index": (
        Kind.INDEX_CHANGED,
        "DROP INDEX ix_v3_plans_open; CREATE INDEX ix_v3_plans_open ON v3_plans (plan_id)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "fault"), FAULTS.values(), ids=FAULTS)
def test_sql_that_a_message_says_to_type_runs_no_operator_of_another_role(
    url: str, kind: Kind, fault: str
):
    break_database(url, [fault])
    plant(url)

    typed = [
        sql for remedy in remedies(url, kind) for sql in re.sub(AFTER, "", remedy).split(", then ")
    ]
    assert typed
    asked = "SELECT 'searches ' || current_setting('search_path')"
    for sql in typed:
        done = run_psql(url, f"{sql};\n{asked};")
        assert done.returncode == 0, (sql, done.stderr)
        assert 'searches "$user", public' in done.stdout  # as it was

    assert not called(url)
    assert kept(url) == []
    assert remedies(url, kind) == []


def remedies(url: str, kind: Kind) -> list[str]:
    with read_database(chain_config(url), "verify") as database:
        found = [each.remedy for each in verify(database).findings if each.kind is kind]
    return [each for remedy in found for each in remedy.split(" detaches the plan; ")]


def test_sql_of_preflight_and_of_a_refused_run_runs_no_operator_of_another_role(url: str):
    roll_back(url, M4_003)
    break_database(
        url,
        [f"UPDATE v3_plans SET parent_plan_id = '{C}', root_plan_id = NULL WHERE plan_id = '{A}'",
         f"UPDATE v3_plans SET root_plan_id = NULL WHERE plan_id IN ('{B}', '{C}')"],
    )  # fmt: skip
    plant(url)
    [remedy] = [each.remedy or "" for each in preflight(chain_config(url)).blocks]

    run_typed(url, re.sub(AFTER, "", remedy))
    migrate(url, HEAD)
    execute(url, "INSERT INTO alembic_version VALUES ('billing_7')")
    with pytest.raises(EvolutionError, match="billing_7") as refused:
        migrate(url, HEAD)
    [sql] = re.findall(r"then (DELETE FROM .*?), and give", str(refused.value))
    run_typed(url, sql)

    assert execute(url, "SELECT version_num FROM alembic_version") == [("billing_7",)]
    assert not called(url)


def test_sql_of_the_page_runs_no_operator_of_another_role(url: str):
    """What deletes snapshots for good."""
    execute(url, """UPDATE v3_plans SET effective_profile_snapshot = '{"name": "x"}'""")
    roll_back(url, M4_003)
    break_database(url, [f"DELETE FROM v3_plans WHERE plan_id = '{E}'"])
    plant(url)
    page = (ROOT / "docs" / "security.md").read_text()
    [sql] = re.findall(r"`(DELETE FROM public.v3_plans_snapshot_archive[^`]*)`", page)

    run_typed(url, sql)

    left = execute(url, "SELECT plan_id FROM v3_plans_snapshot_archive")
    assert (E,) not in left
    assert (A,) in left
    assert not called(url)


#: Those of the catalogs and of functions, whose types are the server's own.
OF_THE_SERVER = (
    r"(nspname|now\(\)|xact_start|pg_last_wal_\w+\(\)|current_setting\([^)]*\)) *(=|<|>)"
)


def test_pages_compare_no_column_by_an_operator_of_the_search_path():
    compared = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for sql in re.findall(
            r"`((?:DELETE|UPDATE|SELECT) [^`]*\bWHERE\b[^`]*)`", page.read_text()
        ):
            said = re.sub(r"'[^']*'|OPERATOR\(pg_catalog\.\S+\)|\bSET\b.*?\bWHERE\b", "", sql)
            if "…" not in said and re.search(r"[<>=~]", re.sub(OF_THE_SERVER, "", said)):
                compared.append((page.name, sql))

    assert compared == []
