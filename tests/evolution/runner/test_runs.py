"""The table of runs: what is noted, and that nothing about it stops or changes a migration."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import NullPool, create_engine, inspect

from cleveragents_plans import open_engine, schema
from cleveragents_plans.cli import main
from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.runner.migration_lock import lock_key
from cleveragents_plans.evolution.runner.runs import Run, RunsNotUsable, RunsTable
from support.broken import break_database, libpq
from support.databases import (
    ONE_OF_EACH,
    chain,
    database_at,
    empty_database,
    migrate,
    of_role,
    roll_back,
)
from support.revisions import HEAD, M4_003, M8_001


def runs(url: str, version_table: str = "alembic_version") -> list[Run]:
    engine = create_engine(url, poolclass=NullPool)
    table = RunsTable(version_table, "public" if engine.dialect.name == "postgresql" else None)
    with engine.connect() as connection:
        return table.read(connection)


def tables(url: str) -> list[str]:
    return inspect(create_engine(url, poolclass=NullPool)).get_table_names()


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_run_with_revisions_is_noted_and_one_without_is_not(engine: str, tmp_path: Path):
    with empty_database(engine, tmp_path) as url:
        migrate(url, "head")
        migrate(url, "head")
        roll_back(url, M4_003)
        roll_back(url, "base")
        last, down, up = runs(url)

    assert (up.command, up.revision_before, up.revision_after) == ("upgrade", None, HEAD)
    assert (down.command, down.revision_before, down.revision_after) == ("downgrade", HEAD, M4_003)
    assert (last.revision_before, last.revision_after) == (M4_003, None)
    assert {each.outcome for each in (up, down, last)} == {"done"}
    assert up.ended_at is not None
    assert up.began_at <= up.ended_at <= down.began_at
    assert (up.role, up.error) == ("postgres" if engine != "sqlite" else None, None)


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_commands_that_only_read_or_print_create_no_table(engine: str, tmp_path: Path):
    with database_at(M4_003, engine, tmp_path) as url:
        break_database(url, ["DROP TABLE evolution_runs"])
        config = chain(url)
        config.stdout = io.StringIO()
        command.current(config)
        command.history(config)
        command.stamp(chain(url), M4_003)
        if engine != "sqlite":
            with redirect_stdout(io.StringIO()) as script:
                command.upgrade(chain(url), f"{M4_003}:head", sql=True)
            assert "evolution_runs" not in script.getvalue()

        assert "evolution_runs" not in tables(url)


def test_run_that_is_refused_ahead_is_not_noted(tmp_path: Path):
    with database_at("head", "postgresql-18", tmp_path) as url:
        with pytest.raises(EvolutionError):
            roll_back(url, "nothing_such")

        assert [each.command for each in runs(url)] == ["upgrade"]


@pytest.mark.parametrize("found", ["other role's table", "view", "other columns", "trigger"])
def test_table_that_is_not_the_runners_is_left_alone_with_one_warning(
    found: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    plant = {
        "other role's table": [
            "ALTER TABLE evolution_runs OWNER TO pg_database_owner",
        ],
        "view": [
            "DROP TABLE evolution_runs",
            "CREATE VIEW evolution_runs AS SELECT 1 / 0 AS run_id",
        ],
        "other columns": ["ALTER TABLE evolution_runs DROP COLUMN error"],
        "trigger": [
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''x''; END'",
            "CREATE TRIGGER t BEFORE INSERT ON evolution_runs FOR EACH ROW EXECUTE FUNCTION f()",
        ],
    }[found]
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        break_database(url, plant)
        with caplog.at_level(logging.WARNING):
            migrate(url, "head")
        with pytest.raises(RunsNotUsable):
            runs(url)

        assert schema.current(url) == HEAD
    assert [m for m in caplog.messages if "evolution_runs" in m] == [
        m for m in caplog.messages if m.startswith("public.evolution_runs does not say how far")
    ]
    assert len([m for m in caplog.messages if "evolution_runs" in m]) == 1


def test_table_that_lacks_its_key_is_told_with_what_mends_it(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        break_database(url, ["ALTER TABLE evolution_runs DROP CONSTRAINT evolution_runs_pkey"])
        mend = r"ALTER TABLE public\.evolution_runs ADD PRIMARY KEY \(run_id\)"
        with pytest.raises(RunsNotUsable, match=f"lacks its primary key: run {mend}"):
            runs(url)

        break_database(url, [mend.replace("\\", "")])
        assert len(runs(url)) == 1

        break_database(url, ["CREATE INDEX mine ON evolution_runs (host)"])
        with pytest.raises(RunsNotUsable, match="index"):
            runs(url)


@pytest.mark.parametrize("found", ["view", "other columns", "trigger"])
def test_table_of_a_file_that_is_not_the_runners_is_left_alone_with_one_warning(
    found: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    plant = {
        "view": ["DROP TABLE evolution_runs", "CREATE VIEW evolution_runs AS SELECT 1 AS run_id"],
        "other columns": ["ALTER TABLE evolution_runs DROP COLUMN error"],
        "trigger": [
            "CREATE TRIGGER t BEFORE INSERT ON evolution_runs BEGIN SELECT raise(ABORT, 'x'); END"
        ],
    }[found]
    with database_at(M4_003, "sqlite", tmp_path) as url:
        break_database(url, plant)
        with caplog.at_level(logging.WARNING):
            migrate(url, "head")

        assert schema.current(url) == HEAD
    assert len([m for m in caplog.messages if "evolution_runs" in m]) == 1


def test_table_belongs_to_the_owner_of_the_version_table_and_is_unlogged(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        name = url.split("/test_")[1].split("?")[0]
        owner = f"owner_{name}"
        tables_of_chain = [each for each in tables(url) if each != "evolution_runs"]
        break_database(
            url,
            ["DROP TABLE evolution_runs", f"CREATE ROLE {owner}",
             f"GRANT CREATE ON SCHEMA public TO {owner}",
             *(f"ALTER TABLE {each} OWNER TO {owner}" for each in tables_of_chain)],
        )  # fmt: skip
        try:
            migrate(url, "head")
            with psycopg.connect(libpq(url)) as client:
                query = (
                    "SELECT pg_get_userbyid(relowner), relpersistence::text FROM pg_class "
                    "WHERE relname = 'evolution_runs'"
                )
                assert client.execute(query).fetchone() == (owner, "u")
            [found] = runs(url)
            assert (found.role, found.outcome) == ("postgres", "done")
        finally:
            break_database(url, [f"DROP OWNED BY {owner} CASCADE", f"DROP ROLE {owner}"])


def test_chains_that_share_a_schema_see_their_own_runs(tmp_path: Path):
    with database_at("head", "postgresql-18", tmp_path) as url:
        break_database(
            url,
            ["CREATE TABLE plans_version AS TABLE alembic_version", "DELETE FROM alembic_version"],
        )
        roll_back(url, M8_001, "version-table=plans_version")

        assert [each.command for each in runs(url, "plans_version")] == ["downgrade"]
        assert [each.command for each in runs(url)] == ["upgrade"]


def test_run_in_the_callers_transaction_is_noted_in_it(tmp_path: Path):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        engine = open_engine(url, poolclass=NullPool, migrating=True)
        with engine.connect() as connection:
            with connection.begin() as transaction:
                schema.upgrade(connection)
                transaction.rollback()
            assert len(runs(url)) == 1  # that of the template
            with connection.begin():
                schema.upgrade(connection)

        assert [each.revision_after for each in runs(url)] == [HEAD, M4_003]


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_autogenerate_leaves_the_table_alone(engine: str, tmp_path: Path):
    with database_at("head", engine, tmp_path) as url:
        command.check(chain(url))

        assert "evolution_runs" in tables(url)


@pytest.mark.parametrize("right", ["SELECT", "UPDATE"])
def test_table_that_is_in_use_cannot_be_replaced(right: str, tmp_path: Path):
    with database_at("head", "postgresql-18", tmp_path) as url:
        engine = open_engine(url, poolclass=NullPool)
        table = RunsTable("alembic_version", "public")
        with engine.connect() as connection, psycopg.connect(libpq(url), autocommit=True) as other:
            assert table.usable(connection, right)
            other.execute("SET lock_timeout = '10ms'")
            for change in (
                "RENAME TO former", "OWNER TO pg_database_owner", "ENABLE ROW LEVEL SECURITY"
            ):  # fmt: skip
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute(f"ALTER TABLE evolution_runs {change}".encode())
            connection.rollback()
            other.execute("ALTER TABLE evolution_runs RENAME TO former")


def test_row_level_security_hides_runs_from_those_alone_whom_it_binds(tmp_path: Path):
    reader = "reader_of_runs"
    with database_at("head", "postgresql-18", tmp_path) as url:
        break_database(
            url,
            [f"CREATE ROLE {reader} LOGIN", f"GRANT SELECT ON evolution_runs TO {reader}",
             "ALTER TABLE evolution_runs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
             f"CREATE POLICY own ON evolution_runs TO {reader} USING (1 / 0 = 1)"],
        )  # fmt: skip
        try:
            assert len(runs(url)) == 1
            with pytest.raises(
                RunsNotUsable,
                match=f"binds the role {reader}: run ALTER TABLE public.evolution_runs DISABLE ROW",
            ):
                runs(of_role(url, reader))
        finally:
            break_database(url, [f"DROP OWNED BY {reader}", f"DROP ROLE {reader}"])


def test_table_that_was_replaced_after_the_snapshot_is_not_read(tmp_path: Path):
    with database_at("head", "postgresql-18", tmp_path) as url:
        engine = open_engine(url, poolclass=NullPool, isolation_level="REPEATABLE READ")
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            break_database(
                url,
                ["ALTER TABLE evolution_runs RENAME TO former", "CREATE SEQUENCE fired",
                 "CREATE VIEW evolution_runs AS SELECT nextval('fired')::text AS run_id"],
            )  # fmt: skip
            with pytest.raises(RunsNotUsable, match="was replaced just now"):
                RunsTable("alembic_version", "public").read(connection)
        with psycopg.connect(libpq(url)) as client:
            assert client.execute("SELECT is_called FROM fired").fetchone() == (False,)


def test_newest_run_of_a_file_comes_first_though_the_clock_went_back(tmp_path: Path):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        (table,) = [name for name in tables(url) if name.endswith("_runs")]
        with create_engine(url, poolclass=NullPool).begin() as connection:
            connection.exec_driver_sql(f"UPDATE {table} SET began_at = '2099-01-01T00:00:00Z'")
        migrate(url, "head")
        newest, former = runs(url)

    assert (newest.revision_after, former.revision_after) == (HEAD, M4_003)


def test_run_under_way_comes_first_though_the_clock_of_the_server_went_back(tmp_path: Path):
    key = f"{lock_key()['lock_class']}::bigint::bit(32)::int"
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        break_database(url, ["UPDATE evolution_runs SET began_at = '2099-01-01T00:00:00Z'"])
        with psycopg.connect(libpq(url)) as running:
            running.execute(f"SELECT pg_advisory_lock({key}, 1)".encode())
            running.execute(
                "INSERT INTO evolution_runs (run_id, version_table, command, began_at, outcome,"
                " host, pid, backend_pid, package_version, paused) VALUES"
                " ('x', 'alembic_version', 'upgrade', '2026-01-01T00:00:00Z', 'running', 'h', 1,"
                " pg_backend_pid(), '1', false)"
            )
            running.commit()
            with create_engine(url, poolclass=NullPool).connect() as reading:
                found = RunsTable("alembic_version", "public").under_way(reading)

    assert found
    assert found.run_id == "x"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("done", "'abc'"),
        ("total", "x'00ff'"),
        ("pid", "1.5"),
        ("pid", "NULL"),
        ("rate", "'fast'"),
        ("paused", "'x'"),
        ("host", "x'ff'"),
        ("host", "CAST(x'ff' AS TEXT)"),
        ("outcome", "NULL"),
    ],
)
def test_value_of_another_type_is_told_in_one_line(
    column: str, value: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", "sqlite", tmp_path) as url:
        break_database(
            url,
            ["CREATE TABLE copied AS SELECT * FROM evolution_runs", "DROP TABLE evolution_runs",
             "ALTER TABLE copied RENAME TO evolution_runs",
             f"UPDATE evolution_runs SET {column} = {value}"],
        )  # fmt: skip
        capfd.readouterr()

        for words, status in ((["history"], 1), (["history", "--json"], 1), (["status"], 0)):
            assert main([*words, "--url", url]) == status
            out, err = capfd.readouterr()
            said = out if words == ["status"] else err.splitlines()[-1]
            assert "main.evolution_runs has " in said
            assert f" for {column} in the row of the run " in said
            assert "expected " in said
            assert "Traceback" not in out + err


def test_value_that_is_missing_on_postgresql_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", "postgresql-18", tmp_path) as url:
        break_database(
            url,
            ["ALTER TABLE evolution_runs ALTER pid DROP NOT NULL",
             "UPDATE evolution_runs SET pid = NULL"],
        )  # fmt: skip

        assert main(["history", "--url", url]) == 1

        assert "public.evolution_runs has None for pid" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_values_of_megabytes_are_cut_by_what_shows_them(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", engine, tmp_path) as url:
        break_database(url, [f"UPDATE evolution_runs SET host = '{'h' * 2_000_000}'"])
        capfd.readouterr()

        for words in (["history"], ["history", "--json"], ["status"], ["status", "--json"]):
            assert main([*words, "--url", url]) == 0
            out, err = capfd.readouterr()
            assert "characters left out" in out or words[0] == "status"
            assert len(out) + len(err) < 20_000
