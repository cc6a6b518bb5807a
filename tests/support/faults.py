"""Databases to be disturbed, real processes that migrate them, and what must come of it."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import NullPool, create_engine, make_url, text

from support import postgres
from support.databases import ROOT, migrate, roll_back
from support.former_release import write_former_release
from support.online import client
from support.revision_database import plan_id
from support.revisions import CHAIN, M4_003, M8_001
from support.rows import Entry, database_hash, schema_dump

#: The command that leads to each: down to the former release, up to every other revision.
COMMANDS = {
    **{revision: ("upgrade", revision) for revision in (*CHAIN, "head")},
    M4_003: ("downgrade", M4_003),
}

_SNAPSHOT = '{"name":"odd","who":"söme böðy % :x"}'


@dataclass(frozen=True)
class State:
    """What a database holds: its schema, and every row of it."""

    schema: tuple[Entry, ...]
    rows: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, url: str) -> State:
        """Read it from the database at *url*."""
        return cls(tuple(schema_dump(url)), tuple(database_hash(url).items()))


@dataclass(frozen=True)
class Models:
    """
    Databases on one engine that are copied for each test.

    ``former`` is what an undisturbed downgrade leaves, with snapshots in the archive;
    ``new`` is what an undisturbed upgrade makes of it; ``gaps`` is ``former`` after that
    release has forgotten roots and left profiles blank, and is upgraded to the same.
    """

    engine: str
    urls: dict[str, str]
    states: dict[str, State]

    @contextmanager
    def copy(self, name: str, folder: Path, *, wal: bool = False) -> Iterator[str]:
        """Copy the model *name*; on SQLite into *folder*, with a write-ahead log if *wal*."""
        if self.engine == "sqlite":
            file = folder / "plans.db"
            shutil.copyfile(_file(self.urls[name]), file)
            if wal:
                execute(f"sqlite:///{file}", "PRAGMA journal_mode = WAL")
            yield f"sqlite:///{file}"
            return
        url = _copied(self.engine, self.urls[name])
        try:
            yield url
        finally:
            postgres.server(self.engine).drop_database(url)


@functools.cache
def models(engine: str, plans: int) -> Models:
    """Make the models of that many plans, once."""
    new = _empty(engine)
    write_former_release(new, plans, seed=5, also_tables=True)
    migrate(new, M8_001)
    execute(
        new,
        "UPDATE v3_plans SET effective_profile_snapshot = :snapshot"
        " WHERE substr(plan_id, 26) IN ('0', '3', '7', 'G')",
        "UPDATE v3_plans SET automation_profile = 'trusted' WHERE substr(plan_id, 25) = '00'",
        snapshot=_SNAPSHOT,
    )
    former = _copied(engine, new)
    roll_back(former, M4_003)
    gaps = _copied(engine, former)
    execute(
        gaps,
        # Where the parent says the same: other roots would not be found again.
        "UPDATE v3_plans SET root_plan_id = NULL WHERE substr(plan_id, 26) <= '7'"
        " AND root_plan_id = (SELECT coalesce(p.root_plan_id, p.plan_id) FROM v3_plans p"
        " WHERE p.plan_id = v3_plans.parent_plan_id)",
        "UPDATE v3_plans SET automation_profile = ' ' WHERE automation_profile IS NULL"
        " AND substr(plan_id, 26) IN ('1', '2')",
    )
    urls = {"new": new, "former": former, "gaps": gaps}
    if engine == "sqlite":
        for url in urls.values():
            # What a rebuild left free would be room for the next one.
            connection = sqlite3.connect(_file(url))
            connection.execute("VACUUM")
            connection.close()
    return Models(engine, urls, {name: State.of(url) for name, url in urls.items()})


_FOLDER = Path(tempfile.mkdtemp(prefix="models", dir=postgres.memory_folder()))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def _empty(engine: str) -> str:
    if engine == "sqlite":
        return f"sqlite:///{_FOLDER}/{uuid.uuid4().hex}.db"
    return postgres.server(engine).create_database()


def _copied(engine: str, url: str) -> str:
    if engine == "sqlite":
        copy = _empty(engine)
        shutil.copyfile(_file(url), _file(copy))
        return copy
    return postgres.server(engine).create_database(template=make_url(url).database)


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def execute(url: str, *statements: str, **values: str) -> None:
    """Run *statements* in one transaction, each with *values*."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), values)
    engine.dispose()


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    status: int
    said: str

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL


