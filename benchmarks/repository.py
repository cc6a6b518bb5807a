"""
Measure what an agent system does with plans all day, beside the driver and other libraries.

    python benchmarks/repository.py --sizes 10000 100000 1000000

The goals are those of a system that grows: what a question costs must not depend on how many plans
there are. The tables go into ``benchmarks.md`` between its markers, the picture beside it.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from math import inf
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from sqlalchemy import Engine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import mapping
import page
import repository_growth
import repository_peers
import repository_queue
from cleveragents_plans import open_engine
from growth_picture import picture
from migration_runs import SERVER
from support.databases import migrate
from support.plan_tables import OPEN, fill
from support.postgres import PostgresServer, binaries

PACKAGES = ("sqlalchemy", "psycopg", "procrastinate", "sqlmodel", "advanced-alchemy")
MOST_GROWTH = 1.3
#: Claims a second of four workers that list and save, on SQLite, before there were claims.
NAIVE_BEFORE = 30.0
_ALONE = "postgresql: claim, save, AUTOCOMMIT"


def say(line: str) -> None:
    """Print what was measured at once: a run takes minutes."""
    print(line, flush=True)


def growing(urls: Mapping[int, str], rounds: int, stack: ExitStack) -> dict[int, Engine]:
    """Make a table of each size."""
    engines: dict[int, Engine] = {}
    for size, url in urls.items():
        migrate(url, "head")
        engines[size] = open_engine(url)
        stack.callback(engines[size].dispose)
        began = perf_counter()
        fill(engines[size], size)
        say(f"{engines[size].dialect.name}: {size:,} plans in {perf_counter() - began:.0f} s")
    return engines


def growth_table(engine: str, costs: repository_growth.Costs) -> str:
    """Lay out what each operation costs in tables of several sizes."""
    sizes = list(next(iter(costs.values())))
    head = " | ".join(f"{size:,}" for size in sizes)
    lines = [f"| {engine} | {head} | growth | ≤ {MOST_GROWTH} x |", "|---" * (len(sizes) + 3) + "|"]
    for name, by_size in costs.items():
        cells = " | ".join(f"{min(each):.2f} ms" for each in by_size.values())
        grown = repository_growth.growth(by_size)
        held = page.met(grown <= MOST_GROWTH)
        lines.append(f"| {name} | {cells} | {grown:.2f} x | {held} |")
    return "\n".join(lines)


def compared(
    title: str, tasks: Mapping[str, Callable[[], Any]], rounds: int, goal: tuple[str, float] | None
) -> Iterator[str]:
    """Run *tasks* in turn; lay out the fastest time of each, against the first."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            gc.collect()
            # Several at once, as a program does them: the first finds cold caches.
            until = perf_counter() + 0.02
            while True:
                began = perf_counter()
                task()
                taken[name].append(perf_counter() - began)
                if perf_counter() > until:
                    break
    first = min(next(iter(taken.values())))
    for name, seconds in taken.items():
        ratio, said = min(seconds) / first, ""
        if goal and goal[0] == name:
            said = f"≤ {goal[1]} x: {page.met(ratio <= goal[1])}"
        yield f"| {title} | {name} | {min(seconds) * 1000:.2f} ms | {ratio:.2f} x | {said} |"


