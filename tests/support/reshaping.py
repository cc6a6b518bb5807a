"""Databases of the former release in SQLite files of unusual shape."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

#: Columns that hold the id of a plan, in any table.
_IDS = {"plan_id", "parent_plan_id", "root_plan_id"}
#: What STRICT takes for the types that the chain writes.
_STRICT_TYPES = {r"VARCHAR\(\d+\)": "TEXT", "BOOLEAN": "INTEGER"}

Edit = Callable[[str], str]


def broken_text(raw: bytes) -> str:
    """Read text that need not be valid, so that it can be told apart."""
    return raw.decode("utf-8", "surrogateescape")


def reshape(
    source: Path,
    target: Path,
    *,
    pragmas: Sequence[str] = (),
    edit: Edit = str,
    new_id: Callable[[str], Any] = str,
    after: Sequence[str] = (),
) -> None:
    """
    Write what the file *source* holds into the new file *target*.

    Args:
        source: A file that the chain made.
        target: The file to be written.
        pragmas: What is set before anything is created, such as ``encoding = 'UTF-16le'``.
        edit: Changes the text of each table.
        new_id: Gives what each id of a plan becomes.
        after: Statements that are run at the end.
    """
    with (
        closing(sqlite3.connect(source)) as old,
        closing(sqlite3.connect(target, isolation_level=None)) as new,
    ):
        for pragma in pragmas:
            new.execute(f"PRAGMA {pragma}")
        schema = old.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        ).fetchall()
        new.execute("BEGIN")
        for kind, name, sql in schema:
            new.execute(edit(sql) if kind == "table" else sql)
            if kind == "table":
                _copy(old, new, name, new_id)
        for statement in after:
            new.execute(statement)
        new.execute("COMMIT")


def _copy(
    old: sqlite3.Connection, new: sqlite3.Connection, table: str, new_id: Callable[[str], Any]
) -> None:
    rows = old.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in rows.description]
    changed = [place for place, name in enumerate(names) if name in _IDS]

    def reshaped(row: tuple[Any, ...]) -> list[Any]:
        values = list(row)
        for place in changed:
            values[place] = None if values[place] is None else new_id(values[place])
        return values

    marks = ", ".join("?" * len(names))
    insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
    new.executemany(insert, map(reshaped, rows))


def with_options(options: str) -> Edit:
    """Let the table of plans have *options*, such as ``STRICT``."""

    def edit(sql: str) -> str:
        if not sql.startswith("CREATE TABLE v3_plans"):
            return sql
        if "STRICT" in options:
            for found, type_ in _STRICT_TYPES.items():
                sql = re.sub(found, type_, sql)
        return f"{sql} {options}"

    return edit


def with_ids(type_: str) -> Edit:
    """Let the ids of plans be of this type."""
    return lambda sql: re.sub(r"(\b\w*plan_id) VARCHAR\(26\)", rf"\1 {type_}", sql)


def with_columns(*columns: str) -> Edit:
    """Let the table of plans have further *columns*, before its constraints."""

    def edit(sql: str) -> str:
        return sql.replace(
            ", \n\tCONSTRAINT pk_v3_plans", f", {', '.join(columns)}, \n\tCONSTRAINT pk_v3_plans"
        )

    return edit