class Migration:
    """
    A process that migrates the database at *url*, begun at once.

    It is ended after *limit* seconds: a migration that hangs fails the test that waits
    for it, and does not outlive it for long.
    """

    def __init__(
        self,
        url: str,
        goal: str,
        *extra: str,
        victim: tuple[str, ...] = (),
        before: tuple[str, ...] = (),
        limit: float = 240,
    ) -> None:
        arguments = ["-c", str(ROOT / "alembic.ini"), "-x", f"url={url}"]
        for one in extra:
            arguments += ["-x", one]
        program = ["support.victim", *victim, "--"] if victim else ["alembic"]
        self._process = subprocess.Popen(
            [*before, sys.executable, "-m", *program, *arguments, *COMMANDS[goal]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONUNBUFFERED": "1"},
        )
        self._said: list[str] = []
        self._guard = threading.Timer(limit, self._process.terminate)
        self._guard.daemon = True
        self._guard.start()

    def wait_for(self, words: str) -> None:
        """Read what it says until *words* are in it; fail when it ends without them."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)
            if words in line:
                return
        raise AssertionError(f"{words!r} was not said in: {''.join(self._said)}")

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ended(self) -> Ended:
        """Wait for its end."""
        said = self._process.communicate()[0]
        self._guard.cancel()
        return Ended(self._process.returncode, "".join(self._said) + said)


def former_release_works(url: str) -> None:
    """Do what the former release does, and delete it again, so that the rows are as they were."""
    row = (
        "INSERT INTO v3_plans (plan_id, parent_plan_id, root_plan_id, automation_profile,"
        " action_name, created_at, updated_at)"
        " VALUES (%s, %s, NULL, NULL, 'local/tidy', 'now', 'now')"
    )
    root, child, other = map(plan_id, (1, 2, 3))
    with client(url) as connection:
        connection.execute("SET statement_timeout = '10s'")
        some = connection.execute("SELECT min(plan_id) FROM v3_plans").fetchone()
        assert some is not None
        for key, parent in ((root, None), (child, root), (other, some[0])):
            connection.execute(row, [key, parent])
        connection.execute(
            "UPDATE v3_plans SET phase = 'execute', root_plan_id = NULL, automation_profile = NULL"
            " WHERE plan_id = %s",
            [child],
        )
        roots = dict(
            connection.execute(
                "SELECT plan_id, root_plan_id FROM v3_plans WHERE plan_id <= %s", [other]
            ).fetchall()
        )
        assert roots[root] in (None, root)
        assert roots[child] in (None, root)
        for key in (other, child, root):
            connection.execute("DELETE FROM v3_plans WHERE plan_id = %s", [key])


def points(url: str, goal: str, folder: Path) -> list[str]:
    """
    List the points at which a process on the way to *goal* can die, by migrating *url*.

    What comes a few times is listed each time; what is repeated for every batch, the
    first three times and once in the middle.
    """
    file = folder / "count.json"
    done = Migration(url, goal, victim=("--count", str(file))).ended()
    assert done.status == 0, done.said
    seen: dict[str, int] = json.loads(file.read_text())
    return [
        f"{kind}:{time}"
        for kind, times in seen.items()
        for time in (range(1, times + 1) if times <= 12 else (1, 2, 3, times // 3))
    ]


def spread(found: list[str], number: int) -> list[str]:
    """Choose *number* of the points *found*, the first and the last among them."""
    if len(found) <= number:
        return found
    return [found[round(i * (len(found) - 1) / (number - 1))] for i in range(number)]


def one_clear_line(said: str) -> str:
    """Give the line with which alembic failed; fail if there is more to read than that."""
    assert "Traceback" not in said
    failed = [line for line in said.splitlines() if "FAILED" in line]
    assert len(failed) == 1, said
    assert said.rstrip().endswith(failed[0]), said
    return failed[0]
