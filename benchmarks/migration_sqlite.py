"""
The runs on SQLite that `migration.py` compares, each on a copy of the same file.

The bare copy is the least that a rebuild can be: the rows are copied into the new table
with constants for what is missing, and the indexes are made again.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from migration_runs import NAIVE_UPDATES, NOTHING_KNOWN, PRESENT, alembic, former_release


class OnSqlite(NamedTuple):
    """Everything that was measured on SQLite; times in seconds."""

    version: str
    bare_copy: float
    naive: float
    #: Of the whole process, of the checks in it, and of the same with nothing to do.
    total: float
    checks: float
    fixed: float
    memory: float
    file_changed: bool

    @property
    def ours(self) -> float:
        """What compares with the others: neither Python's start nor checks of the result."""
        return self.total - self.checks - self.fixed


def measure(folder: Path, plans: int, say: Callable[[str], None]) -> OnSqlite:
    """Compare the two forms, and a bare copy of the table, on one file of *plans* plans."""
    say(f"writing {plans:,} plans of the former release into a file")
    former, copy, final = folder / "former.db", folder / "copy.db", folder / "final.db"
    former_release(f"sqlite:///{former}", plans)
    with closing(sqlite3.connect(former)) as connection:
        connection.execute(NOTHING_KNOWN)
        connection.commit()
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode = WAL")
    alembic(f"sqlite:///{final}", "upgrade", PRESENT)
    with closing(sqlite3.connect(final)) as connection:
        table = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'v3_plans'"
        ).fetchone()[0]

    seconds = {}
    for name, before, root, profile in (
        ("bare copy", (), "coalesce(root_plan_id, plan_id)", "'balanced'"),
        ("naive", NAIVE_UPDATES, "root_plan_id", "automation_profile"),
    ):
        shutil.copyfile(former, copy)
        seconds[name] = _copied(copy, table, before, root, profile)
        say(f"{name}: {seconds[name]:.2f} s")
        copy.unlink()

    shutil.copyfile(former, copy)
    run = alembic(f"sqlite:///{copy}", "upgrade", PRESENT)
    digest = _digest(copy)
    fixed = alembic(f"sqlite:///{copy}", "upgrade", PRESENT).seconds
    checks = re.findall(
        r"(?:checks before and after|is not damaged; checked in) ([\d.]+) s", run.said
    )
    if len(checks) != 2:
        raise RuntimeError(f"the upgrade did not say how long its checks took:\n{run.said}")
    say(f"ours: {run.seconds:.2f} s, start {fixed:.2f} s\n{run.said}")
    return OnSqlite(
        version=sqlite3.sqlite_version,
        bare_copy=seconds["bare copy"],
        naive=seconds["naive"],
        total=run.seconds,
        checks=sum(map(float, checks)),
        fixed=fixed,
        memory=run.memory,
        file_changed=_digest(copy) != digest,
    )


def _copied(file: Path, table: str, before: tuple[str, ...], root: str, profile: str) -> float:
    begun = time.monotonic()
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        run = connection.execute
        run("PRAGMA foreign_keys = OFF")
        run("PRAGMA legacy_alter_table = ON")
        run("BEGIN IMMEDIATE")
        for statement in before:
            run(statement)
        indexes = run(
            "SELECT sql FROM sqlite_master WHERE tbl_name = 'v3_plans' AND type = 'index'"
            " AND sql IS NOT NULL"
        ).fetchall()
        names = [row[1] for row in run("PRAGMA table_info(v3_plans)")]
        values = {"root_plan_id": root, "automation_profile": profile}
        run("ALTER TABLE v3_plans RENAME TO old")
        run(table)
        run(
            f"INSERT INTO v3_plans ({', '.join(names)})"
            f" SELECT {', '.join(values.get(name, name) for name in names)} FROM old"
        )
        run("DROP TABLE old")
        for (sql,) in indexes:
            run(sql)
        run("COMMIT")
    return time.monotonic() - begun


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        digest = sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
