"""
Rebuild a SQLite table, to change what ALTER TABLE cannot, and keep everything else.

These are the steps that SQLite's documentation gives for changes it has no
statement for, but for one: the old table is renamed out of the way and the new
one made under its own name. Renaming the new one instead would rewrite its text
(SQLite puts the name in quotes), so that a downgrade could never restore it.
With `legacy_alter_table` on and foreign keys off, renaming the old one leaves
every view, trigger and foreign key that mentions it as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count, pairwise

from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.sqlite.callbacks import MakeFunction, functions
from cleveragents_plans.evolution.sqlite.changes import TableChanges
from cleveragents_plans.evolution.sqlite.copy_rows import copy_rows, restore_sequence, sequence_of
from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.items import DdlNotUnderstood
from cleveragents_plans.evolution.sqlite.table import RebuildRefused, SqliteTable
from cleveragents_plans.evolution.sqlite.table_state import Column, TableState, columns_of
from cleveragents_plans.evolution.sqlite.tokens import fold, quote, tokenize

log = logging.getLogger("alembic.evolution")


@dataclass(frozen=True)
class _Copy:
    """What the copy writes into columns, and the functions in it."""

    values: Mapping[str, str]
    functions: Mapping[str, MakeFunction]


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

    The text of the table changes at the places of these changes only, and the
    opposite changes restore it. They cannot know what was there before: a column that
    was NOT NULL, or had the DEFAULT, already must not be named in the *drop* of a
    downgrade.

    The transaction must have begun, with foreign keys off before it; whoever began it
    rolls it back when this raises.

    Args:
        op: Alembic's ``op``.
        table: The table.
        add: New columns and what follows their names; they go after the last column.
        drop: Columns that go.
        set_not_null: Columns that become NOT NULL, if they are not.
        drop_not_null: Columns that are to allow NULL.
        set_default: Columns that get a DEFAULT; one in parentheses unless it is a value.
        drop_default: Columns that lose their DEFAULT.
        add_constraints: CHECKs and foreign keys of the table, from ``CONSTRAINT name`` on.
        drop_constraints: Names of CHECKs and foreign keys that go.
        values: What the copy writes into a column, as an expression that
            ``SELECT <expression> FROM <table> AS old`` would understand beforehand,
            subqueries included.
        functions: What *values* may call besides what SQLite has: each is made from the
            connection of the driver and the name by which the old rows can be read.

    Raises:
        RebuildRefused: It cannot be done, or would lose something.
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
            "run `alembic upgrade head` against the file itself",
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
    copy = _Copy({fold(c): sql for c, sql in (values or {}).items()}, functions or {})
    found = SqliteTable(op.get_bind(), table)
    with found.refusing("looking at the table"):
        _require_transaction(found)
        text = _find(found)
        columns = list(columns_of(found.connection, found.name))
        old, new = _edited(found, text, changes)
        _require_columns(found, copy.values, (old, new), columns)
        _require_no_mention(found, drop, new)
    generated = {fold(c.name) for c in columns if c.generated}
    _replace(found, changes, copy, (old, new), generated)


def _replace(
    table: SqliteTable,
    changes: TableChanges,
    copy: _Copy,
    statements: tuple[CreateTable, CreateTable],
    generated: set[str],
) -> None:
    times = [time.monotonic()]
    with table.refusing("looking at the table"):
        before = TableState.of(table.connection, table.name)
        dependents = _dependents(table)
        sequence = sequence_of(table)
        aside = _free_name(table, copy.values)
    times.append(time.monotonic())
    with table.refusing("moving the table aside"), table.pragma("legacy_alter_table"):
        table.run(f"ALTER TABLE main.{quote(table.name)} RENAME TO {aside}")
    with table.refusing("making the new table"):
        table.run(statements[1].text)
    with table.refusing("copying the rows"), functions(table.driver, copy.functions, aside):
        copy_rows(table, aside, statements, generated, copy.values)
    with table.refusing("dropping the old table"):
        table.run(f"DROP TABLE main.{aside}")
        restore_sequence(table, sequence)
    times.append(time.monotonic())
    for name, sql in dependents:
        with table.refusing(f"making {name} again"):
            table.run(sql)
    times.append(time.monotonic())
    with table.refusing("checking the new table"):
        after = TableState.of(table.connection, table.name)
    for difference in before.unexpected(after, statements[1].text, changes.change(*statements)):
        raise table.refusal(difference)
    times.append(time.monotonic())
    looked, copied, indexed, checked = (b - a for a, b in pairwise(times))
    log.info(
        "%s rebuilt: %s rows copied in %.1f s, indexes and triggers made in %.1f s, "
        "checks before and after %.1f s",
        table.name,
        f"{after.rows:,}",
        copied,
        indexed,
        looked + checked,
    )


def _require_transaction(table: SqliteTable) -> None:
    if table.run("PRAGMA foreign_keys").scalar():
        raise table.refusal(
            "foreign keys are on, so that dropping the old table would delete the rows that "
            "refer to it; run PRAGMA foreign_keys = OFF before the transaction begins"
        )
    driver = table.connection.connection.driver_connection
    if not getattr(driver, "in_transaction", True):
        raise table.refusal(
            "no transaction is open, so that a failure would leave it half done; "
            "run BEGIN IMMEDIATE before Alembic reads the version"
        )


def _find(table: SqliteTable) -> str:
    """Find the table's text; it also gets its name as that is spelled there."""
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
        raise table.refusal("something temporary of the same name hides it; drop that first")
    return str(text)


def _edited(
    table: SqliteTable, text: str, changes: TableChanges
) -> tuple[CreateTable, CreateTable]:
    try:
        old = CreateTable(text)
        return old, changes.edit(old)
    except DdlNotUnderstood as error:
        raise table.refusal(str(error)) from error


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
    # In double quotes, a column that is no more turns into a string, and no
    # error says so. Without the quotes, SQLite complains by itself.
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
    """Read what goes with the table and has a text to make it again."""
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
