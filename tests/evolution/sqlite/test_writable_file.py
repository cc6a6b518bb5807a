"""A SQLite file that a run cannot write to safely is refused, and one that was replaced is said."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from cleveragents_plans import schema
from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.runner.sqlite_transaction import sqlite_transaction
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite import transaction, writable_file
from cleveragents_plans.evolution.sqlite.transaction import write_transaction
from cleveragents_plans.evolution.sqlite.writable_file import (
    ConnectionReadOnly,
    FileNotWritable,
    FileReplaced,
    UrlUnfit,
)
from cleveragents_plans.persistence import open_engine, read_only
from support.databases import database_at, migrating_connection
from support.rebuilds import execute
from support.revisions import HEAD, M4_003

QUICK = Settings(migration_lock_wait=20, report_every=0.1)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with database_at(M4_003, "sqlite", tmp_path) as found:
        yield found


@pytest.fixture
def file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def replace(file: Path) -> None:
    shutil.copy(file, f"{file}.copy")
    Path(f"{file}.copy").replace(file)


@pytest.mark.parametrize("happens", [replace, Path.unlink])
@pytest.mark.parametrize("before", ["RENAME TO", "UPDATE alembic_version"])
def test_file_that_is_replaced_during_a_run_is_told_and_the_run_fails(
    happens, before: str, url: str, file: Path, capfd: pytest.CaptureFixture[str]
):
    def meanwhile(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        if before in sql and not done:
            done.append(sql)
            happens(file)

    done: list[str] = []
    capfd.readouterr()
    event.listen(Engine, "before_cursor_execute", meanwhile)
    try:
        status = main(["upgrade", "-q", "--url", url])
    finally:
        event.remove(Engine, "before_cursor_execute", meanwhile)

    _, err = capfd.readouterr()
    assert (status, len(done)) == (ExitStatus.REFUSED, 1)
    assert f"{file} was replaced or deleted after it was opened" in err
    assert err.count("\n") == 1
    if happens is replace:
        assert main(["upgrade", "-q", "--url", url]) == ExitStatus.DONE
        assert execute(file, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    else:
        assert [*file.parent.iterdir()] == []


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
@pytest.mark.parametrize("link", ["of the file", "of the folder"])
def test_link_that_is_switched_during_a_run_is_told_and_the_run_fails(
    link: str, form: str, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(file, other / file.name)
    current = tmp_path / "current"
    targets = [file, other / file.name] if link == "of the file" else [file.parent, other]
    current.symlink_to(targets[0])
    named = current if link == "of the file" else current / file.name

    def meanwhile(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        if "RENAME TO" in sql and not done:
            done.append(sql)
            (tmp_path / "next").symlink_to(targets[1])
            (tmp_path / "next").replace(current)

    done: list[str] = []
    capfd.readouterr()
    event.listen(Engine, "before_cursor_execute", meanwhile)
    try:
        status = main(["upgrade", "-q", "--url", form.format(named)])
    finally:
        event.remove(Engine, "before_cursor_execute", meanwhile)

    assert status == ExitStatus.REFUSED
    assert f"{named} was replaced or deleted after it was opened" in capfd.readouterr().err
    for each in (file, other / file.name):
        assert execute(each, "SELECT version_num FROM alembic_version") == [(M4_003,)]


@pytest.mark.skipif(sys.platform == "darwin", reason="its names of files are UTF-8")
@pytest.mark.parametrize("text_factory", [str, lambda found: found.decode(errors="replace")])
def test_file_in_a_folder_whose_name_is_no_utf8_is_migrated(
    text_factory, file: Path, tmp_path: Path
):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xe4ten"))
    folder.mkdir()
    shutil.copy(file, folder / "plans.db")
    (tmp_path / "link").symlink_to(folder)
    named = f"sqlite:///{tmp_path}/link/plans.db"

    def connect() -> sqlite3.Connection:
        driver = sqlite3.connect(tmp_path / "link" / "plans.db")
        driver.text_factory = text_factory
        return driver

    for command in ("preflight", "status", "verify", "upgrade", "status", "verify"):
        status = main([command, "-q", "--url", named])
        assert status in (ExitStatus.DONE, ExitStatus.FOUND), command
    engine = create_engine(named, creator=connect)
    schema.downgrade(engine, M4_003)
    engine.dispose()
    assert execute(folder / "plans.db", "SELECT version_num FROM alembic_version") == [(M4_003,)]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_file_that_is_replaced_while_a_lock_is_waited_for_is_told(
    journal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "plans.db"
    execute(file, f"PRAGMA journal_mode = {journal}", "CREATE TABLE port (id)")
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")

        def replace_and_end(_file: Path) -> list[object]:
            if writer.in_transaction:
                replace(file)
                writer.execute("ROLLBACK")
            return []

        monkeypatch.setattr(transaction, "lock_holders", replace_and_end)
        with (
            migrating_connection(file) as connection,
            pytest.raises(FileReplaced),
            write_transaction(connection, QUICK),
        ):
            connection.exec_driver_sql("INSERT INTO port VALUES (2)")

    assert execute(file, "SELECT id FROM port") == []


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_connection_that_was_open_before_the_file_was_replaced_is_told(journal: str, file: Path):
    execute(file, f"PRAGMA journal_mode = {journal}")
    with migrating_connection(file) as connection:
        replace(file)
        with pytest.raises(FileReplaced), write_transaction(connection, QUICK):
            connection.exec_driver_sql("CREATE TABLE port (id)")


@pytest.mark.parametrize("happens", [replace, Path.unlink])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_engine_that_has_connected_before_the_file_was_replaced_is_told(
    journal: str, happens, url: str, file: Path
):
    """As an application that is migrated after a restore, without being started again."""
    execute(file, f"PRAGMA journal_mode = {journal}")
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM v3_plans")
        happens(file)
        with pytest.raises(FileReplaced, match="after it was opened"):
            schema.upgrade(engine)
        engine.dispose()
        assert file.exists() == (happens is replace)
        if file.exists():
            schema.upgrade(engine)
            assert execute(file, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    finally:
        engine.dispose()


def test_transaction_of_the_caller_is_told_of_a_replaced_file(file: Path):
    with (
        migrating_connection(file) as connection,
        connection.begin(),
        pytest.raises(FileReplaced),
        sqlite_transaction(connection, QUICK),
    ):
        replace(file)


def refused(url: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Give the line by which a file is refused, by preflight and by what writes to it."""
    capfd.readouterr()
    assert main(["preflight", "-q", "--url", url]) == 1
    out, err = capfd.readouterr()
    assert err == ""
    for command in (["upgrade"], ["downgrade", M4_003], ["stamp", M4_003]):
        assert main([*command, "-q", "--url", url]) == ExitStatus.REFUSED
        _, err = capfd.readouterr()
        (line,) = err.splitlines()
        assert line.endswith("; nothing was changed")
        assert f" {line.split('error   ')[-1]}\n" in out
    assert main(["status", "-q", "--url", url]) == ExitStatus.FOUND
    return line


