"""What `Plan.create`, `spawn` and the verbs are given, in the forms that people give it in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from cleveragents_plans.domain.errors import shown
from cleveragents_plans.domain.profiles import (
    AutomationProfile,
    ResolvedProfile,
    refuse_posing,
    resolve_profile,
)
from cleveragents_plans.domain.types import Invariant, ProjectLink

_T = TypeVar("_T")

#: What names a profile: a built-in name, a profile, or one that `resolve` found.
ProfileChoice = str | AutomationProfile | ResolvedProfile


def or_else(given: _T | None, otherwise: _T) -> _T:
    """Give what was *given*, if anything was."""
    return otherwise if given is None else given


def resolved_choice(choice: ProfileChoice | None) -> ResolvedProfile:
    """Find the profile that was chosen, as `resolve` does; raise what it raises."""
    if isinstance(choice, ResolvedProfile):
        refuse_posing(choice.profile)
        return choice
    if isinstance(choice, AutomationProfile):
        return resolve_profile(plan=choice.name, known={choice.name: choice})
    return resolve_profile(plan=choice)


def items_of(items: Any, made: Callable[[Any], Any] = lambda one: one) -> Any:
    """Make a tuple of several things; leave what is none for validation to refuse."""
    # A lone text would fall apart into its characters, and a mapping into its keys; validation
    # refuses them, and what has no items at all.
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        return items
    return tuple(map(made, items))


def links_of(links: Iterable[ProjectLink | str]) -> Any:
    """Make links of what may be just names."""
    return items_of(links, lambda it: ProjectLink(project_name=it) if isinstance(it, str) else it)


def invariants_of(invariants: Iterable[Invariant | str]) -> Any:
    """Make invariants of what may be just texts, of the plan's own."""
    return items_of(invariants, lambda one: Invariant(text=one) if isinstance(one, str) else one)


def added(held: tuple[Invariant, ...], given: Any) -> Any:
    """Add what was *given* to what is *held* already, each once."""
    if not isinstance(given, tuple):
        return given  # for validation to refuse
    kept = [*held]
    for one in given:
        if one not in kept:
            kept.append(one)
    return tuple(kept)


def message_of(message: Any) -> str:
    """Check what went wrong, in words."""
    if not isinstance(message, str):
        raise TypeError(f"the message is {shown(message)}; expected text that says what is wrong")
    if not message.strip():
        raise ValueError(f"the message is {shown(message)}; say what is wrong")
    return message