def beside_peers(engines: Mapping[int, Engine], rounds: int) -> Iterator[str]:
    """Compare with the bare driver and with other libraries, in the largest table."""
    size = max(engines)
    engine = engines[size]
    name = engine.dialect.name
    saving = repository_peers.saving(engine, size - OPEN // 2)
    goal = ("repository", 2.0)
    yield from compared(f"{name}: get, change, save, COMMIT", saving, rounds, goal)
    yield from compared(
        f"{name}: newest 100 of a namespace", repository_peers.listing(engine), rounds, None
    )
    yield from compared(
        f"{name}: count of a namespace", repository_peers.counting(engine), rounds, None
    )


def shares(engines: Mapping[int, Engine]) -> Iterator[str]:
    """Measure the parts of a change on the largest table: processor time of this process."""
    size = max(engines)
    for name, task in repository_peers.shares(engines[size], size - OPEN // 2).items():
        least = inf
        for _ in range(50):
            began = process_time()
            for _ in range(20):
                task()
            least = min(least, (process_time() - began) / 20)
        yield f"| {engines[size].dialect.name} | {name} | {least * 1e6:.0f} µs |"


def reading(url: str, rounds: int) -> Iterator[str]:
    """Read 10,000 plans, beside the floor of `mapping`."""
    migrate(url, "head")
    bench = mapping.Bench(url, 10_000)
    bench.write()
    bench.check()
    tasks = {"floor: bare driver, one validation": bench.floor_read(), "repository": bench.read}
    name = bench.engine.dialect.name
    yield from compared(f"{name}: read 10,000 plans", tasks, rounds, ("repository", 1.0))
    bench.engine.dispose()


def queues(sqlite: str, ours: str, theirs: str, jobs: int, rounds: int) -> Iterator[str]:
    """Let four workers empty a queue, ours and procrastinate's in turn; the best round counts."""
    migrate(ours, "head")
    best: dict[str, repository_queue.Drained] = {}

    def drained(name: str, url: str, worker: Any, number: int) -> None:
        found = repository_queue.drain(url, worker, number)
        say(f"  {name}: {found}")
        if name not in best or found.per_second > best[name].per_second:
            best[name] = found

    for _ in range(rounds):
        repository_queue.fill(ours, jobs)
        drained("postgresql: claim, save", ours, repository_queue.claiming, jobs)
        repository_queue.fill(ours, jobs)
        drained(_ALONE, ours, repository_queue.claiming_alone, jobs)
        repository_queue.defer(theirs, jobs)
        drained("postgresql: procrastinate", theirs, repository_queue.fetching, jobs)
    migrate(sqlite, "head")
    for _ in range(rounds):
        repository_queue.fill(sqlite, jobs)
        drained("sqlite: claim, save", sqlite, repository_queue.claiming, jobs)
        repository_queue.fill(sqlite, jobs // 5)
        drained("sqlite: list, save", sqlite, repository_queue.listing, jobs // 5)
    rates = {name: found.per_second for name, found in best.items()}
    goals = {
        "postgresql: claim, save": (1.0, rates["postgresql: procrastinate"]),
        _ALONE: (1.0, rates["postgresql: procrastinate"]),
        "sqlite: claim, save": (5.0, NAIVE_BEFORE),
    }
    for name, found in best.items():
        said = ""
        if name in goals:
            least, other = goals[name]
            ratio = rates[name] / other
            said = f"{ratio:.2f} x {other:.0f}; ≥ {least} x: {page.met(ratio >= least)}"
        yield (
            f"| {name} | {rates[name]:.0f} | {found.doubled} | {found.conflicts}"
            f" | {found.locked} | {said} |"
        )


def killed_workers() -> str:
    """Run the tests that kill workers, and say how many passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "fault", "tests/faults/test_workers.py"]
    done = subprocess.run(command, cwd=page.ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1]
    if done.returncode:
        raise RuntimeError(f"workers that were killed lost plans: {last}\n{done.stdout}")
    return f"Plans that killed workers lost or doubled: 0 (tests/faults/test_workers.py: {last})."


def main() -> None:
    """Measure both engines, and write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=page.ROOT / "docs")
    options = parser.parse_args()
    server = PostgresServer(binaries()["postgresql-18"], SERVER)
    costs: dict[str, repository_growth.Costs] = {}
    peers: list[str] = []
    parts: list[str] = []
    said = [f"{page.machine(PACKAGES)}."]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        databases = {
            "SQLite": {size: f"sqlite:///{folder}/{size}.db" for size in options.sizes},
            "PostgreSQL": {size: server.create_database() for size in options.sizes},
        }
        for name, urls in databases.items():
            engines = growing(urls, options.rounds, stack)
            costs[name] = repository_growth.measure(engines, options.rounds, say)
            said.append(growth_table(name, costs[name]))
            peers += beside_peers(engines, options.rounds)
            parts += shares(engines)
        for url in (f"sqlite:///{folder}/reading.db", server.create_database()):
            peers += reading(url, 5)
        head = "| | | fastest | x the first | goal |\n|---|---|---|---|---|"
        said.append("\n".join([head, *peers]))
        say(said[-1])
        head = "| | part of a change | processor |\n|---|---|---|"
        said.append("\n".join([head, *parts]))
        say(said[-1])
        queued = queues(
            f"sqlite:///{folder}/queue.db",
            server.create_database(),
            server.create_database(),
            options.jobs,
            3,
        )
        head = (
            f"| {repository_queue.WORKERS} workers | jobs/s | doubled | conflicts | locked | goal |"
            "\n|---|---|---|---|---|---|"
        )
        said.append("\n".join([head, *queued]))
        said.append(killed_workers())
    say("\n\n".join(said))
    page.write(options.out, "repository", "\n\n".join(said))
    svg = picture(costs, MOST_GROWTH)
    (options.out / "benchmarks-growth.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
