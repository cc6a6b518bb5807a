"""``status``: where the database is, how it gets to the newest revision, and who is at it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.cli import status as status_module
from cleveragents_plans.cli.status import StatusReport
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.runner.migration_lock import migration_lock
from cleveragents_plans.evolution.sqlite.lock_holders import LockHolder
from cleveragents_plans.persistence import open_engine
from cleveragents_plans.schema import under_way
from cleveragents_plans.schema.database import Database
from support.broken import break_database, libpq, store_family
from support.databases import (
    ONE_OF_EACH,
    database_at,
    database_with,
    empty_database,
    migrate,
    url_option,
)
from support.json_output import validated
from support.revisions import HEAD, M4_003, M8_001, M8_002


def status(url: str, capfd: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    capfd.readouterr()
    code = main(["status", "-q", "--url", url, *options])
    out, err = capfd.readouterr()
    assert err == ""
    return code, out


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_newest_revision_is_ready(engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with database_with(store_family, engine, tmp_path) as url:
        code, out = status(url, capfd)
        report = validated(status(url, capfd, "--json")[1])

    assert code == ExitStatus.DONE
    assert f"revision  {HEAD} (head)\n" in out
    assert "plans     5, 2 with a parent; 0." in out
    assert out.endswith("state     ready\n")
    assert (report["state"], report["plans"], report["children"]) == ("ready", 5, 2)
    assert (report["pending"], report["remedies"], report["migrating"]) == ([], [], [])
    assert report["bytes"] > 10_000


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_older_revision_is_behind_with_what_is_pending(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, engine, tmp_path) as url:
        code, out = status(url, capfd)
        report = validated(status(url, capfd, "--json")[1])

    assert code == ExitStatus.FOUND
    assert f"pending   {M8_001}: Give every plan its root" in out
    assert f"next      run `cleveragents-plans upgrade {url_option(url)}`\n" in out
    assert [each["revision"] for each in report["pending"]] == report["database"]["pending"]
    assert report["state"] == "behind"


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_empty_database_is_behind_and_stays_empty(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with empty_database(engine, tmp_path) as url:
        if engine == "sqlite":
            (tmp_path / "plans.db").touch()
        report = validated(status(url, capfd, "--json")[1])
        code, _ = status(url, capfd)

    assert code == ExitStatus.FOUND
    assert (report["plans"], report["database"]["revisions"]) == (None, [])


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_version_that_does_not_fit_says_what_mends_it(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, engine, tmp_path) as url:
        break_database(url, [f"UPDATE alembic_version SET version_num = '{HEAD}'"])
        code, out = status(url, capfd)

    assert code == ExitStatus.FOUND
    assert "the tables are not as that revision makes them" in out
    assert f"cleveragents-plans stamp --purge {M4_003}" in out
    assert "state     misfit" in out


@pytest.mark.parametrize("engine", ONE_OF_EACH)
@pytest.mark.parametrize("version", ["z9_999_tomorrow", f"{HEAD}'), ('z9_999_tomorrow"])
def test_revision_that_is_not_known_is_named_and_nothing_is_said_to_be_pending(
    version: str, engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(HEAD, engine, tmp_path) as url:
        break_database(
            url,
            ["DELETE FROM alembic_version", f"INSERT INTO alembic_version VALUES ('{version}')"],
        )
        code, out = status(url, capfd)
        report = validated(status(url, capfd, "--json")[1])
        assert main(["preflight", "--url", url, "-q"]) == ExitStatus.REFUSED
        foreseen = capfd.readouterr().out

    assert code == ExitStatus.FOUND
    assert "; this release does not know z9_999_tomorrow\n" in out
    assert "behind" not in out
    assert "install the release that migrated it" in out or "newer release's, install that" in out
    assert (report["database"]["unknown"], report["pending"]) == (["z9_999_tomorrow"], [])
    assert "upgrade   not known, see BLOCKS" in foreseen


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_tables_that_lack_a_part_lead_to_verify_which_names_it(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """No version fits them: a stamp would be refused again, with the same advice."""
    with database_at(M8_002, engine, tmp_path) as url:
        break_database(url, ["ALTER TABLE v3_plans DROP COLUMN effective_profile_snapshot"])
        code, out = status(url, capfd)
        found = main(["verify", "--url", url])
        listed = capfd.readouterr().out

    assert code == found == ExitStatus.FOUND
    assert f"run `cleveragents-plans verify {url_option(url)}`" in out
    assert "stamp" not in out + listed
    assert "column-missing  v3_plans.effective_profile_snapshot" in listed


@pytest.mark.parametrize(
    ("direction", "complete", "undo"),
    [
        ("upgrade", f"upgrade {M8_001}", f"downgrade {M4_003}"),
        ("downgrade", f"downgrade {M4_003}", f"upgrade {M8_001}"),
    ],
)
def test_unfinished_revision_has_two_ways_out(
    direction: str, complete: str, undo: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    note = f"[unfinished {direction} of {M8_001}]"
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        break_database(url, [f"COMMENT ON TABLE alembic_version IS '{note}'"])
        code, out = status(url, capfd)

    assert code == ExitStatus.UNFINISHED
    assert f"; the {direction} of {M8_001} is unfinished\n" in out
    assert f"run `cleveragents-plans {complete} {url_option(url)}` to complete it" in out
    assert f"or `cleveragents-plans {undo} {url_option(url)}` to undo it" in out


def test_process_that_migrates_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        engine = open_engine(url, migrating=True)
        with engine.connect() as connection, migration_lock(connection, ["public"]):
            pid = connection.connection.driver_connection.info.backend_pid
            _, out = status(url, capfd)
        engine.dispose()

    assert f"migrating  pid {pid}" in out
    assert "next       wait for the run that is under way; `cleveragents-plans status" in out


def test_plans_are_counted_once_while_a_run_is_followed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    counted: list[object] = []
    looked: list[object] = []
    counts, look = status_module._counts, status_module._look
    with database_with(store_family, "postgresql-18", tmp_path) as url, ExitStack() as running:
        engine = open_engine(url, migrating=True)
        connection = running.enter_context(engine.connect())
        running.enter_context(migration_lock(connection, ["public"]))

        def looking(database: Database) -> StatusReport:
            looked.append(database)
            if len(looked) == 3:
                running.close()
            return look(database)

        monkeypatch.setattr(status_module, "_POLL", 0.01)
        monkeypatch.setattr(status_module, "_look", looking)
        monkeypatch.setattr(
            status_module, "_counts", lambda database: counted.append(database) or counts(database)
        )
        _, out = status(url, capfd, "--follow")
        engine.dispose()

    assert len(looked) == 3
    assert len(counted) == 1
    assert "plans     5, 2 with a parent" in out


def test_writer_that_is_followed_is_named_and_the_default_database_is_told_once(tmp_path: Path):
    command = [sys.executable, "-m", "cleveragents_plans"]
    subprocess.run([*command, "upgrade", "-q"], check=True, cwd=tmp_path)
    with closing(sqlite3.connect(tmp_path / "plans.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with subprocess.Popen(
            [*command, "status", "--follow"], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as following:  # fmt: skip
            assert following.stdout
            first, second = following.stdout.readline(), following.stdout.readline()
            writer.rollback()
            shown, told = following.communicate(timeout=60)

    for line in (first, second):
        assert f" migrating: pid {os.getpid()} (" in line
    assert shown.endswith("state     ready\n")
    assert told.count("database: sqlite:///plans.db (the default") == 1


def test_lock_that_keeps_readers_out_is_named_and_ends_at_a_signal(tmp_path: Path):
    """As that of an upgrade does, where the journal is a rollback journal."""
    with database_at(M4_003, "sqlite", tmp_path) as url:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
            other.execute("PRAGMA journal_mode = DELETE")
            other.execute("BEGIN EXCLUSIVE")
            with subprocess.Popen(
                [sys.executable, "-m", "cleveragents_plans", "status", "--url", url],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
            ) as reader:  # fmt: skip
                assert reader.stderr
                waits = reader.stderr.readline()
                reader.terminate()
                said = reader.stderr.read()
                code = reader.wait(60)
        shown = main(["status", "-q", "--url", url])

    assert f"plans.db is locked by pid {os.getpid()} (" in waits
    assert "which writes to it; waiting (0 s)" in waits
    assert "interrupted by SIGTERM" in said
    assert (code, shown) == (143, ExitStatus.FOUND)


def test_lock_that_keeps_readers_out_for_too_long_is_status_75(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cleveragents_plans.persistence.engine.BUSY_TIMEOUT", 0.05)
    with (
        database_at(M4_003, "sqlite", tmp_path) as url,
        closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other,
    ):
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        code = main(["status", "-q", "--url", url])

    assert code == ExitStatus.AGAIN
    assert (
        "plans.db is still locked after 0 s, by another connection of this process; wait until "
        "that ends, or end it, and run the same command again" in (capfd.readouterr().err)
    )


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_process_that_writes_to_a_file_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
):
    with database_at(M4_003, "sqlite", tmp_path) as plain:
        file = plain.removeprefix("sqlite:///")
        url = form.format(file)
        script = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
            "c.execute('PRAGMA journal_mode = WAL'); c.execute('BEGIN IMMEDIATE');"
            "print('ready', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, file],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as writer:  # fmt: skip
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
            _, out = status(url, capfd)
        _, after = status(url, capfd)

    assert f"migrating  pid {writer.pid} (" in out
    assert "upgrade`" not in out
    assert f"next       wait for pid {writer.pid} (" in out
    assert f"{url_option(url)}` shows when it ends" in out
    assert f"next      run `cleveragents-plans upgrade {url_option(url)}`" in after


def test_file_that_reading_locks_for_others_is_not_said_to_be_migrated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", "sqlite", tmp_path) as plain:
        file = plain.removeprefix("sqlite:///")
        code, out = status(f"sqlite:///file:{file}?uri=true&vfs=unix-excl", capfd)

    assert code == ExitStatus.DONE
    assert "migrating" not in out
    assert "state     ready\n" in out


def test_client_that_writes_for_a_moment_is_not_said_to_migrate(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        writer = LockHolder(4711, "shop", writes=True)
        seen = iter([[writer], []])
        monkeypatch.setattr(under_way, "lock_holders", lambda _file: next(seen, []))
        code, out = status(url, capfd)

    assert not [*seen]
    assert code == ExitStatus.FOUND
    assert "migrating" not in out
    assert f"next      run `cleveragents-plans upgrade {url_option(url)}`" in out


# In a folder that cannot be written: SQLite needs it for a write-ahead log, and to roll back.
@pytest.mark.parametrize("leave", ["PRAGMA journal_mode = WAL", "a journal to be rolled back"])
def test_file_whose_folder_must_be_written_to_read_it_is_refused_with_what_to_do(
    leave: str, tmp_path: Path
):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        file = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            if leave.startswith("PRAGMA"):
                connection.execute(leave)
            else:
                connection.execute("PRAGMA cache_size = 1")
                connection.execute("BEGIN")
                connection.execute("CREATE TABLE more AS SELECT zeroblob(100000)")
                copies = [Path(f"{file}{end}").read_bytes() for end in ("", "-journal")]
        if not leave.startswith("PRAGMA"):
            for end, content in zip(("", "-journal"), copies, strict=True):
                Path(f"{file}{end}").write_bytes(content)
        tmp_path.chmod(0o555)
        # Root may write everywhere, unless it gives that up.
        weaker = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*weaker, sys.executable, "-m", "cleveragents_plans", "status", "-q", "--url", url],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        tmp_path.chmod(0o755)
        allowed = main(["status", "-q", "--url", url])

    assert (done.returncode, allowed) == (ExitStatus.REFUSED, ExitStatus.FOUND)
    assert done.stderr.count("\n") == 1
    assert "plans.db cannot be read by this user (" in done.stderr
    assert "let this user read the file and write to its folder" in done.stderr


@pytest.mark.slow
def test_waiting_ends_when_another_process_has_migrated(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url, subprocess.Popen(
        [sys.executable, "-m", "cleveragents_plans", "status", "--wait", "240", "--url", url],
        stdout=subprocess.PIPE, text=True, env=os.environ,
    ) as waiting:  # fmt: skip
        with psycopg.connect(libpq(url), autocommit=True) as client:
            until = time.monotonic() + 120
            query = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '% status'"
            while client.execute(query).fetchone() is None and time.monotonic() < until:
                time.sleep(0.01)
        migrate(url, "head")
        out, _ = waiting.communicate(timeout=240)

    assert waiting.returncode == ExitStatus.DONE
    assert out.endswith("state     ready\n")


def test_waiting_ends_in_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        code, _ = status(url, capfd, "--wait", "0.1")

    assert code == ExitStatus.FOUND
    unreachable = "postgresql://me@127.0.0.1:1/plans"
    assert main(["status", "--wait", "0.1", "--url", unreachable]) == ExitStatus.UNREACHABLE
    assert "cannot be opened" in capfd.readouterr().err
