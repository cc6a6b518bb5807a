"""
Stored plans that are saved, or touched, by those who read them as they are now.

The optimistic lock is `updated_at`: an UPDATE names the value that was read, and moves it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import CursorResult, Text, and_, bindparam, delete, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Plan, SnapshotIsFrozen
from cleveragents_plans.domain.errors import ChangeNotAllowed, InvalidType, InvalidValue, shown
from cleveragents_plans.domain.lifecycle import change_refused
from cleveragents_plans.persistence.columns import parsed_time, time_text
from cleveragents_plans.persistence.errors import PlanConflict, PlanNotFound, PlanNotStored
from cleveragents_plans.persistence.identity_map import refresh_plans
from cleveragents_plans.persistence.inserts import insert_rows
from cleveragents_plans.persistence.mapping import Row, child_rows, next_version, plan_row
from cleveragents_plans.persistence.queries import CHILDREN, children_in, plan_in, row_of, rows_of
from cleveragents_plans.persistence.sessions import (
    PLANS,
    execute,
    on_postgresql,
    sees_one_state,
)

_NOT_SERIALIZABLE = "40001"

#: The row of a plan is as it was read.
AS_READ: Final = and_(
    PLANS.c.plan_id == bindparam("read_plan_id", type_=PLANS.c.plan_id.type),
    PLANS.c.updated_at == bindparam("read_version", type_=Text),
    # A plan whose parent was deleted is another one, though its version did not move.
    PLANS.c.parent_plan_id.is_not_distinct_from(
        bindparam("read_parent", type_=PLANS.c.parent_plan_id.type)
    ),
    # Written so that PostgreSQL does not go through the whole tree by the index of the roots.
    PLANS.c.root_plan_id.is_not_distinct_from(
        bindparam("read_root", type_=PLANS.c.root_plan_id.type)
    ),
)
#: It sets the columns that there are parameters for.
_UPDATE: Final = update(PLANS).where(AS_READ)


def save_plan(session: Session, plan: Plan, *, unchecked: bool = False) -> Plan:
    """
    Store *plan*, which was read before; give it as it is stored.

    It sends a SELECT and an UPDATE; where child rows change, or where a transaction sees one state
    of the database, a savepoint besides, and a DELETE and an INSERT for each changed child table.

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
    row = _checked(plan, row_of(session, plan.plan_id))
    return write(session, row, plan_in(row), plan, unchecked=unchecked)


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
        row = row_of(session, plan_id)
        if row is None:
            raise PlanNotFound(plan_id)
        stored = plan_in(row)
        plan = _same_plan(stored, step(stored))
        try:
            return write(session, row, stored, plan)
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
        if not _update(session, plan, read, values):
            # It may be the same time in another spelling.
            found = stored_version(session, plan)
            if found == read or not _update(session, plan, found, values):
                raise PlanConflict(plan.plan_id, read)
    return _stored(session, plan, later)


def write(session: Session, row: Any, stored: Plan, plan: Plan, *, unchecked: bool = False) -> Plan:
    """
    Store *plan* in place of the plan that is *stored*, as *row* holds it; raise as `save_plan`.

    Only what differs is sent.
    """
    if plan.effective_profile_snapshot != stored.effective_profile_snapshot:
        raise SnapshotIsFrozen(plan.plan_id)
    reason = None if unchecked else change_refused(stored, plan)
    if reason:
        raise ChangeNotAllowed(plan.plan_id, reason)
    later = next_version(plan.plan_id, row.updated_at)
    wanted = plan_row(plan) | {"updated_at": time_text(later)}
    values = {name: value for name, value in wanted.items() if getattr(row, name) != value}
    children = list(_changed_children(row, plan))
    with (
        _savepoint(session, bool(children) or sees_one_state(session)),
        report_conflict(plan),
    ):
        if not _update(session, plan, row.updated_at, values):
            stored_version(session, plan)
            raise PlanConflict(plan.plan_id, row.updated_at)
        for table, rows in children:
            execute(session, delete(table).where(table.c.plan_id == plan.plan_id))
            insert_rows(session, table, rows)
    return _stored(session, plan, later)


def _update(session: Session, plan: Plan, version: str, values: Row) -> bool:
    """Say whether the plan was as *plan* was read, and was updated."""
    result = execute(session, _UPDATE, **as_read(plan, version), **values)
    return isinstance(result, CursorResult) and result.rowcount == 1


def _changed_children(row: Any, plan: Plan) -> Iterator[tuple[Any, Sequence[Row]]]:
    for table, found, rows in zip(CHILDREN, children_in(row), child_rows(plan), strict=True):
        # Replaced as a whole: aliases and names may change places.
        if [tuple(each) for each in found] != [tuple(each.values())[1:] for each in rows]:
            yield table, rows


def _stored(session: Session, plan: Plan, updated_at: datetime) -> Plan:
    refresh_plans(session, [plan.plan_id])
    # It is valid but for this time, which is: validating it again would take as long as reading.
    return BaseModel.model_copy(plan, update={"updated_at": updated_at})


def as_read(plan: Plan, version: str) -> dict[str, str | None]:
    """Give the parameters of `AS_READ`: those of *plan*, its version being spelled so."""
    return {
        "read_plan_id": plan.plan_id,
        "read_version": version,
        "read_parent": plan.parent_plan_id,
        "read_root": plan.root_plan_id,
    }


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
    return session.begin_nested() if wanted else nullcontext()


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
