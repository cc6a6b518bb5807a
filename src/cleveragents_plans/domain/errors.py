"""
What can go wrong with a plan, in words for those who have to act on it.

Each error carries its facts as attributes, and survives `pickle` and `copy`, so that it can
cross from one process to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from cleveragents_plans.domain.enums import Level, Phase, ProcessingState

# Stops within what is deep, long or refers to itself; a plain repr does not.
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 3
_SHORT.fillvalue = "…"


def shown(value: object) -> str:
    """Write *value* for a message: in one line, not too long, whatever it is."""
    try:
        text = _SHORT.repr(value)
    except Exception:
        # Python writes no integer of more than 4300 digits, and a class can have any repr.
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 160 else f"{text[:160]}…"


def _bare(text: str) -> str:
    """Write *text* for a message as it is, if it is short and in one line."""
    return text if len(text) <= 160 and text.isprintable() else shown(text)


class PlansError(Exception):
    """
    The base of every error that the library raises for what it was given or what it found.

    Where Python users expect a ``TypeError``, ``ValueError`` or ``LookupError``, it is one of
    those besides. Only pydantic's own entry points, as ``Plan(…)`` and ``Plan.model_validate``,
    raise pydantic's own error.
    """

    #: What a web service answers with; from 500 on the message is for its operator.
    http_status: ClassVar[int] = 500

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way calls the class with `args`, which are not what it was made of.
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[PlansError], args: tuple[Any, ...], facts: dict[str, Any]) -> PlansError:
    error = kind.__new__(kind, *args)
    vars(error).update(facts)
    return error


@dataclass(eq=False)
class InvalidArgument(PlansError):
    """An argument cannot be used; it is an `InvalidType` or an `InvalidValue`."""

    http_status: ClassVar[int] = 422

    #: What is wrong, as the caller knows it.
    name: str
    #: What was given, as text.
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.name} is {self.found}; expected {self.expected}"


class InvalidType(InvalidArgument, TypeError):
    """An argument has a type that cannot be used."""


class InvalidValue(InvalidArgument, ValueError):
    """An argument has the right type, and a value that cannot be used."""


@dataclass(eq=False)
class InvalidFields(PlansError, ValueError):
    """Fields do not make a valid plan, or another value of the domain."""

    http_status: ClassVar[int] = 422

    #: What they do not make, as ``Plan``.
    model: str
    #: One mapping for each problem, with pydantic's ``type``, ``loc`` and ``msg``.
    errors: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"no valid {self.model}: {in_one_line(self.errors)}"

    @classmethod
    def of(cls, error: ValidationError) -> Self:
        """Take what pydantic says, without the values: they can be anything."""
        return cls(error.title, problems_of(error))


@contextmanager
def report_invalid_fields() -> Iterator[None]:
    """
    Turn what pydantic refuses into one line.

    Raises:
        InvalidFields: pydantic refused a value.
    """
    try:
        yield
    except ValidationError as error:
        raise InvalidFields.of(error) from error


def problems_of(error: ValidationError) -> list[dict[str, Any]]:
    """List what pydantic says, without the values."""
    found = [dict(it) for it in error.errors(include_url=False, include_context=False)]
    inputs = {each["loc"]: each.pop("input") for each in found}
    # The action has the plan's own name where none was given.
    same = inputs.get(("action_name",)) is inputs.get(("namespaced_name",), inputs)
    return [each for each in found if not (same and each["loc"] == ("action_name",))]


def in_one_line(problems: list[dict[str, Any]]) -> str:
    """Write what is wrong, field by field, cut to a few hundred characters."""
    text = "; ".join(
        ": ".join(filter(None, (".".join(map(_part, each["loc"])), each["msg"])))
        for each in problems
    )
    return text if len(text) <= 400 else f"{text[:400]}…"


def _part(part: int | str) -> str:
    # A file or a row can have any text for the name of a field.
    return part if isinstance(part, str) and part.isidentifier() else shown(part)


@dataclass(eq=False)
class NotJson(PlansError, ValueError):
    """A value cannot be kept as JSON."""

    http_status: ClassVar[int] = 422

    #: Where in it; `$` is the whole.
    path: str
    found: str
    expected: str

    def __str__(self) -> str:
        # A key of the value can be any text.
        return f"not JSON at {_bare(self.path)}: found {self.found}, expected {self.expected}"


@dataclass(eq=False)
class StepNotAllowed(PlansError):
    """A plan was asked for a step that it cannot take where it stands."""

    http_status: ClassVar[int] = 409

    plan_id: str
    phase: Phase
    processing_state: ProcessingState
    wanted: str
    #: The steps that it can take.
    allowed: tuple[str, ...]
    reason: str | None = None

    def __str__(self) -> str:
        standing = f"a plan that is {self.processing_state} in the {self.phase} phase"
        why = f" ({self.reason})" if self.reason else ""
        instead = ", ".join(self.allowed) if self.allowed else "nothing, this state is final"
        return f"{standing} cannot {self.wanted}{why}; allowed here: {instead} [{self.plan_id}]"


@dataclass(eq=False)
class ChangeNotAllowed(PlansError):
    """A plan was to be saved that no verbs and edits make out of the stored one."""

    http_status: ClassVar[int] = 409

    plan_id: str
    reason: str

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} cannot be saved like this: {self.reason}; read it again and use"
            " its verbs, or save(plan, unchecked=True)"
        )


@dataclass(eq=False)
class NotEditable(PlansError):
    """`edit` was given fields that only a verb changes, or that never change."""

    http_status: ClassVar[int] = 422

    fields: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"a plan's {', '.join(self.fields)} cannot be edited: where it stands changes by"
            " its verbs (begin, advance, …), and what it is does not change"
        )


@dataclass(eq=False)
class SnapshotIsFrozen(PlansError, AttributeError):
    """The profile that a plan was created under was to be changed."""

    http_status: ClassVar[int] = 409

    plan_id: str

    def __str__(self) -> str:
        return (
            f"effective_profile_snapshot of plan {self.plan_id} is frozen: it says what the"
            " profile was when the plan was created; spawn or create a plan for another one"
        )


@dataclass(eq=False)
class SnapshotUnreadable(PlansError, ValueError):
    """A snapshot is text, but describes no profile."""

    http_status: ClassVar[int] = 409

    snapshot: str
    reason: str
    #: None if it is not yet that of a plan.
    plan_id: str | None = None

    def __str__(self) -> str:
        whose = f" of plan {self.plan_id}" if self.plan_id else ""
        return (
            f"effective_profile_snapshot{whose} describes no automation profile: {self.reason};"
            f" found {shown(self.snapshot)}"
        )


@dataclass(eq=False)
class UnknownProfile(PlansError, LookupError):
    """A profile was named that is neither built in nor known besides."""

    http_status: ClassVar[int] = 422

    name: str
    known: tuple[str, ...]
    #: The level that names it.
    level: Level | None = None

    @property
    def nearest(self) -> str | None:
        """A guess at what was meant."""
        matches = get_close_matches(self.name.lower(), self.known, n=1)
        return matches[0] if matches else None

    def __str__(self) -> str:
        where = f", named by the {self.level} level" if self.level else ""
        guess = f"; did you mean {self.nearest!r}?" if self.nearest else ";"
        known = ", ".join(self.known)
        return f"unknown automation profile {shown(self.name)}{where}{guess} known: {known}"


@dataclass(eq=False)
class ProfileNameTaken(PlansError, ValueError):
    """A custom profile has the name of a built-in one."""

    http_status: ClassVar[int] = 422

    name: str

    def __str__(self) -> str:
        return f"{self.name!r} is a built-in automation profile: give yours another name"


@dataclass(eq=False)
class BadProfileFile(PlansError, ValueError):
    """A file of profiles cannot be read."""

    http_status: ClassVar[int] = 422

    path: str
    #: What to correct.
    reason: str

    def __str__(self) -> str:
        return f"cannot read automation profiles from {_bare(self.path)}: {self.reason}"


#: What is kept of the text of an exception; libraries write whole requests into theirs.
_MAX_TEXT = 10_000


def text_of_problem(problem: str | BaseException) -> str:
    """
    Check text that says what is wrong, or write an exception as one.

    An exception can say anything: what cannot be stored is escaped, and what is long is cut.

    Raises:
        InvalidType: It is neither text nor an exception.
        InvalidValue: It is blank.
    """
    expected = "text that says what is wrong, or an exception"
    if isinstance(problem, BaseException):
        return _text_of(problem)
    if not isinstance(problem, str):
        raise InvalidType("message", shown(problem), expected)
    if not problem.strip():
        raise InvalidValue("message", shown(problem), expected)
    return problem


def _text_of(error: BaseException) -> str:
    try:
        said = str(error).strip()
    except Exception:  # of its own __str__; the class is known all the same
        said = ""
    said = said if len(said) <= _MAX_TEXT else f"{said[:_MAX_TEXT]}…"
    text = ": ".join(filter(None, (type(error).__name__, said)))
    return text.encode(errors="backslashreplace").decode().replace("\0", r"\x00")
