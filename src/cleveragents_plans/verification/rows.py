"""Every plan, read as the library reads it, and a fingerprint of what a migration leaves alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import ColumnElement, Label, case, func, literal, null, select

from cleveragents_plans.domain import SnapshotUnreadable
from cleveragents_plans.domain.errors import shown
from cleveragents_plans.persistence import (
    CorruptPlanRow,
    PlanArgumentModel,
    PlanInvariantModel,
    PlanProjectModel,
)
from cleveragents_plans.persistence.queries import child_columns, children_in, plan_in
from cleveragents_plans.persistence.sessions import PLANS as PLANS_TABLE
from cleveragents_plans.persistence.types import FoundBoolean
from cleveragents_plans.schema.database import Database
from cleveragents_plans.verification.findings import PLANS, Kind, RowFindings

CHILD_TABLES: Final = (
    PlanProjectModel.__tablename__,
    PlanArgumentModel.__tablename__,
    PlanInvariantModel.__tablename__,
)
# What a migration may change.
_CHANGED_BY_MIGRATIONS = ("root_plan_id", "automation_profile", "effective_profile_snapshot")
# What a migration takes for a profile that is missing.
_BLANKS = " \t\n\r\f\v"
# Rows that are fetched at once.
_BATCH = 1000
# Snapshots of so many different profiles are remembered as readable.
_REMEMBERED = 4096


def plan_rows(database: Database, *wanted: ColumnElement[bool]) -> Iterator[Any]:
    """
    Select every plan, or those that are *wanted*, with its child rows, in a stream.

    The columns are those of the newest revision.

    What a revision that is pending adds or fills in reads as it would fill it in, so that a row of
    a former revision can be read.
    """
    present = database.columns(PLANS)
    complete = database.position.is_complete
    columns = [_column(column, present, complete) for column in PLANS_TABLE.c]
    below: list[Any] = [
        child if name in database.position.tables else null().label(child.name)
        for name, child in zip(
            CHILD_TABLES, child_columns(PLANS_TABLE, postgresql=database.on_postgresql), strict=True
        )
    ]
    query = select(*columns, *below).where(*wanted)
    with database.connection.execute(query, execution_options={"yield_per": _BATCH}) as found:
        yield from found


def can_be_read(database: Database) -> bool:
    """Tell whether the tables have what a plan consists of, but for what a revision adds."""
    present = database.columns(PLANS)
    return all(column.name in present | _ADDED.keys() for column in PLANS_TABLE.c)


#: The columns that the revisions after the first one add, with what a plan has without them.
_ADDED: Final[dict[str, Any]] = {
    "execution_environment": None,
    "execution_env_priority": None,
    "effective_profile_snapshot": "{}",
}


def _column(
    column: Any, present: frozenset[str], complete: bool
) -> ColumnElement[Any] | Label[Any]:
    if column.name not in present:
        return literal(_ADDED[column.name], column.type).label(column.name)
    if column.name == "root_plan_id":
        return func.coalesce(column, PLANS_TABLE.c.plan_id).label(column.name)
    if column.name == "automation_profile" and not complete:
        blank = func.trim(func.coalesce(column, ""), _BLANKS) == ""
        return case((blank, "balanced"), else_=column).label(column.name)
    return column  # type: ignore[no-any-return]


def check_rows(
    rows: Iterator[Any], listed: int, fingerprint: Fingerprint | None, tick: Callable[[int], None]
) -> RowFindings:
    """
    Read every plan, and find those that cannot be read.

    Args:
        rows: What `plan_rows` selects.
        listed: How many plans are named for each kind.
        fingerprint: It is told of each row, if there is one.
        tick: It is told how many rows were read, now and then.
    """
    found = RowFindings(listed)
    readable: set[str] = set()
    number = 0
    for number, row in enumerate(rows, 1):
        if fingerprint is not None:
            fingerprint.add(row)
        _read(row, found, readable)
        if number % _BATCH == 0:
            tick(_BATCH)
    tick(number % _BATCH)
    return found


def _read(row: Any, found: RowFindings, readable: set[str]) -> None:
    try:
        plan = plan_in(row)
        snapshot = plan.effective_profile_snapshot
        if snapshot not in readable:
            plan.effective_profile  # noqa: B018  which reads it
            if len(readable) < _REMEMBERED:
                readable.add(snapshot)
    except CorruptPlanRow as corrupt:
        found.add(
            Kind.UNREADABLE,
            corrupt.column,
            row.plan_id,
            f"it holds {shown(corrupt.found)} ({corrupt.reason})",
            "correct it, or restore the row from a backup; `cleveragents-plans show` shows the row",
        )
    except SnapshotUnreadable as unreadable:
        found.add(
            Kind.SNAPSHOT_UNREADABLE,
            f"{PLANS}.effective_profile_snapshot",
            row.plan_id,
            str(unreadable),
            "restore it from a backup; '{}' means that it was not recorded",
        )


class Fingerprint:
    """
    A number that two sets of plans share only if a migration has changed nothing in them.

    It is made of every column of the plans and of their child rows but for those that a migration
    fills in, in any order of the rows; equal rows of both engines have equal ones.
    """

    def __init__(self) -> None:
        self._total = 0
        self._rows = 0

    def add(self, row: Any) -> None:
        """Count a row of `plan_rows` in."""
        values = [_plain(row[place], boolean) for place, boolean in _PLACES]
        written = repr((values, [list(map(tuple, rows)) for rows in children_in(row)]))
        digest = hashlib.blake2b(written.encode(errors="surrogateescape"), digest_size=16).digest()
        # A sum does not depend on the order, in which the engines differ.
        self._total = (self._total + int.from_bytes(digest)) % (1 << 128)
        self._rows += 1

    def __str__(self) -> str:
        whole = hashlib.blake2b(f"{self._rows} {self._total}".encode(), digest_size=16)
        return whole.hexdigest()


_PLACES: Final = [
    (place, isinstance(column.type, FoundBoolean))
    for place, column in enumerate(PLANS_TABLE.c)
    if column.name not in _CHANGED_BY_MIGRATIONS
]


def _plain(value: Any, boolean: bool) -> Any:
    # SQLite has no booleans.
    return bool(value) if boolean and value in (0, 1) else value
