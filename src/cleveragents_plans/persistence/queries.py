"""
Plans out of rows: one statement, however many plans.

It reads the rows of ``v3_plans``, each with its child rows as JSON. So a plan is read as it was
at one moment, in any isolation level: on PostgreSQL each statement sees one state of the database
(https://www.postgresql.org/docs/current/transaction-iso.html).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

from pydantic_core import from_json
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Label,
    Row,
    Select,
    Text,
    any_,
    bindparam,
    case,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable

from cleveragents_plans.domain import Plan
from cleveragents_plans.persistence.errors import CorruptPlanRow, PlanNotFound
from cleveragents_plans.persistence.mapping import ChildRows, read_plan
from cleveragents_plans.persistence.models import (
    PlanArgumentModel,
    PlanInvariantModel,
    PlanProjectModel,
)
from cleveragents_plans.persistence.sessions import PLANS, connection_of, execute, on_postgresql

#: What to do with a row that cannot be read: raise the error; leave the row out; write the error
#: to the log of ``cleveragents_plans`` and leave the row out; call a function with it.
OnCorrupt = Literal["raise", "skip", "log"] | Callable[[CorruptPlanRow], object]

_LOG: Final = logging.getLogger("cleveragents_plans")

CHILDREN: Final = (
    PlanProjectModel.__table__,
    PlanArgumentModel.__table__,
    PlanInvariantModel.__table__,
)


class _Project(NamedTuple):
    position: Any
    project_name: Any
    alias: Any
    read_only: Any


class _Argument(NamedTuple):
    position: Any
    name: Any
    value_json: Any


class _Invariant(NamedTuple):
    position: Any
    text: Any
    source: Any


def _project(position: Any, project_name: Any, alias: Any, read_only: Any) -> _Project:
    # SQLite has no booleans.
    flag = bool(read_only) if read_only in (0, 1) else read_only
    return _Project(position, project_name, alias, flag)


_ROWS: Final[tuple[Any, ...]] = (_Project, _Argument, _Invariant)
_MAKERS: Final[tuple[Callable[..., Any], ...]] = (_project, _Argument, _Invariant)


def plans_query(session: Session) -> Select[Any]:
    """Select the rows of ``v3_plans``, each with its child rows."""
    return _ON_POSTGRESQL if on_postgresql(session) else _ON_SQLITE


def child_columns(plans: FromClause, *, postgresql: bool) -> list[Label[Any]]:
    """Select the child rows of *plans*, as a JSON text for each child table; NULL or [] if none."""
    return [
        _rows_as_json(plans, table.alias("held"), names._fields, postgresql=postgresql).label(label)
        for table, names, label in zip(CHILDREN, _ROWS, ChildRows._fields, strict=True)
    ]


def _rows_as_json(
    plans: FromClause, table: FromClause, names: tuple[str, ...], *, postgresql: bool
) -> Any:
    columns = [table.c[name] for name in names]
    of_plan = table.c.plan_id == plans.c.plan_id
    rows: ColumnElement[Any]
    if postgresql:
        row = func.json_build_array(*columns)
        rows = func.json_agg(aggregate_order_by(row, table.c.position)).cast(Text)
    else:
        rows = func.json_group_array(func.json_array(*map(_json_value, columns)))
    return select(rows).where(of_plan).correlate(plans).scalar_subquery()


def _json_value(column: ColumnElement[Any]) -> ColumnElement[Any]:
    # SQLite stores any value in any column, and JSON has no blob and no infinity: those are
    # written as SQL does, within a list of their own.
    other = func.typeof(column).in_((literal_column("'blob'"), literal_column("'real'")))
    return case((other, func.json_array(func.quote(column))), else_=column)


_ON_POSTGRESQL: Final = select(*PLANS.c, *child_columns(PLANS, postgresql=True))
_ON_SQLITE: Final = select(*PLANS.c, *child_columns(PLANS, postgresql=False))

# SQLAlchemy knows a statement again that is the same object, and need not go through it.
_THIS: Final = PLANS.c.plan_id == bindparam("plan_id", type_=PLANS.c.plan_id.type)
_ONE_ON_POSTGRESQL: Final = _ON_POSTGRESQL.where(_THIS)
_ONE_ON_SQLITE: Final = _ON_SQLITE.where(_THIS)
_MANY_ON_POSTGRESQL: Final = _ON_POSTGRESQL.where(
    PLANS.c.plan_id == any_(bindparam("ids", type_=ARRAY(Text)))
).order_by(PLANS.c.plan_id)
_IDS: Final = func.json_each(bindparam("ids", type_=Text)).table_valued("value")
_MANY_ON_SQLITE: Final = _ON_SQLITE.where(PLANS.c.plan_id.in_(select(_IDS.c.value))).order_by(
    PLANS.c.plan_id
)


def rows_of(session: Session, query: Executable, **parameters: Any) -> Sequence[Row[Any]]:
    """Run *query* for rows of ``v3_plans``, after what the session has not sent yet."""
    if session.autoflush:
        session.flush()
    try:
        return execute(session, query, **parameters).all()
    except OperationalError as error:
        if "decode to UTF-8" not in str(error.orig):
            raise
    # One such text would hide all rows. Read again, as lone surrogates: no plan can hold those.
    driver: Any = connection_of(session).connection.driver_connection
    former, driver.text_factory = driver.text_factory, _escaped
    try:
        return execute(session, query, **parameters).all()
    finally:
        driver.text_factory = former


def _escaped(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def row_of(session: Session, plan_id: str) -> Row[Any] | None:
    """Read the row of the plan that has just this id."""
    query = _ONE_ON_POSTGRESQL if on_postgresql(session) else _ONE_ON_SQLITE
    rows = rows_of(session, query, plan_id=plan_id)
    return rows[0] if rows else None


def rows_among(session: Session, plan_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Read the rows of the plans that have these ids, in the order of the ids."""
    if on_postgresql(session):
        return rows_of(session, _MANY_ON_POSTGRESQL, ids=list(plan_ids))
    return rows_of(session, _MANY_ON_SQLITE, ids=json.dumps(plan_ids))


