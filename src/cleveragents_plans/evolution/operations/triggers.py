"""Triggers, which only PostgreSQL has here."""

from __future__ import annotations

from cleveragents_plans.evolution.lookups import check_droppable_name, on_sqlite, require_table
from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.postgresql.locks import with_exclusive_lock
from cleveragents_plans.evolution.postgresql.triggers import Trigger, drop_trigger_sql


def create_trigger(op: Op, trigger: Trigger) -> None:
    """
    Create or replace *trigger* and its function.

    PostgreSQL: ACCESS EXCLUSIVE on its table for a change of the catalog, some milliseconds
    (see `with_exclusive_lock`). SQLite: nothing, since it has no PL/pgSQL.

    Raises:
        OperationRefused: The table does not exist. Nothing was changed.
        LockNotObtained: Other sessions held locks for too long.
    """
    require_table(op, "create_trigger", trigger.table)
    if not on_sqlite(op):
        with_exclusive_lock(op, trigger.table, *trigger.create_sql())


def drop_trigger(op: Op, table: str, name: str) -> None:
    """
    Drop the trigger *name* of *table* and its function of the same name, if they are there.

    PostgreSQL: ACCESS EXCLUSIVE on *table* for a change of the catalog, some milliseconds
    (see `with_exclusive_lock`). SQLite: nothing, since `create_trigger` makes none there; so a
    misspelt *name* is found out on PostgreSQL only.

    Idempotent: a trigger that is not there is no error, but a warning, unless an interrupted
    run may have dropped it. A name that differs by a letter or two from one that is there is
    refused, before the first change of the revision. A function that something else uses, such as
    a view, is left without a trigger.

    Raises:
        OperationRefused: The table does not exist, or *name* is misspelt. Nothing was changed.
        LockNotObtained: Other sessions held locks for too long.
    """
    require_table(op, "drop_trigger", table)
    if not on_sqlite(op):
        check_droppable_name(op, "drop_trigger", "trigger", table, name)
        with_exclusive_lock(op, table, *drop_trigger_sql(table, name))
