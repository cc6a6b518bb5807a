"""
Listings by index scans that have the order of the ids.

A planner goes by statistics. It may expect the plans that a filter wants anywhere in the table, and
go through the primary key until a page is full: past millions of plans that are done, where
those that are wanted are the newest, or where the queue was emptied since the last ANALYZE. So a
filter that an index serves is asked for such that only this index has the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Text,
    any_,
    exists,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Phase, ProcessingState
from cleveragents_plans.domain.lifecycle import FINAL_STATES
from cleveragents_plans.persistence.filters import IS_OPEN, conditions
from cleveragents_plans.persistence.models import PlanProjectModel
from cleveragents_plans.persistence.pages import Order, beyond, in_order
from cleveragents_plans.persistence.parameters import text_of, values_of, word_of
from cleveragents_plans.persistence.queries import plans_query
from cleveragents_plans.persistence.sessions import PLANS, among, on_postgresql

# Written out, so that PostgreSQL and SQLite know that the indexes of just these rows will do.
QUEUED: Final = PLANS.c.processing_state == literal_column(f"'{ProcessingState.QUEUED}'")


class _Scan(NamedTuple):
    """Plans with one value in the first column of an index, whose second one is their id."""

    column: ColumnElement[str]
    value: str
    conditions: Sequence[ColumnElement[bool]]
    plan_id: ColumnElement[str] = PLANS.c.plan_id


def only(postgresql: bool, column: ColumnElement[str], value: str) -> ColumnElement[bool]:
    """
    Say that *column* has *value*, such that it goes on having a part in the order.

    To PostgreSQL a column that equals a value is no part of an order, and the primary key has
    the order of what is left; one that equals ANY of a list is, and the index is left alone with it
    (https://www.postgresql.org/docs/current/indexes-ordering.html).
    """
    return among(True, column, [value]) if postgresql else column == value


def only_word(postgresql: bool, column: ColumnElement[str], word: str) -> ColumnElement[bool]:
    """
    Say what `only` does with one of our own words, written out.

    So PostgreSQL and SQLite know that an index of just the rows that have it will do.
    """
    if postgresql:
        return column == any_(literal_column(f"'{{{word}}}'::text[]", ARRAY(Text)))
    return column == literal_column(f"'{word}'")


def page_query(
    session: Session, filters: Mapping[str, Any], order: Order, after: str | None, limit: int
) -> Select[Any]:
    """
    Select the rows of a page, up to *limit*, as `plans_query` does.

    Raises:
        As `conditions`, and `beyond`.
    """
    postgresql = on_postgresql(session)
    query = plans_query(session)
    scans = _scans(postgresql, filters)
    if after is not None:
        scans = [
            scan._replace(
                conditions=[*scan.conditions, beyond(session, after, order, scan.plan_id)]
            )
            for scan in scans
        ]
    if len(scans) == 1:
        return _ordered(postgresql, query, scans[0], order, limit)
    if scans:
        by_id = PLANS.c.plan_id if order == "oldest" else PLANS.c.plan_id.desc()
        ids = _merged(postgresql, scans, order, limit)
        return query.where(PLANS.c.plan_id.in_(ids)).order_by(by_id)
    wanted = conditions(postgresql, filters)
    if after is not None:
        wanted.append(beyond(session, after, order))
    return query.where(*wanted).order_by(in_order(session, order, filters)).limit(limit)


def any_query(session: Session, filters: Mapping[str, Any]) -> Select[Any]:
    """
    Select the id of one plan that passes *filters*.

    Raises:
        As `conditions`.
    """
    postgresql = on_postgresql(session)
    scans = _scans(postgresql, filters)
    if scans:
        return _merged(postgresql, scans, "oldest", 1)
    return select(PLANS.c.plan_id).where(*conditions(postgresql, filters)).limit(1)


def _scans(postgresql: bool, filters: Mapping[str, Any]) -> list[_Scan]:
    """Find the scans that give all plans that pass; none, where no index has their order."""
    if filters.get("root") is not None or filters.get("parent") is not None:
        return []  # an index has these few; SQLite would go through all that are open
    namespaces = filters.get("namespace")
    if namespaces is not None:
        namespaces = values_of("namespace", namespaces, text_of)
        if len(namespaces) == 1:
            others = conditions(postgresql, {**filters, "namespace": None})
            return [_Scan(PLANS.c.namespace, namespaces[0], others)]
    states = _open_states(filters)
    if not states:
        return _scans_of_project(postgresql, filters)
    rest = {**filters, "processing_state": None, "is_final": None}
    others = [IS_OPEN, *conditions(postgresql, rest)]
    scans = []
    for state in states:
        if state == ProcessingState.QUEUED and filters.get("phase") is not None:
            phases = values_of("phase", filters["phase"], partial(word_of, Phase))
            among_queued = [QUEUED, *conditions(postgresql, {**rest, "phase": None})]
            scans += [_Scan(PLANS.c.phase, each, among_queued) for each in dict.fromkeys(phases)]
        else:
            scans.append(_Scan(PLANS.c.processing_state, state, others))
    return scans


def _scans_of_project(postgresql: bool, filters: Mapping[str, Any]) -> list[_Scan]:
    given = filters.get("project")
    projects = [] if given is None else values_of("project", given, text_of)
    if len(projects) != 1:
        return []
    link, former = (PlanProjectModel.__table__.alias(name) for name in ("link", "former"))
    # A plan may have the project twice, by two aliases.
    twice = exists().where(
        former.c.plan_id == link.c.plan_id,
        former.c.project_name == link.c.project_name,
        former.c.position < link.c.position,
    )
    others = conditions(postgresql, {**filters, "project": None})
    of_link = [PLANS.c.plan_id == link.c.plan_id, ~twice, *others]
    return [_Scan(link.c.project_name, projects[0], of_link, link.c.plan_id)]


def _open_states(filters: Mapping[str, Any]) -> list[str]:
    """List the states that are asked for; none, if they are not all open."""
    if filters.get("is_final"):
        return []
    given = filters.get("processing_state")
    if given is None:
        if filters.get("is_final") is None:
            return []
        return [each for each in ProcessingState if each not in FINAL_STATES]
    states = values_of("processing_state", given, partial(word_of, ProcessingState))
    return list(dict.fromkeys(states)) if FINAL_STATES.isdisjoint(states) else []


def _ordered(
    postgresql: bool,
    query: Select[Any],
    scan: _Scan,
    order: Order,
    limit: int,
) -> Select[Any]:
    by = (scan.column, scan.plan_id)
    wanted = (only(postgresql, scan.column, scan.value), *scan.conditions)
    return (
        query.where(*wanted)
        .order_by(*(by if order == "oldest" else (each.desc() for each in by)))
        # Written out: PostgreSQL expects a tenth of all rows of a LIMIT that is a parameter.
        .limit(literal_column(str(limit), Integer))
    )


def _merged(
    postgresql: bool,
    scans: Sequence[_Scan],
    order: Order,
    limit: int,
) -> Select[Any]:
    """Select the first ids of several scans, each of which stops at the limit."""
    ids = select(PLANS.c.plan_id)
    parts = [_ordered(postgresql, ids, scan, order, limit) for scan in scans]
    if len(parts) == 1:
        return parts[0]
    found = union_all(*(select(part.subquery()) for part in parts)).subquery()
    by_id = found.c.plan_id if order == "oldest" else found.c.plan_id.desc()
    return select(found.c.plan_id).order_by(by_id).limit(literal_column(str(limit), Integer))
