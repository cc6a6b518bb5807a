"""How often a command reads the whole of a table, which costs where it has millions of rows."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

# What begins and ends a loop of SQLite's virtual machine over all entries of a b-tree, and over
# a range of them (https://www.sqlite.org/opcode.html).
_WHOLE = {"Rewind", "Last"}
_RANGE = {"SeekGE", "SeekGT", "SeekLE", "SeekLT"}
_STEPS = {"Next", "Prev"}
# What looks like a loop, and ends at its first rows.
_PARTLY = re.compile(r"^EXPLAIN|\bTABLESAMPLE\b|= ANY\(|\bLIMIT 2000\)")
_ENDS_SOON = re.compile(r"\bLIMIT \d|\bmin\(rowid\)")


@contextmanager
def statements_of_sqlite(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """
    List the statements of all connections to files that are opened within the block.

    Not only those of SQLAlchemy; with the values of parameters in them.
    """
    found: list[str] = []
    connect: Any = sqlite3.connect

    def recording(database: str, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(database, *arguments, **options)
        if database:  # and no temporary database
            connection.set_trace_callback(found.append)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", recording)
        patch.setattr(sqlite3.dbapi2, "connect", recording)  # which SQLAlchemy calls
        yield found


def whole_reads(file: str, statements: list[str], table: str) -> list[str]:
    """
    Give the *statements* that go through all rows of *table*, or of an index of it.

    Where a table has fewer rows than a slice, one that reads a slice does. A statement that does
    so twice is given twice.
    """
    found = []
    with closing(sqlite3.connect(file)) as connection:
        pages = dict(
            connection.execute(
                "SELECT rootpage, type FROM sqlite_schema WHERE tbl_name = ? AND rootpage > 0",
                (table,),
            )
        )
        for statement in statements:
            if not statement.lstrip().upper().startswith(("SELECT", "WITH")):
                continue
            if _ENDS_SOON.search(statement):
                continue
            program = connection.execute(f"EXPLAIN {statement}").fetchall()
            found += [statement] * _loops(program, pages)
    return found


def _loops(program: list[tuple[Any, ...]], pages: dict[int, str]) -> int:
    """Count the cursors of *program* on one of the *pages* that go from one end to the other."""
    cursors = {
        p1: pages[p2] for _, name, p1, p2, *_ in program if name == "OpenRead" and p2 in pages
    }
    done: dict[int, set[str]] = {cursor: set() for cursor in cursors}
    for _, name, p1, *_ in program:
        if p1 in done:
            done[p1].add(name)
    return sum(
        "Count" in names
        or bool(names & _STEPS and (names & _WHOLE or (names & _RANGE and kind == "table")))
        for cursor, names in done.items()
        for kind in (cursors[cursor],)
    )


def that_scan(statements: list[str], table: str) -> list[str]:
    """Give the *statements* to PostgreSQL that read *table*, not only a sample or given keys."""
    named = re.compile(rf"\b(FROM|JOIN) public\.{table}\b")
    return [each for each in statements if named.search(each) and not _PARTLY.search(each)]
