"""A verification reads, streams, and takes what is right for what it is."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository, open_engine
from cleveragents_plans.cli.statuses import ExitStatus, status_of
from cleveragents_plans.evolution.postgresql.server import RightsMissing
from cleveragents_plans.evolution.runner.connection_errors import ConnectionFailed
from cleveragents_plans.evolution.runner.statement_errors import StatementFailed
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Kind, Verification, verify
from support import postgres
from support.broken import break_database, libpq, store_family
from support.databases import (
    ONE_OF_EACH,
    database_at,
    database_with,
    migrate,
    roll_back,
)
from support.former_release import write_former_release
from support.plans import a_child, a_root
from support.revisions import A5_004, HEAD, M4_003, M8_001
from support.rows import database_hash, schema_dump
from support.toys import execute


def looked_at(url: str, **options: bool) -> Verification:
    with read_database(chain_config(url), "verify") as database:
        return verify(database, **options)


def kinds(found: Verification) -> set[Kind]:
    return {finding.kind for finding in found.faults}


@pytest.mark.parametrize("engine", ONE_OF_EACH)
@pytest.mark.parametrize("revision", [A5_004, M4_003, M8_001, HEAD])
def test_rows_of_the_former_release_are_sound_before_and_after(
    revision: str, engine: str, tmp_path: Path
):
    with database_at(A5_004, engine, tmp_path) as url:
        migrate(url, M4_003)
        write_former_release(url, plans=300)
        (roll_back if revision == A5_004 else migrate)(url, revision)

        found = looked_at(url)

    # SQLite ran without foreign keys: it has plans whose parent is not stored.
    assert kinds(found) == ({Kind.PARENT_NOT_STORED} if engine == "sqlite" else set())
    assert found.plans == 300
    assert found.read_plans


def test_fingerprint_stays_through_a_migration_and_is_that_of_both_engines(tmp_path: Path):
    prints = set()
    for engine in ONE_OF_EACH:
        with database_at(M4_003, engine, tmp_path) as url:
            write_former_release(url, plans=100)
            prints.add(looked_at(url, fingerprint=True).fingerprint)
            migrate(url, "head")
            prints.add(looked_at(url, fingerprint=True, quick=True).fingerprint)
            roll_back(url, M4_003)
            prints.add(looked_at(url, fingerprint=True).fingerprint)

    assert len(prints) == 1


@pytest.mark.parametrize("engine", ONE_OF_EACH)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE v3_plans SET description = 'x' WHERE parent_plan_id IS NULL",
        "UPDATE v3_plans SET updated_at = replace(updated_at, '2026', '2027')",
        "UPDATE plan_arguments SET value_json = '4'",
        "UPDATE plan_projects SET read_only = true",
        "DELETE FROM plan_invariants",
        "UPDATE v3_plans SET reusable = true",
    ],
)
def test_fingerprint_notices_a_change(statement: str, engine: str, tmp_path: Path):
    with database_with(store_family, engine, tmp_path) as url:
        before = looked_at(url, fingerprint=True).fingerprint
        break_database(url, [statement])

        assert looked_at(url, fingerprint=True).fingerprint != before


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_verification_changes_nothing_and_locks_no_writer_out(engine: str, tmp_path: Path):
    with database_with(store_family, engine, tmp_path) as url:
        before = database_hash(url), schema_dump(url)
        with read_database(chain_config(url), "verify") as database:
            writer = open_engine(url)
            with writer.begin() as connection:
                connection.exec_driver_sql("UPDATE v3_plans SET created_by = NULL")
            writer.dispose()
            assert verify(database).faults == ()

        assert (database_hash(url), schema_dump(url)) == before


def test_journal_of_a_file_stays_as_it_was(tmp_path: Path):
    with database_at("head", "sqlite", tmp_path) as url:
        file = tmp_path / "plans.db"
        before = file.read_bytes()

        looked_at(url)

        assert file.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["plans.db"]


def test_quick_verification_reads_no_plan(tmp_path: Path):
    with database_with(store_family, "sqlite", tmp_path) as url:
        break_database(url, ["UPDATE v3_plans SET tags_json = '{'"])

        quick = looked_at(url, quick=True)

        assert (quick.faults, quick.read_plans) == ((), False)
        assert kinds(looked_at(url)) == {Kind.UNREADABLE}


def planned(url: str, statement: str) -> str:
    """Give how the database goes about a statement."""
    engine = open_engine(url)
    with engine.connect() as connection:
        how = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
        found = connection.exec_driver_sql(f"{how} {statement}").all()
    engine.dispose()
    return "\n".join(str(row[-1]) for row in found)


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_missing_parents_are_counted_so_that_preflight_says_the_same(engine: str, tmp_path: Path):
    two = "SELECT plan_id FROM v3_plans ORDER BY plan_id LIMIT 2"
    with database_at(M4_003, engine, tmp_path) as url:
        write_former_release(url, plans=20)
        break_database(
            url,
            ["UPDATE v3_plans SET parent_plan_id = 'gone', root_plan_id = plan_id",
             f"UPDATE v3_plans SET root_plan_id = NULL WHERE plan_id IN ({two})"],
        )  # fmt: skip
        [finding] = [
            each
            for each in looked_at(url, quick=True).faults
            if each.kind == Kind.PARENT_NOT_STORED
        ]
        warnings = preflight(chain_config(url, level=None)).warnings

        statement = finding.remedy.split("; ")[1].removesuffix(" detaches all of them")
        explained = planned(url, statement)
        break_database(url, [statement])
        mended = kinds(looked_at(url, quick=True))

    assert finding.total == 20
    assert "SubPlan" not in explained  # which goes through all plans for each
    assert Kind.PARENT_NOT_STORED not in mended
    assert finding.found.endswith(
        "; 2 of these plans have no root, and preflight counts only those"
    )
    [warning] = [each for each in warnings if "does not exist" in each]
    assert warning.startswith("2 rows of v3_plans without a root name a parent that does not exist")
    assert "rows that have a root keep it, and are not counted here" in warning


def test_text_that_is_no_utf_8_hides_no_other_plan(tmp_path: Path):
    with database_with(store_family, "sqlite", tmp_path) as url:
        break_database(url, ["UPDATE v3_plans SET description = CAST(x'ff' AS TEXT)"])

        (finding,) = looked_at(url).findings

    assert (finding.kind, finding.total) == (Kind.UNREADABLE, 5)


def test_empty_database_and_one_of_another_application_are_no_plans(tmp_path: Path):
    file = tmp_path / "plans.db"
    file.touch()

    found = looked_at(f"sqlite:///{file}")

    assert found.plans is None
    assert kinds(found) == {Kind.VERSION}


def test_interrupted_upgrade_is_found_and_not_taken_for_broken_tables(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        write_former_release(url, plans=50)
        break_database(
            url,
            [f"COMMENT ON TABLE alembic_version IS '[unfinished upgrade of {M8_001}]'",
             "ALTER TABLE v3_plans ADD effective_profile_snapshot TEXT DEFAULT '{}' NOT NULL"],
        )  # fmt: skip

        assert kinds(looked_at(url)) == {Kind.UNFINISHED}


@contextmanager
def hostile(url: str) -> Iterator[None]:
    """Let another role have operators and functions beside the tables."""
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION spoil(varchar, varchar) RETURNS boolean LANGUAGE plpgsql"
            " AS 'BEGIN RAISE EXCEPTION ''called''; END'"
        )
        for sign in ("=", "<>", ">=", ">", "<"):
            connection.execute(
                f"CREATE OPERATOR public.{sign} (FUNCTION = spoil, LEFTARG = varchar, "
                "RIGHTARG = varchar)".encode()
            )
        connection.execute("CREATE FUNCTION public.count() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        yield


def test_operators_of_another_role_are_not_called(tmp_path: Path):
    with database_with(store_family, "postgresql-18", tmp_path) as url, hostile(url):
        assert looked_at(url, fingerprint=True).faults == ()


@pytest.mark.slow
def test_settings_of_a_database_change_nothing_that_is_compared(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        write_former_release(url, plans=40)
        with psycopg.connect(libpq(url), autocommit=True) as client:
            (name,) = client.execute("SELECT current_database()").fetchone() or ("",)
            for setting in (
                "quote_all_identifiers = on",
                "DateStyle = 'SQL, DMY'",
                "bytea_output = escape",
                "extra_float_digits = -15",
                "array_nulls = off",
                "transform_null_equals = on",
                "backslash_quote = off",
            ):
                client.execute(f'ALTER DATABASE "{name}" SET {setting}')

        migrate(url, "head")

        assert looked_at(url).findings == ()
        with read_database(chain_config(url), "preflight") as database:
            assert database.position.misfit is None


def test_function_restored_with_quotes_around_all_identifiers_is_no_fault(tmp_path: Path):
    with database_at(HEAD, "postgresql-18", tmp_path) as url:
        quoted = "SET quote_all_identifiers = on"
        path = "ALTER FUNCTION v3_plans_fill() SET search_path = pg_catalog, pg_temp"
        execute(url, f"{quoted}; {path}")

        assert looked_at(url).faults == ()
        settings = "SELECT proconfig[1] FROM pg_proc WHERE proname = 'v3_plans_fill'"
        [(setting,)] = execute(url, settings)
        assert setting == 'search_path="pg_catalog", "pg_temp"'


def test_role_that_may_not_read_a_table_is_refused_with_what_grants_it(tmp_path: Path):
    with database_at(HEAD, "postgresql-18", tmp_path) as url:
        reader = make_url(url).set(username="reader").render_as_string()
        with psycopg.connect(libpq(url), autocommit=True) as client:
            client.execute("CREATE ROLE reader LOGIN")
            try:
                client.execute("GRANT SELECT (version_num) ON alembic_version TO reader")
                named = ", ".join(
                    f"public.{table}"
                    for table in ("alembic_version", "plan_arguments", "plan_invariants",
                                  "plan_projects", "v3_plans")
                )  # fmt: skip
                with pytest.raises(RightsMissing, match=f"GRANT SELECT ON {named} TO reader first"):
                    looked_at(reader)
                with pytest.raises(RightsMissing, match=r"GRANT SELECT ON public\.alembic_version"):
                    command.current(chain_config(reader))
                client.execute("GRANT SELECT ON alembic_version TO reader")
                command.current(chain_config(reader))
                client.execute(f"GRANT SELECT ON {named} TO reader")
                looked_at(reader)
                for table in ("plan_arguments", "alembic_version"):
                    client.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
                    client.execute(f"REVOKE SELECT ON {table} FROM reader")
                    with pytest.raises(RightsMissing, match=f"GRANT SELECT ON public.{table}"):
                        looked_at(reader)
            finally:
                client.execute("DROP OWNED BY reader")
                client.execute("DROP ROLE reader")


@pytest.mark.slow
def test_standby_is_verified_as_the_primary_is(tmp_path: Path):
    server = postgres.PostgresServer(
        postgres.binaries()["postgresql-18"], within=postgres.memory_folder()
    )
    url = server.url("postgres")
    migrate(url, "head")
    store_family(url)
    with server.replica() as standby:
        there = standby.url("postgres")
        # What was committed asynchronously may not be written yet, so not pg_current_wal_lsn().
        replayed = "SELECT FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_insert_lsn()"
        server.wait_for(replayed)
        assert looked_at(there) == looked_at(url)
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_memory_does_not_grow_with_the_plans_and_a_good_database_is_sound(
    engine: str, tmp_path: Path
):
    with database_at("head", engine, tmp_path) as url:
        store(url, 500, 0)
        few = peak(url)
        store(url, 4_500, 500)
        many = peak(url)

    assert many < few * 1.5 + 1_000_000


# SQLite ran without foreign keys.
DETACH = """\
UPDATE v3_plans SET parent_plan_id = NULL WHERE parent_plan_id IS NOT NULL
   AND parent_plan_id NOT IN (SELECT plan_id FROM v3_plans)"""


@pytest.mark.fault
@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_nothing_is_found_in_100_000_good_plans_before_and_after_an_upgrade(
    engine: str, tmp_path: Path
):
    with database_at(M4_003, engine, tmp_path) as url:
        write_former_release(url, plans=100_000, pure=True)
        break_database(url, [DETACH])
        before = looked_at(url)
        migrate(url, "head")
        after = looked_at(url)

    assert before == after == Verification(100_000, (), None, True)


def store(url: str, number: int, first: int) -> None:
    engine = open_engine(url)
    plans = []
    for root in range(first, first + number, 10):
        top = a_root(root)
        plans += [top, *(a_child(each, top) for each in range(root + 1, root + 10))]
    with Session(engine) as session:
        PlanRepository(session).add_all(plans)
        session.commit()
    engine.dispose()


def peak(url: str) -> int:
    tracemalloc.start()
    try:
        found = looked_at(url, fingerprint=True)
        assert found.findings == ()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_look_that_a_standby_ends_is_said_to_be_run_again_and_no_more(tmp_path: Path):
    server = postgres.server("postgresql-18")
    with (
        database_with(store_family, "postgresql-18", tmp_path) as url,
        server.replica() as standby,
        ThreadPoolExecutor() as threads,
    ):
        with psycopg.connect(libpq(standby.url()), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
            admin.execute("SELECT pg_reload_conf()")
        there = standby.url(make_url(url).database or "")
        work = threads.submit(looked_at_for_long, there)
        standby.wait_for("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        break_database(url, ["UPDATE v3_plans SET action_name = action_name"])
        break_database(url, ["VACUUM v3_plans"])
        with pytest.raises(StatementFailed) as ended:
            work.result()

    said = str(ended.value)
    assert "conflict with recovery; a standby ends what reads for longer than its" in said
    assert "ask the primary or raise that, and run the same command again" in said
    assert "left to do" not in said
    assert status_of(ended.value) == ExitStatus.AGAIN


def looked_at_for_long(url: str) -> None:
    with read_database(chain_config(url), "verify") as database:
        database.connection.exec_driver_sql("SELECT count(*), pg_sleep(300) FROM public.v3_plans")


def test_connection_that_a_look_loses_leaves_nothing_to_do(tmp_path: Path):
    with (
        database_with(store_family, "postgresql-18", tmp_path) as url,
        pytest.raises(ConnectionFailed) as lost,
    ):
        lose_connection(url)

    assert str(lost.value).endswith("when it is back, run the same command again")


def lose_connection(url: str) -> None:
    with read_database(chain_config(url), "verify") as database:
        pid = database.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        break_database(url, [f"SELECT pg_terminate_backend({pid}, 60000)"])
        database.connection.exec_driver_sql("SELECT 1")
