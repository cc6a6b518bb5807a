"""The words that a plan is described with, spelled as they are stored."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a plan is on its way, in the order in which it goes."""

    #: Set up, and not yet thought about.
    ACTION = "action"
    #: Decides what is to be done, and in which steps.
    STRATEGIZE = "strategize"
    #: Does it, where it can still be undone.
    EXECUTE = "execute"
    #: Makes the result count.
    APPLY = "apply"


class ProcessingState(StrEnum):
    """How far a plan has come within its phase."""

    #: Waits for a worker.
    QUEUED = "queued"
    #: A worker has begun it.
    PROCESSING = "processing"
    #: Done in this phase, and free to go on to the next.
    COMPLETE = "complete"
    #: Failed; may be tried again.
    ERRORED = "errored"
    #: Held back by a rule while it was being applied.
    CONSTRAINED = "constrained"
    #: Done for good.
    APPLIED = "applied"
    #: Given up for good.
    CANCELLED = "cancelled"


class Level(StrEnum):
    """The source of an invariant or of a profile, the nearest first."""

    #: Said for this plan.
    PLAN = "plan"
    #: Said for the action that the plan carries out.
    ACTION = "action"
    #: Said for a project that the plan works on.
    PROJECT = "project"
    #: Said for everything.
    GLOBAL = "global"


class EnvironmentPriority(StrEnum):
    """What a plan's execution environment does to one that is chosen elsewhere."""

    #: Used only where nothing else is chosen.
    FALLBACK = "fallback"
    #: Used whatever else is chosen.
    OVERRIDE = "override"
