"""
Plans that are deleted: one, a whole tree, and trees that ended long ago.

The database deletes their child rows, and detaches the plans under them (ON DELETE). It finds
those by the indexes on ``root_plan_id`` and ``parent_plan_id``, however many plans there are.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, CursorResult, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Plan
from cleveragents_plans.domain.lifecycle import FINAL_STATES
from cleveragents_plans.persistence.errors import NotARoot, PlanConflict, RootInUse
from cleveragents_plans.persistence.identity_map import follow_deletes
from cleveragents_plans.persistence.queries import root_of
from cleveragents_plans.persistence.references import refused_by, tree_is_referenced
from cleveragents_plans.persistence.sessions import (
    PLANS,
    among,
    atomic,
    check_foreign_keys,
    execute,
    on_postgresql,
    rows_changed,
)
from cleveragents_plans.persistence.stored_rows import AS_READ, as_read
from cleveragents_plans.persistence.updates import report_conflict, stored_version


def delete_plan(session: Session, plan: Plan) -> None:
    """
    Delete *plan*; the plans under it are detached and keep their root.

    Raises:
        RootInUse: Other plans name it as their root.
        PlanReferenced: A row of another table refers to it.
        PlanConflict: Another writer changed or deleted it since it was read.
        PlanNotStored: It never was stored, or was deleted.
    """
    check_foreign_keys(session)
    session.flush()  # see `save_plan`
    version = stored_version(session, plan)
    _refuse_root_in_use(session, plan.plan_id)
    try:
        with atomic(session), report_conflict(plan):
            if not _delete(session, AS_READ, **as_read(plan, version)):
                stored_version(session, plan)
                raise PlanConflict(plan.plan_id, version)
    except IntegrityError as refusal:
        _explain(session, refusal, plan.plan_id, PLANS.c.plan_id == plan.plan_id)
        raise
    follow_deletes(session)


def delete_tree(session: Session, root_plan_id: str) -> int:
    """
    Delete a root and every plan that names it; give how many.

    Raises:
        PlanNotFound: There is no such plan.
        NotARoot: The plan belongs to the tree of another root.
        RootInUse: A plan was added to the tree meanwhile.
        PlanReferenced: A row of another table refers to a plan of the tree.
    """
    check_foreign_keys(session)
    session.flush()
    found = root_of(session, root_plan_id)
    if found != root_plan_id:
        raise NotARoot(root_plan_id, found)
    try:
        with atomic(session):
            deleted = _delete_trees(session, [root_plan_id])
    except IntegrityError as refusal:
        _explain(session, refusal, root_plan_id, PLANS.c.root_plan_id == root_plan_id)
        raise
    follow_deletes(session)
    return deleted


def delete_trees(
    session: Session, completed_before: str, limit: int, *, skip_referenced: bool = False
) -> int:
    """
    Delete up to *limit* trees whose plans are all final since before *completed_before*.

    The roots are locked first, so that no plan can be added to their trees meanwhile.

    Raises:
        PlanReferenced: A row of another table refers to a plan of a tree; with *skip_referenced*
            only if it was added meanwhile, as such trees are left out.
    """
    check_foreign_keys(session)
    session.flush()
    tree = PLANS.alias("tree")
    unfinished = tree.c.processing_state.not_in(FINAL_STATES)
    later = tree.c.completed_at.is_(None) | (tree.c.completed_at >= completed_before)
    kept = select(tree.c.plan_id).where(tree.c.root_plan_id == PLANS.c.plan_id, unfinished | later)
    ended = [
        PLANS.c.completed_at < completed_before,
        PLANS.c.processing_state.in_(FINAL_STATES),
        PLANS.c.root_plan_id == PLANS.c.plan_id,
        ~kept.exists(),
    ]
    if skip_referenced:
        ended += [~referenced for referenced in tree_is_referenced(session)]
    oldest = select(PLANS.c.plan_id).where(*ended).order_by(PLANS.c.completed_at).limit(limit)
    roots: set[str] = set()
    try:
        with atomic(session):
            locked = oldest.with_for_update(skip_locked=True, of=PLANS)
            roots = {*execute(session, locked).scalars()}
            if roots and on_postgresql(session):
                # A statement sees what was committed before it began, the locks came later.
                again = select(PLANS.c.plan_id).where(among(True, PLANS.c.plan_id, roots), *ended)
                roots = {*execute(session, again).scalars()}
            deleted = _delete_trees(session, roots) if roots else 0
    except IntegrityError as refusal:
        among_roots = among(on_postgresql(session), PLANS.c.root_plan_id, roots)
        _explain(session, refusal, None, among_roots)
        raise
    if deleted:
        follow_deletes(session)
    return deleted


def _delete_trees(session: Session, roots: Any) -> int:
    named = among(on_postgresql(session), PLANS.c.root_plan_id, roots)
    themselves = PLANS.c.root_plan_id == PLANS.c.plan_id
    # SQLite refuses to delete a root in one statement with those that name it.
    return _delete(session, named, ~themselves) + _delete(session, named)


def _delete(session: Session, *conditions: ColumnElement[bool], **parameters: Any) -> int:
    result = execute(session, delete(PLANS).where(*conditions), **parameters)
    return rows_changed(result) if isinstance(result, CursorResult) else 0


def _explain(
    session: Session, refusal: IntegrityError, plan_id: str | None, deleted: ColumnElement[bool]
) -> None:
    """
    Say why a DELETE was refused, if a row that refers to a plan is the reason.

    Raises:
        PlanReferenced: It is a row of another table.
        RootInUse: It is a plan, which was added since the count.
    """
    referenced = refused_by(session, refusal, plan_id, deleted)
    if referenced:
        raise referenced from None
    if plan_id:
        _refuse_root_in_use(session, plan_id)


def _refuse_root_in_use(session: Session, plan_id: str) -> None:
    others = (PLANS.c.root_plan_id == plan_id, PLANS.c.plan_id != plan_id)
    named_by = execute(session, select(func.count()).where(*others)).scalar()
    if named_by:
        raise RootInUse(plan_id, named_by)
