"""Columns of a SQLite table: ALTER TABLE where it is exact, one rebuild where it is not."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

from sqlalchemy import Column
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import ColumnInUse, OperationRefused
from cleveragents_plans.evolution.misspellings import suggestion
from cleveragents_plans.evolution.op import Op, execute_as_written
from cleveragents_plans.evolution.sqlite.rebuild import rebuild_table
from cleveragents_plans.evolution.sqlite.table_state import Column as ColumnState
from cleveragents_plans.evolution.sqlite.table_state import columns_of
from cleveragents_plans.evolution.sqlite.tokens import fold, quote, same_expression, tokenize

log: Final = logging.getLogger("alembic.evolution")

# What SQLite stores beside the table and gives to rows that are there already.
_CONSTANT = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?|x?'([^']|'')*'|null|true|false", re.IGNORECASE)


def add(op: Op, table: str, column: Column[Any], definition: str) -> None:
    """
    Add *column*, which CREATE TABLE would define so, unless it is there.

    Raises:
        OperationRefused: It is there with another type.
    """
    name = column.name
    if not op.get_context().as_sql:
        found = _columns(op, table).get(fold(name))
        if found is not None:
            wanted = column.type.compile(dialect=op.get_context().dialect)
            if _tokens(found) != _tokens(wanted):
                raise OperationRefused(
                    "add_column",
                    f"{table} has a column {name} of the type {found}, expected {wanted}",
                    "rename it first, or give the new column another name",
                )
            log.info("%s has the column %s already", table, name)
            return
    if _is_plain(op, column):
        execute_as_written(op, f"ALTER TABLE {quote(table)} ADD COLUMN {definition}")
    else:
        words = definition[tokenize(definition)[0].end :].strip()
        rebuild_table(op, table, add={name: words})


def drop(op: Op, table: str, column: str) -> None:
    """
    Drop *column*, if it is there.

    Raises:
        ColumnInUse: SQLite says that something uses it.
    """
    statement = f"ALTER TABLE {quote(table)} DROP COLUMN {quote(column)}"
    if not op.get_context().as_sql:
        if fold(column) not in _columns(op, table):
            return
        try:
            op.get_bind().exec_driver_sql(statement)
        except DBAPIError as error:
            raise ColumnInUse(table, column, [f"something, says SQLite: {error.orig}"]) from error
        return
    execute_as_written(op, statement)


def set_default(op: Op, table: str, column: str, default: str) -> None:
    """Let *column* have this *default*, unless it has."""
    former = []
    if not op.get_context().as_sql:
        found = _find(op, table, column)
        if found.default is not None and same_expression(found.default, default):
            log.info("%s.%s has the DEFAULT %s already", table, column, default)
            return
        former = [] if found.default is None else [column]
    rebuild_table(op, table, drop_default=former, set_default={column: default})


def drop_default(op: Op, table: str, column: str) -> None:
    """Take the DEFAULT of *column* away, if it has one."""
    if not op.get_context().as_sql and _find(op, table, column).default is None:
        log.info("%s.%s has no DEFAULT (any more)", table, column)
        return
    rebuild_table(op, table, drop_default=[column])


def _find(op: Op, table: str, name: str) -> ColumnState:
    columns = columns_of(op.get_bind(), table)
    return next(column for column in columns if fold(column.name) == fold(name))


def rename(op: Op, table: str, column: str, new_name: str) -> None:
    """
    Rename *column*, unless it has its *new_name* already.

    Raises:
        OperationRefused: There is no such column, or another one has the new name.
    """
    if not op.get_context().as_sql:
        found = _columns(op, table)
        old, new = fold(column) in found, fold(new_name) in found
        if new and not old:
            log.info("%s has the column %s already, and no %s", table, new_name, column)
            return
        if new or not old:
            what = f"has a column {new_name}, too" if new else f"has no column {column}"
            remedy = "correct the names" if new else suggestion(column, found)
            raise OperationRefused("rename_column", f"{table} {what}", remedy)
    # Only where it must be: SQLite writes it into its schema as it is here.
    written = op.get_context().dialect.identifier_preparer.quote(new_name)
    statement = f"ALTER TABLE {quote(table)} RENAME COLUMN {quote(column)} TO {written}"
    execute_as_written(op, statement)


def _columns(op: Op, table: str) -> dict[str, str]:
    return {fold(column.name): column.type for column in columns_of(op.get_bind(), table)}


def _is_plain(op: Op, column: Column[Any]) -> bool:
    """Tell whether ALTER TABLE ADD COLUMN can do it whatever rows there are."""
    if column.computed is not None:
        return not column.computed.persisted
    default = column.server_default
    if default is None:
        return True
    argument = getattr(default, "arg", "")
    if isinstance(argument, str):
        text = argument
    else:
        text = str(argument.compile(dialect=op.get_context().dialect))
    constant = isinstance(argument, str) or bool(_CONSTANT.fullmatch(text.strip()))
    return constant and (bool(column.nullable) or fold(text.strip()) != "null")


def _tokens(text: str) -> list[str]:
    return [token.keyword or token.text for token in tokenize(text)]
