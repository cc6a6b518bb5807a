"""
New plans into rows, many at a time: four statements, however many plans.

The ORM is not asked here either: what the mapping lays out goes straight to the driver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from operator import itemgetter
from typing import Any

from sqlalchemy import Dialect, bindparam, insert, null, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Plan
from cleveragents_plans.domain.errors import shown
from cleveragents_plans.persistence.errors import (
    PlanAlreadyStored,
    PlanCycle,
    RelatedPlanMissing,
)
from cleveragents_plans.persistence.mapping import Row, child_rows, plan_row
from cleveragents_plans.persistence.queries import CHILDREN, among
from cleveragents_plans.persistence.sessions import PLANS, connection_of, execute

_RELATED = ("parent_plan_id", "root_plan_id")
_PRIMARY_KEY = "pk_v3_plans"
_MANY = 50


def insert_plans(session: Session, plans: Sequence[Plan]) -> None:
    """
    Insert *plans*, parents before children, all of them or none.

    Raises:
        PlanAlreadyStored: An id is taken, or comes twice.
        RelatedPlanMissing: A parent or a root is not stored.
        PlanCycle: Some are under one another.
        TypeError: Something is no plan.
        UnknownProfile: A plan has no snapshot, and its profile is not a built-in one.
        SnapshotUnreadable: A plan has a snapshot that describes no profile.
    """
    rows = [_with_snapshot(plan) for plan in plans]
    children = child_rows(*plans)
    try:
        with session.begin_nested():
            _insert(session, PLANS, _parents_first(rows))
            for table, below in zip(CHILDREN, children, strict=True):
                _insert(session, table, below)
    except IntegrityError as refusal:
        _explain_refusal(session, rows, refusal)
        raise


def _insert(session: Session, table: Any, rows: Sequence[Row]) -> None:
    if not rows:
        return
    connection = connection_of(session)
    if connection.get_execution_options().get("schema_translate_map"):
        connection.execute(insert(table), rows)
        return
    # The values are plain; looking each of them over again would take as long as storing it.
    statement, in_order = _insert_statement(table, connection.dialect, _all_null(rows))
    connection.exec_driver_sql(statement, list(map(in_order, rows) if in_order else rows))


def _all_null(rows: Sequence[Row]) -> tuple[str, ...]:
    """Name the columns that are NULL in all of many *rows*."""
    # Of few rows, compiling one more statement takes longer than it saves.
    if len(rows) < _MANY:
        return ()
    return tuple(
        name
        for name, first in rows[0].items()
        if first is None and all(row[name] is None for row in rows)
    )


# A driver takes as long for a NULL as for a text, so what is NULL throughout is in the statement.
@lru_cache(maxsize=256)
def _insert_statement(
    table: Any, dialect: Dialect, nulls: tuple[str, ...]
) -> tuple[str, Callable[[Row], tuple[Any, ...]] | None]:
    names = (column.name for column in table.columns)
    values = {name: null() if name in nulls else bindparam(name) for name in names}
    compiled: Any = insert(table).values(values).compile(dialect=dialect)
    return str(compiled), compiled.positiontup and itemgetter(*compiled.positiontup)


def _with_snapshot(plan: Plan) -> Row:
    if not isinstance(plan, Plan):
        raise TypeError(f"plans has {shown(plan)}; expected Plans")
    row = plan_row(plan)
    if plan.effective_profile is None:
        row["effective_profile_snapshot"] = plan.resolved_profile().profile.snapshot()
    return row


def _parents_first(rows: Sequence[Row]) -> Sequence[Row]:
    waiting = {row["plan_id"]: row for row in rows}
    if len(waiting) < len(rows):
        ((twice, _),) = Counter(row["plan_id"] for row in rows).most_common(1)
        raise PlanAlreadyStored(twice)
    roots = [
        row
        for row in rows
        if row["root_plan_id"] == row["plan_id"] and row["parent_plan_id"] is None
    ]
    for row in roots:
        del waiting[row["plan_id"]]
    below = [row for row in rows if row["plan_id"] in waiting]
    return roots + [each for row in below for each in _upwards(row, waiting)[::-1]]


def _upwards(row: Row | None, waiting: dict[str, Row]) -> Sequence[Row]:
    above = []
    while row is not None and waiting.pop(row["plan_id"], {}):
        above.append(row)
        row = waiting.get(row["parent_plan_id"] or row["root_plan_id"])
    return above


def _explain_refusal(session: Session, rows: Sequence[Row], refusal: IntegrityError) -> None:
    ids = {row["plan_id"] for row in rows}
    related = {row[name] for row in rows for name in _RELATED}
    query = select(PLANS.c.plan_id).where(among(session, PLANS.c.plan_id, ids | related))
    stored = {*execute(session, query).scalars()}
    for row in rows:
        if row["plan_id"] in stored:
            raise PlanAlreadyStored(row["plan_id"]) from None
        for name in _RELATED:
            if row[name] not in stored | ids | {None}:
                raise RelatedPlanMissing(row["plan_id"], row[name]) from None
    above = {
        row["plan_id"]: {row[name] for name in _RELATED} - {row["plan_id"], None} for row in rows
    }
    try:
        TopologicalSorter(above).prepare()
    except CycleError as error:
        raise PlanCycle(tuple(error.args[1][:-1])) from None
    # A transaction stricter than READ COMMITTED does not see the plan that somebody just added.
    constraint = getattr(getattr(refusal.orig, "diag", None), "constraint_name", None)
    if len(rows) == 1 and constraint == _PRIMARY_KEY:
        raise PlanAlreadyStored(rows[0]["plan_id"]) from None
