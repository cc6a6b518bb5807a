"""
Plans out of rows, many at a time: four or five statements, however many plans.

The ORM is not asked for objects here: rows go straight into the mapping.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal, TypedDict

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Row,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    exists,
    func,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Phase, Plan, ProcessingState
from cleveragents_plans.domain.errors import shown
from cleveragents_plans.domain.types import full_name
from cleveragents_plans.persistence.columns import has_surrogates
from cleveragents_plans.persistence.errors import (
    CorruptPlanRow,
    PlanConflict,
    PlanNotFound,
)
from cleveragents_plans.persistence.mapping import read_plan
from cleveragents_plans.persistence.models import (
    PlanArgumentModel,
    PlanInvariantModel,
    PlanProjectModel,
)
from cleveragents_plans.persistence.parameters import text_of, time_of, word_of
from cleveragents_plans.persistence.sessions import PLANS, connection_of, execute, on_postgresql

CHILDREN = (
    PlanProjectModel.__table__,
    PlanArgumentModel.__table__,
    PlanInvariantModel.__table__,
)

# A plan that was written again and again while it was read so often is given up.
_ATTEMPTS = 10

#: What a listing does with a row that cannot be read: raise, leave it out, or tell somebody.
OnCorrupt = Literal["raise", "skip"] | Callable[[CorruptPlanRow], object]


class Filters(TypedDict, total=False):
    """Which plans a listing is about; None asks for nothing."""

    phase: Phase | None
    state: ProcessingState | None
    #: The namespace itself, without its server.
    namespace: str | None
    #: The action's name; without a namespace it is that of ``local``.
    action: str | None
    #: The name of a project that the plan works on.
    project: str | None
    #: Created then or later.
    created_from: datetime | None
    #: Created earlier than then.
    created_before: datetime | None


def conditions(filters: Filters) -> Iterator[ColumnElement[bool]]:
    """
    Say in SQL what *filters* ask for.

    Raises:
        TypeError: There is no such filter, or its value has another type.
        ValueError: The value of a filter cannot be any plan's.
    """
    link = PlanProjectModel.__table__
    of_plan = link.c.plan_id == PLANS.c.plan_id
    known: dict[str, Callable[[str, Any], ColumnElement[bool]]] = {
        "phase": lambda name, it: PLANS.c.phase == word_of(name, Phase, it).value,
        "state": lambda name, it: (
            PLANS.c.processing_state == word_of(name, ProcessingState, it).value
        ),
        "namespace": lambda name, it: PLANS.c.namespace == text_of(name, it),
        "action": lambda name, it: PLANS.c.action_name.in_(_spellings(text_of(name, it))),
        "project": lambda name, it: exists().where(
            of_plan, link.c.project_name == text_of(name, it)
        ),
        "created_from": lambda name, it: PLANS.c.created_at >= time_of(name, it),
        "created_before": lambda name, it: PLANS.c.created_at < time_of(name, it),
    }
    for name, value in filters.items():
        if name not in known:
            raise TypeError(f"there is no filter {name!r}; known: {', '.join(known)}")
        if value is not None:
            yield known[name](name, value)


def _spellings(name: str) -> set[str]:
    # The former release may have left the namespace out.
    full = full_name(name)
    return {full, full.removeprefix("local/")}


def come_after(session: Session, after: str | bytes) -> ColumnElement[bool]:
    """
    Say that a plan comes after *after*, an id in lower or upper case, or what a page ended with.

    Raises:
        TypeError: It is neither text nor bytes.
        ValueError: It is what this database can have nowhere.
    """
    if not on_postgresql(session):
        # What no driver sends as text, and SQLite may hold all the same.
        if isinstance(after, bytes):
            return PLANS.c.plan_id > literal(after, LargeBinary)
        if isinstance(after, str) and ("\0" in after or has_surrogates(after)):
            return PLANS.c.plan_id > cast(literal(_bytes_of(after), LargeBinary), Text)
    upper: Any = text_of("after", after).upper()
    if after == upper:
        return PLANS.c.plan_id > after
    # A corrupt row can have an id in lower case; after it comes what is after just this.
    itself = select(PLANS.c.plan_id).where(PLANS.c.plan_id == after).scalar_subquery()
    return PLANS.c.plan_id > func.coalesce(itself, upper)


def one(session: Session, plan_id: str) -> Plan:
    """
    Read the plan that has just this id.

    Raises:
        PlanNotFound: There is none.
        CorruptPlanRow: Its row cannot be read.
    """
    query = select(PLANS).where(PLANS.c.plan_id == plan_id)
    for plan in plans(session, query, rows_of(session, query)):
        return plan
    raise PlanNotFound(plan_id)


def root_of(session: Session, plan_id: str) -> str:
    """
    Give the id of the root that the plan names.

    Raises:
        PlanNotFound: There is no such plan.
    """
    query = select(PLANS.c.root_plan_id).where(PLANS.c.plan_id == plan_id)
    for row in rows_of(session, query):
        return str(row.root_plan_id)
    raise PlanNotFound(plan_id)


def plans(
    session: Session,
    query: Select[Any],
    rows: Sequence[Row[Any]],
    on_corrupt: OnCorrupt = "raise",
) -> Iterator[Plan]:
    """
    Read *rows* of ``v3_plans``, which *query* gave, as plans, in their order.

    That takes three more statements, and on PostgreSQL a fourth. Each statement there sees
    what is committed when it begins, so that children could be newer than their plan: a plan
    that somebody wrote in between is read again.

    Raises:
        CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        PlanConflict: A plan is written faster than it can be read.
    """
    whole: dict[str, tuple[Any, ...]] = {}
    pending = rows
    for _ in range(_ATTEMPTS):
        if not pending:
            break
        ids = [row.plan_id for row in pending]
        children = [_by_plan(session, table, ids) for table in CHILDREN]
        changed = _changed(session, pending)
        for row in pending:
            if row.plan_id not in changed:
                whole[row.plan_id] = (row, *(found.get(row.plan_id, ()) for found in children))
        # What the query is no longer about, or nobody any more, is not read again.
        pending = (
            _all(session, query.where(among(session, PLANS.c.plan_id, changed))) if changed else ()
        )
    if pending:
        raise PlanConflict(pending[0].plan_id, pending[0].updated_at)
    for row in rows:
        if row.plan_id not in whole:
            continue
        try:
            yield read_plan(*whole.pop(row.plan_id))
        except CorruptPlanRow as corrupt:
            if on_corrupt == "raise":
                raise
            if on_corrupt != "skip":
                on_corrupt(corrupt)


def _changed(session: Session, rows: Sequence[Row[Any]]) -> set[str]:
    """Tell which *rows* were written or deleted since; on SQLite a transaction sees one state."""
    if not on_postgresql(session):
        return set()
    wanted = among(session, PLANS.c.plan_id, [row.plan_id for row in rows])
    now = {*_all(session, select(PLANS.c.plan_id, PLANS.c.updated_at).where(wanted))}
    return {row.plan_id for row in rows if (row.plan_id, row.updated_at) not in now}


def rows_of(session: Session, query: Select[Any]) -> Sequence[Row[Any]]:
    """Run *query* for rows of ``v3_plans``, with what the session has not sent yet."""
    if session.autoflush:
        session.flush()
    return _all(session, query)


def among(session: Session, column: ColumnElement[str], ids: Iterable[str]) -> ColumnElement[bool]:
    """Say that *column* is one of *ids*, as one parameter: there may be tens of thousands."""
    if on_postgresql(session):
        return column == any_(bindparam(None, list(ids), type_=ARRAY(Text)))
    values = func.json_each(json.dumps([each for each in ids if isinstance(each, str)]))
    return column.in_(select(values.table_valued("value").c.value))


def _by_plan(session: Session, table: Any, ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    query = (
        select(table)
        .where(among(session, table.c.plan_id, ids))
        .order_by(table.c.plan_id, table.c.position)
    )
    found = _all(session, query)
    return {plan_id: list(rows) for plan_id, rows in groupby(found, attrgetter("plan_id"))}


def _all(session: Session, query: Select[Any]) -> Sequence[Row[Any]]:
    try:
        return execute(session, query).all()
    except OperationalError as error:
        if not is_broken_text(error):
            raise
    # One such text would hide all rows. Read again, as lone surrogates: no plan can hold those.
    driver: Any = connection_of(session).connection.driver_connection
    former, driver.text_factory = driver.text_factory, _escaped
    try:
        return execute(session, query).all()
    finally:
        driver.text_factory = former


def is_broken_text(error: OperationalError) -> bool:
    """Say whether SQLite found bytes in a text that are none."""
    return "decode to UTF-8" in str(error.orig)


def _escaped(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _bytes_of(escaped: str) -> bytes:
    try:
        return escaped.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"after is {shown(escaped)}; expected what a page ended with") from None
