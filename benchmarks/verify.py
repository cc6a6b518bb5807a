"""
Time `verify` on many plans, and say how much memory it took, on both engines.

    python benchmarks/verify.py --plans 1000000

The plans are those of the former release, in trees, and are migrated before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from support.databases import empty_database, migrate
from support.former_release import write_former_release
from support.revisions import M4_003


def timed(url: str, *options: str) -> tuple[float, float, float, int]:
    """Run it in a process of its own: seconds, those of them in it, megabytes, exit status."""
    begun = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cleveragents_plans", "verify", "-q", "--url", url, *options],
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds, own = perf_counter() - begun, used.ru_utime + used.ru_stime
    return seconds, own, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def main() -> None:
    """Make the plans, and print a line for each way of looking at them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=1_000_000)
    parser.add_argument("--engines", nargs="*", default=["sqlite", "postgresql-18"])
    given = parser.parse_args()
    for engine in given.engines:
        with tempfile.TemporaryDirectory() as folder, empty_database(engine, Path(folder)) as url:
            migrate(url, M4_003)
            write_former_release(url, plans=given.plans, pure=True)
            for revision in ("before", "after"):
                if revision == "after":
                    migrate(url, "head")
                for options in (["--quick"], [], ["--fingerprint"]):
                    seconds, own, peak, status = timed(url, *options)
                    print(
                        f"{engine:14} {given.plans:>9,} plans  {revision:6} verify "
                        f"{' '.join(options):13} {seconds:6.1f} s ({own:.1f} s its own)  "
                        f"{peak:4.0f} MB  exit {status}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
