"""Column types that pass on what they find, so that a corrupt row is seen and not mended."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Dialect, Double, Text
from sqlalchemy.dialects.sqlite import REAL
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from cleveragents_plans.domain.errors import InvalidValue, shown
from cleveragents_plans.persistence.columns import parsed_time, time_text

#: A double on both engines; SQLite spells it REAL.
REAL_NUMBER: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")


class FoundBoolean(TypeDecorator[bool]):
    """
    A BOOLEAN that is read as it is found.

    SQLite stores booleans as 0 and 1 and takes any other value as well; SQLAlchemy's own
    type reads all of those as true.
    """

    impl: Any = Boolean
    cache_ok: bool | None = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Read 0 and 1 as booleans, and anything else as what it is."""
        if dialect.supports_native_boolean:
            return None
        return lambda found: bool(found) if found in (0, 1) else found


_ORDER = {operator.lt, operator.le, operator.gt, operator.ge, operators.between_op}
_ORDER.add(operators.not_between_op)


class TimeText(TypeDecorator[str]):
    """
    A TEXT that holds a time in UTC, in fixed width, so that text order is time order.

    It is read as the text that is found. A ``datetime`` is written, and compared, as that text;
    a text that is a time in any zone is so too where order counts. ``==`` compares a text as it is.
    """

    impl: Any = Text
    cache_ok: bool | None = True

    class comparator_factory(TypeDecorator.Comparator[str]):  # noqa: N801  SQLAlchemy's own name
        """Compares times, whatever their zone."""

        def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
            """Compare, with times on the other side written as they are stored."""
            return super().operate(op, *(_comparable(op, each) for each in other), **kwargs)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Write a datetime as text."""
        return as_stored(value)

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        """Treat what the column is compared with as a time, too."""
        return self


def as_stored(value: Any) -> Any:
    """
    Write a datetime as it is stored; pass on anything else.

    Raises:
        InvalidValue: It has no zone.
    """
    if not isinstance(value, datetime):
        return value
    if value.utcoffset() is None:
        raise InvalidValue("the time", str(value), "a time zone, as in tzinfo=UTC")
    return time_text(value)


def _comparable(op: Any, value: Any) -> Any:
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_comparable(op, each) for each in value]
    if op not in _ORDER or not isinstance(value, str):
        return as_stored(value)
    moment = parsed_time(value)
    if moment is None:
        expected = "a datetime, or text like 2026-03-14T00:05:32+00:00"
        raise InvalidValue("the time", shown(value), expected)
    return time_text(moment)


class NextVersion(ColumnElement[str]):
    """
    The ``updated_at`` of a write in SQL: now, but a microsecond later than it was at least.

    It is NULL, which the column refuses, where there is no later time.
    """

    inherit_cache: bool | None = True
    type: TypeEngine[str] = Text()


# Without a cast of what is there but where it has to be counted up: a row that is no time must not
# end the UPDATE of all others. The clock is read twice, which is all the same.
_NEXT_VERSION = """\
CASE WHEN v3_plans.updated_at >= '9999-12-31T23:59:59.999999+00:00' THEN NULL
 WHEN v3_plans.updated_at < {now} THEN {now}
 ELSE {counted_up} END"""
_NOW_ON_SQLITE = "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"
_UP_ON_SQLITE = """\
CASE substr(v3_plans.updated_at, 21, 6) WHEN '999999'
 THEN strftime('%Y-%m-%dT%H:%M:%S.000000+00:00', substr(v3_plans.updated_at, 1, 19), '+1 second')
 ELSE substr(v3_plans.updated_at, 1, 20)
  || printf('%06d', substr(v3_plans.updated_at, 21, 6) + 1) || '+00:00' END"""
_AS_TEXT_ON_POSTGRESQL = (
    "pg_catalog.to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
)
_NOW_ON_POSTGRESQL = _AS_TEXT_ON_POSTGRESQL.format("pg_catalog.clock_timestamp()")
_UP_ON_POSTGRESQL = _AS_TEXT_ON_POSTGRESQL.format(
    "(v3_plans.updated_at::timestamptz + interval '1 microsecond')"
)


@compiles(NextVersion, "sqlite")
def _on_sqlite(_element: NextVersion, compiler: SQLCompiler, **_kw: Any) -> str:
    sql = _NEXT_VERSION.format(now=_NOW_ON_SQLITE, counted_up=_UP_ON_SQLITE)
    return sql.replace("%", "%%") if compiler.preparer._double_percents else sql


@compiles(NextVersion, "postgresql")
def _on_postgresql(_element: NextVersion, _compiler: SQLCompiler, **_kw: Any) -> str:
    return _NEXT_VERSION.format(now=_NOW_ON_POSTGRESQL, counted_up=_UP_ON_POSTGRESQL)
