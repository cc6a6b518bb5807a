"""
The runs on PostgreSQL that `migration.py` compares, each on a copy of the same database.

The naive form is what a first draft would do: one transaction that adds the column,
updates all rows once for the root and once for the profile, and sets NOT NULL. Ours is
``alembic upgrade`` to m8_001_align_plans_schema, as an operator types it; what the indexes of the
next revision cost stands in docs/indexes.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import make_url

from client_waits import Watched, watch
from support.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[1]
FORMER, PRESENT = "m4_003_plan_env_columns", "m8_001_align_plans_schema"

#: A server as one would run it: nothing that is written gets lost with the machine.
SERVER = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "min_wal_size": "4GB",
    "autovacuum": "on",
}
#: Files of the write-ahead log that such a server has in stock after some days of use.
_LOG_FILES = 4096 // 16

# The most there can be to do: what the former release knew of roots and profiles is lost.
NOTHING_KNOWN = "UPDATE v3_plans SET root_plan_id = NULL, automation_profile = NULL"
NAIVE_UPDATES = (
    "UPDATE v3_plans SET root_plan_id = plan_id WHERE root_plan_id IS NULL",
    "UPDATE v3_plans SET automation_profile = 'balanced' WHERE automation_profile IS NULL",
)
_NAIVE_POSTGRESQL = (
    "ALTER TABLE v3_plans ADD COLUMN effective_profile_snapshot TEXT DEFAULT '{}' NOT NULL",
    *NAIVE_UPDATES,
    "ALTER TABLE v3_plans ALTER COLUMN root_plan_id SET NOT NULL",
    "ALTER TABLE v3_plans ALTER COLUMN automation_profile SET NOT NULL",
    "ALTER TABLE v3_plans ALTER COLUMN automation_profile SET DEFAULT 'balanced'",
)
# What no backfill can be faster than: each row is written once, and its root is known.
_KNOW_ROOTS = (
    "CREATE TEMPORARY TABLE link AS SELECT ctid AS place, plan_id, parent_plan_id FROM v3_plans",
    "CREATE INDEX ON link (parent_plan_id)",
    "ANALYZE link",
    """\