def one(session: Session, plan_id: str) -> Plan:
    """
    Read the plan that has just this id.

    Raises:
        PlanNotFound: There is none.
        CorruptPlanRow: Its row cannot be read.
    """
    row = row_of(session, plan_id)
    if row is None:
        raise PlanNotFound(plan_id)
    return plan_in(row)


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


def rows_above(session: Session, wanted: str, query: Select[Any]) -> Sequence[Any]:
    """
    Read the rows of a plan's ancestors by *query*, its parent first.

    Raises:
        PlanNotFound: There is no such plan.
    """
    up = (
        select(PLANS.c.plan_id, PLANS.c.parent_plan_id)
        .where(PLANS.c.plan_id == wanted)
        .cte("up", recursive=True)
    )
    above = PLANS.alias("above")
    # UNION drops what it has seen: rows that are their own ancestors, which only foreign
    # SQL can write, end here, and are listed once below.
    up = up.union(
        select(above.c.plan_id, above.c.parent_plan_id).where(
            above.c.plan_id == up.c.parent_plan_id
        )
    )
    found = rows_of(session, query.join(up, PLANS.c.plan_id == up.c.plan_id))
    by_id = {row.plan_id: row for row in found}
    at = by_id.pop(wanted, None)
    if at is None:
        raise PlanNotFound(wanted)
    rows = []
    while at := by_id.pop(at.parent_plan_id, None):
        rows.append(at)
    return rows


def plan_in(row: Any) -> Plan:
    """
    Read a row that `plans_query` selects.

    Raises:
        CorruptPlanRow: It cannot be read.
    """
    plan = read_plan(row, *children_in(row))
    # So that a save knows what is stored, and need not ask.
    object.__setattr__(plan, "_row", row)
    return plan


def children_in(row: Any) -> list[list[Any]]:
    """Read the child rows in a row that `plans_query` selects, in the order of their positions."""
    texts = (row.projects, row.arguments, row.invariants)
    return [_read_rows(make, text) for make, text in zip(_MAKERS, texts, strict=True)]


def _read_rows(make: Callable[..., Any], text: str | None) -> list[Any]:
    if text is None or text == "[]":
        return []
    try:
        found = from_json(text)
    except (TypeError, ValueError):
        found = json.loads(text)  # with lone surrogates
    rows = [make(*map(_found, row)) for row in found]
    if len(rows) > 1 and all(type(row.position) is int for row in rows):
        rows.sort(key=_POSITION)  # SQLite promises no order
    return rows


def _found(value: Any) -> Any:
    if type(value) is not list:
        return value
    (quoted,) = value  # see `_json_value`
    return bytes.fromhex(quoted[2:-1]) if quoted[:2] == "X'" else float(quoted)


_POSITION: Final = attrgetter("position")


def plans(rows: Sequence[Any], on_corrupt: OnCorrupt = "raise") -> Iterator[Plan]:
    """
    Read rows that `plans_query` selects.

    Raises:
        CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
    """
    for row in rows:
        try:
            yield plan_in(row)
        except CorruptPlanRow as corrupt:
            report(corrupt, on_corrupt)


def report(corrupt: CorruptPlanRow, on_corrupt: OnCorrupt) -> None:
    """Do with a row that cannot be read what *on_corrupt* says."""
    if on_corrupt == "raise":
        raise corrupt
    if on_corrupt == "log":
        _LOG.error("%s", corrupt)
    elif on_corrupt != "skip":
        on_corrupt(corrupt)
