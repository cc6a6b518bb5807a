"""
The row objects that a session holds, after a statement of the repository changed their rows.

The repository sends its statements past the ORM, which hears of them here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from cleveragents_plans.persistence import rollbacks
from cleveragents_plans.persistence.mapping import ChildRows
from cleveragents_plans.persistence.models import (
    LifecyclePlanModel,
    PlanArgumentModel,
    PlanInvariantModel,
    PlanProjectModel,
)
from cleveragents_plans.persistence.row_events import rows_held
from cleveragents_plans.persistence.sessions import PLANS, among, execute, on_postgresql

_CHILD_MODELS = (PlanProjectModel, PlanArgumentModel, PlanInvariantModel)
_MODELS = (LifecyclePlanModel, *_CHILD_MODELS)


def refresh_plans(session: Session, plan_ids: Iterable[str]) -> None:
    """Load the row objects of plans again, with those of their child rows that were loaded."""
    for row in (each for it in plan_ids for each in rows_held(session, LifecyclePlanModel, it)):
        state = _state(row)
        if state.expired:  # read again when it is touched, perhaps before a rollback
            if rollbacks.in_savepoint(session):
                rollbacks.written(session, [row, *_children_held(session, state.identity[0])])
            continue
        kind, loaded = type(row), [name for name in ChildRows._fields if name in state.dict]
        former = [child for name in loaded for child in state.dict[name]]
        session.get(
            kind,
            state.identity,
            options=[selectinload(getattr(kind, name)) for name in loaded],
            populate_existing=True,
        )
        children = [child for name in loaded for child in state.dict[name]]
        rollbacks.written(session, [row, *children])
        there = {*map(id, children)}
        gone = [child for child in former if id(child) not in there and child in session]
        if gone:
            rollbacks.deleted(session, gone)


def _children_held(session: Session, plan_id: str) -> list[Any]:
    children = [each for each in session if isinstance(each, _CHILD_MODELS)]
    return [each for each in children if (_state(each).identity or [None])[0] == plan_id]


def _state(row: Any) -> Any:
    return inspect(row)


def follow_deletes(session: Session) -> None:
    """Let row objects follow a DELETE and its ON DELETE actions: they go, or are detached."""
    # What is not loaded is not asked for: it will be read as it is then.
    held = [each for each in session if isinstance(each, _MODELS)]
    states = [_state(each) for each in held]
    own = [
        (each, state.identity[0], state.dict.get("parent_plan_id"))
        for each, state in zip(held, states, strict=True)
        if state.identity
    ]
    named = {plan_id for _, *ids in own for plan_id in ids} - {None}
    if not named:
        return
    query = select(PLANS.c.plan_id).where(among(on_postgresql(session), PLANS.c.plan_id, named))
    stored = {*execute(session, query).scalars(), None}
    rollbacks.deleted(session, [each for each, plan_id, _ in own if plan_id not in stored])
    if rollbacks.in_savepoint(session):  # it will be read within it, perhaps
        rollbacks.written(session, [each for each, *_ in own if _state(each).expired])
    for each, plan_id, parent_id in own:
        if plan_id in stored and parent_id not in stored:
            rollbacks.written(session, [each])
            set_committed_value(each, "parent_plan_id", None)
