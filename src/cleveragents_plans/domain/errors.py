"""
What can go wrong with a plan, in words for whoever has to act on it.

Each error carries its facts as attributes, and can be pickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr

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
        # Python writes no integer of more than 4300 digits, and a repr can be anybody's.
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 160 else f"{text[:160]}…"


class PlansError(Exception):
    """The base of every error that this package raises itself."""


class NotJson(PlansError, ValueError):
    """A value cannot be kept as JSON; *path* says where in it, `$` being the whole."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(path, found, expected)
        self.path = path
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"not JSON at {self.path}: found {self.found}, expected {self.expected}"


class StepNotAllowed(PlansError):
    """A plan was asked for a step that it cannot take where it stands."""

    def __init__(
        self,
        plan_id: str,
        phase: Phase,
        processing_state: ProcessingState,
        wanted: str,
        allowed: tuple[str, ...],
        reason: str | None = None,
    ) -> None:
        super().__init__(plan_id, phase, processing_state, wanted, allowed, reason)
        self.plan_id = plan_id
        self.phase = phase
        self.processing_state = processing_state
        self.wanted = wanted
        self.allowed = allowed
        self.reason = reason

    def __str__(self) -> str:
        standing = f"a plan that is {self.processing_state} in the {self.phase} phase"
        why = f" ({self.reason})" if self.reason else ""
        instead = ", ".join(self.allowed) if self.allowed else "nothing, this state is final"
        return f"{standing} cannot {self.wanted}{why}; allowed here: {instead} [{self.plan_id}]"


class NotEditable(PlansError):
    """Fields were to be edited that only a verb changes, or nobody."""

    def __init__(self, fields: Iterable[str]) -> None:
        self.fields = tuple(fields)
        super().__init__(self.fields)

    def __str__(self) -> str:
        return (
            f"a plan's {', '.join(self.fields)} cannot be edited: where it stands changes by"
            " its verbs (begin, advance, …), and what it is does not change"
        )


class SnapshotIsFrozen(PlansError, AttributeError):
    """Somebody tried to change the profile that a plan was created under."""

    def __init__(self, plan_id: str) -> None:
        super().__init__(plan_id)
        self.plan_id = plan_id

    def __str__(self) -> str:
        return (
            f"effective_profile_snapshot of plan {self.plan_id} is frozen: it says what the"
            " profile was when the plan was created; spawn or create a plan for another one"
        )


class SnapshotUnreadable(PlansError, ValueError):
    """A snapshot is text, but describes no profile; *plan_id* is None if it is no plan's yet."""

    def __init__(self, snapshot: str, reason: str, plan_id: str | None = None) -> None:
        super().__init__(snapshot, reason, plan_id)
        self.snapshot = snapshot
        self.reason = reason
        self.plan_id = plan_id

    def __str__(self) -> str:
        whose = f" of plan {self.plan_id}" if self.plan_id else ""
        return (
            f"effective_profile_snapshot{whose} describes no automation profile: {self.reason};"
            f" found {shown(self.snapshot)}"
        )


class UnknownProfile(PlansError, LookupError):
    """A profile was named that nobody has defined; *nearest* is a guess at what was meant."""

    def __init__(self, name: str, known: Iterable[str], level: Level | None = None) -> None:
        self.name = name
        self.known = tuple(known)
        self.level = level
        matches = get_close_matches(name.lower(), self.known, n=1)
        self.nearest = matches[0] if matches else None
        super().__init__(name, self.known, level)

    def __str__(self) -> str:
        where = f", named by the {self.level} level" if self.level else ""
        guess = f"; did you mean {self.nearest!r}?" if self.nearest else ";"
        return (
            f"unknown automation profile {self.name!r}{where}{guess} known: {', '.join(self.known)}"
        )


class ProfileNameTaken(PlansError, ValueError):
    """A custom profile has the name of a built-in one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name!r} is a built-in automation profile: give yours another name"


class BadProfileFile(PlansError):
    """A file of profiles cannot be read; *reason* says what to correct."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        path = self.path if self.path.isprintable() else shown(self.path)
        return f"cannot read automation profiles from {path}: {self.reason}"
