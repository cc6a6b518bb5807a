"""A disk that is full while a SQLite file is migrated is one line, and the file is as it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from support.databases import migrate, roll_back
from support.faults import Ended, Migration, State, models, one_clear_line
from support.revisions import M4_003, M8_001

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
    assert "nothing was changed" in line or "taken back" in line


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for the file and half of its copy."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    size = Path(models("sqlite", PLANS).urls["new"].removeprefix("sqlite:///")).stat().st_size
    command = ["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "none", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault
@pytest.mark.parametrize("wal", [False, True], ids=["journal", "wal"])
@pytest.mark.parametrize(("start", "goal", "end"), WAYS)
def test_full_file_system_changes_nothing(
    small_disk: Path, start: str, goal: str, end: str, wal: bool
):
    model = models("sqlite", PLANS)
    with model.copy(start, small_disk, wal=wal) as url:
        failed_clearly(Migration(url, goal).ended())

        assert ask(url, "PRAGMA integrity_check") == "ok"
        assert State.of(url) == model.states[start]
        subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
        (migrate if goal == M8_001 else roll_back)(url, goal)
        assert State.of(url) == model.states[end]
