"""The rules of a plan's way: which step is allowed where, and where it leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cleveragents_plans.domain.enums import Phase, ProcessingState

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

_EVERY_PHASE = frozenset(Phase)
_UNFINISHED = frozenset(ProcessingState) - FINAL_STATES


@dataclass(frozen=True)
class Step:
    """From where a plan may take a step."""

    states: frozenset[ProcessingState]
    phases: frozenset[Phase] = _EVERY_PHASE
    #: The step cannot be taken by a plan that has been sent back too often.
    goes_back: bool = False

    def allowed(self, phase: Phase, state: ProcessingState, reversion_count: int) -> bool:
        """Say whether a plan that stands there may take the step."""
        return (
            phase in self.phases
            and state in self.states
            and not (self.goes_back and reversion_count >= MAX_REVERSIONS)
        )


#: Every step by the name of its verb.
STEPS: Final[Mapping[str, Step]] = MappingProxyType(
    {
        "begin": Step(frozenset({ProcessingState.QUEUED})),
        "complete": Step(frozenset({ProcessingState.PROCESSING})),
        "fail": Step(frozenset({ProcessingState.QUEUED, ProcessingState.PROCESSING})),
        "retry": Step(frozenset({ProcessingState.ERRORED})),
        "advance": Step(frozenset({ProcessingState.COMPLETE}), frozenset(NEXT_PHASE)),
        "revert": Step(_UNFINISHED, frozenset({Phase.EXECUTE, Phase.APPLY}), goes_back=True),
        "constrain": Step(frozenset({ProcessingState.PROCESSING}), frozenset({Phase.APPLY})),
        "resume": Step(frozenset({ProcessingState.CONSTRAINED}), frozenset({Phase.APPLY})),
        "apply": Step(
            frozenset({ProcessingState.PROCESSING, ProcessingState.COMPLETE}),
            frozenset({Phase.APPLY}),
        ),
        "spawn": Step(_UNFINISHED),
        "cancel": Step(_UNFINISHED),
    }
)
