"""Pages of a listing, and the cursors that lead from one page to the next (keyset pagination)."""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Self
from zlib import crc32

from sqlalchemy import ColumnElement, LargeBinary, Text, cast, func, literal, select
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Plan
from cleveragents_plans.domain.errors import InvalidType, InvalidValue, shown
from cleveragents_plans.persistence.columns import has_surrogates
from cleveragents_plans.persistence.filters import conditions
from cleveragents_plans.persistence.parameters import check_on_corrupt, choice_of
from cleveragents_plans.persistence.sessions import (
    PLANS,
    connection_of,
    execute,
    on_postgresql,
    without_index,
)

#: The order of a listing, by the plans' ids.
Order = Literal["oldest", "newest"]
ORDERS: Final[tuple[Order, ...]] = ("oldest", "newest")

_TEXT, _BLOB = b"t", b"b"

#: Fewer plans than this SQLite sorts, rather than go through the table in the order of the ids.
_FEW: Final = 1000


class Page(tuple[Plan, ...]):
    """A part of a listing: a tuple of plans, with the cursor of the next part."""

    #: Opaque text that fits into a URL, to be given as *after*; None on the last page.
    next_cursor: str | None

    def __new__(cls, plans: Iterable[Plan] = (), next_cursor: str | None = None) -> Self:
        """Make a page of *plans*."""
        page = super().__new__(cls, plans)
        page.next_cursor = next_cursor
        return page

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.next_cursor

    def __repr__(self) -> str:
        return f"<Page of {len(self)} plans, next_cursor={self.next_cursor!r}>"


def check_listing(
    session: Session, order: Any, on_corrupt: Any, filters: Mapping[str, Any]
) -> None:
    """
    Check the arguments of a listing. Nothing is sent to the database.

    Raises:
        InvalidType, InvalidValue, UnknownFilter: An argument or a filter cannot be used.
    """
    check_on_corrupt(on_corrupt)
    choice_of("order", order, ORDERS)
    conditions(on_postgresql(session), filters)


def cursor_of(plan_id: str | bytes, order: Order) -> str:
    """
    Write the cursor of a page that ends with *plan_id*.

    A row that cannot be read may end a page, too: on SQLite its id can be bytes, or text that is
    no UTF-8 (with lone surrogates, as `rows_of` reads it), and in SQL_ASCII such text.
    """
    kind = _BLOB if isinstance(plan_id, bytes) else _TEXT
    held = order[:1].encode() + kind + _bytes_of(plan_id)
    # A cursor that was cut or mistyped would lead to other plans without a word.
    check = crc32(held).to_bytes(4)
    return urlsafe_b64encode(check + held).decode().rstrip("=")


def beyond(session: Session, cursor: Any, order: Order, plan_id: Any = PLANS.c.plan_id) -> Any:
    """
    Say in SQL that a plan comes after the page that has *cursor*, by a column that has its id.

    Raises:
        InvalidType: It is no text.
        InvalidValue: It is not the cursor of a page in this *order*.
    """
    after = stored_id(session, _id_in(cursor, order))
    return plan_id > after if order == "oldest" else plan_id < after


def in_order(session: Session, order: Order, filters: Mapping[str, Any]) -> ColumnElement[Any]:
    """
    Order plans by their ids.

    SQLite does not know how few plans were created in a time, and would look for them in the order
    of the ids, through the whole table: so they are counted, as far as a thousand, in the index.
    """
    by_id: ColumnElement[Any] = PLANS.c.plan_id
    times = {name: filters.get(name) for name in ("created_from", "created_before")}
    if any(times.values()) and not on_postgresql(session):
        some = select(PLANS.c.created_at).where(*conditions(False, times)).limit(_FEW)
        if execute(session, select(func.count()).select_from(some.subquery())).scalar_one() < _FEW:
            by_id = without_index(by_id)
    return by_id if order == "oldest" else by_id.desc()


def stored_id(session: Session, plan_id: str | bytes) -> Any:
    """Write an id in SQL as it is stored, even one that no driver sends as text."""
    if isinstance(plan_id, str) and "\0" not in plan_id and not has_surrogates(plan_id):
        return plan_id
    if on_postgresql(session):
        if isinstance(plan_id, str) and "\0" not in plan_id and _holds_any_bytes(session):
            return plan_id
        raise InvalidValue("after", shown(plan_id), "a cursor of this database")
    if isinstance(plan_id, bytes):
        return literal(plan_id, LargeBinary)
    return cast(literal(_bytes_of(plan_id), LargeBinary), Text)


def _holds_any_bytes(session: Session) -> bool:
    driver: Any = connection_of(session).connection.driver_connection
    return bool(driver.info.parameter_status("server_encoding") == "SQL_ASCII")


def _id_in(cursor: Any, order: Order) -> str | bytes:
    expected = f"the next_cursor of a page in the order {order!r}"
    if not isinstance(cursor, str):
        raise InvalidType("after", shown(cursor), expected)
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        held = b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        held = b""
    kind, found = held[5:6], held[6:]
    plan_id = found if kind == _BLOB else found.decode(errors="surrogateescape")
    # Each page has one cursor: what is written otherwise was not made here.
    if kind not in (_TEXT, _BLOB) or cursor_of(plan_id, order) != cursor:
        raise InvalidValue("after", shown(cursor), expected)
    return plan_id


def _bytes_of(plan_id: str | bytes) -> bytes:
    if isinstance(plan_id, bytes):
        return plan_id
    return plan_id.encode(errors="surrogateescape")
