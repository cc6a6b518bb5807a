"""
The statements that claim plans, one for each engine; made once for each way to ask for work.

A worker polls with the same filters again and again, and putting such a statement together takes
longer than running it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal_column,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.sql import Executable

from cleveragents_plans.domain import ProcessingState
from cleveragents_plans.persistence.filters import QueueFilters, conditions
from cleveragents_plans.persistence.queries import child_columns
from cleveragents_plans.persistence.scans import QUEUED, only_word
from cleveragents_plans.persistence.sessions import PLANS

_BEGUN: Final = literal_column(f"'{ProcessingState.PROCESSING}'", Text)

# PostgreSQL checks every constraint of a row that is updated. One that was added NOT VALID may be
# broken already. Sorted, as a set has another order in each process, and pg_stat_statements would
# list each order as a statement of its own.
_SOUND: Final = and_(
    *(
        text(f"({condition}) IS NOT FALSE")
        for condition in sorted(
            str(each.sqltext) for each in PLANS.constraints if isinstance(each, CheckConstraint)
        )
    )
)

_NOW: Final = bindparam("now", type_=Text)


def claim_statement(
    phases: Sequence[str], filters: Mapping[str, Any], limit: int, *, postgresql: bool
) -> Executable:
    """
    Make the statement that begins the oldest queued plans, up to *limit* of them, at ``now``.

    PostgreSQL gives each plan that it locked, as ``claimed``, with its ``former`` version and
    whether it was begun as a ``whole``; then it is there as it is stored, with its child rows.
    SQLite gives the ids of the plans that it began, in hexadecimal.

    Raises:
        As `conditions`.
    """
    make: Callable[..., Executable] = _on_postgresql if postgresql else _on_sqlite
    given = tuple((name, value) for name, value in filters.items() if name != "phase")
    # Times change each time; and the same hour before and after a clock was put back is equal.
    if all(isinstance(value, str) for _, value in given):
        return _remembered(make, tuple(phases), given, limit)
    return make(phases, given, limit)


# Names that change each time push others out.
@lru_cache(maxsize=128)
def _remembered(make: Callable[..., Executable], phases: Any, given: Any, limit: int) -> Executable:
    return make(phases, given, limit)


def _on_sqlite(phases: Sequence[str], given: Any, limit: int) -> Executable:
    others = conditions(False, dict(given), QueueFilters)
    return (
        update(PLANS)
        .where(PLANS.c.plan_id.in_(_oldest(phases, others, limit, PLANS.c.plan_id)))
        # Another version stays, and is noticed.
        .values(
            processing_state=_BEGUN,
            updated_at=case((_precedes(PLANS), _NOW), else_=PLANS.c.updated_at),
        )
        # An id that is no text would fail to be read, when it is too late.
        .returning(func.hex(PLANS.c.plan_id).label("id"))
    )


def _on_postgresql(phases: Sequence[str], given: Any, limit: int) -> Executable:
    others = conditions(True, dict(given), QueueFilters)
    columns = (PLANS.c.plan_id, PLANS.c.updated_at)
    chosen = _oldest(phases, others, limit, *columns, lock=True).cte("chosen")
    begun = (
        update(PLANS)
        .where(PLANS.c.plan_id == chosen.c.plan_id, _SOUND, _precedes(chosen))
        .values(processing_state=_BEGUN, updated_at=_NOW)
        .returning(*PLANS.c)
        .cte("begun")
    )
    # The lock is that of the newest version of a row, and the statement sees child rows as they
    # were when it began: they belong together if the plan was not written in between.
    seen = PLANS.alias("seen")
    whole = begun.c.plan_id.is_not(None) & (seen.c.updated_at == chosen.c.updated_at)
    return select(
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


def _oldest(
    phases: Sequence[str],
    others: Sequence[ColumnElement[bool]],
    limit: int,
    *columns: Any,
    lock: bool = False,
) -> Select[Any]:
    """Select the oldest queued plans; each phase by itself, as an index has their order."""
    # Written out: PostgreSQL would make a plan anew each time rather than expect many rows.
    most = literal_column(str(limit), Integer)
    parts = []
    for phase in dict.fromkeys(phases) or (None,):  # no phase: no plan
        in_phase = only_word(lock, PLANS.c.phase, phase) if phase else false()
        part = select(*columns).where(QUEUED, in_phase, *others)
        part = part.order_by(PLANS.c.phase, PLANS.c.plan_id).limit(most)
        parts.append(part.with_for_update(skip_locked=True, key_share=True) if lock else part)
    if len(parts) == 1:
        return parts[0]
    together = union_all(*(select(part.subquery()) for part in parts)).subquery()
    return select(together).order_by(together.c.plan_id).limit(most)


def _precedes(plans: FromClause) -> ColumnElement[bool]:
    """Say that a version is before now, and is spelled so that text order is time order."""
    usual = plans.c.updated_at.like("____-__-__T__:__:__.______+00:00")
    return and_(usual, cast(plans.c.updated_at, Text) < _NOW)
