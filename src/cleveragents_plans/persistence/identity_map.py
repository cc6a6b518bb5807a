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

from cleveragents_plans.persistence.mapping import ChildRows
from cleveragents_plans.persistence.models import (
    LifecyclePlanModel,
    PlanArgumentModel,
    PlanInvariantModel,
    PlanProjectModel,
)
from cleveragents_plans.persistence.sessions import PLANS, among, execute, on_postgresql

_CHILD_MODELS = (PlanProjectModel, PlanArgumentModel, PlanInvariantModel)


def refresh_plans(session: Session, plan_ids: Iterable[str]) -> None:
    """Load the row objects of plans again, with those of their child rows that were loaded."""
    mapper = LifecyclePlanModel.__mapper__
    for plan_id in plan_ids:
        row = session.identity_map.get(mapper.identity_key_from_primary_key((plan_id,)))
        if row is None or inspect(row).expired:
            continue
        held: dict[str, Any] = inspect(row).dict
        loaded = [getattr(LifecyclePlanModel, it) for it in ChildRows._fields if it in held]
        for relation in loaded:
            for child in held[relation.key]:
                session.expunge(child)  # it may be gone; those that are there are loaded anew
        session.get(
            LifecyclePlanModel,
            plan_id,
            options=[selectinload(relation) for relation in loaded],
            populate_existing=True,
        )


def follow_deletes(session: Session) -> None:
    """Let row objects follow a DELETE and its ON DELETE actions: they go, or are detached."""
    # What is not loaded is not asked for: it will be read as it is then.
    own, parents = {}, {}
    for each in session:
        state = inspect(each)
        if not state.identity:
            continue
        if isinstance(each, (LifecyclePlanModel, *_CHILD_MODELS)):
            own[each] = state.identity[0]
        if state.dict.get("parent_plan_id") is not None:
            parents[each] = state.dict["parent_plan_id"]
    named = {*own.values(), *parents.values()}
    if not named:
        return
    query = select(PLANS.c.plan_id).where(among(on_postgresql(session), PLANS.c.plan_id, named))
    stored = {*execute(session, query).scalars()}
    for each, plan_id in own.items():
        if plan_id not in stored:
            if each in session:  # and did not go with its plan
                session.expunge(each)
        elif each in parents and parents[each] not in stored:
            set_committed_value(each, "parent_plan_id", None)
