"""However many processes are started together, one migrates, and nothing is done twice."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from support.databases import ENGINES, migrate, roll_back
from support.faults import Ended, Migration, State, models
from support.online import client
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.slow

PLANS = 3_000
NAMES = {M8_001: "new", M4_003: "former"}
SERVERS = [engine for engine in ENGINES if engine != "sqlite"]

# Each change of the schema, and each row that is written with what it then holds.
COUNTERS = """\
CREATE SCHEMA counted;
CREATE TABLE counted.changes (tag text);
CREATE TABLE counted.rows (plan_id text, holds text);
CREATE FUNCTION counted.change() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO counted.changes VALUES (tg_tag); END $$;
CREATE FUNCTION counted.row() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO counted.rows VALUES (new.plan_id, new::text); RETURN NULL; END $$;
CREATE TRIGGER counted AFTER UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION counted.row();
CREATE EVENT TRIGGER counted ON ddl_command_end EXECUTE FUNCTION counted.change()"""


def one_migrated(ended: list[Ended], goal: str) -> list[str]:
    """Check what each process said; give it."""
    said = [each.said for each in ended]
    assert [each.status for each in ended] == [0] * len(ended), said
    moved = f"{M4_003} -> {M8_001}" if goal == M8_001 else f"{M8_001} -> {M4_003}"
    assert sum(f"{moved}\n" in text for text in said) == 1, said
    idle = [text for text in said if f"already at {goal}, nothing to do" in text]
    assert len(idle) == len(ended) - 1, said
    return said


def counted(url: str) -> tuple[list[str], int]:
    with client(url) as connection:
        tags = connection.execute("SELECT tag FROM counted.changes ORDER BY tag").fetchall()
        twice = connection.execute(
            "SELECT plan_id FROM counted.rows GROUP BY plan_id, holds HAVING count(*) > 1"
        ).fetchall()
        rows = connection.execute("SELECT count(*) FROM counted.rows").fetchone()
        connection.execute("DROP EVENT TRIGGER counted")
        connection.execute("SET client_min_messages = warning")
        connection.execute("DROP SCHEMA counted CASCADE")
    assert rows is not None
    assert twice == []
    return [tag for (tag,) in tags], rows[0]


def wait_for_waiting(url: str, processes: int) -> None:
    """Wait until so many wait for the migration lock."""
    until = time.monotonic() + 120
    with client(url) as connection:
        while connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND query LIKE '%pg_locks%advisory%' AND pid <> pg_backend_pid()"
            " OR query LIKE 'SELECT pg_try_advisory_lock%'"
        ).fetchone() != (processes,):
            assert time.monotonic() < until
            time.sleep(0.1)


def crowd_at_a_server(engine: str, folder: Path, goal: str, processes: int) -> None:
    model = models(engine, PLANS)
    start = "gaps" if goal == M8_001 else "new"
    work = []
    for alone in (True, False):
        with model.copy(start, folder) as url:
            with client(url) as connection:
                connection.execute(COUNTERS.encode())
            if alone:
                (migrate if goal == M8_001 else roll_back)(url, goal)
            else:
                # The first one cannot go on before all are there.
                with client(url, autocommit=False) as holder:
                    holder.execute("SELECT FROM v3_plans")
                    crowd = [Migration(url, goal) for _ in range(processes)]
                    wait_for_waiting(url, processes - 1)
                said = one_migrated([each.ended() for each in crowd], goal)
                waited = [text for text in said if "another process is migrating" in text]
                assert len(waited) == processes - 1, said
                assert all("it is pid" in text for text in waited), said
            work.append(counted(url))
            assert State.of(url) == model.states[NAMES[goal]]
    assert work[0] == work[1]


def crowd_at_a_file(folder: Path, goal: str, processes: int) -> None:
    model = models("sqlite", PLANS)
    start = "gaps" if goal == M8_001 else "new"
    with model.copy(start, folder) as url:
        # None can begin before all are there.
        holder = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        crowd = [Migration(url, goal) for _ in range(processes)]
        for each in crowd:
            each.wait_for(f"is locked by pid {os.getpid()}")
        holder.execute("ROLLBACK")
        holder.close()
        one_migrated([each.ended() for each in crowd], goal)

        assert State.of(url) == model.states[NAMES[goal]]


@pytest.mark.fault
@pytest.mark.parametrize("engine", SERVERS[:1])
def test_one_of_three_processes_upgrades_a_server(tmp_path: Path, engine: str):
    crowd_at_a_server(engine, tmp_path, M8_001, 3)


def test_one_of_three_processes_upgrades_a_file(tmp_path: Path):
    crowd_at_a_file(tmp_path, M8_001, 3)


@pytest.mark.fault
@pytest.mark.parametrize("goal", [M8_001, M4_003], ids=["up", "down"])
@pytest.mark.parametrize("engine", SERVERS)
def test_one_of_ten_processes_migrates_a_server(tmp_path: Path, engine: str, goal: str):
    crowd_at_a_server(engine, tmp_path, goal, 10)


@pytest.mark.fault
@pytest.mark.parametrize("goal", [M8_001, M4_003], ids=["up", "down"])
def test_one_of_ten_processes_migrates_a_file(tmp_path: Path, goal: str):
    crowd_at_a_file(tmp_path, goal, 10)


@pytest.mark.fault
@pytest.mark.parametrize("engine", SERVERS)
def test_waiting_process_takes_over_from_a_killed_one(tmp_path: Path, engine: str):
    model = models(engine, PLANS)
    with model.copy("gaps", tmp_path) as url:
        batch, go_on = "WITH RECURSIVE batch", tmp_path / "go on"
        victim = ("--pause-at", batch, str(go_on), "--die-at", batch)
        first = Migration(url, M8_001, victim=victim)
        first.wait_for("pausing at")
        others = [Migration(url, M8_001) for _ in range(5)]
        for each in others:
            each.wait_for("another process is migrating")
        go_on.touch()
        assert first.ended().killed
        said = one_migrated([each.ended() for each in others], M8_001)

        assert any(f"continuing {M8_001}, whose upgrade was" in text for text in said)
        assert State.of(url) == model.states["new"]
