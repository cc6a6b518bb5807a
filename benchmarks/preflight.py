"""
Compare what `preflight` foresees with what an upgrade then takes, on databases of several shapes.

    PYTHONPATH=tests python benchmarks/preflight.py --plans 100000

A client writes all the while, for some seconds before a second preflight and through it: its waits
are printed for both, the median and the longest. Seconds of processor time are those of preflight
itself and of the server, so that they can be compared where the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from itertools import cycle
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from sqlalchemy import NullPool, create_engine

from support.databases import empty_database, migrate
from support.former_release import write_former_release
from support.revisions import M4_003

# Seconds for which the client is watched without a preflight.
_BEFORE = 10.0
_NUMBERED = (
    "SELECT plan_id, lag(plan_id) OVER (ORDER BY plan_id) AS previous,"
    " row_number() OVER (ORDER BY plan_id) AS number FROM v3_plans"
)
#: What makes each shape of the rows that the former release wrote.
SHAPES = {
    "as the former release wrote them": (),
    "no plan has a root": ("UPDATE v3_plans SET root_plan_id = NULL",),
    "every plan has a root, one in ten no profile": (
        "UPDATE v3_plans SET root_plan_id = plan_id",
        "UPDATE v3_plans SET automation_profile = CASE WHEN description LIKE '%a%' THEN '{}' END",
    ),
    "chains of 50 plans": (
        "UPDATE v3_plans SET root_plan_id = NULL, parent_plan_id ="
        " CASE WHEN n.number % 50 <> 1 THEN n.previous END"
        f" FROM ({_NUMBERED}) AS n WHERE n.plan_id = v3_plans.plan_id",
    ),
    "descriptions of 3,000 characters": (
        "UPDATE v3_plans SET description = "
        "(SELECT substr(string_agg, 1, 3000) FROM (SELECT {repeated} AS string_agg) AS one)",
    ),
}
_REPEATED = {
    "sqlite": "replace(hex(zeroblob(100)), '00', plan_id || ' ')",
    "postgresql": "repeat(plan_id || ' ', 120)",
}


def main() -> None:
    """Print a line for each shape and engine, and how many estimates are within a factor of 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=100_000)
    parser.add_argument("--engines", nargs="*", default=["sqlite", "postgresql-18"])
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of them")
    given = parser.parse_args()
    good = runs = 0
    for number, (shape, statements) in enumerate([*SHAPES.items()][: given.shapes]):
        for engine in given.engines:
            with (
                tempfile.TemporaryDirectory() as folder,
                empty_database(engine, Path(folder)) as url,
            ):
                _prepare(url, given.plans, number, statements)
                found, took, cpu = _preflight(url)
                without, during = _waits(url)
                estimate = found["found"]["estimate"]
                seconds = _upgrade(url)
                factor = seconds / estimate["seconds"]
                runs, good = runs + 1, good + (0.5 <= factor <= 2)
                print(
                    f"{engine:13} {given.plans:>9,} plans  {shape:44}  foreseen"
                    f" {estimate['seconds']:5.1f} s ({estimate['least']:.1f} to"
                    f" {estimate['most']:.1f})  came {seconds:5.1f} s  factor {factor:4.2f}"
                    f"  preflight {took:4.1f} s ({cpu:.1f} s of processors)"
                    f"  client waited {_shown(without)} without, {_shown(during)} during it",
                    flush=True,
                )
    print(f"{good} of {runs} within a factor of 2")


def _prepare(url: str, plans: int, seed: int, statements: tuple[str, ...]) -> None:
    migrate(url, M4_003)
    write_former_release(url, plans=plans, seed=seed, pure=True)
    engine = create_engine(url, poolclass=NullPool)
    for statement in statements:
        with engine.begin() as connection:
            repeated = _REPEATED[engine.dialect.name]
            connection.exec_driver_sql(
                statement.replace("{repeated}", repeated).replace("%", "%%")
                if engine.dialect.name == "postgresql"
                else statement.replace("{repeated}", repeated)
            )
    if engine.dialect.name == "postgresql":
        # As a server in use has it.
        options = {"isolation_level": "AUTOCOMMIT"}
        with engine.connect().execution_options(**options) as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            connection.exec_driver_sql("CHECKPOINT")
    engine.dispose()


def _preflight(url: str) -> tuple[Any, float, float]:
    """Give what it found, its seconds, and those of processors: its own and the server's."""
    begun, before = perf_counter(), _server_seconds(url)
    process = subprocess.Popen(
        [sys.executable, "-m", "cleveragents_plans", "preflight", "-q", "--json", "--url", url],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    found = json.loads(process.stdout.read())
    _, _, used = os.wait4(process.pid, 0)
    seconds = perf_counter() - begun
    sleep(0.5)  # a backend is counted when it has ended
    server = _server_seconds(url) - before
    return found, seconds, used.ru_utime + used.ru_stime + server


def _server_seconds(url: str) -> float:
    """Give the processor time of a server of PostgreSQL on this machine, whose sessions ended."""
    if url.startswith("sqlite"):
        return 0.0
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        file = connection.exec_driver_sql("SHOW data_directory").scalar_one()
    engine.dispose()
    parent = int(Path(file, "postmaster.pid").read_text().split()[0])
    # User and system time of its children that have ended:
    # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    fields = Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _upgrade(url: str) -> float:
    begun = perf_counter()
    command = [sys.executable, "-m", "cleveragents_plans", "upgrade", "-q", "--url", url]
    subprocess.run(command, check=True)
    return perf_counter() - begun


def _waits(url: str) -> tuple[list[float], list[float]]:
    """Give how long updates of a client took before a preflight, and while it ran."""
    ready, begun, over = threading.Event(), threading.Event(), threading.Event()
    waits: dict[bool, list[float]] = {False: [], True: []}

    def client() -> None:
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            ids = connection.exec_driver_sql("SELECT plan_id FROM v3_plans ORDER BY 1").scalars()
            keys = ids.all()[::97]
            connection.rollback()
            ready.set()
            for key in cycle(keys):
                during, since = begun.is_set(), perf_counter()
                connection.exec_driver_sql(
                    f"UPDATE v3_plans SET updated_at = updated_at WHERE plan_id = '{key}'"
                )
                connection.commit()
                waits[during].append(perf_counter() - since)
                sleep(0.002)
                if over.is_set():
                    break
        engine.dispose()

    thread = threading.Thread(target=client)
    thread.start()
    ready.wait()
    sleep(_BEFORE)
    begun.set()
    subprocess.run(
        [sys.executable, "-m", "cleveragents_plans", "preflight", "-q", "--json", "--url", url],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    over.set()
    thread.join()
    return waits[False], waits[True]


def _shown(waits: list[float]) -> str:
    return f"{1000 * statistics.median(waits):.0f} to {1000 * max(waits):.0f} ms"


if __name__ == "__main__":
    main()
