"""A large file with a write-ahead log is migrated with a rollback journal, if none has it open."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, event

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.sqlite import journal
from cleveragents_plans.schema import chain_config
from support.databases import database_at, migrate, roll_back
from support.faults import Migration, State
from support.former_release import write_former_release
from support.rebuilds import execute
from support.revisions import M4_003, M8_001


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    with database_at(M4_003, "sqlite", tmp_path) as url:
        write_former_release(url, 300, seed=3)
        path = Path(url.removeprefix("sqlite:///"))
        execute(path, "PRAGMA journal_mode = WAL")
        yield path


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LARGE", 0)


def journal_of(file: Path) -> str:
    [(found,)] = execute(file, "PRAGMA journal_mode")
    return str(found)


@contextmanager
def journals_noted() -> Iterator[list[str]]:
    """List which journal there is whenever an old table is dropped."""
    noted: list[str] = []

    def note(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DROP TABLE main._rebuild"):
            noted.append(str(connection.exec_driver_sql("PRAGMA journal_mode").scalar()))

    event.listen(Engine, "before_cursor_execute", note)
    yield noted
    event.remove(Engine, "before_cursor_execute", note)


def test_large_file_has_a_rollback_journal_while_it_is_migrated_up_and_down(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    url = f"sqlite:///{file}"
    with journals_noted() as noted:
        migrate(url, M8_001)
        up = State.of(url)
        roll_back(url, M4_003)
        down = State.of(url)
        monkeypatch.setattr(journal, "_LARGE", file.stat().st_size)

        migrate(url, M8_001)
        assert (State.of(url), journal_of(file)) == (up, "wal")
        roll_back(url, M4_003)
        assert (State.of(url), journal_of(file)) == (down, "wal")

    assert noted == ["wal", "wal", "delete", "delete"]


@pytest.mark.usefixtures("large")
def test_file_with_a_rollback_journal_keeps_it(file: Path):
    execute(file, "PRAGMA journal_mode = PERSIST")
    with journals_noted() as noted:
        migrate(f"sqlite:///{file}", M8_001)

    assert noted == ["delete"]  # PERSIST is a setting of the connection
    assert journal_of(file) == "delete"


@pytest.mark.usefixtures("large")
def test_file_on_which_nothing_is_to_be_done_is_not_written(file: Path):
    migrate(f"sqlite:///{file}", M8_001)
    before = file.read_bytes()

    migrate(f"sqlite:///{file}", M8_001)

    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.usefixtures("large")
def test_file_that_is_open_elsewhere_keeps_its_log_and_is_read_meanwhile(
    file: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "alembic.evolution")
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM v3_plans").fetchall()
        with journals_noted() as noted:
            migrate(f"sqlite:///{file}", M8_001)
        assert reader.execute("SELECT count(*) FROM v3_plans").fetchone() == (300,)

    assert noted == ["wal"]
    said = [record.getMessage() for record in caplog.records]
    assert any(f"{file} is open elsewhere, so that its write-ahead log" in each for each in said)
    assert journal_of(file) == "wal"


@pytest.mark.usefixtures("large")
def test_file_that_is_refused_has_its_content_and_its_log_again(file: Path):
    execute(file, "UPDATE v3_plans SET parent_plan_id = plan_id, root_plan_id = NULL")
    before = State.of(f"sqlite:///{file}")

    ended = Migration(f"sqlite:///{file}", M8_001, victim=("--large", "0")).ended()

    assert ended.status not in (0, None)
    assert "are their own ancestors" in ended.said
    assert State.of(f"sqlite:///{file}") == before
    assert journal_of(file) == "wal"


@pytest.mark.slow
@pytest.mark.parametrize("words", ["INSERT OR ABORT", "DROP TABLE main._rebuild", "commit after"])
def test_killed_run_leaves_the_content_as_it_was_and_can_be_repeated(file: Path, words: str):
    url = f"sqlite:///{file}"
    before = State.of(url)
    # So small a cache that pages are written before the end.
    died = Migration(
        url, M8_001, victim=("--large", "0", "--cache", "10", "--die-at", words)
    ).ended()
    assert died.killed, died.said
    assert Path(f"{file}-journal").stat().st_size
    assert not Path(f"{file}-wal").exists()

    assert State.of(url) == before
    assert execute(file, "PRAGMA integrity_check") == [("ok",)]
    engine = open_engine(url)
    with engine.connect():
        assert journal_of(file) == "wal"
    engine.dispose()
    migrate(url, M8_001)
    after = State.of(url)
    assert after != before
    roll_back(url, M4_003)
    migrate(url, M8_001)
    assert State.of(url) == after


@pytest.mark.usefixtures("large")
def test_transaction_of_the_caller_keeps_the_log(file: Path):
    engine = open_engine(f"sqlite:///{file}", migrating=True)
    config = chain_config()
    with engine.begin() as connection, journals_noted() as noted:
        config.attributes["connection"] = connection
        command.upgrade(config, M8_001)
    engine.dispose()

    assert noted == ["wal"]
    assert journal_of(file) == "wal"


@contextmanager
def with_rollback_journal(file: Path) -> Iterator[None]:
    engine = open_engine(f"sqlite:///{file}", migrating=True)
    with engine.connect() as connection:
        with journal.rollback_journal(connection):
            assert journal_of(file) == "delete"
            yield
        assert not connection.info.keys() & {journal._CHOSEN}
    engine.dispose()


def reading(file: Path) -> sqlite3.Connection:
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM v3_plans").fetchone()
    return reader


def test_log_is_set_again_when_a_reader_has_ended(file: Path, monkeypatch: pytest.MonkeyPatch):
    readers = []
    monkeypatch.setattr(journal.time, "sleep", lambda _seconds: readers.pop().close())
    with with_rollback_journal(file):
        readers.append(reading(file))

    assert not readers
    assert journal_of(file) == "wal"


def test_log_that_a_reader_does_not_let_be_set_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(journal, "_PATIENCE", 0)
    with with_rollback_journal(file):
        reader = reading(file)

    reader.close()
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"`sqlite3 {file} 'PRAGMA journal_mode = WAL'` does" in warning.getMessage()
    assert journal_of(file) == "delete"


def test_log_is_set_again_when_a_signal_arrives_while_the_journal_is_changed(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    change = journal._set_journal

    def interrupted(driver: Any, wanted: str) -> bool:
        monkeypatch.undo()
        assert change(driver, wanted)
        raise KeyboardInterrupt  # the handler is called when the statement is done

    monkeypatch.setattr(journal, "_set_journal", interrupted)
    engine = open_engine(f"sqlite:///{file}", migrating=True)
    with engine.connect() as connection:
        with pytest.raises(KeyboardInterrupt), journal.rollback_journal(connection):
            pytest.fail("the block was entered")
        assert not connection.info.keys() & {journal._CHOSEN}
        assert journal_of(file) == "wal"
    engine.dispose()
