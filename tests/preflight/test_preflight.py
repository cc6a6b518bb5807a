"""A preflight finds what a run refuses, in the run's words, and changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, event, make_url

from cleveragents_plans.evolution.postgresql.blockers import Blocker
from cleveragents_plans.evolution.sqlite import journal, transaction
from cleveragents_plans.preflight import Preflight, postgresql, preflight, trials
from cleveragents_plans.preflight.sessions import _gives_way
from cleveragents_plans.schema import chain_config
from support import postgres
from support.bouncers import pgbouncer
from support.broken import break_database, libpq
from support.databases import ONE_OF_EACH, database_with, empty_database, migrate, roll_back
from support.former_release import write_former_release
from support.revisions import HEAD, M4_003, M8_001, M8_002
from support.rows import database_hash, schema_dump


@pytest.fixture(autouse=True)
def _looks_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a look takes longer than the moment after which it is left out."""
    monkeypatch.setitem(postgresql._WALK, "statement_timeout", "'60s'")
    monkeypatch.setitem(trials._LIMITS, "statement_timeout", "60s")


def former(url: str) -> None:
    write_former_release(url, plans=400, pure=True)


def look(url: str, down: str | None = None, *extra: str) -> Preflight:
    config = chain_config(url, extra=extra, level=None)
    return preflight(config, down)


@contextmanager
def at(revision: str, engine: str, folder: Path) -> Iterator[str]:
    with database_with(former, engine, folder, M4_003) as url:
        migrate(url, revision)
        yield url


CYCLE = """\
UPDATE v3_plans SET root_plan_id = NULL, parent_plan_id = CASE plan_id
  WHEN (SELECT min(plan_id) FROM v3_plans) THEN (SELECT max(plan_id) FROM v3_plans)
  ELSE (SELECT min(plan_id) FROM v3_plans) END
 WHERE plan_id IN (SELECT min(plan_id) FROM v3_plans UNION SELECT max(plan_id) FROM v3_plans)"""

#: What breaks a database at m4_003, and a part of the words.
BOTH = {
    "a cycle": ([CYCLE], "are their own ancestors"),
    "another version": (
        [f"UPDATE alembic_version SET version_num = '{M8_002}'"],
        "the tables are not as that revision makes them",
    ),
    "an unknown version": (
        ["UPDATE alembic_version SET version_num = 'zzz'"], "which this release does not know",
    ),
    "a table that was dropped": (
        ["DROP TABLE plan_arguments"], "the tables lack the table plan_arguments; restore",
    ),
    "columns that were dropped": (
        ["ALTER TABLE v3_plans DROP COLUMN tags_json",
         "ALTER TABLE v3_plans DROP COLUMN execution_environment",
         "ALTER TABLE plan_projects DROP COLUMN read_only"],
        "the tables lack the column v3_plans.tags_json, the column plan_projects.read_only, "
        "the column v3_plans.execution_environment; restore",
    ),
    "columns in capitals": (
        ['ALTER TABLE v3_plans RENAME COLUMN plan_id TO "PLAN_ID"',
         'ALTER TABLE v3_plans RENAME COLUMN tags_json TO "Tags_json"'],
        "the column v3_plans.plan_id (PLAN_ID is there: ALTER TABLE v3_plans RENAME COLUMN "
        '"PLAN_ID" TO plan_id), the column v3_plans.tags_json (Tags_json is there: ',
    ),
    "an archive of another shape": (
        ["CREATE TABLE v3_plans_snapshot_archive (mine INTEGER)"], "v3_plans_snapshot_archive",
    ),
}  # fmt: skip
ON_POSTGRESQL = {
    **BOTH,
    "a rule on UPDATE": (
        ["CREATE RULE never AS ON UPDATE TO v3_plans DO INSTEAD NOTHING"], "has rules",
    ),
    "a CHECK that rows break": (
        ["ALTER TABLE v3_plans ADD CONSTRAINT odd CHECK (phase = 'none') NOT VALID"],
        "the CHECK odd of v3_plans is NOT VALID, and rows break it",
    ),
    "its row type in another table": (
        ["CREATE TABLE uses (plan v3_plans)"], "v3_plans is the type of public.uses.plan",
    ),
    "a table of the name of an index": (
        ["CREATE TABLE ix_v3_plans_queued (a int)"], "ix_v3_plans_queued",
    ),
    "an interrupted run of a newer release": (
        ["COMMENT ON TABLE alembic_version IS '[unfinished upgrade of zzz]'"],
        "which this release does not know",
    ),
}  # fmt: skip
ON_SQLITE = {
    **BOTH,
    "a CHECK that the new value breaks": (
        ["UPDATE sqlite_schema SET sql = replace(sql, 'CONSTRAINT pk_v3_plans',"
         " 'CHECK (automation_profile <> ''balanced''), CONSTRAINT pk_v3_plans')"
         " WHERE name = 'v3_plans'"],
        "the CHECK (automation_profile <> 'balanced') of v3_plans would refuse automation_profile",
    ),
    "a CHECK that rows would break": (
        ["UPDATE v3_plans SET root_plan_id = NULL",
         "UPDATE sqlite_schema SET sql = replace(sql, 'CONSTRAINT pk_v3_plans',"
         " 'CHECK (parent_plan_id IS NULL OR root_plan_id IS NULL), CONSTRAINT pk_v3_plans')"
         " WHERE name = 'v3_plans'"],
        "rows would break CHECK (parent_plan_id IS NULL OR root_plan_id IS NULL)",
    ),
    "an empty value in a column that is NOT NULL": (
        ["UPDATE sqlite_schema SET sql = replace(sql, 'strategy_actor VARCHAR(255)',"
         " 'strategy_actor VARCHAR(255) NOT NULL') WHERE name = 'v3_plans'"],
        "copying the rows failed with `NOT NULL constraint failed: v3_plans.strategy_actor`",
    ),
}  # fmt: skip
CASES = [("sqlite", case) for case in ON_SQLITE] + [("postgresql-18", c) for c in ON_POSTGRESQL]


