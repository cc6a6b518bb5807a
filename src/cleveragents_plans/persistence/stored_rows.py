"""
What a plan keeps of the row that it was read from, and the conditions that a row is still so.

The optimistic lock is `updated_at`. SQL that was written by hand moves no version, so that a save
compares the other columns and the child rows as well. Where they differ, it reads what is stored,
checks the step against that, and replaces it by the whole plan: what such SQL wrote is lost.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import Text, Update, and_, bindparam, tuple_, update

from cleveragents_plans.domain import Plan
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.mapping import ChildRows, Row
from cleveragents_plans.persistence.queries import child_columns
from cleveragents_plans.persistence.sessions import PLANS

# A row with its child rows, as `plans_query` selects them.
_PARTS: Final = (*PLANS.c.keys(), *ChildRows._fields)
_READ: Final = tuple(f"read_{name}" for name in _PARTS)
_parts_of: Final = attrgetter(*_PARTS)

#: The row of a plan is as it was read, as far as its place and its version go.
AS_READ: Final = and_(
    PLANS.c.plan_id == bindparam("read_plan_id", type_=PLANS.c.plan_id.type),
    PLANS.c.updated_at == bindparam("read_updated_at", type_=Text),
    # A plan whose parent was deleted is another one, though its version did not move.
    PLANS.c.parent_plan_id.is_not_distinct_from(
        bindparam("read_parent_plan_id", type_=PLANS.c.parent_plan_id.type)
    ),
    # Written so that PostgreSQL does not go through the whole tree by the index of the roots.
    PLANS.c.root_plan_id.is_not_distinct_from(
        bindparam("read_root_plan_id", type_=PLANS.c.root_plan_id.type)
    ),
)
_AS_READ: Final = ("plan_id", "updated_at", "parent_plan_id", "root_plan_id")


def as_read(plan: Plan, version: str) -> Row:
    """Give the parameters of `AS_READ`: those of *plan*, its version being spelled so."""
    return {
        "read_plan_id": plan.plan_id,
        "read_updated_at": version,
        "read_parent_plan_id": plan.parent_plan_id,
        "read_root_plan_id": plan.root_plan_id,
    }


@lru_cache(maxsize=256)
def update_of(names: tuple[str, ...], *, whole: bool, postgresql: bool) -> Update:
    """
    Make the statement that sets these columns of the row that is as it was read.

    It takes the parameters of `AS_READ`; where the row is compared as a *whole*, with its child
    rows, those of `as_stored`.
    """
    statement = update(PLANS).where(AS_READ).values({name: bindparam(name) for name in names})
    if not whole:
        return statement
    parts: dict[str, Any] = {
        column.name: column for column in PLANS.c if column.name not in _AS_READ
    }
    parts |= {each.name: each.element for each in child_columns(PLANS, postgresql=postgresql)}
    # As one row: psycopg parses a statement of more than 4096 characters each time.
    read = (bindparam(f"read_{name}", type_=part.type) for name, part in parts.items())
    return statement.where(tuple_(*parts.values()).is_not_distinct_from(tuple_(*read)))


def as_stored(row: Row) -> Row:
    """Give the parameters of `update_of` for a *row* that is compared as a whole."""
    return dict(zip(_READ, row.values(), strict=True))


def row_behind(plan: Plan) -> Row | None:
    """
    Give the row that *plan* was read from, before verbs and edits, with its child rows.

    It is None if it is not known: the plan was not read, or its child rows were written since.
    """
    row = getattr(plan._first, "_row", None)
    if row is None or isinstance(row, dict):
        return row
    return dict(zip(_PARTS, _parts_of(row), strict=True))


def as_written(plan: Plan, updated_at: datetime, row: Row | None) -> Plan:
    """Give *plan* as it was written at *updated_at*, and as *row*, if that is known."""
    # It is valid but for this time, which is: validating it again would take as long as reading.
    written = BaseModel.model_copy(plan, update={"updated_at": updated_at})
    if row is not None:
        object.__setattr__(written, "_row", row)
    return written


def as_touched(plan: Plan, updated_at: datetime) -> Plan:
    """Give *plan* with its row as it is after that was written at *updated_at*."""
    row = row_behind(plan)
    row = row and row | {"updated_at": time_text(updated_at)}
    first = as_written(plan._first, updated_at, row)
    if plan is plan._first:
        return first
    touched = as_written(plan, updated_at, None)
    object.__setattr__(touched, "_origin", first)
    return touched
