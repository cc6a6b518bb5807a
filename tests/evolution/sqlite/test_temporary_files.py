"""SQLite without a place for its temporary files: preflight and the run say so."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cleveragents_plans.evolution.sqlite import temporary_files
from cleveragents_plans.evolution.sqlite.temporary_files import temporary_folder
from support.former_release import write_former_release
from support.rebuilds import execute
from support.revisions import M4_003

# The disk of the database stays; every other is read-only, or the folder has a megabyte.
NOWHERE = (
    "mount --bind {data} {data} && mount -o remount,ro,bind / && cd / && unset SQLITE_TMPDIR TMPDIR"
)
LITTLE = "mount -t tmpfs -o size=1m none {small} && export SQLITE_TMPDIR={small}"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of the former release with an index of some megabytes."""
    file = tmp_path_factory.mktemp("data") / "plans.db"
    write_former_release(f"sqlite:///{file}", plans=3_000, seed=1)
    execute(
        file,
        "CREATE INDEX wide ON v3_plans (plan_id || hex(zeroblob(2000)), description)",
    )
    return file


def run(before: str, command: str, file: Path, small: Path) -> tuple[int, str]:
    """Run a command in a namespace of its own, in which *before* was done; give what it says."""
    script = before.format(data=file.parent, small=small)
    unshared = ["unshare", "-rm", "sh", "-c", f'{script} || exit 99; exec "$@"', "sh"]
    ours = [sys.executable, "-m", "cleveragents_plans", *shlex.split(command)]
    done = subprocess.run(
        [*unshared, *ours, "--url", f"sqlite:///{file}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (NOWHERE, "SQLite found no folder for its temporary files that this process can write to"),
        (LITTLE, "MB are free in {small}, where SQLite has its temporary files, and to make an"),
    ],
    ids=["nowhere", "little"],
)
def test_preflight_blocks_where_temporary_files_have_no_room(
    before: str, told: str, file: Path, tmp_path: Path
):
    status, said = run(before, "preflight", file, tmp_path)

    assert status == 1
    assert told.format(small=tmp_path) in said
    assert "set SQLITE_TMPDIR to" in said


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (NOWHERE, "SQLite found no folder for its temporary files"),
        (LITTLE, "MB are free in {small} now"),
    ],
    ids=["nowhere", "little"],
)
def test_run_tells_the_folder_of_temporary_files_instead_of_dropping_an_index(
    before: str, told: str, file: Path, tmp_path: Path
):
    status, said = run(before, "upgrade -q", file, tmp_path)

    assert status != 0
    assert told.format(small=tmp_path) in said
    assert "drop it before the run" not in said
    assert execute(file, "SELECT version_num FROM alembic_version") == [(M4_003,)]


def test_run_that_may_open_no_more_files_names_the_limit(file: Path):
    told = []
    for limit in range(5, 9):
        done = subprocess.run(
            ["prlimit", f"--nofile={limit}", sys.executable, "-m", "cleveragents_plans",
             "upgrade", "-q", "--url", f"sqlite:///{file}"],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if "failed with `unable to open database file`" in done.stderr:
            told.append(done.stderr)

    assert told
    for each in told:
        assert "may have too few files open; raise its limit (`ulimit -n`)" in each


def test_folder_is_found_in_the_order_of_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    monkeypatch.setenv("SQLITE_TMPDIR", str(first))
    monkeypatch.setenv("TMPDIR", str(second))
    assert temporary_folder() == second
    first.mkdir()
    assert temporary_folder() == first

    monkeypatch.delenv("SQLITE_TMPDIR")
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(temporary_files, "_FOLDERS", (str(tmp_path / "none"),))
    assert temporary_folder() is None
