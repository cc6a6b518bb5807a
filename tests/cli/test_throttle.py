"""``throttle``, ``history``, ``status --follow``: a run under way, seen and slowed from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import Engine, event, make_url

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.settings import BadSetting
from cleveragents_plans.schema import chain_config, under_way
from cleveragents_plans.schema.throttling import throttle
from support import postgres
from support.broken import break_database, libpq, store_family
from support.databases import (
    ONE_OF_EACH,
    database_at,
    database_with,
    empty_database,
    roll_back,
    url_option,
)
from support.former_release import write_former_release
from support.json_output import validated
from support.postgres import PostgresServer
from support.revisions import HEAD, M4_003, M8_001

PLANS = 400


def wait_until(holds: Callable[[], Any]) -> Any:
    until = time.monotonic() + 90
    while not (found := holds()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)
    return found


@contextmanager
def slow_run(url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Upgrade at five rows a second in a process of its own, ended at the end of the block."""
    command = [sys.executable, "-m", "cleveragents_plans", "upgrade", M8_001, "--url", url]
    with subprocess.Popen(
        [*command, "--rows-per-second", "10", *options], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def former_release(tmp_path: Path) -> Iterator[tuple[str, psycopg.Connection[dict[str, Any]]]]:
    with empty_database("postgresql-18", tmp_path) as url:
        write_former_release(url, plans=PLANS, seed=1)
        with psycopg.connect(libpq(url), autocommit=True, row_factory=dict_row) as watcher:
            yield url, watcher


def the_run(watcher: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:
    found = watcher.execute("SELECT to_regclass('evolution_runs') AS there").fetchone()
    if not found or not found["there"]:
        return {}
    query = "SELECT * FROM evolution_runs WHERE command = 'upgrade' ORDER BY began_at DESC LIMIT 1"
    return watcher.execute(query.encode()).fetchone() or {}


def in_backfill(watcher: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:
    """Give the run's row once rows are written, and not all are."""
    found = the_run(watcher)
    return found if 0 < (found.get("done") or 0) < (found.get("total") or 0) else {}


@pytest.mark.slow
def test_run_is_paused_throttled_and_resumed_from_another_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with former_release(tmp_path) as (url, watcher), slow_run(url) as process:
        wait_until(lambda: in_backfill(watcher))
        assert main(["throttle", "pause", "--url", url]) == 0
        paused = wait_until(
            lambda: "pause" in (the_run(watcher)["waiting_for"] or "") and the_run(watcher)
        )
        session = watcher.execute(
            "SELECT state, xact_start, application_name FROM pg_stat_activity WHERE pid = %s",
            [paused["backend_pid"]],
        ).fetchone()
        locks = watcher.execute(
            "SELECT count(*) AS n FROM pg_locks WHERE pid = %s AND locktype <> 'advisory'",
            [paused["backend_pid"]],
        ).fetchone()
        beat = paused["updated_at"]
        wait_until(lambda: the_run(watcher)["updated_at"] > beat)
        still = the_run(watcher)
        capfd.readouterr()
        assert main(["status", "-q", "--url", url]) in (ExitStatus.UNFINISHED, ExitStatus.FOUND)
        shown = capfd.readouterr().out

        assert main(["throttle", "rows-per-second=0", "--url", url]) == 0
        assert main(["throttle", "resume", "--url", url]) == 0
        _, said = process.communicate(timeout=120)
        last = the_run(watcher)
        capfd.readouterr()
        assert main(["history", "--json", "--url", url]) == 0
        report = validated(capfd.readouterr().out)

    assert process.returncode == 0
    assert session is not None
    assert (session["state"], session["xact_start"]) == ("idle", None)
    assert session["application_name"].startswith("cleveragents-plans m8_001 ")
    assert session["application_name"].endswith(" %")
    assert locks == {"n": 0}
    assert still["done"] == paused["done"]
    assert "PAUSED: by `cleveragents-plans throttle pause`; `cleveragents-plans thro" in said
    assert "going on after a pause of" in said
    assert "PAUSED" in shown
    assert f"next       run `cleveragents-plans throttle resume {url_option(url)}`" in shown
    assert "upgrade, running, by postgres@" in shown
    assert (last["outcome"], last["revision_after"]) == ("done", M8_001)
    assert last["rows_per_second"] == 0
    assert report["runs"][0]["outcome"] == "done"


@pytest.mark.slow
def test_run_at_a_tiny_rate_says_so_and_when_the_next_batch_is_due(tmp_path: Path):
    with (
        former_release(tmp_path) as (url, watcher),
        slow_run(url, "--report-every", "0.5") as process,
    ):
        wait_until(lambda: in_backfill(watcher))
        assert main(["throttle", "rows-per-second=0.01", "--url", url]) == 0
        found = wait_until(
            lambda: "0.01 rows" in (the_run(watcher)["waiting_for"] or "") and the_run(watcher)
        )
        wait_until(lambda: the_run(watcher)["updated_at"] > found["updated_at"])
        last = the_run(watcher)
        assert main(["throttle", "rows-per-second=0", "--url", url]) == 0
        _, said = process.communicate(timeout=120)

    assert process.returncode == 0
    assert "throttled to 0.01 rows/s, and the last batch wrote 10: the next one is due in" in said
    assert last["eta_s"] == pytest.approx((last["total"] - last["done"]) / 0.01)


@pytest.mark.slow
def test_backfill_whose_rows_stay_locked_names_the_session_and_is_to_be_run_again(tmp_path: Path):
    with former_release(tmp_path) as (url, watcher), slow_run(url, "--lock-wait", "2") as process:
        wait_until(lambda: in_backfill(watcher))
        with psycopg.connect(libpq(url)) as blocker:
            pid = blocker.info.backend_pid
            blocker.execute(
                "SELECT FROM v3_plans WHERE automation_profile IS NULL"
                " ORDER BY plan_id DESC LIMIT 1 FOR UPDATE SKIP LOCKED"
            )
            assert main(["throttle", "rows-per-second=0", "--url", url]) == 0
            waiting = wait_until(
                lambda: "for rows" in (the_run(watcher)["waiting_for"] or "") and the_run(watcher)
            )
            _, said = process.communicate(timeout=120)

        assert process.returncode == ExitStatus.AGAIN, said
        assert f"pid {pid}" in said.splitlines()[-1]
        assert f"pid {pid}" in waiting["waiting_for"]
        assert main(["upgrade", M8_001, "--url", url]) == 0


@pytest.mark.slow
def test_run_that_is_paused_ends_at_sigterm_and_is_interrupted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with former_release(tmp_path) as (url, watcher), slow_run(url) as process:
        wait_until(lambda: in_backfill(watcher))
        main(["throttle", "pause", "--url", url])
        wait_until(lambda: the_run(watcher)["waiting_for"])
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        last = the_run(watcher)
        capfd.readouterr()
        code = main(["status", "-q", "--url", url])
        shown = capfd.readouterr().out

    assert process.returncode == 128 + signal.SIGTERM
    assert (last["outcome"], last["paused"], last["revision"]) == ("interrupted", False, M8_001)
    assert code == ExitStatus.UNFINISHED
    assert f"upgrade, interrupted at {M8_001}, by postgres@" in shown


@pytest.mark.slow
def test_status_follows_a_run_to_its_end_and_the_waiting_one_says_how_far_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with former_release(tmp_path) as (url, watcher), slow_run(url) as process:
        wait_until(lambda: in_backfill(watcher))
        own = [sys.executable, "-m", "cleveragents_plans"]
        with (
            subprocess.Popen(
                [*own, "status", "--follow", "--url", url], stdout=subprocess.PIPE, text=True
            ) as following,
            subprocess.Popen(
                [*own, "upgrade", M8_001, "--url", url], stderr=subprocess.PIPE, text=True
            ) as waiting,
        ):
            assert following.stdout is not None
            assert waiting.stderr is not None
            first = following.stdout.readline()
            told = next(line for line in waiting.stderr if "another process is migrating" in line)
            main(["throttle", "rows-per-second=0", "--url", url])
            shown, _ = following.communicate(timeout=120)
            waiting.communicate(timeout=120)
        process.communicate(timeout=120)

    assert f" {M8_001}: " in first
    assert f" of {PLANS} rows" in first or " rows (" in first
    assert "; the upgrade that began at " in told
    assert f"is at {M8_001}: " in told
    assert "revision  " in shown
    assert following.returncode == ExitStatus.FOUND  # m8_002 is pending
    assert waiting.returncode == 0


@contextmanager
def before_statement(part: str, do: Callable[[], Any]) -> Iterator[None]:
    """Call *do* once, before this process executes the first statement that has *part* in it."""
    due = [do]

    def look(_c: Any, _r: Any, statement: str, *_: Any) -> None:
        if part in statement and due:
            due.pop()()

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)
    assert not due, f"no statement had {part!r} in it"


@pytest.mark.parametrize("command", ["status", "status --follow", "history"])
def test_run_that_ends_during_a_look_at_it_is_not_said_to_be_interrupted(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with former_release(tmp_path) as (url, watcher), slow_run(url) as process:

        def end() -> None:
            watcher.execute("UPDATE evolution_runs SET rows_per_second = 0")
            process.communicate(timeout=120)

        wait_until(lambda: in_backfill(watcher))
        with before_statement("FROM pg_locks", end):
            code = main([*command.split(), "-q", "--url", url])
        shown = capfd.readouterr().out

    assert process.returncode == 0
    assert "interrupted" not in shown
    assert "unfinished" not in shown
    assert code == (0 if command == "history" else ExitStatus.FOUND)


@pytest.mark.parametrize("options", [[], ["--follow"]])
def test_status_of_a_file_whose_writer_ends_during_the_look_is_what_it_is_afterwards(
    options: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    with database_at(M8_001, "sqlite", tmp_path) as url:
        holding = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        holding += "c.execute('BEGIN IMMEDIATE'); print('', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", holding, make_url(url).database or ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as writer:  # fmt: skip
            assert writer.stdout
            writer.stdout.readline()

            def end(_seconds: float) -> None:
                writer.communicate("\n", timeout=60)
                upgrade = [sys.executable, "-m", "cleveragents_plans", "upgrade", "-q"]
                subprocess.run([*upgrade, "--url", url], check=True, timeout=60)

            # Between its two looks at who writes, it has no transaction open.
            monkeypatch.setattr(under_way, "time", SimpleNamespace(**vars(time) | {"sleep": end}))
            code = main(["status", *options, "-q", "--url", url])
        shown = capfd.readouterr().out

    assert code == 0
    assert shown.splitlines()[-1].split() == ["state", "ready"]


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_history_lists_runs_newest_first(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", engine, tmp_path) as url:
        roll_back(url, M4_003)
        capfd.readouterr()
        assert main(["history", "-q", "--url", url]) == 0
        lines = capfd.readouterr().out.splitlines()
        assert main(["history", "-q", "--json", "--url", url]) == 0
        report = validated(capfd.readouterr().out)
        assert main(["status", "-q", "--url", url]) == ExitStatus.FOUND
        shown = capfd.readouterr().out

    assert [line.split()[2] for line in lines[1:]] == ["downgrade", "upgrade"]
    assert [each["revision_after"] for each in report["runs"]] == [M4_003, HEAD]
    assert f"downgrade to {M4_003}, " in shown


def test_rate_of_a_run_on_sqlite_is_said_to_have_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        assert main(["upgrade", "-q", "--rows-per-second", "10", "--url", url]) == 0

    assert "rows-per-second has no effect: on SQLite a run is one transaction" in caplog.text


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_throttle_without_a_run_is_refused_in_one_line(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_with(store_family, engine, tmp_path) as url:
        capfd.readouterr()
        code = main(["throttle", "pause", "--log", "plain", "--url", url])
        err = capfd.readouterr().err

    assert code == ExitStatus.REFUSED
    expected = "is SQLite, where" if engine == "sqlite" else "no run is under way in"
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        "stop",
        "rows-per-second=",
        "rows-per-second=-1",
        "rows-per-second=nan",
        "rows-per-second=1e300",
    ],
)
def test_throttle_refuses_what_is_no_change(change: str, capfd: pytest.CaptureFixture[str]):
    assert main(["throttle", change, "--url", "postgresql://127.0.0.1:1/x"]) == ExitStatus.USAGE
    assert f"{change!r}; expected pause, resume, or rows-per-second=ROWS" in capfd.readouterr().err


def test_role_without_rights_on_the_table_is_told_the_grant(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", "postgresql-18", tmp_path) as url:
        role = f"reader_{url.split('/test_')[1].split('?')[0]}"
        break_database(
            url,
            [f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
             f"REVOKE SELECT ON evolution_runs FROM {role}"],
        )  # fmt: skip
        as_reader = url.replace("postgres@", f"{role}@")
        try:
            capfd.readouterr()
            assert main(["status", "-q", "--url", as_reader]) == 0
            shown = capfd.readouterr().out
            assert main(["throttle", "pause", "--url", as_reader]) == ExitStatus.REFUSED
            err = capfd.readouterr().err
        finally:
            break_database(url, [f"DROP OWNED BY {role}", f"DROP ROLE {role}"])

    assert f"GRANT SELECT, UPDATE ON public.evolution_runs TO {role}" in err
    assert "last run  not known: public.evolution_runs is closed to the role" in shown


@pytest.mark.slow
def test_run_pauses_while_a_replica_is_behind_and_names_it():
    server = PostgresServer(postgres.binaries()["postgresql-18"], within=postgres.memory_folder())
    try:
        url = server.create_database()
        write_former_release(url, plans=PLANS, seed=1)
        with (
            server.replica() as standby,
            psycopg.connect(libpq(url), autocommit=True, row_factory=dict_row) as watcher,
            slow_run(url, "--max-replica-lag", "2s", "--log", "json") as process,
        ):
            wait_until(lambda: in_backfill(watcher))
            standby.execute("SELECT pg_wal_replay_pause()")
            paused = wait_until(
                lambda: "replica" in (the_run(watcher)["waiting_for"] or "") and the_run(watcher)
            )
            beat = paused["updated_at"]
            wait_until(lambda: the_run(watcher)["updated_at"] > beat)
            still = the_run(watcher)
            standby.execute("SELECT pg_wal_replay_resume()")
            main(["throttle", "rows-per-second=0", "--url", url])
            _, said = process.communicate(timeout=120)
            last = the_run(watcher)
    finally:
        server.close()

    assert process.returncode == 0
    assert still["done"] == paused["done"]
    pauses = [each for each in map(json.loads, said.splitlines()) if each["event"] == "paused"]
    assert "PAUSED: the replica walreceiver is " in pauses[0]["message"]
    assert "s behind (max-replica-lag=2)" in pauses[0]["message"]
    assert all(each["lag_s"] > 2 for each in pauses)
    assert last["outcome"] == "done"


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0, 1e300])
def test_library_refuses_a_rate_out_of_range(rate: float):
    config = chain_config("postgresql://127.0.0.1:1/x", level=None)

    with pytest.raises(BadSetting, match="the setting rows-per-second is"):
        throttle(config, rows_per_second=rate)
