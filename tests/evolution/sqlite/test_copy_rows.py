"""Rows are copied in chunks, each once and in its order, and progress is reported between them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cleveragents_plans.evolution import reporting
from cleveragents_plans.evolution.sqlite import copy_rows
from support.rebuilds import execute, rebuild
from support.statements import recorded

LARGEST = 2**63 - 1


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_rows, "_CHUNK", 3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "plans.db"


def inserts(statements: list[str]) -> list[str]:
    return [statement for statement in statements if statement.startswith("INSERT OR ABORT")]


@pytest.mark.parametrize(("rows", "chunks"), [(0, 1), (1, 1), (3, 2), (4, 2), (6, 3), (20, 7)])
def test_rows_are_copied_in_chunks(file: Path, rows: int, chunks: int):
    execute(file, "CREATE TABLE port (name TEXT)")
    for number in range(rows):
        execute(file, f"INSERT INTO port (rowid, name) VALUES ({7 * number - 20}, 'n{number}')")
    before = execute(file, "SELECT rowid, name FROM port")

    with recorded() as statements:
        rebuild(file, "port", set_default={"name": "'x'"})

    assert execute(file, "SELECT rowid, name FROM port") == before
    assert len(inserts(statements)) == chunks


def test_largest_and_negative_rowids_are_copied(file: Path):
    rowids = [-(2**63) + 1, -5, 0, 1, 2, LARGEST - 1, LARGEST]
    execute(file, "CREATE TABLE port (name TEXT)")
    for rowid in rowids:
        execute(file, f"INSERT INTO port (rowid) VALUES ({rowid})")

    rebuild(file, "port")

    assert execute(file, "SELECT rowid FROM port") == [(rowid,) for rowid in rowids]


def test_table_without_rowids_is_copied_at_once(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    execute(file, "CREATE TABLE port (name TEXT PRIMARY KEY) WITHOUT ROWID")
    for number in range(10):
        execute(file, f"INSERT INTO port VALUES ('n{number}')")

    with recorded() as statements, caplog.at_level(logging.INFO, "alembic.evolution"):
        rebuild(file, "port")

    assert execute(file, "SELECT count(*) FROM port") == [(10,)]
    assert len(inserts(statements)) == 1
    assert "port, copied: 10 of 10 rows (100 %)" in caplog.text


def test_progress_is_reported_between_two_chunks(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    # As if each chunk took long.
    monkeypatch.setattr(
        copy_rows, "Progress", lambda label, total: reporting.Progress(label, total, every=0)
    )
    execute(file, "CREATE TABLE port (name TEXT)")
    execute(file, "INSERT INTO port VALUES (1), (2), (3), (4), (5), (6), (7)")

    with caplog.at_level(logging.INFO, "alembic.evolution"):
        rebuild(file, "port")

    said = [record.getMessage() for record in caplog.records if "copied:" in record.getMessage()]
    assert [text.split(",")[1].split("(")[0] for text in said] == [
        " copied: 3 of 7 rows ", " copied: 6 of 7 rows ", " copied: 7 of 7 rows ",
        " copied: 7 of 7 rows ",
    ]  # fmt: skip


def test_rows_that_break_a_check_are_met_in_any_chunk(file: Path):
    execute(
        file,
        "CREATE TABLE port (n INT CHECK (n < 5))",
        "PRAGMA ignore_check_constraints = ON",
        "INSERT INTO port VALUES (1), (2), (3), (4), (5), (6), (7), (8)",
    )

    rebuild(file, "port", set_default={"n": "1"})

    assert execute(file, "SELECT n FROM port") == [(n,) for n in range(1, 9)]
