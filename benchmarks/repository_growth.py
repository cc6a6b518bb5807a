"""What each operation of the repository costs in a small, a larger and a large table."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from time import perf_counter
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanRepository
from support.plan_tables import GROUP, OPEN, TREE, created_at, plan_id

Operation = Callable[[PlanRepository], Any]
#: Milliseconds, by operation and by how many plans the table has.
Costs = dict[str, dict[int, list[float]]]

_A_LONG_TIME = timedelta(days=36500)


def operations(plans: int) -> dict[str, Operation]:
    """Name what an agent system does all day, on a table of so many plans."""
    middle = plans // 2 - plans // 2 % TREE
    root, leaf = plan_id(middle), plan_id(middle + 1)
    last = plan_id(plans - OPEN // 2)
    few = created_at(plans - GROUP)
    return {
        "get": lambda it: it.get(leaf),
        "children": lambda it: it.children(root),
        "tree": lambda it: it.tree(root),
        "tree_summary": lambda it: it.tree_summary(root),
        "add": lambda it: it.add(Plan.create("team/new", project_links=["p1"])),
        "get and save": lambda it: it.save(it.get(last).edit(description="x")),
        "delete one plan": lambda it: it.delete(it.get(leaf)),
        "delete_tree of 21 plans": lambda it: it.delete_tree(root),
        "list a namespace of 100": lambda it: it.list(namespace="team7"),
        "list a project of 100": lambda it: it.list(project="p7"),
        "list the 100 created last": lambda it: it.list(created_from=few),
        "list the newest 100": lambda it: it.list(order="newest"),
        "claim one": lambda it: it.claim(),
        "claim one of a phase": lambda it: it.claim(phase="execute"),
        "poll, none queued in the phase": lambda it: it.claim(phase="apply"),
        "requeue_stalled, none stalled": lambda it: it.requeue_stalled(
            not_touched_for=_A_LONG_TIME
        ),
        "count_by state, of a namespace": lambda it: it.count_by(
            "phase", "processing_state", namespace="team7"
        ),
        "count_by state, of what is open": lambda it: it.count_by(
            "phase", "processing_state", is_final=False
        ),
        "count_by state, of all": lambda it: it.count_by("phase", "processing_state"),
        "delete_trees, none old enough": lambda it: it.delete_trees(completed_before=created_at(0)),
        "delete_trees, one of 21 plans": lambda it: it.delete_trees(
            completed_before=created_at(plans), limit=1
        ),
    }


def measure(engines: Mapping[int, Engine], rounds: int, say: Callable[[str], None]) -> Costs:
    """
    Do each operation on each table in turn, *rounds* times after one that does not count.

    Each is rolled back. What else the machine does meanwhile meets tables of all sizes alike.
    """
    costs: Costs = {}
    asked = {size: operations(size) for size in engines}
    for name in operations(TREE):
        costs[name] = {size: [] for size in engines}
        for count in range(rounds + 1):
            for size, engine in engines.items():
                with _timed() as taken, Session(engine) as session:
                    session.connection()
                    taken.append(perf_counter())
                    asked[size][name](PlanRepository(session))
                    taken.append(perf_counter())
                    session.rollback()
                if count:
                    costs[name][size].append((taken[1] - taken[0]) * 1000)
        least = (f"{min(each):9.2f} ms" for each in costs[name].values())
        say(f"  {name:34}{' '.join(least)}   x {growth(costs[name]):.2f}")
    return costs


def growth(by_size: Mapping[int, list[float]]) -> float:
    """
    Give how much more an operation costs in the largest table than in the smallest.

    The fastest of all rounds counts: whatever else the machine does can only slow one down.
    """
    return min(by_size[max(by_size)]) / min(by_size[min(by_size)])


@contextmanager
def _timed() -> Iterator[list[float]]:
    gc.collect()
    gc.disable()
    try:
        yield []
    finally:
        gc.enable()
