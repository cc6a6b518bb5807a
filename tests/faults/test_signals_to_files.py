"""A signal ends the migration of a SQLite file within moments, in whatever statement it is."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from support.databases import migrate
from support.revisions import M4_003, M8_001
from support.rows import database_hash, schema_dump

pytestmark = pytest.mark.slow

PLANS = 30_000
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}

#: Sends a signal to itself soon after a statement with certain words was begun.
PROGRAM = """\
import os, runpy, shutil, signal, sys, threading, time
from sqlalchemy import Engine, event
words, number, url, *command = sys.argv[1:]
if words == "dbstat":  # is asked for only where a copy of the whole file would not fit
    usage = shutil.disk_usage
    shutil.disk_usage = lambda path: usage(path)._replace(free=0)

def end(_connection, _cursor, statement, *_):
    global words
    if words and words in statement:
        soon = 0.001 if words == "dbstat" else 0.01
        words = None
        threading.Timer(soon, send).start()

def send():
    print("sent at", time.time(), file=sys.stderr, flush=True)
    os.kill(os.getpid(), int(number))

event.listen(Engine, "before_cursor_execute", end)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["cleveragents-plans", *command, "--url", url]
runpy.run_module("cleveragents_plans", run_name="__main__")
"""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of many plans in trees, whose children stand before their parents."""
    file = tmp_path_factory.mktemp("former") / "plans.db"
    migrate(f"sqlite:///{file}", M4_003)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            f"WITH RECURSIVE n (i) AS (SELECT {PLANS} UNION ALL SELECT i - 1 FROM n WHERE i > 1)"
            " INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
            " SELECT printf('%026d', i), CASE WHEN i % 100 <> 1 THEN printf('%026d', i - 1) END,"
            " 'local/x', '', '' FROM n"
        )
        connection.commit()
    return file


WORDS = [
    "INSERT OR ABORT",
    "dbstat",  # whose errors are suppressed
    *(
        pytest.param(words, marks=pytest.mark.fault)
        for words in ("quick_", "CREATE INDEX", "key_check")
    ),
]


@pytest.mark.fault
@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
@pytest.mark.parametrize("journal", ["delete", pytest.param("wal", marks=pytest.mark.fault)])
@pytest.mark.parametrize("words", WORDS)
def test_signal_ends_a_statement_and_the_file_is_as_it_was(
    former: Path, tmp_path: Path, words: str, journal: str, number: signal.Signals
):
    file = tmp_path / "plans.db"
    file.write_bytes(former.read_bytes())
    url = f"sqlite:///{file}"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    before = (database_hash(url), schema_dump(url))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, words, str(int(number)), url, "upgrade", M8_001],
        stderr=subprocess.PIPE, text=True, check=False, timeout=240,
    )  # fmt: skip
    ended = time.time()

    assert done.returncode == STATUS[number], done.stderr
    assert "Traceback" not in done.stderr
    assert f"interrupted by {number.name}; to go on" in done.stderr.splitlines()[-1]
    sent = float(done.stderr.split("sent at ")[1].split()[0])
    assert ended - sent < 60
    assert (database_hash(url), schema_dump(url)) == before
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
