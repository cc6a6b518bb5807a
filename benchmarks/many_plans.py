"""
Write a million plans and go through them, and say whether memory grew meanwhile.

    python benchmarks/many_plans.py write sqlite:///many.db 1000000
    python benchmarks/many_plans.py stream sqlite:///many.db 1000000

Two processes, so that each has a peak of its own.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanRepository
from cleveragents_plans.domain import Invariant, Level, ProjectLink
from cleveragents_plans.persistence import open_engine

_BEGAN = datetime(2026, 3, 14, tzinfo=UTC)


def plans(number: int) -> Iterator[Plan]:
    """Make *number* plans, each with a project, two arguments and two invariants."""
    for count in range(number):
        yield Plan.create(
            f"team/plan-{count}",
            description=f"Plan number {count}",
            project_links=[ProjectLink(project_name=f"local/p{count % 50}", alias="main")],
            arguments={"target": f"src/{count}", "depth": count % 7},
            invariants=[
                Invariant(text="All tests pass"),
                Invariant(text="No new dependency", source=Level.PROJECT),
            ],
            tags=["benchmark"],
            created_at=_BEGAN + timedelta(seconds=count),
        )


def write(url: str, number: int) -> str:
    """Write *number* plans as they are made; say what that took."""
    with Session(open_engine(url)) as session:
        made = Watched(plans(number), number)
        PlanRepository(session).add_all(made)
        session.commit()
    return f"wrote {made.said()}"


def stream(url: str, number: int) -> str:
    """Go through the *number* plans of a database; say what that took."""
    with Session(open_engine(url)) as session:
        read = Watched(PlanRepository(session).stream(), number)
        found = sum(1 for _ in read)
    if found != number:
        raise SystemExit(f"{found:,} plans were streamed; expected {number:,}")
    return f"streamed {read.said()}"


class Watched:
    """Plans on their way, *number* of them, and the memory that this process needs meanwhile."""

    def __init__(self, plans: Iterable[Plan], number: int) -> None:
        self._plans, self._number = plans, number
        self._began, self._at_first = perf_counter(), 0

    def __iter__(self) -> Iterator[Plan]:
        for count, plan in enumerate(self._plans, 1):
            yield plan
            if count == -(-self._number // 10):
                self._at_first = _peak_memory()

    def said(self) -> str:
        """Say how long it took until now, and whether memory grew."""
        return (
            f"{self._number:,} plans in {perf_counter() - self._began:.1f} s; peak memory"
            f" {self._at_first} MiB after the first tenth, {_peak_memory()} MiB after the last"
        )


def _peak_memory() -> int:
    # Not getrusage: there the process that started this one counts as well.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kibibytes) // 1024


TASKS = {"write": write, "stream": stream}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("url")
    parser.add_argument("number", type=int)
    given = parser.parse_args()
    print(TASKS[given.task](given.url, given.number))
