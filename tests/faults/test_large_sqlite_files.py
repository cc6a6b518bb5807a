"""A SQLite file of any shape and size is migrated in time and memory that its rows explain."""

from __future__ import annotations

import random
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest

from support.databases import ROOT, migrate
from support.faults import COMMANDS
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.fault

#: What the process may take, in MB; its start alone takes 70.
MEMORY = 120

#: Position of the parent of each row, from the top down; None for a root.
Parents = Iterable[int | None]


def chain(rows: int) -> Parents:
    return (n - 1 if n else None for n in range(rows))


def star(rows: int) -> Parents:
    return (0 if n else None for n in range(rows))


def forest(rows: int) -> Parents:
    """Trees of 50, as wide as they are deep."""
    return (None if n % 50 == 0 else n - n % 50 + (n % 50) // 3 for n in range(rows))


def rising(rows: int) -> Callable[[int], int]:
    return lambda n: n


def falling(rows: int) -> Callable[[int], int]:
    return lambda n: rows - n


def shuffled(rows: int) -> Callable[[int], int]:
    return random.Random(rows).sample(range(rows), rows).__getitem__


ORDERS = [rising, falling, shuffled]
SHAPES = [
    *((chain, 100_000, order) for order in ORDERS),
    *((star, 200_000, order) for order in ORDERS),
    *((forest, 2_000_000, order) for order in ORDERS),
    (chain, 1_000_000, shuffled),
]


def fill(file: Path, parents: Parents, place: Callable[[int], int]) -> None:
    """Write plans whose ids and rows stand in the order of their *place*."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        rows = (
            (place(n), f"{place(n):026}", None if up is None else f"{place(up):026}")
            for n, up in enumerate(parents)
        )
        connection.executemany(
            "INSERT INTO v3_plans (rowid, plan_id, parent_plan_id, action_name, created_at,"
            " updated_at) VALUES (?, ?, ?, 'local/x', '', '')",
            rows,
        )
        connection.commit()


#: The peak that `wait4` tells would be that of the process which starts it, if that is larger.
PROGRAM = """\
import atexit, pathlib, sys
from alembic.config import main
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(status.read_text().split("VmHWM:")[1].split()[0]))
main(sys.argv[1:])
"""


def measured(url: str, goal: str) -> tuple[float, float]:
    """Run a migration; give its seconds of the processor, and the peak of its memory in MB."""
    arguments = ["-c", str(ROOT / "alembic.ini"), "-x", f"url={url}", *COMMANDS[goal]]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(done.stdout.split()[-1]) / 1024


@pytest.mark.parametrize(
    ("shape", "rows", "order"), SHAPES, ids=[f"{s.__name__}-{n}-{o.__name__}" for s, n, o in SHAPES]
)
def test_roots_of_many_rows_are_found_in_every_order(
    tmp_path: Path,
    shape: Callable[[int], Parents],
    rows: int,
    order: Callable[[int], Callable[[int], int]],
):
    file = tmp_path / "plans.db"
    url = f"sqlite:///{file}"
    migrate(url, M4_003)
    place = order(rows)
    fill(file, shape(rows), place)

    seconds, memory = measured(url, M8_001)

    print(f"{rows:,} rows in {seconds:.1f} s, {memory:.0f} MB")
    assert memory < MEMORY
    # 15 to 40 microseconds a row.
    assert seconds < 10 + rows / 5_000
    per_root = 50 if shape is forest else rows
    with closing(sqlite3.connect(file)) as connection:
        roots = connection.execute(
            "SELECT root_plan_id, count(*) FROM v3_plans GROUP BY root_plan_id"
        ).fetchall()
    assert dict(roots) == {f"{place(n):026}": per_root for n in range(0, rows, per_root)}
