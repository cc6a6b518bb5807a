"""
New plans into rows, many at a time: four statements for a thousand plans.

The ORM is not asked: what the mapping lays out goes straight to the driver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Insert, bindparam, insert, null, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Plan
from cleveragents_plans.domain.errors import InvalidType, shown
from cleveragents_plans.persistence.errors import (
    PlanAlreadyStored,
    PlanCycle,
    RelatedPlanMissing,
)
from cleveragents_plans.persistence.mapping import Row, child_rows, plan_row
from cleveragents_plans.persistence.queries import CHILDREN
from cleveragents_plans.persistence.sessions import (
    PLANS,
    among,
    atomic,
    check_foreign_keys,
    execute,
    on_postgresql,
    send,
)

#: What to do with a plan whose id is stored already.
Existing = Literal["raise", "skip"]

_BATCH: Final = 1000
_RELATED: Final = ("parent_plan_id", "root_plan_id")
_PRIMARY_KEY: Final = "pk_v3_plans"
_MANY: Final = 50


class _New(NamedTuple):
    """A plan that is to be inserted, and its row."""

    plan_id: str
    plan: Plan
    row: Row

    @property
    def related(self) -> set[str]:
        """The other plans that must be stored before it."""
        return {self.row[name] for name in _RELATED} - {self.plan_id, None}


def insert_plans(session: Session, plans: Iterable[Plan], existing: Existing = "raise") -> int:
    """
    Insert plans in any order, all of them or none; give how many were inserted.

    A plan whose parent or root comes later waits for it, in memory.

    Raises:
        PlanAlreadyStored: An id is stored already, or comes twice; not with ``"skip"``.
        RelatedPlanMissing: A parent or a root is neither stored nor among them.
        PlanCycle: Some are under one another.
        InvalidType: Something is no plan.
        UnknownProfile: A plan has no snapshot, and its profile is not a built-in one.
        SnapshotUnreadable: A plan has a snapshot that describes no profile.
    """
    check_foreign_keys(session)
    inserted, waiting = 0, _Waiting()
    remaining = map(_new, plans)
    with atomic(session):
        while batch := list(islice(remaining, _BATCH)):
            inserted += _insert_batch(session, waiting.released_by(batch), existing, waiting)
        waiting.check_empty()
    return inserted


def _new(plan: Plan) -> _New:
    if not isinstance(plan, Plan):
        raise InvalidType("one of the plans", shown(plan), "a Plan")
    row = plan_row(plan)
    if plan.effective_profile is None:
        row["effective_profile_snapshot"] = plan.resolved_profile().profile.snapshot()
    return _New(row["plan_id"], plan, row)


class _Waiting:
    """Plans whose parent or root was not there, by its id."""

    def __init__(self) -> None:
        self._for: dict[str, list[_New]] = {}

    def add(self, new: _New, missing: str) -> None:
        """Let *new* wait for the plan that is *missing*."""
        self._for.setdefault(missing, []).append(new)

    def released_by(self, batch: Sequence[_New]) -> list[_New]:
        """Add to *batch* the plans that waited for one of them, and those that waited for these."""
        released = [*batch]
        for each in released:  # it grows meanwhile
            released += self._for.pop(each.plan_id, ())
        return released

    def check_empty(self) -> None:
        """Raise the reason, if plans wait in vain."""
        waiting = [new for each in self._for.values() for new in each]
        ids = {new.plan_id for new in waiting}
        for missing, each in self._for.items():
            if missing not in ids:
                raise RelatedPlanMissing(each[0].plan_id, missing)
        _refuse_cycle(waiting)


def _insert_batch(
    session: Session, batch: Sequence[_New], existing: Existing, waiting: _Waiting
) -> int:
    while True:
        if existing == "skip":
            batch = _not_stored(session, batch)
        try:
            with atomic(session):
                _insert_all(session, batch)
        except IntegrityError as refusal:
            pending = _explained(session, batch, existing, waiting)
            if len(pending) == len(batch):
                # A transaction that sees one state of the database does not see what another one
                # added since.
                diagnosis = getattr(refusal.orig, "diag", None)
                if len(batch) == 1 and getattr(diagnosis, "constraint_name", "") == _PRIMARY_KEY:
                    raise PlanAlreadyStored(batch[0].plan_id) from None
                raise
            batch = pending
        else:
            return len(batch)


def _not_stored(session: Session, batch: Sequence[_New]) -> list[_New]:
    first = {new.plan_id: new for new in reversed(batch)}
    stored = _stored_among(session, first)
    return [new for plan_id, new in reversed(first.items()) if plan_id not in stored]


def _stored_among(session: Session, ids: Iterable[str]) -> set[str]:
    query = select(PLANS.c.plan_id).where(among(on_postgresql(session), PLANS.c.plan_id, ids))
    return {*execute(session, query).scalars()}


def _explained(
    session: Session, batch: Sequence[_New], existing: Existing, waiting: _Waiting
) -> Sequence[_New]:
    """
    Say why *batch* was refused: raise, or give what is left when some wait or are stored.

    Raises:
        PlanAlreadyStored: One is stored, and that matters.
        PlanCycle: Some are under one another.
    """
    ids = {new.plan_id for new in batch}
    stored = _stored_among(session, ids.union(*(new.related for new in batch)))
    for new in batch:
        if new.plan_id in stored and existing == "raise":
            raise PlanAlreadyStored(new.plan_id) from None
    pending, present = [*batch], stored | ids
    while True:
        lacking = [new for new in pending if not new.related <= present]
        if not lacking:
            break
        for new in lacking:
            waiting.add(new, min(new.related - present))
        late = {new.plan_id for new in lacking}
        present -= late
        pending = [new for new in pending if new.plan_id not in late]
    _refuse_cycle(pending)
    return [new for new in pending if new.plan_id not in stored]


def _refuse_cycle(batch: Iterable[_New]) -> None:
    try:
        TopologicalSorter({new.plan_id: new.related for new in batch}).prepare()
    except CycleError as error:
        raise PlanCycle(tuple(error.args[1][:-1])) from None


def _insert_all(session: Session, batch: Sequence[_New]) -> None:
    insert_rows(session, PLANS, _parents_first(batch))
    for table, rows in zip(CHILDREN, child_rows(*(new.plan for new in batch)), strict=True):
        insert_rows(session, table, rows)


def insert_rows(session: Session, table: Any, rows: Sequence[Row]) -> None:
    """
    Insert *rows*, which have values for the same columns of *table*.

    Another column gets its DEFAULT, or NULL.

    Raises:
        TypeError: A column without a DEFAULT is NOT NULL, and the rows have no value for it.
    """
    if not rows:
        return
    names = _written_columns(table, tuple(rows[0]))
    send(session, _insert_statement(table, names, _all_null(rows)), list(rows))


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


@lru_cache(maxsize=256)
def _written_columns(table: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    lacking = [
        column.name
        for column in table.columns
        if column.name not in names and not column.nullable and column.server_default is None
    ]
    if lacking:
        raise TypeError(
            f"{table.name}.{lacking[0]} is NOT NULL without a DEFAULT, and is in no row that "
            "persistence/mapping.py makes; add its line to plan_row and read_plan there, or give "
            "the column of the model a server_default"
        )
    return tuple(column.name for column in table.columns if column.name in names)


# A driver takes as long for a NULL as for a text, so what is NULL throughout is in the statement.
@lru_cache(maxsize=256)
def _insert_statement(table: Any, names: tuple[str, ...], nulls: tuple[str, ...]) -> Insert:
    values = {name: null() if name in nulls else bindparam(name) for name in names}
    return insert(table).values(values)


def _parents_first(batch: Sequence[_New]) -> Sequence[Row]:
    waiting = {new.plan_id: new for new in batch}
    if len(waiting) < len(batch):
        ((twice, _),) = Counter(new.plan_id for new in batch).most_common(1)
        raise PlanAlreadyStored(twice)
    roots = [new for new in batch if not new.related]
    for new in roots:
        del waiting[new.plan_id]
    below = [new for new in batch if new.plan_id in waiting]
    return [new.row for new in roots] + [
        each for new in below for each in _upwards(new, waiting)[::-1]
    ]


def _upwards(new: _New | None, waiting: dict[str, _New]) -> Sequence[Row]:
    above = []
    while new is not None and waiting.pop(new.plan_id, None) is not None:
        above.append(new.row)
        new = waiting.get(new.row["parent_plan_id"] or new.row["root_plan_id"])
    return above