@pytest.mark.parametrize(("engine", "case"), CASES)
def test_refusal_of_an_upgrade_is_found_in_the_same_words(engine: str, case: str, tmp_path: Path):
    statements, words = (ON_SQLITE if engine == "sqlite" else ON_POSTGRESQL)[case]
    with at(M4_003, engine, tmp_path) as url:
        break_database(url, statements)
        before = database_hash(url), schema_dump(url)

        found = look(url)

        assert (database_hash(url), schema_dump(url)) == before
        with pytest.raises(CommandError) as refused:
            command.upgrade(chain_config(url, level=None), "head")
    assert words in str(refused.value)
    assert not found.ready
    assert str(refused.value) in [block.found for block in found.blocks]


def test_table_of_another_role_is_refused_in_the_same_words(tmp_path: Path):
    with at(M4_003, "postgresql-18", tmp_path) as url:
        break_database(
            url,
            [
                "DO $$BEGIN CREATE ROLE preflight_other; EXCEPTION WHEN OTHERS THEN NULL; END$$",
                "GRANT CREATE ON SCHEMA public TO preflight_other",
                "ALTER TABLE plan_arguments OWNER TO preflight_other",
            ],
        )

        with pytest.raises(CommandError, match="belongs to preflight_other") as refused:
            look(url)  # nothing else is looked at: its indexes can run what its owner likes
        with pytest.raises(CommandError) as of_run:
            command.upgrade(chain_config(url, level=None), "head")

    assert str(refused.value) == str(of_run.value)


def test_rows_of_a_file_that_break_its_constraints_already_are_no_hindrance(tmp_path: Path):
    """Those that the run copies as they are, and those of tables that it does not copy."""
    with at(M4_003, "sqlite", tmp_path) as url:
        break_database(
            url,
            [
                "PRAGMA ignore_check_constraints = ON",
                "UPDATE v3_plans SET phase = 'odd', cost_actual_usd = 9e999",
                "CREATE TABLE others (a, b TEXT)",
                "INSERT INTO others VALUES (1, NULL), (1, 'x')",
                "UPDATE sqlite_schema SET sql = 'CREATE TABLE others (a, b TEXT NOT NULL)'"
                " WHERE name = 'others'",
            ],
        )

        found = look(url)
        command.upgrade(chain_config(url, level=None), "head")

    assert found.ready
    assert found.estimate is not None


