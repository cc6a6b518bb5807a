"""
Stored plans that are saved or deleted, by whoever read them as they are now.

Row objects are used here: their version counter is the optimistic check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import delete, func, inspect, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import InstanceState, Session, load_only, selectinload
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.orm.interfaces import ORMOption

from cleveragents_plans.domain import Plan, SnapshotIsFrozen
from cleveragents_plans.persistence.base import Base
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.errors import (
    NotARoot,
    PlanConflict,
    PlanNotStored,
    RootInUse,
)
from cleveragents_plans.persistence.mapping import (
    ChildRows,
    Row,
    child_rows,
    next_version,
    plan_row,
)
from cleveragents_plans.persistence.models import (
    LifecyclePlanModel,
    PlanArgumentModel,
    PlanInvariantModel,
    PlanProjectModel,
)
from cleveragents_plans.persistence.queries import among, is_broken_text, one, root_of
from cleveragents_plans.persistence.sessions import PLANS, check_foreign_keys, execute

_T = TypeVar("_T")

_NOT_SERIALIZABLE = "40001"
_CHILD_MODELS: tuple[type[Base], ...] = (PlanProjectModel, PlanArgumentModel, PlanInvariantModel)
_PLACE = ("parent_plan_id", "root_plan_id", "updated_at")
_PLACE_AND_VERSION = load_only(*(getattr(LifecyclePlanModel, name) for name in _PLACE))
_WITH_CHILDREN = tuple(
    selectinload(getattr(LifecyclePlanModel, relation)) for relation in ChildRows._fields
)


def save_plan(session: Session, plan: Plan) -> Plan:
    """
    Store what became of *plan*; give it as it is stored.

    Raises:
        PlanConflict: Somebody else wrote or deleted it since it was read.
        PlanNotStored: It never was stored, or somebody deleted it.
        NoLaterVersion: Its `updated_at` is the last time that there is.
        SnapshotIsFrozen: Its snapshot is another than the stored one.
        CorruptPlanRow: Its row cannot be read any more.
    """
    # What the session has not sent yet is a write as well: it is not dropped, but counts.
    session.flush()
    row = _stored(session, plan, *_WITH_CHILDREN)
    row.to_domain()  # what somebody has broken since is not written over
    if row.effective_profile_snapshot != plan.effective_profile_snapshot:
        raise SnapshotIsFrozen(plan.plan_id)
    later = time_text(next_version(plan.plan_id, row.updated_at))
    with _detect_conflict(session, plan):
        for column, value in {**plan_row(plan), "updated_at": later}.items():
            setattr(row, column, value)
        session.flush()
        _replace_children(session, row, child_rows(plan))
    return row.to_domain()


def delete_plan(session: Session, plan: Plan) -> None:
    """
    Delete *plan*; the database deletes its child rows and detaches the plans under it.

    Raises:
        RootInUse: Other plans name it as their root.
        PlanConflict: Somebody else wrote or deleted it since it was read.
        PlanNotStored: It never was stored, or somebody deleted it.
    """
    check_foreign_keys(session)
    # Without its children: those that are loaded would be deleted before the plan, which
    # whoever saves it locks first.
    session.flush()  # see `save_plan`
    # Looked at first, as reading a row object anew drops what its holder has loaded.
    place = select(*(PLANS.c[name] for name in _PLACE)).where(PLANS.c.plan_id == plan.plan_id)
    with _report_bad_utf8(session, plan):
        _as_read(plan, execute(session, place).one_or_none())
    _refuse_root_in_use(session, plan.plan_id)
    row = _stored(session, plan, _PLACE_AND_VERSION)
    try:
        with _detect_conflict(session, plan):
            session.delete(row)
            session.flush()
            _sync_identity_map(session)
    except IntegrityError:
        # Somebody has added a plan under it since it was counted.
        _refuse_root_in_use(session, plan.plan_id)
        raise


def delete_tree(session: Session, root_plan_id: str) -> int:
    """
    Delete a root and every plan that names it; give how many.

    Raises:
        PlanNotFound: There is no such plan.
        NotARoot: The plan belongs to the tree of another root.
        RootInUse: Somebody added a plan to the tree meanwhile.
    """
    check_foreign_keys(session)
    session.flush()
    found = root_of(session, root_plan_id)
    if found != root_plan_id:
        raise NotARoot(root_plan_id, found)
    named = LifecyclePlanModel.root_plan_id == root_plan_id
    itself = LifecyclePlanModel.plan_id == root_plan_id
    try:
        with session.begin_nested():
            # SQLite refuses to delete a root in one statement with those that name it.
            deleted = sum(
                session.execute(delete(LifecyclePlanModel).where(condition)).rowcount  # type: ignore[attr-defined]
                for condition in (named & ~itself, itself)
            )
            _sync_identity_map(session)
            return deleted
    except IntegrityError:
        _refuse_root_in_use(session, root_plan_id)
        raise


def _sync_identity_map(session: Session) -> None:
    """Tell the objects of *session* what the database did by itself: it detached, and deleted."""
    # What is not loaded is not asked for: it will be read as it is then.
    about: dict[object, str | None] = {}
    for each in session:
        state: InstanceState[Any] = inspect(each)
        if isinstance(each, LifecyclePlanModel):
            about[each] = state.dict.get("parent_plan_id")
        elif isinstance(each, _CHILD_MODELS) and state.identity:
            about[each] = state.identity[0]
    named = {plan_id for plan_id in about.values() if plan_id is not None}
    if not named:
        return
    query = select(PLANS.c.plan_id).where(among(session, PLANS.c.plan_id, named))
    stored = {*execute(session, query).scalars()}
    for each, plan_id in about.items():
        if plan_id is None or plan_id in stored:
            continue
        if isinstance(each, LifecyclePlanModel):
            set_committed_value(each, "parent_plan_id", None)
        else:
            session.expunge(each)


def _refuse_root_in_use(session: Session, plan_id: str) -> None:
    others = (PLANS.c.root_plan_id == plan_id, PLANS.c.plan_id != plan_id)
    named_by = execute(session, select(func.count()).where(*others)).scalar()
    if named_by:
        raise RootInUse(plan_id, named_by)


def _stored(session: Session, plan: Plan, *options: ORMOption) -> LifecyclePlanModel:
    with _report_bad_utf8(session, plan):
        row = session.get(LifecyclePlanModel, plan.plan_id, options=options, populate_existing=True)
    return _as_read(plan, row)


def _as_read(plan: Plan, row: _T | None) -> _T:
    """Refuse what is not as *plan* was read; *row* has at least its place and version."""
    found: Any = row
    read = time_text(plan.updated_at)
    if row is None:
        raise PlanNotStored(plan.plan_id, read)
    place = (plan.parent_plan_id, plan.root_plan_id)
    # A plan whose parent was deleted is another one too, though nobody wrote to it.
    if found.updated_at != read or (found.parent_plan_id, found.root_plan_id) != place:
        raise PlanConflict(plan.plan_id, read)
    return row


@contextmanager
def _report_bad_utf8(session: Session, plan: Plan) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if is_broken_text(error):
            one(session, plan.plan_id)  # says which text it is
        raise


def _replace_children(session: Session, row: LifecyclePlanModel, children: ChildRows) -> None:
    every = zip(ChildRows._fields, _CHILD_MODELS, children, strict=True)
    changed = [each for each in every if _as_rows(getattr(row, each[0])) != each[2]]
    # Replaced as a whole: aliases and names may change places. And one by one, since a
    # change to the row's own lists would move its version once more.
    for relation, _, _ in changed:
        for each in getattr(row, relation):
            session.delete(each)
    session.flush()
    for relation, model, wanted in changed:
        models = [model(**each) for each in wanted]
        session.add_all(models)
        set_committed_value(row, relation, models)
    session.flush()


def _as_rows(models: Iterable[Base]) -> Sequence[Row]:
    return [
        {column.key: getattr(model, column.key) for column in model.__table__.columns}
        for model in models
    ]


@contextmanager
def _detect_conflict(session: Session, plan: Plan) -> Iterator[None]:
    try:
        with session.begin_nested():
            yield
    except (StaleDataError, OperationalError) as error:
        # A transaction stricter than READ COMMITTED hears of the other write in this way.
        failure = getattr(error, "orig", None)
        if failure is not None and getattr(failure, "sqlstate", None) != _NOT_SERIALIZABLE:
            raise
        raise PlanConflict(plan.plan_id, time_text(plan.updated_at)) from None
