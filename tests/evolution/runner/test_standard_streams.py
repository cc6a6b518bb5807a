"""Who listens to a run changes neither what is done nor the exit status."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleveragents_plans.cli.statuses import ExitStatus
from support.databases import ONE_OF_EACH, ROOT, migrate
from support.faults import State, models
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.slow  # real processes

OURS = f"{sys.executable} -m cleveragents_plans"
ALEMBIC = f"{sys.executable} -m alembic -c {ROOT / 'alembic.ini'}"
PROGRAMS = {"cleveragents-plans": OURS, "alembic": ALEMBIC}


def shell(command: str, url: str, **options: int) -> subprocess.CompletedProcess[str]:
    """Run *command* in bash; the status is that of the first program in a pipe."""
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "DATABASE_URL": url},
        timeout=120,
        check=False,
        text=True,
        **(options or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}),
    )


@pytest.fixture
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, State]]:
    """A SQLite file (or another engine) with rows to be written, and what it has to become."""
    model = models(getattr(request, "param", "sqlite"), 200)
    with model.copy("gaps", tmp_path) as url:
        yield url, model.states["new"]


# How a stream is written to is the same on each engine; which numbers a file or a socket gets,
# where standard streams are closed, is not.
@pytest.mark.fault
@pytest.mark.parametrize(
    ("former", "program", "streams"),
    [
        ("sqlite", "cleveragents-plans", "2>&-"),
        ("sqlite", "cleveragents-plans", "<&- >&- 2>&-"),
        (ONE_OF_EACH[-1], "cleveragents-plans", "<&- >&- 2>&-"),
        ("sqlite", "cleveragents-plans", "2>/dev/full"),
        ("sqlite", "cleveragents-plans", "2>&1 | true"),
        (ONE_OF_EACH[-1], "alembic", ">&- 2>&-"),
        ("sqlite", "alembic", "2>&1 | head -n 1"),
    ],
    indirect=["former"],
)
def test_upgrade_is_done_whatever_reads_standard_error(
    former: tuple[str, State], program: str, streams: str
):
    url, upgraded = former

    done = shell(f"{PROGRAMS[program]} upgrade {M8_001} {streams}", url)

    assert done.returncode == 0, done.stderr
    assert State.of(url) == upgraded
    assert "Error" not in done.stderr


@pytest.mark.parametrize(
    ("program", "status"), [("cleveragents-plans", 1), ("alembic", 255)], ids=list(PROGRAMS)
)
@pytest.mark.parametrize("streams", ["", "2>&-", ">&- 2>&-", "2>&1 | true"])
def test_refusal_has_its_status_whatever_reads_standard_error(
    sqlite_url: str, program: str, status: int, streams: str
):
    done = shell(f"{PROGRAMS[program]} downgrade {M4_003} {streams}", sqlite_url)

    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_upgrade_does_not_wait_for_a_reader_that_has_stopped(former: tuple[str, State]):
    url, upgraded = former
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    while True:  # full
        try:
            os.write(writer, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)

    done = shell(f"{OURS} upgrade {M8_001}", url, stdout=subprocess.DEVNULL, stderr=writer)

    os.close(writer)
    os.close(reader)
    assert done.returncode == 0
    assert State.of(url) == upgraded


PROGRAM = """\
import os, sys
from alembic import command
from cleveragents_plans.schema import chain_config

class OnlyWrites:
    def write(self, text):
        pass

    def flush(self):  # Python's own wish, at the exit
        pass

sys.stderr = {stream}
command.upgrade(chain_config(os.environ["DATABASE_URL"]), "m8_001_align_plans_schema")
"""


@pytest.mark.parametrize("stream", ["None", "OnlyWrites()", "open(os.devnull)"])
def test_program_migrates_whatever_stands_in_the_place_of_standard_error(
    former: tuple[str, State], stream: str
):
    url, upgraded = former

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(stream=stream)],
        env={**os.environ, "DATABASE_URL": url},
        check=False,
    )

    assert done.returncode == 0
    assert State.of(url) == upgraded


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("streams", ["| true", ">&-"])
def test_result_may_go_unread(sqlite_url: str, program: str, streams: str):
    migrate(sqlite_url, M4_003)

    done = shell(f"{PROGRAMS[program]} current {streams}", sqlite_url)

    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


@pytest.mark.fault
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("streams", ["| true", "| head -n 1", ">&-"])
def test_sql_may_go_unread(program: str, streams: str):
    done = shell(f"{PROGRAMS[program]} upgrade {M8_001} --sql {streams}", "postgresql://plans")

    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_sql_that_cannot_be_written_is_refused_in_one_line(program: str):
    done = shell(f"{PROGRAMS[program]} upgrade {M8_001} --sql >/dev/full", "postgresql://plans")

    assert done.returncode not in (0, 120)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_result_that_cannot_be_written_is_refused(sqlite_url: str, program: str):
    migrate(sqlite_url, M4_003)

    done = shell(f"PYTHONUNBUFFERED=1 {PROGRAMS[program]} current >/dev/full", sqlite_url)

    assert done.returncode not in (0, 120)
    assert "Traceback" not in done.stderr


def test_pipe_that_does_not_block_gets_all_of_the_result(sqlite_url: str):
    migrate(sqlite_url, M4_003)
    read, write = os.pipe()
    os.set_blocking(write, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "cleveragents_plans", "spec", "--json"]
    with subprocess.Popen(
        command,
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "DATABASE_URL": sqlite_url},
    ) as process:
        os.close(write)
        while select.select([read], [], [], 0.1) != ([read], [], []):
            assert process.poll() is None
        time.sleep(0.5)  # it goes on writing, or loses what does not fit
        with os.fdopen(read) as pipe:
            result = pipe.read()

    assert process.returncode == ExitStatus.FOUND  # the tables are behind
    assert len(result) > 4096
    assert json.loads(result)["command"] == "spec"


RECORDING = """\
import os, sys
from sqlalchemy import Engine, event
from cleveragents_plans.cli import main

def record(*_):
    files = [os.readlink(f"/proc/self/fd/{n}") for n in range(3)]
    open(sys.argv[1], "w").write(" ".join(files))

event.listen(Engine, "connect", record)
main(["current"])
"""


def test_database_never_gets_the_number_of_a_closed_standard_stream(
    sqlite_url: str, tmp_path: Path
):
    # What a C library writes to standard error would be written into the database.
    migrate(sqlite_url, M4_003)
    script, found = tmp_path / "script.py", tmp_path / "found"
    script.write_text(RECORDING)

    shell(f"{sys.executable} {script} {found} <&- >&- 2>&-", sqlite_url)

    assert found.read_text() == "/dev/null /dev/null /dev/null"
