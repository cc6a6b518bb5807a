"""
What else a SQLite table makes of values that are to be written, tried out beforehand.

CHECKs, indexes, generated columns and triggers of others evaluate expressions over them. Where no
row that is stored meets them, the rows are copied without a fault, and then the table refuses what
an application inserts. So rows are inserted into a copy of the schema, in memory: in the file a
trigger could end the transaction of the run (RAISE(ROLLBACK)), and a preflight only reads it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.items import DdlNotUnderstood
from cleveragents_plans.evolution.sqlite.tokens import fold, quote, tokenize

log: Final = logging.getLogger("alembic.evolution")

_CHECK = "CHECK constraint failed: "
# Words by which a trigger depends on rows of other tables, which the copy has not got.
_READS = {"from", "changes", "total_changes"}
# Steps of SQLite's machine, a second or so, after which a trigger is taken for one that never ends.
_STEPS: Final = 100_000
_LONGEST: Final = 300 * _STEPS
_AGAIN = "run the same command again; nothing was changed"


class RowRefused(EvolutionError):
    """
    A table would refuse rows with a value that is to be written.

    Attributes:
        table: The table.
    """

    def __init__(self, table: str, said: str) -> None:
        super().__init__(said)
        self.table = table


class _Entry(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str


class _Outcome(NamedTuple):
    """How many statements a row got through, and what SQLite said against the next one."""

    passed: int
    said: str


@checks("CHECKs and triggers")
def check_insertable(
    op: Op, table: str, *, rows: Sequence[Mapping[str, str]], values: Mapping[str, str]
) -> None:
    """
    Find out whether a SQLite *table* takes rows with *values*; change nothing.

    In a copy of the schema without rows, each of *rows* is inserted, updated and deleted, and then
    with *values*. What refuses each of them as they are is not judged, nor is what needs a function
    that only the application has. A trigger that reads other tables is warned of. Reads the schema,
    and for a foreign key looks for one row. On PostgreSQL, offline, and where there is no such
    table yet, it does nothing.

    Args:
        op: Alembic's ``op``.
        table: The table.
        rows: What an application may have inserted by now, as literals by column.
        values: Literals for the columns that become something else.

    Raises:
        RowRefused: A CHECK, an index, a generated column, a trigger or a foreign key refuses
            *values* only.
    """
    context = op.get_context()
    if context.dialect.name != "sqlite" or context.as_sql:
        return
    connection = op.get_bind()
    entries = connection.exec_driver_sql(
        "SELECT type, name, tbl_name, sql FROM main.sqlite_master WHERE sql IS NOT NULL"
    )
    schema = [_Entry(*each) for each in entries]
    own = [each for each in schema if fold(each.table) == fold(table)]
    if not any(each.kind == "table" for each in own):
        return
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        _create(copy, schema, table)
        present = {fold(name) for name, _ in _columns(copy, table)}
        former, values = [_only(each, present) for each in rows], _only(values, present)
        trial = _Trial(copy, table, former)
        _refuse_constraints(trial, values)
        for each in own:
            if each.kind in ("index", "trigger"):
                _refuse_object(trial, each, values)
    _refuse_foreign_keys(connection, table, rows[0], values)


def _only(row: Mapping[str, str], columns: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if fold(name) in columns}


def _create(copy: sqlite3.Connection, schema: Iterable[_Entry], table: str) -> None:
    """Create what triggers write and read, and *table* without its indexes and triggers."""
    copy.execute("PRAGMA foreign_keys = OFF")
    # A virtual table creates its shadow tables by itself.
    in_order = sorted(schema, key=lambda each: not fold(each.sql).startswith("create virtual"))
    for kinds in (("table",), ("view", "index")):
        for each in in_order:
            if each.kind in kinds and (each.kind != "index" or fold(each.table) != fold(table)):
                with suppress(sqlite3.Error):  # what is lacking refuses every row
                    copy.execute(each.sql)


def _columns(copy: sqlite3.Connection, table: str) -> Iterator[tuple[str, bool]]:
    """Give the columns, and whether SQLite computes them."""
    for found in copy.execute(f"PRAGMA main.table_xinfo({quote(table)})"):
        yield found[1], found[6] in (2, 3)


@dataclass(frozen=True)
class _Trial:
    """A copy of a table, in which rows are tried out, and those that it may take by now."""

    copy: sqlite3.Connection
    table: str
    rows: Sequence[Mapping[str, str]]

    def refusal(self, created: str | None, values: Mapping[str, str]) -> str | None:
        """Give what SQLite says against *values* only, once something is *created* or without."""
        before = max(self._try(created, row) for row in self.rows)
        after = max(self._try(created, {**row, **values}) for row in self.rows)
        return after.said if after.passed < before.passed else None

    def shown(self, created: str | None, values: Mapping[str, str]) -> str:
        """Show those of *values* that are refused."""
        alone = [name for name in values if self.refusal(created, {name: values[name]})]
        return " and ".join(f"{name} = {values[name]}" for name in alone or values)

    def failing_check(self, values: Mapping[str, str]) -> str | None:
        """Name a CHECK that fails: SQLite can call it by the name of the one before."""
        query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND lower(name) = lower(?)"
        target = f"main.{quote(self.table)}"
        self.copy.execute("PRAGMA ignore_check_constraints = ON")
        try:
            text = self.copy.execute(query, (self.table,)).fetchone()[0]
            self.copy.execute(_insert(target, {**self.rows[0], **values}))
            for name, check in CreateTable(text).named_checks:
                if self.copy.execute(f"SELECT 1 FROM {target} WHERE NOT {check}").fetchone():
                    return name or " ".join(check.split())
        except (sqlite3.Error, DdlNotUnderstood):
            return None
        finally:
            self.copy.execute("PRAGMA ignore_check_constraints = OFF")
            self.copy.execute(f"DELETE FROM {target}")
        return None

    def _try(self, created: str | None, row: Mapping[str, str]) -> _Outcome:
        target = f"main.{quote(self.table)}"
        computed = dict(_columns(self.copy, self.table))
        kept = ", ".join(f"{quote(c)} = {quote(c)}" for c in computed if not computed[c])
        written = [
            _insert(target, row),
            f"UPDATE OR ABORT {target} SET {kept}",
        ]
        passed = 0
        steps = iter(range(_LONGEST // _STEPS))
        self.copy.set_progress_handler(lambda: next(steps, None) is None, _STEPS)
        self.copy.execute("BEGIN")
        try:
            if created is not None:
                self.copy.execute(created)
            for statement in written:
                passed += 1
                # A trigger can pass over a row in silence.
                if not self.copy.execute(statement).rowcount:
                    return _Outcome(passed, "it is left out")
            passed += 1
            self.copy.execute(f"DELETE FROM {target}")
            return _Outcome(passed + 1, "")
        except sqlite3.Error as error:
            return _Outcome(passed, " ".join(str(error).split()))
        finally:
            self.copy.set_progress_handler(None, 0)
            if self.copy.in_transaction:
                self.copy.execute("ROLLBACK")


def _insert(target: str, row: Mapping[str, str]) -> str:
    columns, literals = ", ".join(map(quote, row)), ", ".join(row.values())
    return f"INSERT OR ABORT INTO {target} ({columns}) VALUES ({literals})"


def _refuse_constraints(trial: _Trial, values: Mapping[str, str]) -> None:
    said = trial.refusal(None, values)
    if said is None:
        return
    table, shown = trial.table, trial.shown(None, values)
    if said.startswith(_CHECK):
        name = trial.failing_check(values) or said.removeprefix(_CHECK)
        raise RowRefused(
            table,
            f"the CHECK {name} of {table} would refuse {shown}; let it pass, or drop it, then "
            f"{_AGAIN}",
        )
    computed = [name for name, is_computed in _columns(trial.copy, table) if is_computed]
    what = f"the generated column {' or '.join(computed)}" if computed else "a column"
    raise _unfit(table, what, shown, said)


def _refuse_object(trial: _Trial, each: _Entry, values: Mapping[str, str]) -> None:
    said = trial.refusal(each.sql, values)
    if said is None:
        return
    shown = trial.shown(each.sql, values)
    if each.kind == "trigger" and _reads_tables(each.sql):
        log.warning(
            "%s has the trigger %s, which refuses %s where the tables that it reads are empty "
            "(SQLite says: %s): it may refuse what is inserted after this run; look whether it "
            "does, or drop it",
            trial.table, each.name, shown, said,
        )  # fmt: skip
        return
    raise _unfit(trial.table, f"the {each.kind} {each.name}", shown, said)


def _reads_tables(trigger: str) -> bool:
    tokens = tokenize(trigger)
    in_table = any(one.keyword == "in" and other.text != "(" for one, other in pairwise(tokens))
    return in_table or not _READS.isdisjoint(token.keyword for token in tokens)


def _unfit(table: str, what: str, shown: str, said: str) -> RowRefused:
    return RowRefused(
        table,
        f"{table} has {what}, which would refuse {shown} (SQLite says: {said}); drop it, or make "
        f"it so that it accepts this, and {_AGAIN}",
    )


def _refuse_foreign_keys(
    connection: Connection, table: str, row: Mapping[str, str], values: Mapping[str, str]
) -> None:
    # One that is made of the row itself is another value in each row.
    known = {fold(name): value for name, value in values.items() if value not in row.values()}
    keys = connection.exec_driver_sql(f"PRAGMA main.foreign_key_list({quote(table)})").all()
    composite = {key[0] for key in keys if key[1] > 0}
    for number, _, referred, column, key, *_ in keys:
        value = known.get(fold(column))
        if value is None or number in composite:
            continue
        try:
            found = _has_row(connection, referred, key, value)
        except DBAPIError:  # no such table, and no row could be inserted before either
            continue
        if not found:
            raise RowRefused(
                table,
                f"{table} has a foreign key to {referred}, which would refuse {column} = {value}: "
                f"{referred} has no such row; insert it there, or drop the foreign key, and "
                f"{_AGAIN}",
            )


def _has_row(connection: Connection, table: str, key: str | None, value: str) -> bool:
    if key is None:
        columns = connection.exec_driver_sql(f"PRAGMA main.table_xinfo({quote(table)})")
        key = next((str(found[1]) for found in columns if found[5] == 1), "rowid")
    query = f"SELECT EXISTS (SELECT 1 FROM main.{quote(table)} p WHERE p.{quote(key)} = {value})"
    return bool(connection.exec_driver_sql(query).scalar_one())
