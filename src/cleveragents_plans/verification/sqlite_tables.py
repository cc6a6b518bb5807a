"""The tables of a SQLite database, out of its schema."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SAWarning

from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.items import DdlNotUnderstood
from cleveragents_plans.evolution.sqlite.tokens import quote
from cleveragents_plans.verification.expressions import canonical
from cleveragents_plans.verification.tables import (
    Column,
    Constraint,
    Index,
    Table,
    foreign_key_definition,
    index_definition,
)


def sqlite_tables(
    connection: Connection, names: Collection[str], unreadable: dict[str, str]
) -> dict[str, Table]:
    """
    Describe the tables *names*, as far as they are there.

    *unreadable* gets those whose definition cannot be read, and why.
    """
    found = {}
    for name in sorted({*names} & {*inspect(connection).get_table_names()}):
        try:
            found[name] = Table(
                name,
                _columns(connection, name),
                tuple(_constraints(connection, name)),
                tuple(_indexes(connection, name)),
            )
        except DdlNotUnderstood as error:
            unreadable[name] = str(error)
    return found


def _pragma(connection: Connection, name: str, argument: str) -> list[Any]:
    return list(connection.exec_driver_sql(f"PRAGMA {name}({quote(argument)})").mappings())


def _columns(connection: Connection, table: str) -> dict[str, Column]:
    return {
        row["name"]: Column.declared(row["type"], not row["notnull"], row["dflt_value"])
        for row in _pragma(connection, "table_xinfo", table)
    }


def _constraints(connection: Connection, table: str) -> Iterator[Constraint]:
    inspector = inspect(connection)
    key = inspector.get_pk_constraint(table)
    if key["constrained_columns"]:
        yield Constraint("PRIMARY KEY", key["name"], f"({', '.join(key['constrained_columns'])})")
    with warnings.catch_warnings():
        # It says that it leaves out indexes on expressions, which are no constraints.
        warnings.simplefilter("ignore", SAWarning)
        uniques = inspector.get_unique_constraints(table)
    for unique in uniques:
        yield Constraint("UNIQUE", unique["name"], f"({', '.join(unique['column_names'])})")
    query = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?"
    text: str = connection.exec_driver_sql(query, (table,)).scalar_one()
    for name, expression in CreateTable(text).named_checks:
        yield Constraint("CHECK", name, canonical(expression))
    names = {
        tuple(each["constrained_columns"]): each["name"]
        for each in inspector.get_foreign_keys(table)
    }
    keys: dict[int, list[Any]] = defaultdict(list)
    for row in _pragma(connection, "foreign_key_list", table):
        keys[row["id"]].append(row)
    for rows in keys.values():
        columns = [row["from"] for row in rows]
        first, targets = rows[0], [row["to"] for row in rows]
        if None in targets:
            targets = inspector.get_pk_constraint(first["table"])["constrained_columns"]
        definition = foreign_key_definition(
            columns, first["table"], targets, first["on_delete"], first["on_update"]
        )
        yield Constraint("FOREIGN KEY", names.get(tuple(columns)), definition)


def _indexes(connection: Connection, table: str) -> Iterator[Index]:
    for row in _pragma(connection, "index_list", table):
        if row["origin"] != "c":  # made by a constraint
            continue
        query = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?"
        text: str = connection.exec_driver_sql(query, (row["name"],)).scalar_one()
        columns = [
            (each["name"] or "an expression") + (" DESC" if each["desc"] else "")
            for each in _pragma(connection, "index_xinfo", row["name"])
            if each["key"]
        ]
        where = re.split(r"\bWHERE\b", text, maxsplit=1, flags=re.IGNORECASE)[1:]
        condition = where[0] if row["partial"] and where else None
        yield Index(row["name"], index_definition(columns, bool(row["unique"]), condition))