def test_file_with_two_names_is_refused(url: str, file: Path, capfd: pytest.CaptureFixture[str]):
    other = file.with_name("other name.db")
    os.link(file, other)

    line = refused(url, capfd)
    assert f"{file} has 2 names (hard links), and SQLite keeps its journal beside" in line
    listed = line.split("`")[1]
    found = subprocess.run(["sh", "-c", listed], capture_output=True, text=True, check=True).stdout
    assert sorted(found.splitlines()) == sorted([str(file), str(other)])

    other.unlink()
    assert main(["upgrade", "-q", "--url", url]) == ExitStatus.DONE


def test_file_with_a_symbolic_link_is_ready(url: str, file: Path):
    link = file.with_name("link.db")
    link.symlink_to(file)

    assert main(["preflight", "-q", "--url", f"sqlite:///{link}"]) == 0
    assert main(["upgrade", "-q", "--url", f"sqlite:///{link}"]) == ExitStatus.DONE


def test_file_that_is_mounted_without_its_folder_is_refused(
    url: str, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch
):
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(writable_file, "_MOUNTS", mounts)
    place = str(file.resolve())
    mounts.write_text(f"36 35 98:0 {place} {file.parent} rw - ext4 /dev/root rw\n")
    assert main(["preflight", "-q", "--url", url]) == 0

    mounts.write_text(f"36 35 98:0 /other {place} rw - ext4 /dev/root rw\n")
    assert f"{file} is mounted without its folder, and SQLite" in refused(url, capfd)

    spaced = file.rename(file.with_name("a plan.db"))
    escaped = str(spaced.resolve()).replace(" ", "\\040")
    mounts.write_text(f"36 35 98:0 /other {escaped} rw - ext4 /dev/root rw\n")
    assert f"{spaced} is mounted without its folder" in refused(f"sqlite:///{spaced}", capfd)


