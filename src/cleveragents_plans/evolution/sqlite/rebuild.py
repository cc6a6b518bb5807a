"""
Rebuild a SQLite table, to change what ALTER TABLE cannot, and keep everything else.

These are the steps of https://www.sqlite.org/lang_altertable.html#otheralter, but for one: the old
table is renamed, and the new one created under its name. Renaming the new one instead would
rewrite its text (SQLite puts the name in quotes), so that a downgrade could never restore it. With
``legacy_alter_table`` on and foreign keys off, renaming the old one leaves every view, trigger and
foreign key that names it as it is.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import Final

from cleveragents_plans.evolution.foreseen import Rebuild, foresee
from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite.callbacks import (
    MakeFunction,
    functions,
    with_lent_collations,
)
from cleveragents_plans.evolution.sqlite.changes import TableChanges
from cleveragents_plans.evolution.sqlite.copy_rows import copy_rows, restore_sequence, sequence_of
from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.disk_space import require_disk_space
from cleveragents_plans.evolution.sqlite.items import DdlNotUnderstood
from cleveragents_plans.evolution.sqlite.pragmas import switched_on
from cleveragents_plans.evolution.sqlite.table import RebuildRefused, SqliteTable
from cleveragents_plans.evolution.sqlite.table_state import Column, TableState, columns_of
from cleveragents_plans.evolution.sqlite.tokens import fold, quote, tokenize

log: Final = logging.getLogger("alembic.evolution")

_DROP = "from, drop it before the run, and create it for the new values afterwards"


def rebuild_table(
    op: Op,
    table: str,
    *,
    add: Mapping[str, str] | None = None,
    drop: Collection[str] = (),
    set_not_null: Collection[str] = (),
    drop_not_null: Collection[str] = (),
    set_default: Mapping[str, str] | None = None,
    drop_default: Collection[str] = (),
    add_constraints: Collection[str] = (),
    drop_constraints: Collection[str] = (),
    values: Mapping[str, str] | None = None,
    functions: Mapping[str, MakeFunction] | None = None,
) -> None:
    """
    Copy *table* once, changing its columns on the way; whatever is not named stays.

    The text of the table changes at the places of these changes only, and the opposite changes
    restore it. They cannot know what was there before: a column that was NOT NULL already, or
    had the DEFAULT, must not be named in the *drop* of a downgrade.

    The transaction must have begun, with foreign keys off before it; the run rolls it back
    when this raises. The file stays locked until it ends.

    Args:
        op: Alembic's ``op``.
        table: The table.
        add: New columns and what follows their names; they go after the last column.
        drop: Columns that go.
        set_not_null: Columns that become NOT NULL, if they are not.
        drop_not_null: Columns that are to allow NULL.
        set_default: Columns that get a DEFAULT; one in parentheses unless it is a value.
        drop_default: Columns that lose their DEFAULT, to that of *set_default* if there is one.
        add_constraints: CHECKs and foreign keys of the table, from ``CONSTRAINT name`` on.
        drop_constraints: Names of CHECKs and foreign keys that go.
        values: What the copy writes into a column, as an expression that
            ``SELECT <expression> FROM <table> AS old`` would understand beforehand,
            subqueries included.
        functions: What *values* may call besides SQLite's functions: each is created from the
            connection of the driver and the name of the old table.

    Raises:
        RebuildRefused: It cannot be done, or would lose something.
        DiskTooSmall: The disk has no room for the copy.
    """
    context = op.get_context()
    if context.dialect.name != "sqlite":
        raise RebuildRefused(
            table,
            f"rebuild_table is for SQLite, and this database is {context.dialect.name}, "
            "which can alter a table in place",
        )
    if context.as_sql:
        raise RebuildRefused(
            table,
            "SQLite is rebuilt from what the file holds, which --sql cannot know; "
            "run the upgrade against the file itself",
        )
    changes = TableChanges(
        add=add or {},
        drop=drop,
        set_not_null=set_not_null,
        drop_not_null=drop_not_null,
        set_default=set_default or {},
        drop_default=drop_default,
        add_constraints=add_constraints,
        drop_constraints=drop_constraints,
    )
    foresee(Rebuild(table, values or {}, frozenset(functions or ())))
    every = Settings.of(context.environment_context).report_every
    rebuild = _Rebuild(SqliteTable(op.get_bind(), table), changes, every)
    rebuild.run({fold(c): sql for c, sql in (values or {}).items()}, functions or {})


class _Rebuild:
    """One rebuild; each of its steps is refused by its name, and reported when it takes long."""

    def __init__(self, table: SqliteTable, changes: TableChanges, report_every: float) -> None:
        self.table = table
        self.changes = changes
        self.report_every = report_every
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def step(
        self, kind: str, what: str, remedy: str = "", *, reports: bool = False
    ) -> Iterator[None]:
        """Run a step, which *reports* by itself or is reported here."""
        begun = time.monotonic()
        heard = heartbeat(f"{self.table.name}: {what}", self.report_every)
        with self.table.refusing(what, remedy), nullcontext() if reports else heard:
            yield
        self.seconds[kind] += time.monotonic() - begun

    def run(self, values: Mapping[str, str], makers: Mapping[str, MakeFunction]) -> None:
        table, run = self.table, self.table.run
        with self.step("check", "reading the table"):
            _require_transaction(table)
            text = _find(table)
            columns = list(columns_of(table.connection, table.name))
            statements = self._edited(text)
            _require_columns(table, values, statements, columns)
            _require_no_mention(table, self.changes.drop, statements[1])
            require_disk_space(table.connection, table.name)
            before = TableState.of(table.connection, table.name)
            dependents = _dependents(table)
            sequence = sequence_of(table)
            old = _free_name(table, values)
        legacy = switched_on(table.connection, "legacy_alter_table")
        with self.step("copy", "renaming the old table"), legacy:
            rename = f"ALTER TABLE main.{quote(table.name)} RENAME TO {old}"
            with_lent_collations(table.driver, lambda: run(rename))
        dropped = " and ".join(self.changes.drop)
        remedy = dropped and f"; if a CHECK or a generated column is made from {dropped}, drop that"
        with self.step("copy", "creating the new table", remedy):
            table.define(statements[1].text)
        generated = {fold(column.name) for column in columns if column.generated}
        computed = ", ".join(column.name for column in columns if column.generated)
        remedy = (
            computed and f"; if what is written is nothing that {computed} can be computed {_DROP}"
        )
        copying = self.step("copy", "copying the rows", remedy, reports=True)
        with copying, functions(table.driver, makers, old):
            copy_rows(table, old, statements, generated, values, self.report_every)
        with self.step("copy", "dropping the old table"):
            run(f"DROP TABLE main.{old}")
            restore_sequence(table, sequence)
        for name, sql in dependents:
            remedy = f"; if what is written is nothing that {name} can be made {_DROP}"
            with self.step("create", f"creating {name} again", remedy):
                table.define(sql)
        with self.step("check", "checking the new table"):
            after = TableState.of(table.connection, table.name)
        change = self.changes.change(*statements)
        for difference in before.unexpected(after, statements[1].text, change):
            raise table.refusal(difference)
        log.info(
            "%s rebuilt: %s rows copied in %.1f s, indexes and triggers created in %.1f s, "
            "checks before and after %.1f s",
            table.name,
            f"{after.rows:,}",
            *(self.seconds[kind] for kind in ("copy", "create", "check")),
        )

    def _edited(self, text: str) -> tuple[CreateTable, CreateTable]:
        try:
            old = CreateTable(text)
            return old, self.changes.edit(old)
        except DdlNotUnderstood as error:
            raise self.table.refusal(str(error)) from error


def _require_transaction(table: SqliteTable) -> None:
    if not isinstance(table.driver, sqlite3.Connection):
        raise table.refusal(
            f"the driver is {type(table.driver).__module__}, expected sqlite3; "
            "migrate by a URL that begins with sqlite:///"
        )
    if not table.driver.in_transaction:
        raise table.refusal(
            "no transaction is open, so that a failure would leave it half done; "
            "run BEGIN IMMEDIATE before Alembic reads the version"
        )
    if table.run("PRAGMA foreign_keys").scalar():
        raise table.refusal(
            "foreign keys are enforced, so that dropping the old table would delete the rows that "
            "refer to it; run PRAGMA foreign_keys = OFF before the transaction begins"
        )


def _find(table: SqliteTable) -> str:
    """Find the text of the table; its name becomes that of the schema, as it is spelled there."""
    wanted = fold(table.name)
    rows = table.run("SELECT type, name, sql FROM main.sqlite_master WHERE type <> 'index'").all()
    found = next((row for row in rows if fold(row[1]) == wanted and row[0] != "trigger"), None)
    if found is None:
        raise table.refusal("there is no such table")
    kind, table.name, text = found
    if kind != "table":
        raise table.refusal(f"it is a {kind}, expected a table")
    if fold(text).startswith("create virtual"):
        raise table.refusal("it is a virtual table, which only its own module can change")
    # Older versions of SQLite do not know this pragma, and answer nothing.
    if any(row[2] == "shadow" for row in table.run(f"PRAGMA main.table_list({quote(table.name)})")):
        raise table.refusal("it is the shadow table of a virtual one")
    if wanted in map(fold, table.run("SELECT name FROM temp.sqlite_master").scalars()):
        raise table.refusal("a temporary object of the same name hides it; drop that first")
    return str(text)


def _require_columns(
    table: SqliteTable,
    values: Mapping[str, str],
    statements: tuple[CreateTable, CreateTable],
    columns: list[Column],
) -> None:
    old, new = statements
    seen = [column.name for column in columns]
    if list(map(fold, old.columns)) != list(map(fold, seen)):
        raise table.refusal(f"its text was read as having {old.columns}, and SQLite has {seen}")
    generated = {fold(column.name) for column in columns if column.generated}
    for column in values:
        if column not in map(fold, new.columns):
            raise table.refusal(f"column {column} not found, for which there is a value")
        if column in generated:
            raise table.refusal(f"column {column} is generated, and takes no value")


def _require_no_mention(table: SqliteTable, dropped: Collection[str], new: CreateTable) -> None:
    # A name in double quotes becomes a string when there is no such column any more, without an
    # error (https://www.sqlite.org/quirks.html#dblquote). Without quotes SQLite raises one.
    quoted = {fold(quote(column)) for column in dropped}
    rows = table.run(
        "SELECT type, name, sql FROM main.sqlite_master WHERE type <> 'table' AND sql IS NOT NULL"
    )
    for kind, name, text in [("table", table.name, new.text), *rows]:
        tokens = tokenize(text)
        if fold(table.name) not in {fold(t.name or "") for t in tokens}:
            continue
        if found := quoted & {fold(token.text) for token in tokens}:
            raise table.refusal(f"{kind} {name} names {min(found)}, which is to be dropped")


def _dependents(table: SqliteTable) -> list[tuple[str, str]]:
    """Read the indexes and triggers that are dropped with the table, and their texts."""
    rows = table.run(
        "SELECT name, sql, tbl_name FROM main.sqlite_master"
        " WHERE type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY rowid"
    )
    return [(name, sql) for name, sql, owner in rows if fold(owner) == fold(table.name)]


def _free_name(table: SqliteTable, values: Mapping[str, str]) -> str:
    rows = table.run(
        "SELECT name FROM main.sqlite_master UNION SELECT name FROM temp.sqlite_master"
    )
    taken = {fold(name) for name in rows.scalars()}
    for expression in values.values():
        taken.update(fold(token.name or "") for token in tokenize(expression))
    # A plain word: in quotes, SQLite might take it for a string in an expression.
    return next(name for n in count(1) if (name := f"_rebuild_{n}") not in taken)