def test_every_refusal_is_found_not_the_first_only(tmp_path: Path):
    with at(M4_003, "postgresql-18", tmp_path) as url:
        for name in ("a cycle", "a rule on UPDATE", "a table of the name of an index"):
            break_database(url, ON_POSTGRESQL[name][0])
        found = look(url)

    said = "\n".join(block.found for block in found.blocks)
    assert "their own ancestors" in said
    assert "has rules" in said
    assert "ix_v3_plans_queued" in said


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_database_that_is_ready_is_upgraded_and_downgraded(engine: str, tmp_path: Path):
    with at(M4_003, engine, tmp_path) as url:
        up = look(url)
        migrate(url, "head")
        at_head = look(url)
        down = look(url, M4_003)
        roll_back(url, M4_003)

    assert (up.ready, at_head.ready, down.ready) == (True, True, True)
    assert (up.steps, at_head.steps, down.steps) == (
        (M8_001, M8_002), (), (M8_002, M8_001),
    )  # fmt: skip
    assert up.rows == 400
    [write] = [each for each in up.writes if "automation_profile" in each.columns]
    assert write.of == 400
    assert 0 < write.columns["root_plan_id"] <= write.rows <= 400
    assert up.depth
    assert up.depth > 1


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_counts_are_those_of_the_rows(engine: str, tmp_path: Path):
    with at(M4_003, engine, tmp_path) as url:
        break_database(url, ["UPDATE v3_plans SET root_plan_id = plan_id"])
        break_database(url, ["UPDATE v3_plans SET automation_profile = '{}'"])
        few = "(SELECT plan_id FROM v3_plans ORDER BY 1 LIMIT 7)"
        break_database(url, [f"UPDATE v3_plans SET root_plan_id = NULL WHERE plan_id IN {few}"])
        few = "(SELECT plan_id FROM v3_plans ORDER BY 1 LIMIT 9)"
        break_database(
            url, [f"UPDATE v3_plans SET automation_profile = NULL WHERE plan_id IN {few}"]
        )
        found = look(url)

    [write] = [each for each in found.writes if "automation_profile" in each.columns]
    assert write.rows == 9
    assert {name: n for name, n in write.columns.items() if n} == {
        "root_plan_id": 7, "automation_profile": 9,
    }  # fmt: skip


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_missing_parents_are_counted_and_some_are_named(engine: str, tmp_path: Path):
    with at(M4_003, engine, tmp_path) as url:
        break_database(
            url,
            ["UPDATE v3_plans SET root_plan_id = NULL, parent_plan_id = 'gone' || plan_id"]
            if engine == "sqlite"
            else ["UPDATE v3_plans SET root_plan_id = NULL, parent_plan_id = 'gone'"],
        )
        found = look(url)

    [warning] = [each for each in found.warnings if "does not exist" in each]
    assert warning.startswith(
        "400 rows of v3_plans without a root name a parent that does not exist, "
    )
    assert warning.count("(parent gone") == 10


def test_triggers_that_fire_and_a_table_without_statistics_are_warned_of(tmp_path: Path):
    with at(M4_003, "postgresql-18", tmp_path) as url:
        break_database(
            url,
            ["CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
             "CREATE TRIGGER audit BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION seen()",
             "CREATE TABLE fresh (LIKE v3_plans INCLUDING ALL)",
            ],
        )  # fmt: skip
        found = look(url)

    assert any("triggers that will fire" in each and "audit" in each for each in found.warnings)
    assert found.ready


def test_parent_of_a_cycle_is_named_with_what_mends_it(tmp_path: Path):
    with at(M4_003, "sqlite", tmp_path) as url:
        break_database(url, [CYCLE])
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            query = "SELECT min(plan_id), max(plan_id) FROM v3_plans"
            first, last = connection.execute(query).fetchone()
        found = look(url)

    assert f"{first} -> {last} -> {first}" in found.blocks[0].found
    assert (
        found.blocks[0].remedy == f"UPDATE v3_plans SET parent_plan_id = NULL "
        f"WHERE plan_id = '{first}', or its true parent"
    )


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_empty_database_is_ready(engine: str, tmp_path: Path):
    with empty_database(engine, tmp_path) as url:
        if engine == "sqlite":
            (tmp_path / "plans.db").touch()
        found = look(url)

    assert found.ready
    assert found.steps[-1] == HEAD
    assert found.rows is None


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_downgrade_that_would_drop_plans_is_refused_unless_it_is_wanted(
    engine: str, tmp_path: Path
):
    with at("head", engine, tmp_path) as url:
        refused = look(url, "base")
        wanted = look(url, "base", "drop-plans=yes")

    assert "400 rows" in refused.blocks[0].found or "400" in refused.blocks[0].found
    assert wanted.ready


