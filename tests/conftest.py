"""Databases for tests: both engines, built by the chain, thrown away afterwards."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import patience, postgres
from support.databases import ENGINES, SERVERS, database_at, empty_database

if folder := postgres.memory_folder():
    # A SQLite file that is synced to a disk takes as long as the disk is busy.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


# A busy machine stalls for longer than the five seconds now and then.
patience.set_limit("120s")

# How long an example takes to draw says how busy the machine is.
settings.register_profile(
    "busy machines", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machines")


#: What asks for the version of a server. Elsewhere an older one repeats what the newest has shown:
#: one case of each test says whether it takes the SQL.
_FOR_EACH_SERVER = ("tests/evolution/operations/", "tests/evolution/postgresql/")


def _on_an_older_server(item: pytest.Item) -> bool:
    return any(name in item.name for name in SERVERS[1:])


@pytest.hookimpl(tryfirst=True)  # before those that -m leaves out are chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what an older server repeats; begin with the files that take longest."""
    on_an_older_server: set[tuple[Path, str]] = set()
    for item in items:
        if _on_an_older_server(item) and not item.nodeid.startswith(_FOR_EACH_SERVER):
            test = item.path, item.name.partition("[")[0]
            item.add_marker(pytest.mark.older if test in on_an_older_server else pytest.mark.slow)
            on_an_older_server.add(test)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # so that no process is left with one at the end


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Measure no coverage of what shows little that is new: with it a test takes twice as long."""
    coverage = sys.modules.get("coverage")  # loaded where it is measured
    measuring = coverage and coverage.Coverage.current()
    if measuring is None:
        return (yield)
    slow = item.get_closest_marker("slow") and item.nodeid.startswith(_SLOW_AND_NOT_MEASURED)
    skipped = slow or item.nodeid.startswith(_NOT_MEASURED) or _on_an_older_server(item)
    of_processes = None
    if skipped or not item.nodeid.startswith(_PROCESSES_MEASURED):
        of_processes = os.environ.pop(_COVERAGE_OF_PROCESSES, None)
    if skipped:
        measuring.stop()
    try:
        return (yield)
    finally:
        if skipped:
            measuring.start()
        if of_processes is not None:
            os.environ[_COVERAGE_OF_PROCESSES] = of_processes


# The tests of each part have reached the lines that these run.
_NOT_MEASURED = ("tests/docs/", "tests/examples/", "tests/faults/", "tests/fuzz/")
_SLOW_AND_NOT_MEASURED = ("tests/persistence/", "tests/domain/")
# What only processes of their own run; each takes a second longer.
_PROCESSES_MEASURED = ("tests/cli/", "tests/evolution/")
_COVERAGE_OF_PROCESSES = "COVERAGE_PROCESS_CONFIG"


def pytest_report_header() -> list[str]:
    servers = ", ".join(f"{name} at {folder}" for name, folder in postgres.binaries().items())
    lines = [f"databases: sqlite, {servers}"]
    if postgres.left_out():
        lines.append(f"left out by TEST_ENGINES: {', '.join(postgres.left_out())}")
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was left out, in one line for each engine, whatever ``-r`` says."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    for engine in postgres.left_out():
        number = reasons[f"Skipped: {postgres.LEFT_OUT} {engine}"]
        terminalreporter.line(f"left out by TEST_ENGINES: {number} tests that need {engine}")


@pytest.fixture(params=ENGINES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database on each engine."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=ENGINES)
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database at the head of the chain, on each engine."""
    with database_at("head", request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=SERVERS)
def postgresql_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database on each PostgreSQL."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    postgres.skip_if_left_out("sqlite")
    return f"sqlite:///{tmp_path / 'plans.db'}"
