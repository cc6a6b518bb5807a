"""
Record what an upgrade locks and when, for the picture docs/pictures/locks.svg.

    python benchmarks/locks.py && python docs/extension/pictures.py

Several upgrades are recorded, each of the same plans. The one is kept in which most was seen, and
of those the one whose exclusive locks were shortest: what else the machine does makes them longer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from migration_runs import NOTHING_KNOWN, SERVER, alembic, connected, former_release  # noqa: E402
from support.lock_record import Step, locks_recorded, steps_of  # noqa: E402
from support.postgres import PostgresServer, binaries  # noqa: E402

RECORD = ROOT / "docs" / "pictures" / "locks.json"
_RUNS = 4
#: In the picture, what is nearer than this part of the whole is one bar.
_NEAR = 1 / 400


def record(plans: int) -> dict[str, Any]:
    """Upgrade *plans* plans several times, and give the record with the shortest locks."""
    server = PostgresServer(binaries()["postgresql-18"], SERVER)
    try:
        server.execute("CREATE DATABASE former")
        former_release(server.url("former"), plans)
        with connected(server.url("former")) as connection:
            connection.execute(NOTHING_KNOWN)
            connection.execute("VACUUM (FULL, ANALYZE)")
        runs = [_upgrade(server) for _ in range(_RUNS)]
    finally:
        server.close()
    steps = min(runs, key=lambda steps: (-len(steps), _exclusive(steps)))
    whole = max(end for step in steps for _, end in step.held)
    found = [_recorded(step, whole * _NEAR) for step in steps]
    return {"plans": plans, "server": server.version, "steps": found}


def _recorded(step: Step, near: float) -> dict[str, Any]:
    # One statement of an index has several transactions.
    again = step.what in ("UPDATE of a batch", "VACUUM")
    held = step.held if again else [(step.held[0][0], max(end for _, end in step.held))]
    return {
        "what": step.what,
        "mode": step.mode,
        "times": len(held),
        "longest_ms": round(max(end - start for start, end in held), 1),
        "held": [list(bar) for bar in _bars(held, near)],
    }


def _upgrade(server: PostgresServer) -> list[Step]:
    server.execute("CREATE DATABASE copy TEMPLATE former")
    url = server.url("copy")
    with connected(url) as connection:
        connection.execute("CHECKPOINT")
    with locks_recorded(url) as samples:
        alembic(url, "upgrade", "head")
    server.drop_database(url)
    return steps_of(samples)


def _exclusive(steps: Sequence[Step]) -> float:
    return sum(
        end - start for step in steps for start, end in step.held if step.mode == "ACCESS EXCLUSIVE"
    )


def _bars(times: Sequence[tuple[float, float]], near: float) -> Iterator[tuple[float, float]]:
    held = sorted(times)
    start, last = held[0]
    for (_, _), (begun, ended) in pairwise(held):
        if begun - last > near:
            yield round(start, 1), round(last, 1)
            start = begun
        last = max(last, ended)
    yield round(start, 1), round(last, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Record, and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--plans", type=int, default=100_000, help="default: %(default)s")
    options = parser.parse_args(arguments)
    RECORD.write_text(json.dumps(record(options.plans), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
