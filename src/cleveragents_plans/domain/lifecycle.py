"""The life cycle of a plan: which step is allowed where, and where it leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from cleveragents_plans.domain.enums import Phase, ProcessingState
from cleveragents_plans.domain.types import MAX_INTEGER

#: How often a plan may go back to strategize.
MAX_REVERSIONS: Final = 3

#: The states that a plan never leaves.
FINAL_STATES: Final = frozenset({ProcessingState.APPLIED, ProcessingState.CANCELLED})

#: The states that exist in the apply phase only.
STATES_OF_APPLY: Final = frozenset({ProcessingState.APPLIED, ProcessingState.CONSTRAINED})

#: The phase that follows each; the last has none.
NEXT_PHASE: Final[Mapping[Phase, Phase]] = MappingProxyType(
    {
        Phase.ACTION: Phase.STRATEGIZE,
        Phase.STRATEGIZE: Phase.EXECUTE,
        Phase.EXECUTE: Phase.APPLY,
    }
)
_BACK: Final = MappingProxyType(dict.fromkeys((Phase.EXECUTE, Phase.APPLY), Phase.STRATEGIZE))

_EVERY_PHASE = frozenset(Phase)
_IN_APPLY = frozenset({Phase.APPLY})
_UNFINISHED = frozenset(ProcessingState) - FINAL_STATES


class Standing(NamedTuple):
    """Where a plan stands: what its verbs change."""

    phase: Phase
    processing_state: ProcessingState
    attempt: int
    reversion_count: int

    def __str__(self) -> str:
        return _in_words(self)


@dataclass(frozen=True)
class Step:
    """From where a plan may take a step, and where it leads."""

    states: frozenset[ProcessingState]
    #: The state that it leads to; None: it leads nowhere else.
    to: ProcessingState | None
    phases: frozenset[Phase] = _EVERY_PHASE
    #: The phase that it leads to from each; None: the plan stays in its phase.
    enters: Mapping[Phase, Phase] | None = None
    #: How many attempts, and how many reversions, it counts.
    attempts: int = 0
    reversions: int = 0

    def allowed(self, at: Standing) -> bool:
        """Say whether a plan that stands there may take the step."""
        return (
            at.phase in self.phases
            and at.processing_state in self.states
            and at.attempt + self.attempts <= MAX_INTEGER
            and at.reversion_count + self.reversions <= MAX_REVERSIONS
        )

    def after(self, at: Standing) -> Standing:
        """Give where a plan stands that took the step."""
        return Standing(
            self.enters[at.phase] if self.enters else at.phase,
            self.to or at.processing_state,
            at.attempt + self.attempts,
            at.reversion_count + self.reversions,
        )


def _states(*states: ProcessingState) -> frozenset[ProcessingState]:
    return frozenset(states)


_STATE = ProcessingState
#: Every step by the name of its verb.
STEPS: Final[Mapping[str, Step]] = MappingProxyType(
    {
        "begin": Step(_states(_STATE.QUEUED), _STATE.PROCESSING),
        "complete": Step(_states(_STATE.PROCESSING), _STATE.COMPLETE),
        "fail": Step(_states(_STATE.QUEUED, _STATE.PROCESSING), _STATE.ERRORED),
        "retry": Step(_states(_STATE.ERRORED), _STATE.QUEUED, attempts=1),
        "advance": Step(_states(_STATE.COMPLETE), _STATE.QUEUED, frozenset(NEXT_PHASE), NEXT_PHASE),
        "revert": Step(_UNFINISHED, _STATE.QUEUED, frozenset(_BACK), _BACK, reversions=1),
        "constrain": Step(_states(_STATE.PROCESSING), _STATE.CONSTRAINED, _IN_APPLY),
        "resume": Step(_states(_STATE.CONSTRAINED), _STATE.QUEUED, _IN_APPLY),
        "apply": Step(_states(_STATE.PROCESSING, _STATE.COMPLETE), _STATE.APPLIED, _IN_APPLY),
        "spawn": Step(_UNFINISHED, None),
        "cancel": Step(_UNFINISHED, _STATE.CANCELLED),
    }
)


class _Plan(Protocol):
    @property
    def standing(self) -> Standing: ...
    @property
    def completed_at(self) -> object: ...


#: What neither a verb nor `edit` changes.
FIXED_FIELDS: Final = (
    *("plan_id", "parent_plan_id", "root_plan_id", "namespaced_name", "namespace", "action_name"),
    *("automation_profile", "effective_profile_snapshot", "created_by", "created_at"),
)


def change_refused(stored: _Plan, wanted: _Plan) -> str | None:
    """
    Say why no verbs and edits make the plan *wanted* out of the plan that is *stored*.

    Any number of verbs may lie between the two, but at most one `retry`: each attempt is stored.

    Returns:
        The reason, in words; None if they do.
    """
    changed = [name for name in FIXED_FIELDS if getattr(stored, name) != getattr(wanted, name)]
    if changed:
        return f"{', '.join(changed)} cannot change"
    before, after = stored.standing, wanted.standing
    if not is_reachable(before, after):
        return f"no verbs lead from {_in_words(before)} to {_in_words(after)}"
    ended = before != after and after.processing_state in FINAL_STATES
    if stored.completed_at != wanted.completed_at and not ended:
        return "completed_at changes only when a plan is applied or cancelled"
    return None


@lru_cache(maxsize=4096)
def is_reachable(start: Standing, goal: Standing) -> bool:
    """Say whether verbs lead from *start* to *goal*, one `retry` at most among them."""
    found, pending = {start}, [start]
    while pending:
        at = pending.pop()
        nexts = {step.after(at) for step in STEPS.values() if step.allowed(at)}
        within = {each for each in nexts if each.attempt <= start.attempt + 1}
        pending += within - found
        found |= within
    return goal in found


def _in_words(at: Standing) -> str:
    reverted = f", {at.reversion_count} reversions" if at.reversion_count else ""
    return f"{at.processing_state} in {at.phase} (attempt {at.attempt}{reverted})"
