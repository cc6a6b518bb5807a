"""
Compare what `preflight` foresees with what an upgrade then takes, on databases of several shapes.

    PYTHONPATH=tests python benchmarks/preflight.py --plans 100000

A client writes meanwhile, in a second preflight, and its longest wait is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from sqlalchemy import NullPool, create_engine

from support.databases import empty_database, migrate
from support.former_release import write_former_release
from support.revisions import M4_003

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
                found, took = _preflight(url)
                wait = _longest_wait(url)
                estimate = found["found"]["estimate"]
                seconds = _upgrade(url)
                factor = seconds / estimate["seconds"]
                runs, good = runs + 1, good + (0.5 <= factor <= 2)
                print(
                    f"{engine:13} {given.plans:>9,} plans  {shape:44}  foreseen"
                    f" {estimate['seconds']:5.1f} s ({estimate['least']:.1f} to"
                    f" {estimate['most']:.1f})  came {seconds:5.1f} s  factor {factor:4.2f}"
                    f"  preflight {took:4.1f} s  client waited {1000 * wait:3.0f} ms",
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


def _preflight(url: str) -> tuple[Any, float]:
    begun = perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "cleveragents_plans", "preflight", "-q", "--json", "--url", url],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout), perf_counter() - begun


def _upgrade(url: str) -> float:
    begun = perf_counter()
    command = [sys.executable, "-m", "cleveragents_plans", "upgrade", "-q", "--url", url]
    subprocess.run(command, check=True)
    return perf_counter() - begun


def _longest_wait(url: str) -> float:
    """Run a preflight while a client updates plans, one after the other."""
    over = threading.Event()
    waits: list[float] = []

    def client() -> None:
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            ids = connection.exec_driver_sql("SELECT plan_id FROM v3_plans ORDER BY 1").scalars()
            keys = ids.all()[::97]
            connection.rollback()
            while not over.is_set():
                for key in keys:
                    begun = perf_counter()
                    connection.exec_driver_sql(
                        f"UPDATE v3_plans SET updated_at = updated_at WHERE plan_id = '{key}'"
                    )
                    connection.commit()
                    waits.append(perf_counter() - begun)
                    sleep(0.002)
                    if over.is_set():
                        break
        engine.dispose()

    thread = threading.Thread(target=client)
    thread.start()
    subprocess.run(
        [sys.executable, "-m", "cleveragents_plans", "preflight", "-q", "--json", "--url", url],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    over.set()
    thread.join()
    return max(waits, default=0.0)


if __name__ == "__main__":
    main()
