"""
Programs that tests take from Debian packages, because no wheel carries them.

    python tests/support/debian.py      lists the packages that are missing here, one a line

This is the one list of them: `.ci/run` installs what it names.
"""

from __future__ import annotations

import os
from pathlib import Path

#: The program that tests start, by the Debian package that it comes from.
PROGRAMS = {
    "postgresql-15": Path("/usr/lib/postgresql/15/bin/postgres"),
    "pgbouncer": Path("/usr/sbin/pgbouncer"),
    "chromium-headless-shell": Path("/usr/bin/chromium-headless-shell"),
    "pgpool2": Path("/usr/sbin/pgpool"),
    "systemd": Path("/usr/bin/systemd-analyze"),
}


def missing() -> list[str]:
    """List the packages that are not installed."""
    return [package for package, program in PROGRAMS.items() if not program.exists()]


def program(package: str) -> Path:
    """
    Find the program of *package*, for the test or the fixture that calls this.

    Where it is missing the test fails if the environment has ``CI=true``, so that a CI
    machine cannot pass without it; elsewhere the test is skipped. Both name the package.

    Raises:
        KeyError: *package* is not in ``PROGRAMS``.
    """
    found = PROGRAMS[package]
    if not found.exists():
        import pytest  # here: the list is printed where pytest is not installed yet

        told = f"needs the Debian package {package}: apt-get install {package} ({found} is missing)"
        if os.environ.get("CI") == "true":
            pytest.fail(told, pytrace=False)
        pytest.skip(told)
    return found


if __name__ == "__main__":
    print("\n".join(missing()))