def test_view_of_a_dropped_column_stops_the_downgrade(tmp_path: Path):
    with at("head", "postgresql-18", tmp_path) as url:
        break_database(url, ["CREATE VIEW mine AS SELECT effective_profile_snapshot FROM v3_plans"])
        found = look(url, M4_003)

        with pytest.raises(CommandError) as refused:
            command.downgrade(chain_config(url, level=None), M4_003)
    assert str(refused.value) in [block.found for block in found.blocks]


@pytest.mark.slow
def test_standby_is_read_as_far_as_that_goes(tmp_path: Path):
    server = postgres.server("postgresql-18")
    with at(M4_003, "postgresql-18", tmp_path) as url, server.replica() as standby:
        found = look(standby.url(make_url(url).database))
        on_primary = look(url)

    assert ["is a standby" in block.found for block in found.blocks] == [True]
    assert "columns" in found.unchecked
    assert found.rows == 400
    assert [replica.state for replica in on_primary.replicas] == ["streaming"]


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_estimate_is_made_and_changes_no_row(engine: str, tmp_path: Path):
    with at(M4_003, engine, tmp_path) as url:
        before = database_hash(url), schema_dump(url), sorted(tmp_path.iterdir())
        found = look(url)
        assert (database_hash(url), schema_dump(url), sorted(tmp_path.iterdir())) == before

    assert found.estimate
    assert 0 < found.estimate.least < found.estimate.seconds < found.estimate.most < 3600
    assert found.disk
    assert 0 < found.disk.least <= found.disk.most
    if engine == "sqlite":
        assert found.disk.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
        assert found.disk.wal is None
    else:
        assert found.disk.free is None
        assert found.disk.wal
        assert "ix_v3_plans_created_at" in found.indexes
        assert found.locks[0].name == "ACCESS EXCLUSIVE"


def test_growth_of_a_file_is_foreseen_with_the_room_that_stays_free_in_it(tmp_path: Path):
    with at(M4_003, "sqlite", tmp_path) as url:
        file = Path(url.removeprefix("sqlite:///"))
        before, found = file.stat().st_size, look(url)
        migrate(url, "head")
        grown = file.stat().st_size - before
        down = look(url, M4_003)
        before = file.stat().st_size
        roll_back(url, M4_003)
        grown_down = file.stat().st_size - before

    assert found.disk
    assert found.disk.least == pytest.approx(grown, rel=0.2)
    assert down.disk
    # What the upgrade left free in it is used first.
    assert down.disk.least <= before // 10
    assert grown_down <= before // 10


