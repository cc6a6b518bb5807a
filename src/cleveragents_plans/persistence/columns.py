"""
How single columns are written and read, where they hold another form than the domain.

What cannot be read raises `Unreadable`; the mapping knows which plan it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from cleveragents_plans.domain import (
    DEFAULT_PROFILE_NAME,
    Arguments,
    AutomationProfileRef,
    Invariant,
    JsonObject,
    Level,
    NotJson,
    ProjectLink,
    canonical_json,
)
from cleveragents_plans.domain.types import Value


def time_text(moment: datetime) -> str:
    """Write *moment* as it is stored: in UTC, of fixed width, so that text order is time order."""
    # Of the class itself: one that is derived from it may write its own form.
    return datetime.isoformat(datetime.astimezone(moment, UTC), timespec="microseconds")


def has_surrogates(text: str) -> bool:
    """Say whether *text* cannot be stored, or was no UTF-8 where it was: it has lone surrogates."""
    return not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text)


def later_than(read: datetime) -> datetime:
    """
    Give the time of a write: now, but later than *read* by a microsecond at least.

    Raises:
        OverflowError: *read* is the last time that there is.
    """
    return max(datetime.now(UTC), read + timedelta(microseconds=1))


_WIDTH = len(time_text(datetime.min.replace(tzinfo=UTC)))


class Unreadable(Exception):
    """
    A column cannot be read.

    Its arguments are the column, what was found and what is wrong with it.
    """


def check_positions(table: str, rows: Sequence[Any]) -> None:
    """Refuse child rows whose positions are no positions."""
    # Their order is what counts; a row may have been taken out.
    for row in rows:
        if type(row.position) is not int or row.position < 0:
            raise Unreadable(f"{table}.position", row.position, "expected an integer from 0")


def read_word(column: str, found: Any) -> Any:
    """Pass on the word that was *found*, for the domain to read."""
    # pydantic takes the bytes of a word, which SQLite can hold, for the word.
    if isinstance(found, bytes):
        raise Unreadable(column, found, "expected text")
    return found


# RFC 3339, but for what is finer than a microsecond: Python would leave that out.
_A_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6}0*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def parsed_time(text: str) -> datetime | None:
    """
    Give the point in time that *text* is, in UTC; None if it is none.

    It may be in any zone that it names, with up to six digits of a second
    (https://www.rfc-editor.org/rfc/rfc3339).
    """
    try:
        return (
            datetime.fromisoformat(text.upper()).astimezone(UTC)
            if _A_TIME.fullmatch(text)
            else None
        )
    except (ValueError, OverflowError):
        return None


def read_time(column: str, text: Any) -> datetime:
    """Read a time, as `time_text` writes it, or in another form of RFC 3339."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is UTC and len(text) == _WIDTH and text[19] == ".":
            return moment
    except (TypeError, ValueError):
        pass
    found = parsed_time(text) if isinstance(text, str) else None
    if found is None:
        expected = "expected a time like 2026-03-14T00:05:32.000000+00:00"
        raise Unreadable(f"v3_plans.{column}", text, expected)
    return found


def texts_json(texts: Sequence[str]) -> str | None:
    """Write *texts* as a JSON array; none at all as NULL."""
    return f"[{','.join(map(canonical_json, texts))}]" if texts else None


def read_texts(column: str, text: Any) -> tuple[str, ...]:
    """Read a JSON array of strings."""
    if text is None:
        return ()
    try:
        # SQLite stores bytes in a column for text, and the JSON parser would take them.
        found = from_json(text) if isinstance(text, str) else None
    except (TypeError, ValueError):  # a TypeError is a text that has no UTF-8 form
        found = None
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return tuple(found)
    raise Unreadable(f"v3_plans.{column}", text, "expected a JSON array of strings, or NULL")


def object_json(value: JsonObject | None) -> str | None:
    """Write a JSON object in its canonical form."""
    return None if value is None else value.canonical


def read_object(column: str, text: Any) -> JsonObject | None:
    """Read a JSON object."""
    if text is None:
        return None
    try:
        return JsonObject.from_text(text)
    except NotJson as error:
        expected = f"expected a JSON object, or NULL: {error}"
        raise Unreadable(f"v3_plans.{column}", text, expected) from error


def read_arguments(rows: Iterable[Any]) -> Arguments:
    """Read the rows of ``plan_arguments``, in their order."""
    pairs = [(row.name, row.value_json) for row in rows]
    if not pairs:
        return _NO_ARGUMENTS
    try:
        return Arguments.from_texts(pairs)
    except NotJson as error:
        column = "name" if error.path == "$" else "value_json"
        found = [getattr(row, column) for row in rows]
        raise Unreadable(f"plan_arguments.{column}", found, str(error)) from error


_Child = TypeVar("_Child", bound=Value)


def read_link(project_name: Any, alias: Any, read_only: Any) -> ProjectLink:
    """Read a row of ``plan_projects``."""
    return _shared(ProjectLink, project_name, alias, read_only)


def read_invariant(text: Any, source: Any) -> Invariant:
    """Read a row of ``plan_invariants``."""
    return _shared(Invariant, text, read_word("plan_invariants.source", source))


def _shared(kind: type[_Child], *values: Any) -> _Child:
    found: _Child
    try:
        found = _child(kind, *values)
    except TypeError:
        # A list stands for what is no text.
        found = _child.__wrapped__(kind, *values)
    return found


_TABLES: dict[type[Value], str] = {ProjectLink: "plan_projects", Invariant: "plan_invariants"}


# A child inherits the projects and invariants of its parent: few are shared by many plans, and each
# is three objects for Python's garbage collector, which takes half of the time of a long listing.
@lru_cache(maxsize=2048, typed=True)
def _child(kind: type[_Child], *values: Any) -> _Child:
    try:
        return kind(**dict(zip(kind.model_fields, values, strict=True)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        column = f"{_TABLES[kind]}.{first['loc'][0]}"
        raise Unreadable(column, first["input"], first["msg"]) from error


_NO_ARGUMENTS = Arguments()


@lru_cache(maxsize=4096)
def profile_text(profile_name: str, provenance: Level | None) -> str:
    """Write which profile a plan has: as an object, but the default as a bare word."""
    if provenance is None and profile_name == DEFAULT_PROFILE_NAME:
        return profile_name
    return canonical_json({"profile_name": profile_name, "provenance": provenance})


@lru_cache(maxsize=4096)
def read_profile(text: Any) -> AutomationProfileRef:
    """Read which profile a plan has: an object, a bare name, or a JSON string."""
    expected = (
        'expected a JSON object like {"profile_name": "trusted", "provenance": "plan"}, or a name'
    )
    try:
        found = _json_or_bare_name(text) if isinstance(text, str) else None
        if isinstance(found, dict) and "profile_name" in found:
            return AutomationProfileRef(**found)
        if isinstance(found, str):
            return AutomationProfileRef(profile_name=found)
    except (TypeError, ValueError) as error:
        raise Unreadable("v3_plans.automation_profile", text, expected) from error
    raise Unreadable("v3_plans.automation_profile", text, expected)


def _json_or_bare_name(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        # What begins like JSON, or is blank, is a broken value and no name.
        if text.strip() != text or text[:1] in ("", "{", "[", '"'):
            raise
        return text
