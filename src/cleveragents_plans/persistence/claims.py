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
from typing import Any, ClassVar, Final

from sqlalchemy import (
    ColumnElement,
    Row,
    Text,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable

from cleveragents_plans.domain import Phase, Plan, ProcessingState
from cleveragents_plans.domain.errors import PlansError
from cleveragents_plans.persistence.claim_statements import claim_statement
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.errors import CorruptPlanRow
from cleveragents_plans.persistence.filters import QueueFilters, conditions
from cleveragents_plans.persistence.identity_map import refresh_plans
from cleveragents_plans.persistence.pages import stored_id
from cleveragents_plans.persistence.parameters import values_of, word_of
from cleveragents_plans.persistence.queries import (
    OnCorrupt,
    plan_in,
    plans_query,
    report,
    rows_among,
    rows_of,
)
from cleveragents_plans.persistence.scans import only_word
from cleveragents_plans.persistence.sessions import (
    PLANS,
    atomic,
    execute,
    on_postgresql,
    without_index,
)
from cleveragents_plans.persistence.updates import is_serialization_failure, write

#: How many rows are read at once behind one that cannot be read.
_BATCH: Final = 100


@dataclass(eq=False)
class QueueConflict(PlansError):
    """
    Another transaction changed a plan that was to be taken, unseen by this one.

    That happens in REPEATABLE READ and SERIALIZABLE, and aborts the transaction.
    """

    http_status: ClassVar[int] = 409

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
        CorruptPlanRow: A row cannot be read, or not be written (`NoLaterVersion`), and
            *on_corrupt* is ``"raise"``.
        QueueConflict: Another transaction changed one of the plans, unseen by this one.
        As `conditions`.
    """
    postgresql = on_postgresql(session)
    phases = _phases(filters.get("phase"))
    statement = claim_statement(phases, filters, limit, postgresql=postgresql)
    session.flush()
    with _report_conflict():
        claim = _claim_on_postgresql if postgresql else _claim_on_sqlite
        plans = claim(session, statement)
        if plans is None:
            wanted = conditions(postgresql, filters, QueueFilters)
            queued = ProcessingState.QUEUED
            plans = _take(session, queued, wanted, Plan.begin, limit, on_corrupt)
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
        CorruptPlanRow: A row cannot be read, or not be written (`NoLaterVersion`), and
            *on_corrupt* is ``"raise"``.
        QueueConflict: Another transaction changed one of the plans, unseen by this one.
        As `conditions`.
    """
    stalled = PLANS.c.updated_at < not_touched_since
    wanted = [stalled, *conditions(on_postgresql(session), filters, QueueFilters)]
    session.flush()

    def step(plan: Plan) -> Plan | None:
        if time_text(plan.updated_at) >= not_touched_since:
            return None  # in another spelling, whose text is less
        reason = (
            f"attempt {plan.attempt} was given up: its worker did not write the plan"
            f" after {time_text(plan.updated_at)}"
        )
        failed = plan.fail(reason)
        last = max_attempts is not None and plan.attempt >= max_attempts
        if last or "retry" not in failed.allowed_steps:
            return failed
        return failed.retry().edit(error_message=reason)

    with _report_conflict():
        in_work = ProcessingState.PROCESSING
        return _take(session, in_work, wanted, step, limit, on_corrupt)


def _phases(value: Any) -> list[str]:
    return [*Phase] if value is None else values_of("phase", value, partial(word_of, Phase))


def _claim_on_sqlite(session: Session, statement: Executable) -> list[Plan] | None:
    now = time_text(datetime.now(UTC))
    with session.begin_nested() as savepoint:
        claimed = execute(session, statement, now=now).all()
        ids = [bytes.fromhex(row.id).decode(errors="replace") for row in claimed]
        rows = rows_among(session, ids) if ids else []
        whole = len(rows) == len(ids) and all(row.updated_at == now for row in rows)
        plans = _read_begun(rows) if whole else None
        if plans is None:
            savepoint.rollback()
    return plans


def _claim_on_postgresql(session: Session, statement: Executable) -> list[Plan] | None:
    now = time_text(datetime.now(UTC))
    rows = execute(session, statement, now=now).all()
    plans = None
    try:
        if all(row.whole for row in rows):
            plans = _read_begun(rows)
    finally:
        if plans is None:  # no caller gets them, whatever the reason
            _queue_again(session, rows, now)
    return plans


def _read_begun(rows: Sequence[Row[Any]]) -> list[Plan] | None:
    """Read plans that were begun, the oldest first; None if one cannot be read."""
    try:
        return sorted([plan_in(row) for row in rows], key=lambda plan: plan.plan_id)
    except CorruptPlanRow:
        return None


def _queue_again(session: Session, rows: Sequence[Row[Any]], now: str) -> None:
    """Undo what `_claim_on_postgresql` did; a savepoint would cost each claim two round trips."""
    ids, versions = ([getattr(row, name) for row in rows] for name in ("claimed", "former"))
    held = func.unnest(literal(ids, ARRAY(Text)), literal(versions, ARRAY(Text)))
    former = held.table_valued("plan_id", "updated_at").render_derived("former")
    in_work = only_word(True, PLANS.c.processing_state, ProcessingState.PROCESSING)
    queued: ColumnElement[str] = literal_column(f"'{ProcessingState.QUEUED}'")
    back = {"processing_state": queued, "updated_at": former.c.updated_at}
    execute(
        session,
        # Where a claim is a transaction by itself, the plan may be another worker's by now.
        update(PLANS)
        .where(PLANS.c.plan_id == former.c.plan_id, in_work, PLANS.c.updated_at == now)
        .values(back),
    )


def _take(
    session: Session,
    state: ProcessingState,
    wanted: Sequence[ColumnElement[bool]],
    step: Callable[[Plan], Plan | None],
    limit: int,
    on_corrupt: OnCorrupt,
) -> list[Plan]:
    """Lock, read, change (or leave) and save plans of a *state*, the oldest first."""
    taken: list[Plan] = []
    with atomic(session):
        for row in _locked(session, state, wanted, limit):
            try:
                stored = plan_in(row)
                plan = step(stored)
                if plan is not None:
                    taken.append(write(session, stored, plan))
            except CorruptPlanRow as corrupt:  # it cannot be read, or has no later version
                report(corrupt, on_corrupt)
            if len(taken) == limit:
                break
    return taken


def _locked(
    session: Session, state: ProcessingState, wanted: Sequence[ColumnElement[bool]], limit: int
) -> Iterator[Row[Any]]:
    batch, beyond = limit, list(wanted)
    of_state = only_word(on_postgresql(session), PLANS.c.processing_state, state)
    # SQLite would go through the whole table in the order of its key rather than sort few rows.
    by_id = PLANS.c.plan_id if on_postgresql(session) else without_index(PLANS.c.plan_id)
    while True:
        ids = select(PLANS.c.plan_id).where(of_state, *beyond)
        ids = ids.order_by(PLANS.c.processing_state, by_id).limit(batch)
        if on_postgresql(session):
            # Read once they are locked: one statement would see child rows as they were before.
            locked = rows_of(session, ids.with_for_update(skip_locked=True, key_share=True))
            rows = rows_among(session, [row.plan_id for row in locked]) if locked else []
        else:
            query = plans_query(session).where(PLANS.c.plan_id.in_(ids))
            rows = rows_of(session, query.order_by(PLANS.c.plan_id))
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
