"""What a plan consists of, and what makes it valid."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StrictBool, field_validator, model_validator

from cleveragents_plans.domain.enums import EnvironmentPriority, Phase, ProcessingState
from cleveragents_plans.domain.errors import SnapshotIsFrozen, SnapshotUnreadable
from cleveragents_plans.domain.json_values import Arguments, JsonObject
from cleveragents_plans.domain.lifecycle import (
    FINAL_STATES,
    MAX_REVERSIONS,
    STATES_OF_APPLY,
    STEPS,
)
from cleveragents_plans.domain.profiles import AutomationProfile, AutomationProfileRef
from cleveragents_plans.domain.types import (
    Count,
    Invariant,
    Name,
    Namespace,
    PlanIdentity,
    ProjectLink,
    Reference,
    ShortText,
    StepIndex,
    Text,
    Usd,
    UtcDatetime,
    Value,
)


# Many plans share few snapshots; a few hundred distinct texts are remembered.
@lru_cache(maxsize=256)
def _profile_in(snapshot: str) -> AutomationProfile | None:
    return AutomationProfile.from_snapshot(snapshot)


@lru_cache(maxsize=256)
def _a_json_object(snapshot: str) -> str:
    JsonObject.from_text(snapshot)
    return snapshot


class PlanRecord(Value):
    """
    All that is known of a plan, checked and immutable; `Plan` adds what it may do.

    Its profile's snapshot is never exchanged, by whatever way it is tried.
    """

    identity: PlanIdentity
    #: None for a child, which has only its id.
    namespaced_name: Name | None = None
    namespace: Namespace | None = None
    action_name: Name
    description: Text = ""
    definition_of_done: Text | None = None
    phase: Phase = Phase.ACTION
    processing_state: ProcessingState = ProcessingState.QUEUED
    strategy_actor: ShortText | None = None
    execution_actor: ShortText | None = None
    estimation_actor: ShortText | None = None
    invariant_actor: ShortText | None = None
    #: Which profile the plan has; `effective_profile` says what it says.
    automation_profile: AutomationProfileRef = AutomationProfileRef()
    #: The profile as it was when the plan was created, byte for byte; `{}`: not recorded.
    effective_profile_snapshot: Annotated[Text, AfterValidator(_a_json_object)] = "{}"
    changeset_id: Reference | None = None
    decision_root_id: Reference | None = None
    sandbox_refs: tuple[Text, ...] = ()
    validation_summary: JsonObject | None = None
    #: What went wrong, while the plan is errored or constrained.
    error_message: Text | None = None
    error_details: JsonObject | None = None
    cost_actual_usd: Usd | None = None
    token_count_input: Count | None = None
    token_count_output: Count | None = None
    #: How often the plan was sent back to strategize.
    reversion_count: Annotated[Count, Field(le=MAX_REVERSIONS)] = 0
    last_completed_step: StepIndex = -1
    last_checkpoint_id: Reference | None = None
    reusable: StrictBool = False
    read_only: StrictBool = False
    tags: tuple[Text, ...] = ()
    created_by: ShortText | None = None
    execution_environment: ShortText | None = None
    execution_env_priority: EnvironmentPriority | None = None
    created_at: UtcDatetime
    updated_at: UtcDatetime
    #: When the plan was applied or cancelled.
    completed_at: UtcDatetime | None = None
    project_links: tuple[ProjectLink, ...] = ()
    arguments: Arguments = Arguments()
    invariants: tuple[Invariant, ...] = ()

    @field_validator("project_links")
    @classmethod
    def _aliases_differ(cls, links: tuple[ProjectLink, ...]) -> tuple[ProjectLink, ...]:
        seen: set[str] = set()
        for link in links:
            if link.alias in seen:
                raise ValueError(f"two projects have the alias {link.alias!r}; rename one")
            if link.alias is not None:
                seen.add(link.alias)
        return links

    @model_validator(mode="after")
    def _state_fits_phase(self) -> Self:
        if self.processing_state in STATES_OF_APPLY and self.phase is not Phase.APPLY:
            raise ValueError(
                f"a plan is {self.processing_state} in the apply phase only, not in {self.phase}"
            )
        return self

    @property
    def plan_id(self) -> str:
        """The plan's ULID."""
        return self.identity.plan_id

    @property
    def parent_plan_id(self) -> str | None:
        """The plan that this one is a part of."""
        return self.identity.parent_plan_id

    @property
    def root_plan_id(self) -> str:
        """The root of the tree in which the plan was created."""
        return self.identity.root_plan_id

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self.identity.attempt

    @property
    def is_root(self) -> bool:
        """Whether the plan began its tree."""
        return self.parent_plan_id is None and self.root_plan_id == self.plan_id

    @property
    def is_detached(self) -> bool:
        """Whether the plan lost its parent, which was deleted."""
        return self.parent_plan_id is None and self.root_plan_id != self.plan_id

    @property
    def is_final(self) -> bool:
        """Whether the plan is applied or cancelled, and takes no step any more."""
        return self.processing_state in FINAL_STATES

    @property
    def allowed_steps(self) -> tuple[str, ...]:
        """The verbs that the plan may take where it stands."""
        standing = (self.phase, self.processing_state, self.reversion_count)
        return tuple(verb for verb, step in STEPS.items() if step.allowed(*standing))

    @property
    def effective_profile(self) -> AutomationProfile | None:
        """
        The profile as it was when the plan was created; None if it was not recorded.

        Raises:
            SnapshotUnreadable: The snapshot is a JSON object that describes no profile.
        """
        try:
            return _profile_in(self.effective_profile_snapshot)
        except SnapshotUnreadable as error:
            raise SnapshotUnreadable(error.snapshot, error.reason, self.plan_id) from error

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """
        Copy, with *update* checked as in a new plan, but never with another snapshot.

        Raises:
            SnapshotIsFrozen: *update* has another snapshot.
            pydantic.ValidationError: The copy would not be a valid plan.
        """
        self._keep_snapshot(update or {})
        return super().model_copy(update=update, deep=deep)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "effective_profile_snapshot":
            raise SnapshotIsFrozen(self.plan_id)
        super().__setattr__(name, value)

    def _keep_snapshot(self, changes: Mapping[str, Any]) -> None:
        frozen = self.effective_profile_snapshot
        if changes.get("effective_profile_snapshot", frozen) != frozen:
            raise SnapshotIsFrozen(self.plan_id)
