"""
The table as a queue: plans that workers take, and plans whose workers were lost.

A plan that is queued waits for a worker; the one that claims it sets it to processing. From then
on `updated_at` is its heartbeat, and the optimistic lock is the fence: a worker that was given up
loses its next save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    FromClause,
    Row,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Phase, Plan
from cleveragents_plans.domain.errors import PlansError
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.errors import CorruptPlanRow
from cleveragents_plans.persistence.filters import QueueFilters, conditions
from cleveragents_plans.persistence.identity_map import refresh_plans
from cleveragents_plans.persistence.pages import stored_id
from cleveragents_plans.persistence.parameters import values_of, word_of
from cleveragents_plans.persistence.queries import (
    OnCorrupt,
    child_columns,
    plan_in,
    plans_query,
    report,
    rows_of,
)
from cleveragents_plans.persistence.sessions import (
    PLANS,
    among,
    execute,
    on_postgresql,
    without_index,
)
from cleveragents_plans.persistence.updates import is_serialization_failure, write

# Written out, so that PostgreSQL and SQLite know that the indexes of just these rows will do.
_QUEUED: Final = PLANS.c.processing_state == literal_column("'queued'")
_PROCESSING: Final = PLANS.c.processing_state == literal_column("'processing'")
_BEGUN: Final = literal_column("'processing'", Text)

# PostgreSQL checks every constraint of a row that is updated. One that was added NOT VALID may be
# broken already.
_SOUND: Final = and_(
    *(
        text(f"({each.sqltext}) IS NOT FALSE")
        for each in PLANS.constraints
        if isinstance(each, CheckConstraint)
    )
)

#: How many rows are read at once behind one that cannot be read.
_BATCH: Final = 100


@dataclass(eq=False)
class QueueConflict(PlansError):
    """
    Another transaction changed a plan that was to be taken, unseen by this one.

    That happens in REPEATABLE READ and SERIALIZABLE, and aborts the transaction.
    """

    def __str__(self) -> str:
        return (
            "another transaction changed plans of the queue, and the isolation level of this one "
            "does not let it see them; roll back and begin again, best in READ COMMITTED"
        )


def claim_plans(
    session: Session, limit: int, on_corrupt: OnCorrupt, filters: Mapping[str, Any]
) -> list[Plan]:
    """
    Begin up to *limit* queued plans, the oldest first; give them as they are stored.

    On PostgreSQL one statement locks them (FOR NO KEY UPDATE SKIP LOCKED: plans that other
    transactions have locked are passed over), updates and reads them; on SQLite an
    UPDATE … RETURNING and a SELECT within a savepoint. Where that meets a plan that it cannot
    begin by itself,
    it is undone, and the plans are read before they are begun, in a few statements more.

    Raises:
        CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        QueueConflict: Another transaction changed one of the plans, unseen by this one.
        As `conditions`.
    """
    phases = _phases(filters.get("phase"))
    others = conditions(session, {**filters, "phase": None}, QueueFilters)
    session.flush()
    with _report_conflict():
        claim = _claim_on_postgresql if on_postgresql(session) else _claim_on_sqlite
        plans = claim(session, phases, others, limit) if phases else []
        if plans is None:
            wanted = [_QUEUED, PLANS.c.phase.in_(phases), *others]
            plans = _take(session, wanted, Plan.begin, limit, on_corrupt)
    refresh_plans(session, [plan.plan_id for plan in plans])
    return plans


def requeue_plans(
    session: Session,
    not_touched_since: str,
    limit: int,
    max_attempts: int | None,
    on_corrupt: OnCorrupt,
    filters: Mapping[str, Any],
) -> list[Plan]:
    """
    Queue plans again that are processing and were not written since a time.

    Raises:
        CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        QueueConflict: Another transaction changed one of the plans, unseen by this one.
        As `conditions`.
    """
    stalled = PLANS.c.updated_at < not_touched_since
    wanted = [_PROCESSING, stalled, *conditions(session, filters, QueueFilters)]
    session.flush()

    def step(plan: Plan) -> Plan | None:
        if time_text(plan.updated_at) >= not_touched_since:
            return None  # in another spelling, whose text is less
        reason = (
            f"attempt {plan.attempt} was given up: its worker did not write the plan"
            f" after {time_text(plan.updated_at)}"
        )
        failed = plan.fail(reason)
        if max_attempts is not None and plan.attempt >= max_attempts:
            return failed
        return failed.retry().edit(error_message=reason)

    with _report_conflict():
        return _take(session, wanted, step, limit, on_corrupt)


def _phases(value: Any) -> list[str]:
    return [*Phase] if value is None else values_of("phase", value, partial(word_of, Phase))


def _oldest(
    phases: Sequence[str],
    others: Sequence[ColumnElement[bool]],
    limit: int,
    *columns: Any,
    lock: bool,
) -> Select[Any]:
    """Select the oldest queued plans; each phase by itself, as an index has their order."""
    parts = []
    for phase in dict.fromkeys(phases):
        in_phase = PLANS.c.phase == literal(phase, literal_execute=True)
        part = select(*columns).where(_QUEUED, in_phase, *others)
        part = part.order_by(PLANS.c.plan_id).limit(limit)
        parts.append(part.with_for_update(skip_locked=True, key_share=True) if lock else part)
    if len(parts) == 1:
        return parts[0]
    together = union_all(*(select(part.subquery()) for part in parts)).subquery()
    return select(together).order_by(together.c.plan_id).limit(limit)


def _precedes(plans: FromClause, now: ColumnElement[str]) -> ColumnElement[bool]:
    """Say that a version is before *now*, and is spelled so that text order is time order."""
    usual = plans.c.updated_at.like("____-__-__T__:__:__.______+00:00")
    return and_(usual, cast(plans.c.updated_at, Text) < now)


def _claim_on_sqlite(
    session: Session, phases: Sequence[str], others: Sequence[ColumnElement[bool]], limit: int
) -> list[Plan] | None:
    now = literal(time_text(datetime.now(UTC)), Text)
    oldest = _oldest(phases, others, limit, PLANS.c.plan_id, lock=False)
    statement = (
        update(PLANS)
        .where(PLANS.c.plan_id.in_(oldest))
        # Another version stays, and is noticed.
        .values(
            processing_state=_BEGUN,
            updated_at=case((_precedes(PLANS, now), now), else_=PLANS.c.updated_at),
        )
        # An id that is no text would fail to be read, when it is too late.
        .returning(func.hex(PLANS.c.plan_id).label("id"))
    )
    savepoint = session.begin_nested()
    claimed = execute(session, statement).all()
    ids = [bytes.fromhex(row.id).decode(errors="replace") for row in claimed]
    found = plans_query(session).where(among(session, PLANS.c.plan_id, ids))
    rows = rows_of(session, found) if ids else []
    whole = len(rows) == len(ids) and all(row.updated_at == now.value for row in rows)
    plans = _read_begun(rows) if whole else None
    if plans is None:
        savepoint.rollback()
    else:
        savepoint.commit()
    return plans


def _claim_on_postgresql(
    session: Session, phases: Sequence[str], others: Sequence[ColumnElement[bool]], limit: int
) -> list[Plan] | None:
    now = literal(time_text(datetime.now(UTC)), Text)
    columns = (PLANS.c.plan_id, PLANS.c.updated_at, _SOUND.label("sound"))
    chosen = _oldest(phases, others, limit, *columns, lock=True).cte("chosen")
    begun = (
        update(PLANS)
        .where(PLANS.c.plan_id == chosen.c.plan_id, chosen.c.sound, _precedes(chosen, now))
        .values(processing_state=_BEGUN, updated_at=now)
        .returning(*PLANS.c)
        .cte("begun")
    )
    # The lock is that of the newest version of a row, and the statement sees child rows as they
    # were when it began: they belong together if the plan was not written in between.
    seen = PLANS.alias("seen")
    whole = begun.c.plan_id.is_not(None) & (seen.c.updated_at == chosen.c.updated_at)
    statement = select(
        *begun.c,
        *child_columns(begun, postgresql=True),
        chosen.c.plan_id.label("claimed"),
        chosen.c.updated_at.label("former"),
        whole.label("whole"),
    ).select_from(
        chosen.outerjoin(begun, begun.c.plan_id == chosen.c.plan_id).outerjoin(
            seen, seen.c.plan_id == chosen.c.plan_id
        )
    )
    rows = execute(session, statement).all()
    plans = _read_begun(rows) if all(row.whole for row in rows) else None
    if plans is None:
        _queue_again(session, rows)
    return plans


def _read_begun(rows: Sequence[Row[Any]]) -> list[Plan] | None:
    """Read plans that were begun, the oldest first; None if one cannot be read."""
    try:
        return sorted(map(plan_in, rows), key=lambda plan: plan.plan_id)
    except CorruptPlanRow:
        return None


def _queue_again(session: Session, rows: Sequence[Row[Any]]) -> None:
    """Undo what `_claim_on_postgresql` did; a savepoint would cost each claim two round trips."""
    ids, versions = ([getattr(row, name) for row in rows] for name in ("claimed", "former"))
    held = func.unnest(literal(ids, ARRAY(Text)), literal(versions, ARRAY(Text)))
    former = held.table_valued("plan_id", "updated_at").render_derived("former")
    back = {"processing_state": literal_column("'queued'"), "updated_at": former.c.updated_at}
    execute(
        session,
        update(PLANS).where(PLANS.c.plan_id == former.c.plan_id, _PROCESSING).values(back),
    )


def _take(
    session: Session,
    wanted: Sequence[ColumnElement[bool]],
    step: Callable[[Plan], Plan | None],
    limit: int,
    on_corrupt: OnCorrupt,
) -> list[Plan]:
    """Lock, read, change (or leave) and save plans that are *wanted*, the oldest first."""
    taken: list[Plan] = []
    with session.begin_nested():
        for row in _locked(session, wanted, limit):
            try:
                stored = plan_in(row)
            except CorruptPlanRow as corrupt:
                report(corrupt, on_corrupt)
                continue
            plan = step(stored)
            if plan is not None:
                taken.append(write(session, row, stored, plan))
            if len(taken) == limit:
                break
    return taken


def _locked(
    session: Session, wanted: Sequence[ColumnElement[bool]], limit: int
) -> Iterator[Row[Any]]:
    batch, beyond = limit, list(wanted)
    # SQLite would go through the whole table in the order of its key rather than sort few rows.
    by_id = PLANS.c.plan_id if on_postgresql(session) else without_index(PLANS.c.plan_id)
    while True:
        ids = select(PLANS.c.plan_id).where(*beyond).order_by(by_id).limit(batch)
        if on_postgresql(session):
            # Read once they are locked: one statement would see child rows as they were before.
            locked = rows_of(session, ids.with_for_update(skip_locked=True, key_share=True))
            found = among(session, PLANS.c.plan_id, [row.plan_id for row in locked])
        else:
            found = PLANS.c.plan_id.in_(ids)
        query = plans_query(session).where(found).order_by(PLANS.c.plan_id)
        rows = rows_of(session, query)
        yield from rows
        if len(rows) < batch:
            return
        last = stored_id(session, rows[-1].plan_id)
        batch, beyond = max(limit, _BATCH), [*wanted, PLANS.c.plan_id > last]


@contextmanager
def _report_conflict() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if not is_serialization_failure(error):
            raise
        raise QueueConflict from None