def test_bind_mount_of_a_file_is_refused(url: str, file: Path, tmp_path: Path):
    place = tmp_path / "container" / "plans.db"
    place.parent.mkdir()
    place.touch()
    mounted = ["unshare", "-rm", "sh", "-c", f'mount --bind {file} {place} && exec "$@"', "sh"]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    upgrade = [sys.executable, "-m", "cleveragents_plans", "upgrade", "--url", f"sqlite:///{place}"]
    done = subprocess.run([*mounted, *upgrade], capture_output=True, text=True, check=False)

    assert done.returncode == ExitStatus.REFUSED
    assert f"{place} is mounted without its folder" in done.stderr
    assert [*place.parent.iterdir()] == [place]


@pytest.mark.parametrize(
    "parameter",
    ["nolock=1", "nolock=yes", "vfs=unix-none", "vfs=unix-dotfile"],
)
def test_url_that_opens_the_file_without_locks_is_refused(
    parameter: str, file: Path, capfd: pytest.CaptureFixture[str]
):
    line = refused(f"sqlite:///file:{file}?{parameter}&uri=true", capfd)
    assert "the URL opens the file without the locks by which SQLite keeps two writers " in line
    assert f"({parameter}); leave that out of it" in line


def test_url_of_asyncio_that_opens_the_file_without_locks_is_refused(file: Path):
    async def upgrade() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///file:{file}?nolock=1&uri=true")
        try:
            await schema.upgrade(engine)
        finally:
            await engine.dispose()

    with pytest.raises(UrlUnfit, match="nolock=1"):
        asyncio.run(upgrade())


@pytest.mark.parametrize("parameter", ["nolock=0", "vfs=unix", "vfs=unix-excl"])
def test_url_with_locks_is_ready(parameter: str, file: Path):
    named = f"sqlite:///file:{file}?{parameter}&uri=true"
    assert main(["preflight", "-q", "--url", named]) == 0
    assert main(["upgrade", "-q", "--url", named]) == ExitStatus.DONE


def test_file_that_could_be_opened_to_be_read_only_is_told(file: Path):
    """As with ``chattr +a``, which the rights of the file do not show."""
    address = f"file:{file}?mode=ro"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True))
    with pytest.raises(FileNotWritable, match=f"{file} is read-only"):
        schema.upgrade(engine)
    engine.dispose()


@pytest.mark.parametrize("said", ["query_only of the driver", "query_only", "read_only()"])
def test_connection_that_is_to_read_only_is_refused(said: str, url: str, file: Path):
    engine = open_engine(url)
    if said == "query_only of the driver":
        event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA query_only = 1"))
    handed = read_only(engine) if said == "read_only()" else engine
    with handed.connect() as connection:
        if said == "query_only":
            connection.exec_driver_sql("PRAGMA query_only = 1")
            connection.commit()
        for given in (connection, handed) if said != "query_only" else (connection,):
            with pytest.raises(ConnectionReadOnly, match="set to read only"):
                schema.upgrade(given)
            connection.rollback()
    engine.dispose()
    assert execute(file, "SELECT version_num FROM alembic_version") == [(M4_003,)]
