"""a5_004 creates the tables of plans, and drops them only when no plan is lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, NullPool, event, make_url
from sqlalchemy.exc import IntegrityError

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.runner.runs import RUNS
from support.databases import ENGINES, chain, database_at, empty_database, roll_back
from support.former_release import write_former_release
from support.revision_database import NOW, RevisionDatabase, plan_id
from support.revisions import A5_004, M4_003, M8_001
from support.rows import database_hash, schema_dump
from support.statements import dying_at
from support.toys import execute

A = plan_id(1)
EMPTY = {"alembic_version", ""}


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RevisionDatabase]:
    """An empty database of the first revision."""
    with database_at(A5_004, request.param, tmp_path) as url:
        created = RevisionDatabase(url)
        yield created


def state(database: RevisionDatabase) -> tuple[object, object]:
    return database_hash(database.url), schema_dump(database.url)


def test_columns_left_out_of_an_insert_have_their_defaults(database: RevisionDatabase):
    database.run(
        "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
        " VALUES (:key, 'local/tidy', :now, :now)",
        key=A,
        now=NOW,
    )

    columns = (
        "attempt, description, phase, processing_state, reversion_count, last_completed_step,"
        " reusable, read_only, root_plan_id, automation_profile"
    )
    assert database.run(f"SELECT {columns} FROM v3_plans") == [
        (1, "", "action", "queued", 0, -1, False, False, None, None)
    ]


@pytest.mark.parametrize(
    ("column", "refused", "accepted"),
    [
        ("attempt", 0, 1),
        ("phase", "plan", "strategize"),
        ("processing_state", "done", "constrained"),
        ("cost_actual_usd", -0.01, 0.0),
        ("cost_actual_usd", float("inf"), 1.7976931348623157e308),
        ("token_count_input", -1, 0),
        ("token_count_output", -1, 0),
        ("reversion_count", 4, 3),
        ("reversion_count", -1, 0),
        ("last_completed_step", -2, -1),
    ],
)
def test_values_outside_of_a_check_are_refused(
    database: RevisionDatabase, column: str, refused: object, accepted: object
):
    with pytest.raises(IntegrityError, match=f"ck_v3_plans_{column}"):
        database.plan(A, **{column: refused})
    database.plan(A, **{column: accepted})

    assert database.column(column) == {A: accepted}


def test_downgrade_of_an_empty_database_leaves_nothing(database: RevisionDatabase):
    database.downgrade("base")

    assert {entry[1] for entry in schema_dump(database.url)} <= EMPTY


def test_downgrade_to_base_is_refused_while_there_are_plans_unless_confirmed(
    database: RevisionDatabase,
):
    database.upgrade(M8_001)
    database.plan(A, root=A, profile="balanced", execution_environment="container")
    database.run('UPDATE v3_plans SET effective_profile_snapshot = \'{"name": "odd"}\'')
    before = state(database)

    with pytest.raises(CommandError, match="-x drop-plans=yes"):
        database.downgrade("base")
    assert state(database) == before

    database.downgrade("base", "drop-plans=yes")
    assert {entry[1] for entry in schema_dump(database.url)} <= EMPTY


@pytest.mark.parametrize("engine", ENGINES)
def test_downgrade_to_base_is_refused_while_other_tables_refer_to_plans(
    engine: str, tmp_path: Path
):
    with empty_database(engine, tmp_path) as url:
        write_former_release(url, plans=50, also_tables=True)
        before = database_hash(url), schema_dump(url)

        with pytest.raises(CommandError, match="correction_attempts refer to v3_plans"):
            roll_back(url, "base", "drop-plans=yes")

        assert (database_hash(url), schema_dump(url)) == before


@pytest.mark.parametrize("table", ["plan_projects", "plan_arguments", "plan_invariants"])
def test_downgrade_to_base_is_refused_while_another_table_refers_to_a_child_table(
    database: RevisionDatabase, table: str
):
    database.run(
        "CREATE TABLE own (a varchar(26), b integer,"
        f" FOREIGN KEY (a, b) REFERENCES {table} (plan_id, position))"
    )
    before = state(database)

    with pytest.raises(CommandError, match=f"own refer to {table}, which this step would drop"):
        database.downgrade("base", "drop-plans=yes")

    assert state(database) == before


USED = {
    "a sequence of it is used elsewhere": (
        ["ALTER TABLE plan_projects ADD number serial",
         "CREATE TABLE own (id bigint DEFAULT nextval('plan_projects_number_seq'))"],
        r"default value for column id of table public\.own",
        "ALTER TABLE own ALTER id DROP DEFAULT",
    ),
    "an extension has it": (
        ["ALTER EXTENSION plpgsql ADD TABLE plan_projects"],
        r"ALTER EXTENSION plpgsql DROP TABLE",
        "ALTER EXTENSION plpgsql DROP TABLE plan_projects",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("used", "message", "remedy"), USED.values(), ids=USED)
def test_downgrade_to_base_is_refused_while_a_child_table_is_used(
    tmp_path: Path, used: list[str], message: str, remedy: str
):
    with database_at(M8_001, "postgresql-18", tmp_path) as url:
        execute(url, *used)
        before = schema_dump(url)

        with pytest.raises(CommandError, match=message):
            roll_back(url, "base", "drop-plans=yes")

        assert schema_dump(url) == before
        execute(url, remedy)
        roll_back(url, "base", "drop-plans=yes")


def test_plans_committed_while_the_lock_is_waited_for_are_not_dropped(tmp_path: Path):
    with database_at(A5_004, "postgresql-18", tmp_path) as url:
        database = RevisionDatabase(url)
        name = make_url(url).database
        isolation = "default_transaction_isolation = 'repeatable read'"
        database.run(f'ALTER DATABASE "{name}" SET {isolation}')
        client = open_engine(url, poolclass=NullPool).connect()
        waited = []

        def commit_when_waited_for(_connection, _cursor, statement, *_):
            # A client commits its plan between the check of the rows and the lock.
            if statement.startswith("LOCK TABLE") and "NOWAIT" in statement and not waited:
                waited.append(statement)
                client.commit()

        client.exec_driver_sql(
            "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
            " VALUES ('01', 'local/tidy', '', '')"
        )
        event.listen(Engine, "before_cursor_execute", commit_when_waited_for)
        try:
            with pytest.raises(CommandError, match="holds rows"):
                database.downgrade("base")
        finally:
            event.remove(Engine, "before_cursor_execute", commit_when_waited_for)
            client.close()

        assert waited
        assert database.run("SELECT plan_id FROM v3_plans") == [("01",)]


def test_killed_downgrade_changes_nothing_and_either_direction_is_open(tmp_path: Path):
    with database_at(A5_004, "postgresql-18", tmp_path) as url:
        database = RevisionDatabase(url)
        before = schema_dump(url)

        with dying_at("DELETE FROM public.alembic_version"):
            database.downgrade("base")

        assert schema_dump(url) == before
        database.upgrade(M4_003)
        database.downgrade("base")
        assert {entry[1] for entry in schema_dump(url)} <= EMPTY


def test_names_that_the_revision_looks_for_are_all_that_it_creates(database: RevisionDatabase):
    on_sqlite = database.url.startswith("sqlite")
    query = (
        "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'"
        if on_sqlite
        else "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    created = {name for (name,) in database.run(query)}
    [revision] = [
        each
        for each in ScriptDirectory.from_config(chain(database.url)).walk_revisions()
        if each.revision == A5_004
    ]

    # SQLite gives the indexes of constraints names of its own.
    of_constraints = ("pk_", "uq_") if on_sqlite else ()
    looked_for = {name for name in revision.module.NAMES if not name.startswith(of_constraints)}
    of_the_runner = {"alembic_version", "alembic_version_pkc", RUNS, f"{RUNS}_pkey"}
    assert created - of_the_runner == looked_for
