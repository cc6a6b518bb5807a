"""Which plans a listing, a count or a claim is about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import partial
from inspect import cleandoc
from typing import Any, ClassVar, Final, Literal, TypedDict, TypeVar

from sqlalchemy import (
    JSON,
    ColumnElement,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    literal_column,
    select,
)

from cleveragents_plans.domain import Phase, ProcessingState
from cleveragents_plans.domain.errors import PlansError, shown
from cleveragents_plans.domain.lifecycle import FINAL_STATES
from cleveragents_plans.domain.types import full_name
from cleveragents_plans.persistence.models import PlanProjectModel
from cleveragents_plans.persistence.parameters import (
    flag_of,
    text_of,
    time_of,
    ulid_of,
    values_of,
    word_of,
)
from cleveragents_plans.persistence.sessions import PLANS, among

_Method = TypeVar("_Method", bound=Callable[..., Any])

PhaseName = Literal["action", "strategize", "execute", "apply"]
ProcessingStateName = Literal[
    "queued", "processing", "complete", "errored", "constrained", "applied", "cancelled"
]


class QueueFilters(TypedDict, total=False):
    """
    Filters for plans, those that `claim` and `requeue_stalled` take.

    A plan passes if it passes all that are given. Where one value is expected, a list, tuple or
    set of several may be given: then a plan passes that has one of them; none at all passes an
    empty one. A filter that is None is not applied, and so passes every plan. Where that would be
    wrong, as for the user of a request, give a list: ``created_by=[user]`` refuses None.

    A child has no name, and so no namespace: children are found by their root, action, tag or
    project. Their action is that of their parent, unless they were given another.

    phase: The phase, as a `Phase` or its name.
    namespace: The namespace, without its server; only roots have one.
    action: The action's name; without a namespace it is that of ``local``.
    project: The name of a project that the plan works on.
    parent: The id of the plan's parent.
    root: The id of the root of the plan's tree.
    created_by: The author.
    tag: A tag of the plan.
    created_from, created_before: Created at this time or later; earlier than this time.
    updated_from, updated_before: The same for the time of the last write.
    """

    phase: Phase | PhaseName | Collection[Phase | PhaseName] | None
    namespace: str | Collection[str] | None
    action: str | Collection[str] | None
    project: str | Collection[str] | None
    parent: str | Collection[str] | None
    root: str | Collection[str] | None
    created_by: str | Collection[str] | None
    tag: str | Collection[str] | None
    created_from: datetime | None
    created_before: datetime | None
    updated_from: datetime | None
    updated_before: datetime | None


class PlanFilters(QueueFilters, total=False):
    """
    Filters for plans: those of `QueueFilters`, and more.

    processing_state: The processing state, as a `ProcessingState` or its name.
    is_final: Whether the plan is applied or cancelled.
    completed_from, completed_before: Applied or cancelled at this time or later; earlier.
    """

    processing_state: (
        ProcessingState
        | ProcessingStateName
        | Collection[ProcessingState | ProcessingStateName]
        | None
    )
    is_final: bool | None
    completed_from: datetime | None
    completed_before: datetime | None


@dataclass(eq=False)
class UnknownFilter(PlansError, TypeError):
    """A filter was given that does not exist, or not for this method."""

    http_status: ClassVar[int] = 422

    name: str
    known: tuple[str, ...]

    @property
    def nearest(self) -> str | None:
        """A guess at what was meant."""
        within = [each for each in self.known if self.name and self.name in each]
        matches = within or get_close_matches(self.name, self.known, n=1)
        return matches[0] if matches else None

    def __str__(self) -> str:
        guess = f"did you mean {self.nearest!r}? " if self.nearest else ""
        return f"there is no filter {shown(self.name)}; {guess}known: {', '.join(self.known)}"


def conditions(
    postgresql: bool, filters: Mapping[str, Any], known: type = PlanFilters
) -> list[ColumnElement[bool]]:
    """
    Say in SQL what *filters* ask for, of those that *known* has.

    Nothing is sent to the database.

    Raises:
        UnknownFilter: There is no such filter.
        InvalidType: The value of a filter has another type.
        InvalidValue: No plan can have the value of a filter.
    """
    names = tuple(known.__annotations__)
    for name in filters:
        if name not in names:
            raise UnknownFilter(name, names)
    return [
        _CONDITIONS[name](postgresql, name, value)
        for name, value in filters.items()
        if value is not None
    ]


def documents_filters(known: type) -> Callable[[_Method], _Method]:
    """Add what *known* says of its filters to the docstring of a method, for `help`."""

    filters = (QueueFilters,) if known is QueueFilters else (QueueFilters, PlanFilters)

    def documented(method: _Method) -> _Method:
        if method.__doc__:  # there is none with `python -OO`
            # Their first lines are about the class.
            said = [cleandoc(each.__doc__ or "").partition("\n\n")[2] for each in filters]
            method.__doc__ = "\n\n".join((cleandoc(method.__doc__), "The filters:", *said))
        return method

    return documented


_Condition = Callable[[bool, str, Any], ColumnElement[bool]]


def _one_of(column: ColumnElement[Any], check: Callable[[str, Any], Any]) -> _Condition:
    def condition(postgresql: bool, name: str, value: Any) -> Any:
        values = values_of(name, value, check)
        return column == values[0] if len(values) == 1 else among(postgresql, column, values)

    return condition


def _actions(postgresql: bool, name: str, value: Any) -> Any:
    spellings = {each for it in values_of(name, value, text_of) for each in _spellings(it)}
    return among(postgresql, PLANS.c.action_name, spellings)


def _spellings(name: str) -> set[str]:
    # The former release may have left the namespace out.
    full = full_name(name)
    return {full, full.removeprefix("local/")}


def _projects(postgresql: bool, name: str, value: Any) -> ColumnElement[bool]:
    link = PlanProjectModel.__table__
    wanted = _one_of(link.c.project_name, text_of)(postgresql, name, value)
    return PLANS.c.plan_id.in_(select(link.c.plan_id).where(wanted))


# A JSON array of strings that PostgreSQL can read: it refuses \u0000 and lone surrogates.
_ESCAPED = (
    r'(?:["\\/bfnrt]|u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_STRING = rf'"(?:[^"\\\x01-\x1f]|\\{_ESCAPED})*"'
_TEXTS = rf"^\s*\[\s*{_STRING}(?:\s*,\s*{_STRING})*\s*\]\s*$"


def _tags(postgresql: bool, name: str, value: Any) -> Any:
    # Guarded by CASE: one text that is no JSON would fail the whole statement.
    stored = PLANS.c.tags_json
    if postgresql:
        readable = stored.regexp_match(_TEXTS)
        tags = func.json_array_elements_text(cast(stored, JSON)).table_valued("value")
    else:
        readable = func.json_valid(stored) == 1
        tags = func.json_each(stored).table_valued("value")
    wanted = _one_of(tags.c.value, text_of)(postgresql, name, value)
    return case((readable, exists().where(wanted)), else_=false())


# Written out as in the index of just these rows, so that both databases know that it will do.
IS_OPEN: Final = PLANS.c.processing_state.not_in(
    [literal_column(f"'{state}'") for state in sorted(FINAL_STATES)]
)


def _is_final(postgresql: bool, name: str, value: Any) -> ColumnElement[bool]:
    return ~IS_OPEN if flag_of(name, value) else IS_OPEN


def _states(postgresql: bool, name: str, value: Any) -> ColumnElement[bool]:
    check = partial(word_of, ProcessingState)
    wanted = _one_of(PLANS.c.processing_state, check)(postgresql, name, value)
    # SQLite does not see by itself that the index of open plans has all of these.
    is_open = FINAL_STATES.isdisjoint(values_of(name, value, check))
    return and_(IS_OPEN, wanted) if is_open else wanted


def _from(column: ColumnElement[str]) -> _Condition:
    return lambda _, name, value: column >= time_of(name, value)


def _before(column: ColumnElement[str]) -> _Condition:
    return lambda _, name, value: column < time_of(name, value)


_CONDITIONS: Final[Mapping[str, _Condition]] = {
    "phase": _one_of(PLANS.c.phase, partial(word_of, Phase)),
    "processing_state": _states,
    "is_final": _is_final,
    "namespace": _one_of(PLANS.c.namespace, text_of),
    "action": _actions,
    "project": _projects,
    "parent": _one_of(PLANS.c.parent_plan_id, ulid_of),
    "root": _one_of(PLANS.c.root_plan_id, ulid_of),
    "created_by": _one_of(PLANS.c.created_by, text_of),
    "tag": _tags,
    "created_from": _from(PLANS.c.created_at),
    "created_before": _before(PLANS.c.created_at),
    "updated_from": _from(PLANS.c.updated_at),
    "updated_before": _before(PLANS.c.updated_at),
    "completed_from": _from(PLANS.c.completed_at),
    "completed_before": _before(PLANS.c.completed_at),
}