@contextmanager
def open_in_another_process(file: Path) -> Iterator[int]:
    """Keep *file* open elsewhere; give the process."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "c.execute('SELECT count(*) FROM v3_plans').fetchone();"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process.pid


@pytest.mark.parametrize("stays_open", [False, True])
def test_disk_space_of_a_file_with_a_log_is_foreseen_with_the_journal_that_the_run_has(
    stays_open: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "plans.db"
    taken: dict[str, int] = {}

    def note(*_: object) -> None:
        for kind in ("journal", "wal"):
            part = Path(f"{file}-{kind}")
            taken[kind] = max(taken.get(kind, 0), part.stat().st_size if part.exists() else 0)

    def note_and_free(driver: Any) -> None:
        note()
        free(driver)

    free = transaction._free_disk_space
    monkeypatch.setattr(journal, "_LARGE", 0)
    with at(M4_003, "sqlite", tmp_path) as url, ExitStack() as others:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        pid = others.enter_context(open_in_another_process(file)) if stays_open else None
        before, found = file.stat().st_size, look(url)
        monkeypatch.setattr(transaction, "_free_disk_space", note_and_free)
        event.listen(Engine, "commit", note)
        migrate(url, M8_001)
        event.remove(Engine, "commit", note)
        taken["growth"] = file.stat().st_size - before

    assert bool(taken["wal"]) == stays_open
    assert found.disk
    peak = sum(taken.values())
    assert peak <= found.disk.most <= 2 * peak
    told = [each for each in found.warnings if "is open elsewhere" in each]
    assert [f"by pid {pid} (" in each for each in told] == [True] * stays_open


def test_estimate_follows_the_number_of_rows_that_may_be_written_in_a_second(tmp_path: Path):
    with at(M4_003, "postgresql-18", tmp_path) as url:
        free = look(url)
        slow = look(url, None, "rows-per-second=1")

    assert free.estimate
    assert slow.estimate
    rows = sum(each.rows or 0 for each in slow.writes)
    assert slow.estimate.seconds > rows > free.estimate.seconds


def test_rows_that_a_client_locks_are_not_waited_for(tmp_path: Path):
    with at(M4_003, "postgresql-18", tmp_path) as url, psycopg.connect(libpq(url)) as client:
        client.execute("SELECT count(*) FROM (SELECT FROM v3_plans FOR UPDATE) AS locked")
        found = look(url)
        # The trial could write none of them, and what it cost is not known.
        assert found.estimate
        assert client.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        client.execute("UPDATE v3_plans SET updated_at = updated_at")


def test_sample_of_a_file_is_made_without_its_write_lock(tmp_path: Path):
    with (
        at(M4_003, "sqlite", tmp_path) as url,
        closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0)) as writer,
    ):
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE v3_plans SET updated_at = updated_at")
        found = look(url)
        writer.commit()

    assert found.estimate


def test_disk_that_is_too_small_is_refused_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with at(M4_003, "sqlite", tmp_path) as url:
        monkeypatch.setattr(
            "cleveragents_plans.evolution.sqlite.disk_space.shutil.disk_usage",
            lambda _folder: SimpleNamespace(total=10**6, used=10**6, free=1000),
        )
        found = look(url)
        with pytest.raises(CommandError) as refused:
            command.upgrade(chain_config(url, level=None), "head")

    assert "0.0 MB of disk space are free" in str(refused.value)
    assert [block.found for block in found.blocks] == [str(refused.value)]


@pytest.mark.parametrize(
    ("query", "kind", "gives_way"),
    [
        ("autovacuum: VACUUM ANALYZE public.v3_plans", "autovacuum worker", True),
        ("autovacuum: VACUUM public.v3_plans (to prevent wraparound)", "autovacuum worker", False),
        ("autovacuum: VACUUM ANALYZE public.v3_plans", "client backend", False),
        ("VACUUM v3_plans", "client backend", False),
        (None, None, False),
    ],
)
def test_ordinary_autovacuum_is_no_block(query: str | None, kind: str | None, gives_way: bool):
    """Its state is `active`, as that of a client, on PostgreSQL 18."""
    holder = Blocker(7, "ShareUpdateExclusiveLock", "active", "", 3.0, query, kind=kind)

    assert _gives_way(holder) == gives_way


def test_client_whose_statement_reads_like_that_of_an_autovacuum_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from cleveragents_plans.preflight import sessions

    monkeypatch.setattr(sessions, "MIN_AGE", 0.0)
    with at(M4_003, "postgresql-18", tmp_path) as url, psycopg.connect(libpq(url)) as client:
        client.execute("LOCK TABLE v3_plans IN ACCESS SHARE MODE")
        client.execute("SAVEPOINT here")
        with pytest.raises(psycopg.errors.SyntaxError):
            client.execute("autovacuum: VACUUM public.v3_plans")

        pid = client.info.backend_pid
        found = look(url)

    assert any(f"pid {pid}," in block.found for block in found.blocks)


def test_pooler_that_a_run_cannot_use_is_refused_in_the_same_words(tmp_path: Path):
    with at(M4_003, "postgresql-18", tmp_path) as url, pgbouncer(url, "transaction") as via:
        found = look(via)
        with pytest.raises(CommandError) as refused:
            migrate(via, HEAD)

    assert not found.ready
    assert "a pooler that gives each transaction another one" in found.blocks[0].found
    assert found.blocks[0].found == str(refused.value)


FINISHED = (
    "CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
    " IF OLD.processing_state IN ('complete', 'applied', 'cancelled', 'errored') THEN"
    "  RAISE EXCEPTION 'a finished plan must not be changed'{code}; END IF; RETURN NEW; END$$"
)
TRIED = {
    "a trigger that raises": (
        [FINISHED.format(code=""),
         "CREATE TRIGGER frozen BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION frozen()"],
        "PostgreSQL refuses a batch of roots and profiles that was tried out on public.v3_plans "
        "in the function frozen(): a finished plan must not be changed; let it pass these rows, "
        "or disable it; nothing was changed",
    ),
    "a trigger that raises what a lock does": (
        [FINISHED.format(code=" USING ERRCODE = '55P03'"),
         "CREATE TRIGGER frozen BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION frozen()"],
        "in the function frozen(): a finished plan must not be changed",
    ),
    "a trigger that raises in the end": (
        [FINISHED.format(code=""),
         "CREATE CONSTRAINT TRIGGER frozen AFTER UPDATE ON v3_plans DEFERRABLE INITIALLY DEFERRED"
         " FOR EACH ROW EXECUTE FUNCTION frozen()"],
        "in the function frozen(): a finished plan must not be changed",
    ),
    "a unique index": (
        ["ALTER TABLE v3_plans ADD seat int NOT NULL DEFAULT 1",
         "UPDATE v3_plans SET seat = n FROM (SELECT plan_id p, row_number() OVER () n FROM v3_plans"
         " WHERE automation_profile IS NOT NULL) x WHERE p = plan_id",
         "ALTER TABLE v3_plans ADD CONSTRAINT seats UNIQUE (automation_profile, seat)"],
        'for the constraint seats: duplicate key value violates unique constraint "seats"; '
        "correct the rows, or drop it; nothing was changed",
    ),
    "a foreign key of roots": (
        ["CREATE TABLE odd (id varchar(26) PRIMARY KEY)",
         "INSERT INTO odd SELECT DISTINCT root_plan_id FROM v3_plans"
         " WHERE root_plan_id IS NOT NULL",
         "ALTER TABLE v3_plans ADD CONSTRAINT odd FOREIGN KEY (root_plan_id) REFERENCES odd"],
        "for the constraint odd: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TRIED)
def test_batch_that_would_be_refused_for_anything_but_a_lock_blocks(case: str, tmp_path: Path):
    statements, words = TRIED[case]
    with at(M4_003, "postgresql-18", tmp_path) as url:
        break_database(url, statements)
        before = database_hash(url), schema_dump(url)
        found = look(url)

        assert (database_hash(url), schema_dump(url)) == before

    assert not found.ready
    assert [block.found for block in found.blocks if words in block.found]
    assert found.estimate is None


def test_trigger_of_tables_that_the_role_may_not_migrate_is_not_run_by_a_trial(tmp_path: Path):
    with (
        at(M4_003, "postgresql-18", tmp_path) as url,
        psycopg.connect(libpq(url), autocommit=True) as client,
    ):
        client.execute("CREATE SEQUENCE fired")
        client.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO public")
        client.execute("GRANT ALL ON SEQUENCE fired TO public")
        client.execute(
            "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN PERFORM nextval('public.fired'); RETURN NEW; END$$"
        )
        client.execute(
            "CREATE TRIGGER fire BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION fire()"
        )
        client.execute("CREATE ROLE guest LOGIN")
        try:
            found = look(make_url(url).set(username="guest").render_as_string())
        finally:
            client.execute("DROP OWNED BY guest")
            client.execute("DROP ROLE guest")
        (called,) = client.execute("SELECT is_called FROM fired").fetchone() or (None,)

    assert any("cannot become" in block.found for block in found.blocks)
    assert called is False


def test_builds_of_indexes_are_tried_without_the_limits_of_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def asking(connection: Connection, table: str) -> float:
        limits.append(connection.exec_driver_sql("SHOW statement_timeout").scalar_one())
        return copy(connection, table)

    limits: list[str] = []
    copy = trials._copy
    monkeypatch.setattr(trials, "_copy", asking)
    with at(M8_001, "postgresql-18", tmp_path) as url:
        name = make_url(url).database
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE \"{name}\" SET statement_timeout = '7s'")
        assert look(url).ready

    assert set(limits) == {"0"}


def test_privileges_on_a_column_that_a_downgrade_drops_are_a_warning(tmp_path: Path):
    with at(HEAD, "postgresql-18", tmp_path) as url:
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            connection.execute(
                "GRANT SELECT (plan_id, effective_profile_snapshot) ON v3_plans TO PUBLIC,"
                " pg_monitor"
            )
        warnings = look(url, M4_003).warnings

    assert [each for each in warnings if "privileges" in each] == [
        "the column effective_profile_snapshot of v3_plans is dropped with the privileges that were"
        " granted on it alone: SELECT to PUBLIC, SELECT to pg_monitor; an upgrade does not grant "
        "them again"
    ]
