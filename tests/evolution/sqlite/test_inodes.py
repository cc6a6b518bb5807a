"""A file system without a free inode: preflight and the run say so before anything is changed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cleveragents_plans.evolution.sqlite.inodes import has_inode
from support.former_release import write_former_release
from support.rebuilds import execute

FULL = "mount -t tmpfs -o size=100m,nr_inodes=10 none {full}"
FILLED = "i=0; while (: > {full}/$i) 2>/dev/null; do i=$((i+1)); done"
DATABASE = f"{FULL} && cp {{file}} {{full}}/plans.db && {FILLED}"
TEMPORARY = f"{FULL} && export SQLITE_TMPDIR={{full}} && {FILLED}"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of the former release whose indexes are not sorted in memory."""
    file = tmp_path_factory.mktemp("data") / "plans.db"
    write_former_release(f"sqlite:///{file}", plans=2_000, seed=1)
    assert file.stat().st_size > 1_000_000
    return file


def run(before: str, command: str, file: Path, full: Path) -> tuple[int, str]:
    """Run a command in a namespace of its own, in which *before* was done; give what it says."""
    script = before.format(file=file, full=full)
    url = f"sqlite:///{full / 'plans.db' if before == DATABASE else file}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{script}; exec "$@"', "sh",
         sys.executable, "-m", "cleveragents_plans", *shlex.split(command), "--url", url],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["preflight", "upgrade -q"])
@pytest.mark.parametrize(
    ("before", "what"),
    [(DATABASE, "its journal"), (TEMPORARY, "its temporary files")],
    ids=["database", "temporary"],
)
def test_file_system_without_a_free_inode_is_refused(
    before: str, what: str, command: str, file: Path, tmp_path: Path
):
    content = file.read_bytes()

    status, said = run(before, command, file, tmp_path)

    assert status == 1
    assert f"no inode is free in {tmp_path}, where SQLite has {what}: delete files there" in said
    assert "nothing was changed" in said
    assert file.read_bytes() == content


@pytest.mark.parametrize("command", ["preflight", "upgrade -q", "status"])
def test_file_with_a_log_that_cannot_be_opened_for_want_of_an_inode_names_it(
    command: str, file: Path, tmp_path: Path
):
    logged = tmp_path / "logged.db"
    logged.write_bytes(file.read_bytes())
    execute(logged, "PRAGMA journal_mode = WAL")
    full = tmp_path / "full"
    full.mkdir()

    status, said = run(DATABASE, command, logged, full)

    assert status == 1
    assert "where an inode is free (`df -i`)" in said


def test_file_system_without_a_limit_has_an_inode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert has_inode(tmp_path)
    numbers = type("Numbers", (), {"f_files": 0, "f_favail": 0})
    monkeypatch.setattr("os.statvfs", lambda _folder: numbers)
    assert has_inode(tmp_path)
    numbers.f_files = 10
    assert not has_inode(tmp_path)
