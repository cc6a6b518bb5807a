"""
What callers give the repository, checked before anything is sent.

A driver would refuse it in its own words, and PostgreSQL would give the transaction up. Each
function raises `InvalidType` for another type and `InvalidValue` for another value.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from cleveragents_plans.domain import Plan
from cleveragents_plans.domain.errors import (
    InvalidType,
    InvalidValue,
    report_invalid_fields,
    shown,
)
from cleveragents_plans.persistence.columns import has_surrogates, time_text

#: One less than what fits 32 bits: a listing looks for one plan more.
_MAX_LIMIT: Final = 2**31 - 2

_Word = TypeVar("_Word", bound=StrEnum)


def text_of(name: str, value: Any) -> str:
    """Check text that is looked for."""
    if not isinstance(value, str):
        raise InvalidType(name, shown(value), "text")
    if "\0" in value or has_surrogates(value):
        raise InvalidValue(name, shown(value), "text without NUL and surrogates")
    return value


def plan_id_of(name: str, value: Any) -> str:
    """Check the id of a plan; lower case is accepted, upper case kept."""
    if not isinstance(value, str):
        raise InvalidType(name, shown(value), "the id of a plan, as text")
    return text_of(name, value).upper()


def plan_of(value: Any) -> Plan:
    """
    Check that *value* is a plan.

    One that was built without validation is checked once more, with all that it consists of.

    Raises:
        InvalidFields: It is not valid.
    """
    if not isinstance(value, Plan):
        raise InvalidType("plan", shown(value), "a Plan")
    with report_invalid_fields():
        return type(value).model_validate(_fields(value))


def _fields(value: Any) -> Any:
    # Not model_dump, which serializes, and breaks at what no serializer was made for.
    if isinstance(value, BaseModel):
        return {name: _fields(inner) for name, inner in value}
    if type(value) is tuple:
        return tuple(map(_fields, value))
    return value


def word_of(name: str, words: type[_Word], value: Any) -> _Word:
    """Check one of a few words."""
    try:
        return words(value)
    except ValueError:
        raise InvalidValue(name, shown(value), f"one of {', '.join(words)}") from None


def time_of(name: str, value: Any) -> str:
    """Check a point in time; give it as it is stored."""
    if not isinstance(value, datetime):
        raise InvalidType(name, shown(value), "a datetime with a time zone")
    if value.utcoffset() is None:
        raise InvalidValue(name, str(value), "a time zone, as in tzinfo=UTC")
    try:
        return time_text(value)
    except OverflowError:
        expected = "a time that is between the years 1 and 9999 in UTC"
        raise InvalidValue(name, str(value), expected) from None


def limit_of(value: Any) -> int:
    """Check how many plans a page has at most."""
    expected = f"a whole number from 1 to {_MAX_LIMIT}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidType("limit", shown(value), expected)
    if not 1 <= value <= _MAX_LIMIT:
        raise InvalidValue("limit", shown(value), expected)
    return value


def check_on_corrupt(value: Any) -> None:
    """Check what is to be done with a row that cannot be read."""
    if value not in ("raise", "skip") and not callable(value):
        raise InvalidValue("on_corrupt", shown(value), "'raise', 'skip' or a function")
