"""
Time how long a run takes to end after SIGTERM, at random moments of upgrades and downgrades.

    PYTHONPATH=tests python benchmarks/interruption.py --plans 200000 --moments 60

One database is upgraded, interrupted, and goes on from where it is (PostgreSQL), or starts again
(SQLite); when it has got to the end, it is downgraded in the same way. Moments are spread over the
whole run, importing included; what ended by Python's own handler before ours is told apart.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from support.databases import empty_database, migrate
from support.former_release import write_former_release
from support.revisions import M4_003


def main() -> None:
    """Print the distribution for each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=200_000)
    parser.add_argument("--moments", type=int, default=60)
    parser.add_argument("--engines", nargs="*", default=["sqlite", "postgresql-18"])
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for engine in given.engines:
        with tempfile.TemporaryDirectory() as folder, empty_database(engine, Path(folder)) as url:
            migrate(url, M4_003)
            write_former_release(url, plans=given.plans, pure=True)
            handled, early = interrupted(url, given.moments, random.Random(given.seed))
            cuts = statistics.quantiles(handled, n=10)
            print(
                f"{engine:13} {given.plans:>9,} plans  {len(handled)} signals: median"
                f" {statistics.median(handled):.2f} s, 9 of 10 within {cuts[-1]:.2f} s, longest"
                f" {max(handled):.2f} s; {early} before the handlers;"
                f" load {os.getloadavg()[0]:.0f}",
                flush=True,
            )


def interrupted(url: str, moments: int, among: random.Random) -> tuple[list[float], int]:
    """Give the seconds from each signal to the end of the process, and how many came too early."""
    goals = [["upgrade"], ["downgrade", M4_003]]
    handled: list[float] = []
    early, longest = 0, 20.0
    while len(handled) < moments:
        begun = perf_counter()
        process = started(url, *goals[0])
        try:
            process.wait(among.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            sent = perf_counter()
            if process.wait() == 128 + signal.SIGTERM:
                handled.append(perf_counter() - sent)
                continue
            early += process.returncode == -signal.SIGTERM
        if process.returncode == 0:
            goals.reverse()
            longest = perf_counter() - begun
    return handled, early


def started(url: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a run, with the handlers of signals that a shell gives it."""
    return subprocess.Popen(
        [sys.executable, "-m", "cleveragents_plans", *arguments, "-q", "--url", url],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )


if __name__ == "__main__":
    main()
