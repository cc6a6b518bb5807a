"""Copy the rows of a SQLite table into the one that takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from sqlalchemy.exc import IntegrityError

from cleveragents_plans.evolution.reporting import Progress, heartbeat
from cleveragents_plans.evolution.run_figures import record_rows
from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.pragmas import switched_on
from cleveragents_plans.evolution.sqlite.table import SqliteTable, rowid_name
from cleveragents_plans.evolution.sqlite.tokens import fold, quote, rename_table

#: Rows that one statement copies; progress is reported between two of them.
_CHUNK = 10_000
_MIN_ROWID = -(2**63)


def copy_rows(
    table: SqliteTable,
    old: str,
    statements: tuple[CreateTable, CreateTable],
    generated: set[str],
    values: Mapping[str, str],
    report_every: float,
) -> None:
    """
    Copy the rows of the table *old* into *table*, which has its name by now.

    A table with rowids is copied in chunks, in their order; another one at once.

    Args:
        table: The new table.
        old: The old one; a plain word.
        statements: What the old table was created with, and the new one.
        generated: The columns that SQLite computes, by their folded name.
        values: What a column gets instead of what it had, by its folded name.
        report_every: Seconds between two messages about a copy at once.

    Raises:
        RebuildRefused: A value would not be what it was before, or would break a CHECK.
    """
    # Each row keeps its rowid: programs may have noted it.
    rowid = rowid_name(table.connection, old, table.name)
    insert = _insert(table, old, statements, generated, values, rowid)
    after = (_MIN_ROWID,) if rowid else ()
    _require_old_rows_read(table, insert, after)
    total = table.run(f"SELECT count(*) FROM main.{old}").scalar_one()
    broken = False
    with Progress(f"{table.name}, copied", total) as progress, ExitStack() as stack:
        if not rowid:
            stack.enter_context(heartbeat(f"{table.name}: copying the rows", report_every))
        while True:
            try:
                copied = table.run(insert, after).rowcount
            except IntegrityError as error:
                if "CHECK constraint failed" not in str(error.orig):
                    raise
                stack.enter_context(switched_on(table.connection, "ignore_check_constraints"))
                broken = True
                continue
            progress.tick(copied)
            if not rowid or copied < _CHUNK:
                break
            last = f"SELECT max({rowid}) FROM main.{quote(table.name)}"
            after = (table.run(last).scalar_one(),)
    record_rows(progress.done)
    if broken:
        _require_no_more_violations(table, old, statements)


def _insert(
    table: SqliteTable,
    old: str,
    statements: tuple[CreateTable, CreateTable],
    generated: set[str],
    values: Mapping[str, str],
    rowid: str | None,
) -> str:
    former, columns = ({fold(name): name for name in one.columns} for one in statements)
    pairs = [(rowid, f"old.{rowid}")] if rowid else []
    for folded, name in columns.items():
        if folded in values:
            value = rename_table(values[folded], table.name, old)
            pairs.append((quote(name), f"({value})"))
        elif folded in former and folded not in generated:
            pairs.append((quote(name), f"old.{quote(name)}"))
    # OR ABORT: a column can ask for rows to be skipped instead. NOT INDEXED:
    # in the order of the old table, in which the new one grows at its end.
    chunk = f" WHERE old.{rowid} > ? ORDER BY old.{rowid} LIMIT {_CHUNK}" if rowid else ""
    return (
        f"INSERT OR ABORT INTO main.{quote(table.name)} ({', '.join(name for name, _ in pairs)})"
        f" SELECT {', '.join(value for _, value in pairs)}"
        f" FROM main.{old} AS old NOT INDEXED{chunk}"
    )


def _require_old_rows_read(table: SqliteTable, insert: str, parameters: tuple[Any, ...]) -> None:
    # The new table has the name by now: a view would read it, while it is filled.
    rows = table.run("SELECT rootpage, tbl_name FROM main.sqlite_master")
    pages = {page for page, name in rows if fold(name) == fold(table.name)}
    for row in table.run(f"EXPLAIN {insert}", parameters):
        if row[1] == "OpenRead" and row[3] in pages and row[4] == 0:
            raise table.refusal(
                "a value reads the table through a view, where its rows are no longer; "
                "let the value read the table itself"
            )


def _require_no_more_violations(
    table: SqliteTable, old: str, statements: tuple[CreateTable, CreateTable]
) -> None:
    """Refuse rows that break a CHECK, unless they did before: these are not ours to mend."""
    former, present = statements
    for check in present.checks:
        where = f"AS {quote(table.name)} WHERE NOT {check}"
        found = table.run(f"SELECT count(*) FROM main.{quote(table.name)} {where}").scalar_one()
        before = 0
        if check in former.checks:
            before = table.run(f"SELECT count(*) FROM main.{old} {where}").scalar_one()
        if found > before:
            raise table.refusal(f"{found} rows would break CHECK {check}; {before} did before")


def sequence_of(table: SqliteTable) -> list[tuple[Any, ...]]:
    """Read the value of AUTOINCREMENT; nothing for a table without it."""
    present = "SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'"
    if table.run(present).scalar() is None:
        return []
    rows = "SELECT rowid, name, seq FROM main.sqlite_sequence WHERE name = ?"
    return [tuple(row) for row in table.run(rows, (table.name,))]


def restore_sequence(table: SqliteTable, rows: list[tuple[Any, ...]]) -> None:
    """Set AUTOINCREMENT to its former value, so that numbers of deleted rows are not used again."""
    for row in rows:
        table.run("DELETE FROM main.sqlite_sequence WHERE name = ?", (table.name,))
        table.run("INSERT INTO main.sqlite_sequence (rowid, name, seq) VALUES (?, ?, ?)", row)
