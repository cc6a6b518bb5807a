"""A disk that is full while a SQLite file is migrated is one line, and the file is as it was."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from cleveragents_plans import open_engine
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.evolution.sqlite import disk_space
from cleveragents_plans.evolution.sqlite.disk_space import disk_space_needed
from support.databases import migrate, roll_back
from support.faults import Ended, Migration, State, models, one_clear_line
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.slow

PLANS = 3_000
WAYS = [
    pytest.param("gaps", M8_001, "new", id="up"),
    pytest.param("new", M4_003, "former", id="down"),
]


def ask(url: str, query: str) -> object:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        answer = connection.execute(text(query)).scalar_one()
    engine.dispose()
    return answer


def failed_clearly(ended: Ended) -> None:
    assert ended.status not in (0, None), ended.said
    line = one_clear_line(ended.said)
    assert "disk" in line
    assert "nothing was changed" in line or "run the same command again" in line


@pytest.mark.parametrize(
    ("start", "goal", "end", "more_pages", "wal"),
    [
        pytest.param("gaps", M8_001, "new", 400, False, id="up, while the rows are copied"),
        pytest.param("new", M4_003, "former", 0, True, id="down, at once"),
    ],
)
def test_full_disk_changes_nothing_and_the_run_can_be_repeated_with_more_room(
    tmp_path: Path, start: str, goal: str, end: str, more_pages: int, wal: bool
):
    model = models("sqlite", PLANS)
    with model.copy(start, tmp_path, wal=wal) as url:
        pages = int(str(ask(url, "PRAGMA page_count"))) + more_pages

        failed_clearly(Migration(url, goal, victim=("--pages", str(pages))).ended())

        assert ask(url, "PRAGMA integrity_check") == "ok"
        assert State.of(url) == model.states[start]
        (migrate if goal == M8_001 else roll_back)(url, goal)
        assert State.of(url) == model.states[end]


@contextmanager
def file_system(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of *size* bytes in *folder*."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def size_of(start: str) -> int:
    return Path(models("sqlite", PLANS).urls[start].removeprefix("sqlite:///")).stat().st_size


def needed(start: str, *, wal: bool, folder: Path) -> int:
    """Give the bytes of the file and of what its migration needs besides."""
    with models("sqlite", PLANS).copy(start, folder, wal=wal) as url:
        engine = open_engine(url, migrating=True)
        with engine.connect() as connection:
            return size_of(start) + disk_space_needed(connection, "v3_plans")


JOURNALS = pytest.mark.parametrize("wal", [False, True], ids=["journal", "wal"])


@pytest.mark.fault
@JOURNALS
@pytest.mark.parametrize(("start", "goal", "end"), WAYS)
def test_file_system_without_room_is_refused_before_anything(
    tmp_path: Path, start: str, goal: str, end: str, wal: bool
):
    model = models("sqlite", PLANS)
    with (
        file_system(tmp_path, size_of(start) * 3 // 2) as disk,
        model.copy(start, disk, wal=wal) as url,
    ):
        ended = Migration(url, goal).ended()

        failed_clearly(ended)
        assert "MB of disk space are free" in one_clear_line(ended.said)
        assert {file.name for file in disk.iterdir()} == {"plans.db"}
        assert State.of(url) == model.states[start]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        (migrate if goal == M8_001 else roll_back)(url, goal)
        assert State.of(url) == model.states[end]


@pytest.mark.fault
@JOURNALS
@pytest.mark.parametrize(("start", "goal", "end"), WAYS)
def test_file_system_with_the_room_that_is_asked_for_is_enough(
    tmp_path: Path, start: str, goal: str, end: str, wal: bool
):
    model = models("sqlite", PLANS)
    room = needed(start, wal=wal, folder=tmp_path)
    # The shared memory of the log, and the folder.
    with file_system(tmp_path, room + 200_000) as disk, model.copy(start, disk, wal=wal) as url:
        ended = Migration(url, goal).ended()

        assert ended.status == 0, ended.said
        assert State.of(url) == model.states[end]
        assert {file.name for file in disk.iterdir()} == {"plans.db"}


@pytest.mark.fault
@JOURNALS
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
@pytest.mark.parametrize(("start", "goal", "end"), WAYS)
def test_file_system_that_others_fill_meanwhile_gets_its_space_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    goal: str,
    end: str,
    share: float,
    wal: bool,
):
    model = models("sqlite", PLANS)
    room = int((needed(start, wal=wal, folder=tmp_path) - size_of(start)) * share)
    # As if there had been more when the run began.
    monkeypatch.setattr(disk_space, "disk_space_needed", lambda *_: 0)
    with (
        file_system(tmp_path, size_of(start) + room) as disk,
        model.copy(start, disk, wal=wal) as url,
    ):
        with pytest.raises(EvolutionError, match=r"disk (is full|I/O error)") as failed:
            (migrate if goal == M8_001 else roll_back)(url, goal)

        assert "\n" not in str(failed.value)
        assert {file.name for file in disk.iterdir()} == {"plans.db"}
        assert (disk / "plans.db").stat().st_size == size_of(start)
        assert ask(url, "PRAGMA integrity_check") == "ok"
        assert State.of(url) == model.states[start]


@pytest.mark.fault
def test_migration_that_only_the_log_has_room_for_is_done_and_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    model = models("sqlite", PLANS)
    room = int((needed("gaps", wal=True, folder=tmp_path) - size_of("gaps")) * 0.85)
    monkeypatch.setattr(disk_space, "disk_space_needed", lambda *_: 0)
    with (
        file_system(tmp_path, size_of("gaps") + room) as disk,
        model.copy("gaps", disk, wal=True) as url,
    ):
        migrate(url, M8_001)

        assert f"{disk}/plans.db-wal (" in caplog.text
        assert "never delete, move or copy" in caplog.text
        assert State.of(url) == model.states["new"]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert ask(url, "PRAGMA integrity_check") == "ok"
        assert {file.name for file in disk.iterdir()} == {"plans.db"}
        assert State.of(url) == model.states["new"]


@JOURNALS
@pytest.mark.parametrize(("start", "goal", "end"), WAYS)
def test_quota_is_one_line_and_the_file_as_it_was(
    tmp_path: Path, start: str, goal: str, end: str, wal: bool
):
    model = models("sqlite", PLANS)
    with model.copy(start, tmp_path, wal=wal) as url:
        # So much that it is reached in the middle of the copy.
        quota = 1_000_000 if wal else size_of(start) + 1_000_000
        with limited_files(quota):
            migration = Migration(url, goal)
        ended = migration.ended()

        assert ended.status not in (0, None)
        assert "nothing was changed" in one_clear_line(ended.said) or "rolled" in ended.said
        assert ask(url, "PRAGMA integrity_check") == "ok"
        assert State.of(url) == model.states[start]


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let processes that are started here write no file beyond *size* bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
