"""
The state of a SQLite table, as SQLite reports it, and how two states differ.

The texts in the schema say what was written, the pragmas what SQLite understood. A rebuild that
kept everything shows it in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.sqlite.tokens import fold, quote, same_expression

#: How many of many differences are named.
_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """What changes in the columns of a table; all names folded (see `fold`)."""

    added: frozenset[str]
    dropped: frozenset[str]
    #: Whether a column becomes NOT NULL, or no longer is.
    not_null: dict[str, bool]
    #: The DEFAULT that a column gets; None where it loses it.
    default: dict[str, str | None]
    #: The columns of each foreign key that is to come or to go.
    foreign_keys: frozenset[tuple[str, ...]] = frozenset()


class Column(NamedTuple):
    """A column as ``PRAGMA table_xinfo`` reports it."""

    name: str
    type: str
    not_null: bool
    default: str | None
    key: int
    hidden: int

    @property
    def generated(self) -> bool:
        """Whether its values are computed, stored or not."""
        return self.hidden in (2, 3)


class _ForeignKey(NamedTuple):
    parent: str
    columns: tuple[str, ...]
    referred: tuple[str | None, ...]
    actions: tuple[str, ...]


class _Index(NamedTuple):
    name: str
    unique: bool
    partial: bool
    columns: tuple[Any, ...]


@dataclass(frozen=True)
class TableState:
    """A table and what depends on it, for comparison."""

    table: str
    rows: int
    columns: tuple[Column, ...]
    #: The text of everything in the database, by type and name.
    schema: dict[tuple[str, str], str]
    foreign_keys: Counter[_ForeignKey]
    indexes: Counter[_Index]
    #: Rows that break a foreign key of this table or to it, by that key and rowid.
    violations: Counter[tuple[str, str, int | None]]
    #: Views and triggers that SQLite cannot compile.
    broken: frozenset[str]

    @classmethod
    def of(cls, connection: Connection, table: str) -> TableState:
        """Read the state of *table* in the main database."""
        keys, referring = _foreign_keys(connection, table)
        count = connection.exec_driver_sql(f"SELECT count(*) FROM main.{quote(table)}")
        return cls(
            table=table,
            rows=count.scalar_one(),
            columns=tuple(columns_of(connection, table)),
            schema=_schema(connection),
            foreign_keys=keys,
            indexes=Counter(_indexes(connection, table)),
            violations=_violations(connection, [table, *referring]),
            broken=frozenset(_broken(connection)),
        )

    def unexpected(self, after: TableState, text: str, change: Change) -> Iterator[str]:
        """
        Describe the differences in the state *after* a rebuild that *change* does not explain.

        *text* is what the schema should hold for the table now.
        """
        if after.rows != self.rows:
            yield f"it had {self.rows} rows and now has {after.rows}"
        yield from self._schema_differences(after, text)
        expected = [_changed(column, change) for column in self.columns]
        found = [column for column in after.columns if fold(column.name) not in change.added]
        kept = [column for column in expected if fold(column.name) not in change.dropped]
        for one, other in zip_longest(kept, found):
            if not _alike(one, other):
                expected_and_found = [column and tuple(column) for column in (one, other)]
                yield "column {} should be {} and is {}".format(
                    (one or other).name, *expected_and_found
                )
        yield from _gone_and_new("foreign key", self.foreign_keys, after.foreign_keys, change)
        yield from _gone_and_new("index", self.indexes, after.indexes, change)
        if broken := sorted(after.broken - self.broken):
            yield f"{', '.join(broken[:_SHOWN])} can no longer be compiled"
        if violations := after.violations - self.violations:
            first = [f"{what} (rowid {row})" for _, what, row in list(violations)[:_SHOWN]]
            yield f"{violations.total()} rows now break a foreign key: {', '.join(first)}"

    def _schema_differences(self, after: TableState, text: str) -> Iterator[str]:
        expected = dict(self.schema)
        expected["table", self.table] = text
        for kind, name in sorted(expected.keys() | after.schema.keys()):
            if expected.get((kind, name)) != after.schema.get((kind, name)):
                yield f"the {kind} {name} in the schema is not what was expected"


def columns_of(connection: Connection, table: str) -> Iterator[Column]:
    """Read the columns of *table*, those included that SQLite computes."""
    for row in connection.exec_driver_sql(f"PRAGMA main.table_xinfo({quote(table)})"):
        yield Column(row[1], row[2], bool(row[3]), row[4], row[5], row[6])


def _schema(connection: Connection) -> dict[tuple[str, str], str]:
    # An index without text belongs to a constraint; `_indexes` compares it by what it does.
    rows = connection.exec_driver_sql(
        "SELECT type, name, sql FROM main.sqlite_master WHERE sql IS NOT NULL"
        " UNION ALL SELECT 'temporary ' || type, name, sql FROM temp.sqlite_master"
    )
    return {(row[0], row[1]): row[2] for row in rows}


def _foreign_keys(connection: Connection, table: str) -> tuple[Counter[_ForeignKey], list[str]]:
    """Find the foreign keys of *table*, and the other tables that have one to it."""
    names = connection.exec_driver_sql(
        "SELECT name FROM main.sqlite_master WHERE type = 'table'"
        " AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY rowid"
    ).scalars()
    referring = []
    for name in names.all():
        if name != table:
            keys = _foreign_keys_of(connection, name).values()
            if any(fold(key.parent) == fold(table) for key in keys):
                referring.append(name)
    return Counter(_foreign_keys_of(connection, table).values()), referring


def _foreign_keys_of(connection: Connection, table: str) -> dict[int, _ForeignKey]:
    found: dict[int, _ForeignKey] = {}
    for row in connection.exec_driver_sql(f"PRAGMA main.foreign_key_list({quote(table)})"):
        former = found.get(row[0])
        found[row[0]] = _ForeignKey(
            row[2],
            (*(former.columns if former else ()), row[3]),
            (*(former.referred if former else ()), row[4]),
            tuple(row[5:8]),
        )
    return found


def _indexes(connection: Connection, table: str) -> Iterator[_Index]:
    listed = connection.exec_driver_sql(f"PRAGMA main.index_list({quote(table)})").all()
    for _, name, unique, origin, partial in listed:
        parts = connection.exec_driver_sql(f"PRAGMA main.index_xinfo({quote(name)})")
        # An index of a constraint has no name of its own: what it does identifies it.
        yield _Index(
            name if origin == "c" else {"u": "UNIQUE", "pk": "PRIMARY KEY"}[origin],
            bool(unique),
            bool(partial),
            tuple((min(row[1], 0), *row[2:5]) for row in parts if row[5]),
        )


def _violations(connection: Connection, tables: list[str]) -> Counter[tuple[str, str, int | None]]:
    found: Counter[tuple[str, str, int | None]] = Counter()
    for table in tables:
        names = {
            number: f"{table}.{','.join(key.columns)} to {key.parent}"
            for number, key in _foreign_keys_of(connection, table).items()
        }
        try:
            rows = connection.exec_driver_sql(f"PRAGMA main.foreign_key_check({quote(table)})")
            found.update((table, names[row[3]], row[1]) for row in rows)
        except DBAPIError as error:
            # A key to columns that are not unique cannot be checked at all. That
            # it could be before, or cannot be any more, is a difference too.
            found[table, str(error.orig), None] += 1
    return found


def _broken(connection: Connection) -> Iterator[str]:
    """Compile each view, and for each trigger the statements that can fire it."""
    rows = connection.exec_driver_sql(
        "SELECT type, name, tbl_name FROM main.sqlite_master WHERE type IN ('view', 'trigger')"
    ).all()
    for table in sorted({row[2] for row in rows}):
        kinds = {row[0] for row in rows if row[2] == table}
        target = f"main.{quote(table)}"
        statements = [f"SELECT * FROM {target}"]
        if "trigger" in kinds:
            columns = columns_of(connection, table)
            sets = ", ".join(f"{quote(c.name)} = NULL" for c in columns if not c.generated)
            statements.append(f"INSERT INTO {target} DEFAULT VALUES")
            statements.append(f"UPDATE {target} SET {sets}")
            statements.append(f"DELETE FROM {target}")
        for statement in statements:
            try:
                connection.exec_driver_sql(f"EXPLAIN {statement}").close()
            except DBAPIError:
                yield f"{statement.split()[0]} on {table}"


def _changed(column: Column, change: Change) -> Column:
    name = fold(column.name)
    return column._replace(
        not_null=change.not_null.get(name, column.not_null),
        default=change.default.get(name, column.default),
    )


def _alike(one: Column | None, other: Column | None) -> bool:
    if one is None or other is None or one.default is None or other.default is None:
        return one == other
    same = same_expression(one.default, other.default)
    return same and one._replace(default=None) == other._replace(default=None)


def _gone_and_new(
    what: str, before: Counter[Any], after: Counter[Any], change: Change
) -> Iterator[str]:
    """Compare the two, leaving out foreign keys that came or went as they were to."""
    for word, found, excused in (
        ("lost", before - after, change.dropped),
        ("new", after - before, change.added),
    ):
        for one in found:
            if isinstance(one, _ForeignKey):
                columns = tuple(map(fold, one.columns))
                if excused.issuperset(columns) or columns in change.foreign_keys:
                    continue
            yield f"{what} {one[0]} {tuple(one[1:])} is {word}"
