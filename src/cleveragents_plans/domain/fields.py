"""What a plan consists of, and what makes it valid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo, field_validator

from cleveragents_plans.domain.enums import EnvironmentPriority, Phase, ProcessingState
from cleveragents_plans.domain.errors import SnapshotIsFrozen, SnapshotUnreadable
from cleveragents_plans.domain.json_values import Arguments, JsonObject
from cleveragents_plans.domain.lifecycle import (
    FINAL_STATES,
    MAX_REVERSIONS,
    STATES_OF_APPLY,
    STEPS,
    Standing,
)
from cleveragents_plans.domain.profiles import AutomationProfile, AutomationProfileRef
from cleveragents_plans.domain.types import (
    Count,
    Invariants,
    Name,
    Namespace,
    PlanIdentity,
    ProjectLinks,
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

    Its profile's snapshot is never replaced by another.
    """

    identity: PlanIdentity
    """The plan's own id, those of its tree, and its attempt."""
    namespaced_name: Name | None = None
    """`[[server:]namespace/]name`; none for a child, which has only its id."""
    namespace: Namespace | None = None
    """The namespace within the name."""
    action_name: Name
    """The action that the plan carries out."""
    description: Text = ""
    """What the plan is about."""
    definition_of_done: Text | None = None
    """How to tell that the plan is complete."""
    phase: Phase = Phase.ACTION
    """Where the plan is on its way."""
    processing_state: ProcessingState = ProcessingState.QUEUED
    """How far the plan has come within its phase."""
    strategy_actor: ShortText | None = None
    """The actor that strategizes."""
    execution_actor: ShortText | None = None
    """The actor that executes."""
    estimation_actor: ShortText | None = None
    """The actor that estimates."""
    invariant_actor: ShortText | None = None
    """The actor that watches the invariants."""
    automation_profile: AutomationProfileRef = AutomationProfileRef()
    """Which profile the plan has; its snapshot says what the profile says."""
    effective_profile_snapshot: Annotated[Text, AfterValidator(_a_json_object)] = "{}"
    """The profile as it was when the plan was created, byte for byte; `{}`: not recorded."""
    changeset_id: Reference | None = None
    """The changeset that holds the result."""
    decision_root_id: Reference | None = None
    """The root of the decisions that the plan made."""
    sandbox_refs: tuple[Text, ...] = ()
    """The sandboxes that the plan works in."""
    validation_summary: JsonObject | None = None
    """What validation found, as JSON."""
    error_message: Text | None = None
    """What went wrong; of a plan that is queued again, why the attempt before was given up."""
    error_details: JsonObject | None = None
    """More about what went wrong, as JSON."""
    cost_actual_usd: Usd | None = None
    """What the plan has cost, in US dollars."""
    token_count_input: Count | None = None
    """How many tokens were sent to models."""
    token_count_output: Count | None = None
    """How many tokens models gave."""
    reversion_count: Annotated[Count, Field(le=MAX_REVERSIONS)] = 0
    """How often the plan was sent back to strategize."""
    last_completed_step: StepIndex = -1
    """The last step of the work that was completed, from 0; -1 before the first."""
    last_checkpoint_id: Reference | None = None
    """The last checkpoint that was made."""
    reusable: StrictBool = False
    """Whether the plan may be used as a model for others."""
    read_only: StrictBool = False
    """Whether the plan must leave its projects as they are."""
    tags: tuple[Text, ...] = ()
    """Words to find the plan by, in their order."""
    created_by: ShortText | None = None
    """The author."""
    execution_environment: ShortText | None = None
    """Where the plan is to be executed."""
    execution_env_priority: EnvironmentPriority | None = None
    """What the execution environment does to one that is chosen elsewhere."""
    created_at: UtcDatetime
    """When the plan was created, in UTC."""
    updated_at: UtcDatetime
    """When the plan was last written, in UTC: the version that a save compares."""
    completed_at: UtcDatetime | None = None
    """When the plan was applied or cancelled, in UTC."""
    project_links: ProjectLinks = ()
    """The projects that the plan works on, in their order."""
    arguments: Arguments = Arguments()
    """
    JSON values by name, in their order. They are frozen: lists are read as tuples and objects as
    mappings, which `json.dumps` does not take; `plan.model_dump()["arguments"]` has
    lists and dicts.
    """
    invariants: Invariants = ()
    """What must stay true whatever the plan does, in its order."""

    @field_validator("project_links")
    @classmethod
    def _aliases_differ(cls, links: ProjectLinks) -> ProjectLinks:
        aliases = [link.alias for link in links if link.alias is not None]
        if len(set(aliases)) < len(aliases):
            ((twice, _),) = Counter(aliases).most_common(1)
            raise ValueError(f"two projects have the alias {twice!r}; rename one")
        return links

    @field_validator("processing_state")
    @classmethod
    def _state_fits_phase(cls, state: ProcessingState, info: ValidationInfo) -> ProcessingState:
        phase = info.data.get("phase", Phase.APPLY)
        if state in STATES_OF_APPLY and phase is not Phase.APPLY:
            raise ValueError(f"a plan is {state} in the apply phase only, not in {phase}")
        return state

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
    def standing(self) -> Standing:
        """Where the plan stands: what its verbs change."""
        return Standing(self.phase, self.processing_state, self.attempt, self.reversion_count)

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
        standing = self.standing
        return tuple(verb for verb, step in STEPS.items() if step.allowed(standing))

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
            InvalidFields: The copy would not be a valid plan.
        """
        self._keep_snapshot(update or {})
        return super().model_copy(update=update, deep=deep)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "effective_profile_snapshot":
            raise SnapshotIsFrozen(self.plan_id)
        super().__setattr__(name, value)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # A line, not all of the fields.
        yield "plan_id", self.plan_id
        yield "namespaced_name", self.namespaced_name
        yield "description", self.description[:40]
        yield "standing", f"{self.processing_state} in {self.phase}"

    def _keep_snapshot(self, changes: Mapping[str, Any]) -> None:
        frozen = self.effective_profile_snapshot
        if changes.get("effective_profile_snapshot", frozen) != frozen:
            raise SnapshotIsFrozen(self.plan_id)
