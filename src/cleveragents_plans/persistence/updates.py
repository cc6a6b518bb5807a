"""
Stored plans that are saved, or touched, by those who read them as they are now.

The optimistic lock is `updated_at`: an UPDATE names the value that was read, and moves it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Plan, ProcessingState, SnapshotIsFrozen, StepNotAllowed
from cleveragents_plans.domain.errors import ChangeNotAllowed, InvalidType, InvalidValue, shown
from cleveragents_plans.domain.lifecycle import change_refused
from cleveragents_plans.persistence.columns import parsed_time, time_text
from cleveragents_plans.persistence.errors import PlanConflict, PlanNotStored
from cleveragents_plans.persistence.identity_map import refresh_plans
from cleveragents_plans.persistence.inserts import insert_rows
from cleveragents_plans.persistence.mapping import (
    ChildRows,
    Row,
    child_rows,
    next_version,
    plan_row,
)
from cleveragents_plans.persistence.queries import CHILDREN, one, plan_in, row_of, rows_of
from cleveragents_plans.persistence.sessions import (
    PLANS,
    atomic,
    execute,
    on_postgresql,
    rows_changed,
    sees_one_state,
    send,
)
from cleveragents_plans.persistence.stored_rows import (
    as_read,
    as_stored,
    as_touched,
    as_written,
    row_behind,
    update_of,
)

_NOT_SERIALIZABLE = "40001"

#: What a plan keeps in each child table.
_CHILDREN_OF: Final[dict[str, tuple[Any, str]]] = dict(
    zip(
        ("project_links", "arguments", "invariants"),
        zip(CHILDREN, ChildRows._fields, strict=True),
        strict=True,
    )
)


def save_plan(session: Session, plan: Plan, *, unchecked: bool = False) -> Plan:
    """
    Store *plan*, which was read before; give it as it is stored.

    It sends an UPDATE; where child rows change, or where a transaction sees one state of the
    database, a savepoint besides, and a DELETE and an INSERT for each changed child table. A plan
    that was not read here, as one out of a request, is read first; so is one whose row is another.

    Raises:
        PlanConflict: Another writer changed or deleted it since it was read.
        PlanNotStored: It never was stored, or was deleted.
        ChangeNotAllowed: No verbs and edits lead to it from what is stored, unless *unchecked*.
        SnapshotIsFrozen: Its snapshot is another than the stored one.
        NoLaterVersion: Its `updated_at` is the last time that there is.
        CorruptPlanRow: Its row cannot be read any more.
    """
    # What the session has not sent yet is a write as well: it is not dropped, but counts.
    session.flush()
    row = row_behind(plan)
    if row and not change_refused(plan._first, plan):
        saved = _write(session, row, plan._first, plan)
        if saved is not None:
            return saved
    return write(
        session,
        plan_in(_checked(plan, row_of(session, plan.plan_id))),
        plan,
        unchecked=unchecked,
    )


def change_plan(
    session: Session, plan_id: str, step: Callable[[Plan], Plan], *, attempts: int
) -> Plan:
    """
    Read a plan, store what *step* makes of it, and repeat that after a conflict.

    Raises:
        PlanNotFound: There is no such plan.
        PlanConflict: Each attempt found that another writer was faster.
        InvalidType, InvalidValue: *step* gave something else than this plan.
        As `save_plan`.
    """
    session.flush()
    while True:
        attempts -= 1
        stored = one(session, plan_id)
        plan = _same_plan(stored, step(stored))
        try:
            return write(session, stored, plan)
        except PlanConflict:
            # What sees one state of the database would only see the same again.
            if not attempts or sees_one_state(session):
                raise
        _lock(session, plan_id)


def _same_plan(stored: Plan, plan: Any) -> Plan:
    expected = f"plan {stored.plan_id} as it is to be stored"
    if not isinstance(plan, Plan):
        raise InvalidType("what the step gave", shown(plan), expected)
    if plan.plan_id != stored.plan_id:
        raise InvalidValue("what the step gave", f"plan {plan.plan_id}", expected)
    return plan


def _lock(session: Session, plan_id: str) -> None:
    # From the second attempt on others wait, so that it succeeds however many they are.
    if on_postgresql(session):
        mine = select(PLANS.c.plan_id).where(PLANS.c.plan_id == plan_id)
        execute(session, mine.with_for_update(key_share=True))


def touch_plan(session: Session, plan: Plan) -> Plan:
    """
    Move `updated_at` of *plan* to now; give it as it is stored. It sends one UPDATE.

    Raises:
        PlanConflict: Another writer changed or deleted it since it was read.
        PlanNotStored: It never was stored, or was deleted.
        NoLaterVersion: Its `updated_at` is the last time that there is.
    """
    session.flush()
    later = next_version(plan.plan_id, time_text(plan.updated_at))
    values, read = {"updated_at": time_text(later)}, time_text(plan.updated_at)
    with _savepoint(session, sees_one_state(session)), report_conflict(plan):
        if not _update(session, values, as_read(plan, read)):
            # It may be the same time in another spelling.
            found = stored_version(session, plan)
            if found == read or not _update(session, values, as_read(plan, found)):
                raise PlanConflict(plan.plan_id, read)
    refresh_plans(session, [plan.plan_id])
    return as_touched(plan, later)


def release_plan(session: Session, plan: Plan) -> Plan:
    """
    Store *plan*, which is processing, as queued again in the same attempt; give it as stored.

    Raises:
        StepNotAllowed: It is not processing.
        As `save_plan`.
    """
    state = plan.processing_state
    if state is not ProcessingState.PROCESSING:
        raise StepNotAllowed(plan.plan_id, plan.phase, state, "be released", plan.allowed_steps)
    with atomic(session):
        # What the worker made of it is checked as in any save; no verb leads back to queued.
        saved = save_plan(session, plan)
        queued = saved.model_copy(update={"processing_state": ProcessingState.QUEUED})
        return save_plan(session, queued, unchecked=True)


def write(session: Session, stored: Plan, plan: Plan, *, unchecked: bool = False) -> Plan:
    """
    Store *plan* in place of the plan that was just read as *stored*; raise as `save_plan`.

    Only what differs is sent.
    """
    if plan.effective_profile_snapshot != stored.effective_profile_snapshot:
        raise SnapshotIsFrozen(plan.plan_id)
    reason = None if unchecked else change_refused(stored, plan)
    if reason:
        raise ChangeNotAllowed(plan.plan_id, reason)
    row = row_behind(stored) or {}
    saved = _write(session, row, stored, plan)
    if saved is None:
        stored_version(session, plan)
        raise PlanConflict(plan.plan_id, row["updated_at"])
    return saved


def _write(session: Session, row: Row, stored: Plan, plan: Plan) -> Plan | None:
    """Store *plan* where *row*, read as *stored*, is what is there; None if it is not."""
    later = next_version(plan.plan_id, row["updated_at"])
    wanted = plan_row(plan) | {"updated_at": time_text(later)}
    values = {name: value for name, value in wanted.items() if row[name] != value}
    changed = [name for name in _CHILDREN_OF if getattr(stored, name) != getattr(plan, name)]
    with (
        _savepoint(session, bool(changed) or sees_one_state(session)),
        report_conflict(plan),
    ):
        if not _update(session, values, as_stored(row), whole=True):
            return None
        rows = child_rows(plan)._asdict() if changed else {}
        for name in changed:
            # Replaced as a whole: aliases and names may change places.
            table, label = _CHILDREN_OF[name]
            execute(session, delete(table).where(table.c.plan_id == plan.plan_id))
            insert_rows(session, table, rows[label])
    refresh_plans(session, [plan.plan_id])
    return as_written(plan, later, None if changed else row | values)


def _update(session: Session, values: Row, read: Row, *, whole: bool = False) -> bool:
    """Say whether the row was as it was *read*, and was updated."""
    statement = update_of(tuple(values), whole=whole, postgresql=on_postgresql(session))
    return rows_changed(send(session, statement, values | read)) == 1


def stored_version(session: Session, plan: Plan) -> str:
    """
    Give the version of *plan* as its row spells it: any form of RFC 3339 is read.

    Raises:
        PlanConflict: The row is not as *plan* was read.
        PlanNotStored: There is no such row.
    """
    place = (PLANS.c[name] for name in ("parent_plan_id", "root_plan_id", "updated_at"))
    query = select(*place).where(PLANS.c.plan_id == plan.plan_id)
    rows = rows_of(session, query)
    return str(_checked(plan, rows[0] if rows else None).updated_at)


def _checked(plan: Plan, row: Any) -> Any:
    """Refuse a *row* that is not as *plan* was read."""
    read = time_text(plan.updated_at)
    if row is None:
        raise PlanNotStored(plan.plan_id, read)
    same = row.updated_at == read or parsed_time(str(row.updated_at)) == plan.updated_at
    place = (plan.parent_plan_id, plan.root_plan_id)
    if not same or (row.parent_plan_id, row.root_plan_id) != place:
        raise PlanConflict(plan.plan_id, read)
    return row


def _savepoint(session: Session, wanted: bool) -> Any:
    # A single statement leaves nothing behind by itself.
    return atomic(session) if wanted else nullcontext()


@contextmanager
def report_conflict(plan: Plan) -> Iterator[None]:
    """
    Read a serialization failure as what it means for *plan*.

    Raises:
        PlanConflict: The transaction sees one state of the database, and another one changed
            the plan since.
    """
    try:
        yield
    except OperationalError as error:
        if not is_serialization_failure(error):
            raise
        raise PlanConflict(plan.plan_id, time_text(plan.updated_at)) from None


def is_serialization_failure(error: OperationalError) -> bool:
    """Say whether PostgreSQL refused a write to a row that another transaction changed."""
    return getattr(error.orig, "sqlstate", None) == _NOT_SERIALIZABLE
