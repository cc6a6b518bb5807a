"""Constraints of a SQLite table, each by one rebuild."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.rebuild import rebuild_table
from cleveragents_plans.evolution.sqlite.tokens import fold, same_expression

log: Final = logging.getLogger("alembic.evolution")


def add(
    op: Op, operation: str, table: str, name: str, text: str, refuse_rows: Callable[[], None]
) -> None:
    """
    Add the constraint *name* with this *text*, unless it is there.

    Raises:
        OperationRefused: Another constraint has the name.
        RebuildRefused: SQLite does not understand it.
    """
    if not op.get_context().as_sql:
        found = _definition(op, table).constraint(name)
        if found is not None:
            if same_expression(found, text):
                log.info("%s has the constraint %s already", table, name)
                return
            raise OperationRefused(
                operation,
                f"{table} has another constraint {name}: {found}",
                "drop it first, or give this one another name",
            )
        try:
            refuse_rows()
        except DBAPIError as error:
            raise OperationRefused(
                operation, f"SQLite refuses it ({error.orig})", "correct the revision"
            ) from error
    rebuild_table(op, table, add_constraints=[text])


def drop(op: Op, table: str, name: str) -> None:
    """
    Drop the constraint *name*, if it is there.

    Raises:
        RebuildRefused: It is neither a CHECK nor a FOREIGN KEY.
    """
    if not op.get_context().as_sql and _definition(op, table).constraint(name) is None:
        log.warning(
            "%s has no constraint %s, and drop_constraint dropped none; correct the name (unless "
            "it was dropped by hand)",
            *(table, name),
        )
        return
    rebuild_table(op, table, drop_constraints=[name])


def _definition(op: Op, table: str) -> CreateTable:
    rows = op.get_bind().exec_driver_sql(
        "SELECT name, sql FROM main.sqlite_master WHERE type = 'table'"
    )
    return CreateTable(next(sql for name, sql in rows if fold(name) == fold(table)))
