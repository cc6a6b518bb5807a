"""A table is not copied to a disk without room for the copy, and that is known before."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from cleveragents_plans.evolution.sqlite import disk_space
from cleveragents_plans.evolution.sqlite.disk_space import DiskTooSmall, disk_space_needed
from support.rebuilds import execute, rebuild, rebuilding

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of 1.5 MB: a table of about 1 MB with two indexes, and another one."""
    path = tmp_path / "plans.db"
    execute(
        path,
        "CREATE TABLE port (id TEXT PRIMARY KEY, name TEXT)",
        "CREATE INDEX ix ON port (name)",
        "CREATE TABLE ship (content BLOB)",
        "INSERT INTO ship VALUES (zeroblob(500000))",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO port SELECT hex(randomblob(20)), hex(randomblob(20)) FROM n",
    )
    return path


def pages_of(file: Path, *tables: str) -> int:
    names = ", ".join(f"'{table}'" for table in tables)
    ((pages,),) = execute(file, f"SELECT sum(pgsize) FROM dbstat WHERE name IN ({names})")
    return int(pages)


def needed(file: Path, *pragmas: str) -> int:
    with rebuilding(file, *pragmas) as operation:
        return disk_space_needed(operation.connection, "PORT")


@pytest.mark.parametrize(
    ("journal", "secure_delete", "auto_vacuum", "times"),
    [
        ("delete", "OFF", 0, 1),
        ("delete", "ON", 0, 2),
        ("delete", "FAST", 0, 1),  # FAST overwrites only what is written anyway
        ("delete", "OFF", 1, 2),
        ("delete", "OFF", 2, 1),
        ("wal", "OFF", 0, 2),
        ("wal", "ON", 0, 3),
        ("wal", "ON", 1, 2),
    ],
)
def test_copy_needs_the_table_and_its_indexes_so_many_times(
    file: Path, journal: str, secure_delete: str, auto_vacuum: int, times: int
):
    execute(
        file,
        f"PRAGMA auto_vacuum = {auto_vacuum}",
        "VACUUM",
        f"PRAGMA journal_mode = {journal}",
    )
    size = pages_of(file, "port", "ix", "sqlite_autoindex_port_1")

    assert needed(file, f"PRAGMA secure_delete = {secure_delete}") == size * times * 21 // 20


def test_pages_that_are_free_in_the_file_are_used_first(file: Path):
    size = pages_of(file, "port", "ix", "sqlite_autoindex_port_1")
    execute(file, "DROP TABLE ship")
    ((free,),) = execute(file, "SELECT freelist_count * 4096 FROM pragma_freelist_count")

    assert free > 480_000
    assert needed(file, "PRAGMA secure_delete = 0") == (size - free) * 21 // 20


def leave_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage(10**9, 0, free))


def test_copy_is_refused_where_less_is_free(file: Path, monkeypatch: pytest.MonkeyPatch):
    before = file.read_bytes()
    bytes_ = needed(file)
    leave_free(monkeypatch, bytes_ - 1)

    with pytest.raises(DiskTooSmall) as refused:
        rebuild(file, "port", set_default={"name": "'x'"})

    error = refused.value
    assert (error.table, error.folder) == ("port", file.parent)
    assert (error.needed, error.free) == (bytes_, bytes_ - 1)
    assert f"MB of disk space are free in {file.parent}, and the copy of port needs" in str(error)
    assert str(error).endswith("nothing was changed")
    assert file.read_bytes() == before
    leave_free(monkeypatch, bytes_)
    rebuild(file, "port", set_default={"name": "'x'"})


def test_size_that_sqlite_cannot_tell_is_guessed_and_only_warned_of(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # As in a build without dbstat.
    monkeypatch.setattr(disk_space, "_SIZE", "SELECT sum(pgsize) FROM no_dbstat WHERE name = ?")
    leave_free(monkeypatch, 100_000)
    assert needed(file, "PRAGMA secure_delete = 0") == file.stat().st_size * 21 // 20

    rebuild(file, "port", set_default={"name": "'x'"})

    assert "0.1 MB of disk space are free" in caplog.text
    assert "the copy of port may need up to" in caplog.text


def test_database_in_memory_needs_no_disk(monkeypatch: pytest.MonkeyPatch):
    leave_free(monkeypatch, 0)
    with rebuilding(Path(":memory:")) as operation:
        operation.connection.exec_driver_sql("CREATE TABLE port (id)")
        operation("port")
