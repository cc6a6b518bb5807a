"""
What callers give the repository, checked before anything is sent.

A driver would refuse it in its own words, and PostgreSQL would abort the transaction. Each
function raises `InvalidType` for another type and `InvalidValue` for another value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import is_
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
MAX_LIMIT: Final = 2**31 - 2
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")

_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=StrEnum)


def text_of(name: str, value: Any) -> str:
    """Check text that is looked for."""
    if not isinstance(value, str):
        raise InvalidType(name, shown(value), "text")
    if "\0" in value or has_surrogates(value):
        raise InvalidValue(name, shown(value), "text without NUL and surrogates")
    return value


def plan_id_of(name: str, value: Any) -> str:
    """Check the id of a plan that may be stored; lower case is accepted, upper case kept."""
    if not isinstance(value, str):
        raise InvalidType(name, shown(value), "the id of a plan, as text")
    text = text_of(name, value)
    # What is no id is shown as it was given.
    return text.upper() if _ULID.fullmatch(text.upper()) else text


def ulid_of(name: str, value: Any) -> str:
    """Check an id that is looked for; lower case is accepted, upper case kept."""
    plan_id = plan_id_of(name, value)
    if not _ULID.fullmatch(plan_id):
        raise InvalidValue(name, shown(value), "a ULID: 26 characters of Crockford base 32")
    return plan_id


def values_of(name: str, value: Any, check: Callable[[str, Any], _T]) -> list[_T]:
    """Check one value, or a collection of several."""
    if isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping)):
        return [check(name, each) for each in value]
    return [check(name, value)]


def plan_of(value: Any) -> Plan:
    """
    Check that *value* is a plan.

    One that was built without validation is checked once more, with all that it consists of. What
    the repository read, and its verbs and edits, were checked on the way.

    Raises:
        InvalidFields: It is not valid.
    """
    if not isinstance(value, Plan):
        raise InvalidType("plan", shown(value), "a Plan")
    first = value._first
    if hasattr(first, "_row") and _has_parts_of(value, first):
        return value
    with report_invalid_fields():
        checked = type(value).model_validate(_fields(value))
    if first is not value:
        object.__setattr__(checked, "_origin", first)
    return checked


def _has_parts_of(plan: Plan, first: Plan) -> bool:
    # An edit takes links and invariants as they are, even those that were built without validation.
    pairs = ((plan.project_links, first.project_links), (plan.invariants, first.invariants))
    return all(len(new) == len(old) and all(map(is_, new, old)) for new, old in pairs)


def _fields(value: Any) -> Any:
    # Not model_dump, which serializes, and breaks at what no serializer was made for.
    if isinstance(value, BaseModel):
        return {name: _fields(inner) for name, inner in value}
    if type(value) is tuple:
        return tuple(map(_fields, value))
    return value


def word_of(words: type[_Word], name: str, value: Any) -> str:
    """Check one of a few words; give it as it is stored."""
    try:
        return words(value).value
    except ValueError:
        expected = f"one of {', '.join(words)}"
        raise InvalidValue(name, shown(value), expected) from None


def flag_of(name: str, value: Any) -> bool:
    """Check a flag."""
    if not isinstance(value, bool):
        raise InvalidType(name, shown(value), "True or False")
    return value


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


def time_ago_of(name: str, value: Any) -> str:
    """Check a duration, from 0; give the time that is so long ago, as it is stored."""
    expected = "a timedelta from 0 to 2000 years"
    if not isinstance(value, timedelta):
        raise InvalidType(name, shown(value), expected)
    if not timedelta() <= value <= timedelta(days=365 * 2000):
        raise InvalidValue(name, str(value), expected)
    return time_text(datetime.now(UTC) - value)


def number_of(name: str, value: Any, most: int = MAX_LIMIT) -> int:
    """Check a whole number from 1."""
    expected = f"a whole number from 1 to {most}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidType(name, shown(value), expected)
    if not 1 <= value <= most:
        raise InvalidValue(name, shown(value), expected)
    return value


def choice_of(name: str, value: Any, choices: Collection[str]) -> None:
    """Check one of a few options."""
    if value not in choices:
        expected = " or ".join(map(repr, choices))
        raise InvalidValue(name, shown(value), expected)


def check_on_corrupt(value: Any) -> None:
    """Check what is to be done with a row that cannot be read."""
    if value not in ("raise", "skip", "log") and not callable(value):
        raise InvalidValue("on_corrupt", shown(value), "'raise', 'skip', 'log' or a function")