CREATE TEMPORARY TABLE known AS
WITH RECURSIVE down (place, plan_id, root) AS (
  SELECT place, plan_id, plan_id FROM link WHERE parent_plan_id IS NULL
  UNION ALL
  SELECT link.place, link.plan_id, down.root
    FROM down JOIN link ON link.parent_plan_id = down.plan_id
)
SELECT place, root FROM down ORDER BY place""",
    "ANALYZE known",
    # In the order of the table, without a sort on the disk.
    "SET work_mem = '1GB'",
    "CHECKPOINT",
)
_FLOOR = """\
UPDATE v3_plans t SET root_plan_id = known.root, automation_profile = 'balanced'
  FROM known WHERE known.place = t.ctid"""
_WRONG_ROOTS = """\
SELECT count(*) FROM v3_plans c JOIN v3_plans p ON p.plan_id = c.parent_plan_id
 WHERE c.root_plan_id <> p.root_plan_id"""
_BASELINE_SECONDS = 20


class Run(NamedTuple):
    """One process that migrated: how long, how much memory in MB, what it said."""

    seconds: float
    memory: float
    said: str
    #: Processor time of the process itself, in seconds.
    cpu: float


class Sizes(NamedTuple):
    """A table and its indexes, in MB."""

    table: float
    indexes: float


class Idle(NamedTuple):
    """A migration that had the server to itself."""

    seconds: float
    growth: Sizes
    wrong_roots: int


class OnPostgres(NamedTuple):
    """Everything that was measured on PostgreSQL."""

    version: str
    before: Sizes
    naive: Idle
    ours: Idle
    floor: Idle
    #: Of the whole process, and of the same when there is nothing to do, in seconds.
    total: float
    fixed: float
    memory: float
    rewritten: int
    small_plans: int
    small_seconds: float
    usual: Watched
    naive_loaded: Watched
    up: Watched
    down: Watched


def alembic(url: str, *arguments: str) -> Run:
    """
    Run the command line of Alembic on the database at *url*.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    command = [sys.executable, "-m", "alembic", "-x", f"url={url}", *arguments]
    begun = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read()
    # Popen would do the waiting, but drops what the process used.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begun
    if process.returncode:
        raise RuntimeError(f"alembic {' '.join(arguments)} failed:\n{said}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, used.ru_maxrss * unit / 1e6, said, used.ru_utime + used.ru_stime)


def former_release(url: str, plans: int) -> None:
    """Write *plans* plans of the former release, in a process of its own."""
    script = ROOT / "tests" / "support" / "former_release.py"
    command = [sys.executable, str(script), "--url", url, "--plans", str(plans), "--seed", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class PostgresBench:
    """One server, and the copies of databases in it."""

    def __init__(self, binaries: Path, say: Callable[[str], None]) -> None:
        self.server = PostgresServer(binaries, SERVER)
        self.say = say

    def measure(self, plans: int, load: float) -> OnPostgres:
        """Compare the two forms on *plans* plans, idle and under *load* statements a second."""
        small = max(plans // 10, 1)
        self._template("small", small)
        self._template("large", plans)
        self._stock_log_files()
        with self._copy("small") as url:
            small_seconds = alembic(url, "upgrade", PRESENT).seconds
        with self._copy("large") as url:
            before = _sizes(url)
            naive = _idle(before, url, _naive(url))
            self.say(f"naive: {naive}")
        with self._copy("large") as url:
            floor = _idle(before, url, _floor(url))
            self.say(f"floor: {floor}")
        with self._copy("large") as url:
            run = alembic(url, "upgrade", PRESENT)
            fixed = alembic(url, "upgrade", PRESENT).seconds
            ours = _idle(before, url, run.seconds - fixed)
            rewritten = _written_by(url, lambda: _again(url))
            self.say(f"ours: {ours}, {rewritten} rows written by a second run\n{run.said}")
        with self._copy("large") as url:
            usual = watch(url, load, _nothing)
            self._said("no migration", usual)
            up = watch(url, load, lambda: alembic(url, "upgrade", PRESENT).seconds - fixed)
            self._said("upgrade", up)
            with connected(url) as connection:
                connection.execute("CHECKPOINT")
            down = watch(url, load, lambda: alembic(url, "downgrade", FORMER).seconds - fixed)
            self._said("downgrade", down)
        with self._copy("large") as url:
            naive_loaded = watch(url, load, lambda: _naive(url))
            self._said("naive", naive_loaded)
        return OnPostgres(
            version=self.server.version,
            before=before,
            naive=naive,
            ours=ours,
            floor=floor,
            total=run.seconds,
            fixed=fixed,
            memory=run.memory,
            rewritten=rewritten,
            small_plans=small,
            small_seconds=small_seconds - fixed,
            usual=usual,
            naive_loaded=naive_loaded,
            up=up,
            down=down,
        )

    def _template(self, name: str, plans: int) -> None:
        self.say(f"writing {plans:,} plans of the former release")
        self.server.execute(f"CREATE DATABASE {name}")
        url = self.server.url(name)
        former_release(url, plans)
        with connected(url) as connection:
            connection.execute(NOTHING_KNOWN)
            connection.execute("VACUUM (FULL, ANALYZE)")

    def _stock_log_files(self) -> None:
        # A server that is new has to fill each file with zeros first, while all wait.
        with connected(self.server.url()) as connection:
            for _ in range(_LOG_FILES):
                connection.execute("SELECT pg_logical_emit_message(false, 'stock', '')")
                connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")

    @contextmanager
    def _copy(self, template: str) -> Iterator[str]:
        name = f"{template}_copy"
        self.server.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        url = self.server.url(name)
        with connected(url) as connection:
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
        yield url
        self.server.drop_database(url)

    def _said(self, what: str, seen: Watched) -> None:
        waits = seen.waits
        self.say(
            f"{what}, under load: {seen.seconds:.1f} s, {len(waits.due)} statements, longest wait "
            f"{waits.longest:.1f} ms, p99 {waits.p99:.1f} ms, {waits.long} long ones, "
            f"{seen.failed} failed {dict(seen.failures) or ''}"
        )


def connected(url: str) -> psycopg.Connection[Any]:
    """Connect by the driver alone, each statement a transaction of its own."""
    plain = make_url(url).set(drivername="postgresql")
    return psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True)


def _naive(url: str) -> float:
    with connected(url) as connection:
        begun = time.monotonic()
        with connection.transaction():
            for statement in _NAIVE_POSTGRESQL:
                connection.execute(statement.encode())
        return time.monotonic() - begun


def _floor(url: str) -> float:
    with connected(url) as connection:
        for statement in _KNOW_ROOTS:
            connection.execute(statement.encode())
        begun = time.monotonic()
        connection.execute(_FLOOR.encode())
        return time.monotonic() - begun


def _nothing() -> float:
    time.sleep(_BASELINE_SECONDS)
    return _BASELINE_SECONDS


def _again(url: str) -> None:
    # With the version of the former release, the revision runs once more from its start.
    alembic(url, "stamp", FORMER)
    alembic(url, "upgrade", PRESENT)


def _idle(before: Sizes, url: str, seconds: float) -> Idle:
    after = _sizes(url)
    growth = Sizes(after.table - before.table, after.indexes - before.indexes)
    with connected(url) as connection:
        return Idle(seconds, growth, _one(connection, _WRONG_ROOTS))


def _sizes(url: str) -> Sizes:
    with connected(url) as connection:
        table = _one(connection, "SELECT pg_table_size('v3_plans')")
        return Sizes(table / 1e6, _one(connection, "SELECT pg_indexes_size('v3_plans')") / 1e6)


def _written_by(url: str, act: Callable[[], object]) -> int:
    query = """SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
                WHERE relname = 'v3_plans'"""
    with connected(url) as connection:
        before = _one(connection, query)
        act()
        return _one(connection, query) - before


def _one(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])
