"""Indexes of a SQLite table, created and dropped once."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from sqlalchemy.exc import OperationalError

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.lookups import names_of
from cleveragents_plans.evolution.misspellings import column_in, suggestion
from cleveragents_plans.evolution.op import Op, execute_as_written
from cleveragents_plans.evolution.sqlite.tokens import fold, quote, tokenize

log: Final = logging.getLogger("alembic.evolution")


class _Found(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str | None


def create(op: Op, name: str, table: str, statement: str, *, use_equal: bool) -> None:
    """
    Run *statement*, the CREATE INDEX of the index *name*, unless it is there.

    Raises:
        OperationRefused: The name is taken by something else, or a column is not there.
    """
    if not op.get_context().as_sql:
        for found in _schema(op):
            if found.kind == "index" and _definition(found.sql) == _definition(statement):
                if fold(found.name) == fold(name):
                    log.info("%s has the index %s already", table, name)
                    return
                if use_equal:
                    log.info("%s has the index %s, which does the same", table, found.name)
                    return
        _refuse_taken(op, name)
    try:
        execute_as_written(op, statement)
    except OperationalError as error:
        column, known = column_in(str(error.orig)), names_of(op, "column", table)
        if column is None:
            raise
        raise OperationRefused(
            "create_index", f"SQLite refuses it ({error.orig})", suggestion(column, known)
        ) from error


def drop(op: Op, name: str, table: str, statement: str | None) -> None:
    """
    Drop the index *name* of *table*, if it is there.

    If *statement*, its CREATE INDEX, is given, one that is defined otherwise is kept.

    Raises:
        OperationRefused: Something else has the name, or a constraint needs the index.
    """
    if op.get_context().as_sql:
        op.execute(f"DROP INDEX IF EXISTS {quote(name)}")
        return
    found = next((each for each in _schema(op) if fold(each.name) == fold(name)), None)
    if found is None:
        return
    if found.kind != "index" or fold(found.table) != fold(table):
        raise OperationRefused(
            "drop_index", f"{name} is {_described(found)}", f"name an index of {table}"
        )
    if found.sql is None:
        raise OperationRefused(
            "drop_index",
            f"{name} belongs to a UNIQUE or a PRIMARY KEY of {table}",
            "drop the constraint, and the index goes with it",
        )
    if statement is not None and _definition(found.sql) != _definition(statement):
        log.warning("%s is kept: it is %s, not the one to be dropped", name, _described(found))
        return
    execute_as_written(op, f"DROP INDEX {quote(found.name)}")


def _schema(op: Op) -> list[_Found]:
    rows = op.get_bind().exec_driver_sql("SELECT type, name, tbl_name, sql FROM main.sqlite_master")
    return [_Found(*row) for row in rows if row[0] != "trigger"]


def _refuse_taken(op: Op, name: str) -> None:
    for found in _schema(op):
        if fold(found.name) == fold(name):
            raise OperationRefused(
                "create_index",
                f"{name} is the name of {_described(found)}",
                "give the index another name, or drop or rename what has it",
            )


def _described(found: _Found) -> str:
    if found.kind != "index":
        return f"the {found.kind} {found.name}"
    return f"an index of {found.table} ({found.sql or 'of a constraint'})"


def _definition(sql: str | None) -> tuple[bool, list[str]]:
    """Give whether the index is unique, and the tokens from the name of its table on."""
    tokens = tokenize(sql or "")
    words = [token.keyword for token in tokens]
    place = words.index("on") if "on" in words else len(words)
    rest = [
        fold(token.name) if token.kind == "quoted" and token.name else token.keyword or token.text
        for token in tokens[place:]
    ]
    return "unique" in words[:place], rest
