"""The plan: the aggregate and its verbs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from cleveragents_plans.domain.enums import EnvironmentPriority, Phase, ProcessingState
from cleveragents_plans.domain.errors import NotEditable, StepNotAllowed, UnknownProfile
from cleveragents_plans.domain.fields import PlanRecord
from cleveragents_plans.domain.inputs import (
    ProfileChoice,
    added,
    invariants_of,
    items_of,
    links_of,
    message_of,
    or_else,
    resolved_choice,
)
from cleveragents_plans.domain.lifecycle import NEXT_PHASE, STEPS
from cleveragents_plans.domain.profiles import BUILT_IN_PROFILES, SCHEMA_VERSION, ResolvedProfile
from cleveragents_plans.domain.types import (
    Invariant,
    PlanIdentity,
    ProjectLink,
    full_name,
    namespace_of,
)
from cleveragents_plans.domain.ulid import new_ulid

#: What `edit` leaves to the verbs, to the repository, or to nobody.
_NOT_EDITABLE = frozenset(
    {
        *("identity", *PlanIdentity.model_fields),
        *("namespaced_name", "namespace", "action_name", "created_by"),
        *("phase", "processing_state", "reversion_count", "automation_profile"),
        *("created_at", "updated_at", "completed_at"),
    }
)


class Plan(PlanRecord):
    """
    A piece of work on its way from an idea to a result that counts.

    A plan never changes in place: each verb returns the plan as it stands
    afterwards and leaves the old one as it was. No verb touches `updated_at`;
    that is the repository's, which tells by it whether somebody else was first.
    """

    @classmethod
    def create(
        cls,
        namespaced_name: str,
        *,
        action_name: str | None = None,
        description: str = "",
        definition_of_done: str | None = None,
        profile: ProfileChoice | None = None,
        project_links: Iterable[ProjectLink | str] = (),
        arguments: Mapping[str, Any] | None = None,
        invariants: Iterable[Invariant | str] = (),
        tags: Iterable[str] = (),
        strategy_actor: str | None = None,
        execution_actor: str | None = None,
        estimation_actor: str | None = None,
        invariant_actor: str | None = None,
        execution_environment: str | None = None,
        execution_env_priority: EnvironmentPriority | None = None,
        reusable: bool = False,
        read_only: bool = False,
        created_by: str | None = None,
        created_at: datetime | None = None,
        plan_id: str | None = None,
    ) -> Self:
        """
        Begin a tree: a root plan, queued in the action phase, its profile frozen.

        Args:
            namespaced_name: `[[server:]namespace/]name`; the namespace is `local` if not given.
            action_name: The action that the plan carries out; the plan's own name if not given.
            profile: A built-in profile's name, a profile, or what `resolve` found; the default
                if nobody chose one.
            project_links: Links, or just the names of projects.
            arguments: Any JSON values; their order is kept.
            invariants: Invariants, or just the texts of the plan's own.
            created_at: Now if not given.
            plan_id: A new ULID if not given.

        Raises:
            UnknownProfile: *profile* names no built-in profile.
            ProfileNameTaken: *profile* differs from the built-in one of its name.
            TypeError: *namespaced_name* is no text, or *profile* is no choice of one.
            pydantic.ValidationError: A value cannot be a plan's.
        """
        name = full_name(namespaced_name)
        resolved = resolved_choice(profile)
        now = or_else(created_at, datetime.now(UTC))
        return cls(
            identity=PlanIdentity(plan_id=new_ulid() if plan_id is None else plan_id),
            namespaced_name=name,
            namespace=namespace_of(name),
            action_name=name if action_name is None else full_name(action_name),
            description=description,
            definition_of_done=definition_of_done,
            strategy_actor=strategy_actor,
            execution_actor=execution_actor,
            estimation_actor=estimation_actor,
            invariant_actor=invariant_actor,
            automation_profile=resolved.ref,
            effective_profile_snapshot=resolved.profile.snapshot(),
            reusable=reusable,
            read_only=read_only,
            tags=items_of(tags),
            created_by=created_by,
            execution_environment=execution_environment,
            execution_env_priority=execution_env_priority,
            created_at=now,
            updated_at=now,
            project_links=links_of(project_links),
            arguments=or_else(arguments, {}),
            invariants=invariants_of(invariants),
        )

    def spawn(
        self,
        description: str = "",
        *,
        action_name: str | None = None,
        definition_of_done: str | None = None,
        profile: ProfileChoice | None = None,
        project_links: Iterable[ProjectLink | str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        invariants: Iterable[Invariant | str] = (),
        tags: Iterable[str] = (),
        strategy_actor: str | None = None,
        execution_actor: str | None = None,
        estimation_actor: str | None = None,
        invariant_actor: str | None = None,
        created_by: str | None = None,
        created_at: datetime | None = None,
        plan_id: str | None = None,
    ) -> Self:
        """
        Give a part of this plan to a child of its own, queued in the action phase.

        The child takes over what is not given: action, profile as this plan has it frozen,
        projects, actors, execution environment, author, and being read-only. *invariants* add
        to those of this plan, which hold for the child as well. Arguments and tags are its own.

        Raises:
            StepNotAllowed: This plan is applied or cancelled.
            UnknownProfile: This plan's profile was not recorded, and is no built-in one either.
            SnapshotUnreadable: What this plan has recorded describes no profile.
        """
        self._check("spawn")
        now = or_else(created_at, datetime.now(UTC))
        resolved = self._profile_for_a_child() if profile is None else resolved_choice(profile)
        return type(self)(
            identity=PlanIdentity(
                plan_id=new_ulid() if plan_id is None else plan_id,
                parent_plan_id=self.plan_id,
                root_plan_id=self.root_plan_id,
            ),
            action_name=self.action_name if action_name is None else full_name(action_name),
            description=description,
            definition_of_done=definition_of_done,
            strategy_actor=or_else(strategy_actor, self.strategy_actor),
            execution_actor=or_else(execution_actor, self.execution_actor),
            estimation_actor=or_else(estimation_actor, self.estimation_actor),
            invariant_actor=or_else(invariant_actor, self.invariant_actor),
            automation_profile=resolved.ref,
            effective_profile_snapshot=resolved.profile.snapshot(),
            read_only=self.read_only,
            tags=items_of(tags),
            created_by=or_else(created_by, self.created_by),
            execution_environment=self.execution_environment,
            execution_env_priority=self.execution_env_priority,
            created_at=now,
            updated_at=now,
            project_links=self.project_links if project_links is None else links_of(project_links),
            arguments=or_else(arguments, {}),
            invariants=added(self.invariants, invariants_of(invariants)),
        )

    def resolved_profile(self) -> ResolvedProfile:
        """
        Give the profile that was frozen; if none was, the built-in one that the plan names.

        Raises:
            UnknownProfile: None was frozen, and it names no built-in one.
            SnapshotUnreadable: What was frozen describes no profile.
        """
        ref = self.automation_profile
        profile = self.effective_profile or BUILT_IN_PROFILES.get(ref.profile_name)
        if profile is None:
            raise UnknownProfile(ref.profile_name, BUILT_IN_PROFILES, ref.provenance)
        return ResolvedProfile(profile=profile, provenance=ref.provenance)

    def begin(self) -> Self:
        """Take up the work of the phase."""
        self._check("begin")
        return self._with(processing_state=ProcessingState.PROCESSING)

    def complete(self) -> Self:
        """Finish the work of the phase."""
        self._check("complete")
        return self._with(processing_state=ProcessingState.COMPLETE)

    def fail(self, message: str, details: Mapping[str, Any] | None = None) -> Self:
        """
        Record that this try went wrong, and how.

        Raises:
            StepNotAllowed: The plan is neither queued nor processing.
            TypeError: *message* is no text.
            ValueError: *message* says nothing, or *details* are no JSON.
        """
        self._check("fail")
        return self._stopped(ProcessingState.ERRORED, message, details)

    def retry(self) -> Self:
        """Queue a plan that failed for another try; the error goes with the old one."""
        self._check("retry")
        return self._queued(identity={**dict(self.identity), "attempt": self.attempt + 1})

    def advance(self) -> Self:
        """Go on to the next phase, and queue there."""
        self._check("advance")
        return self._queued(phase=NEXT_PHASE[self.phase])

    def revert(self) -> Self:
        """Go back to strategize, and queue there; a plan may do so three times."""
        self._check("revert")
        return self._queued(phase=Phase.STRATEGIZE, reversion_count=self.reversion_count + 1)

    def constrain(self, message: str, details: Mapping[str, Any] | None = None) -> Self:
        """
        Hold the plan back from being applied, by the rule that *message* names.

        Raises:
            StepNotAllowed: The plan is not processing in the apply phase.
            TypeError: *message* is no text.
            ValueError: *message* says nothing, or *details* are no JSON.
        """
        self._check("constrain")
        return self._stopped(ProcessingState.CONSTRAINED, message, details)

    def resume(self) -> Self:
        """Queue a plan again that was held back, as nothing does any more."""
        self._check("resume")
        return self._queued()

    def apply(self, at: datetime | None = None) -> Self:
        """Make the result count, for good."""
        self._check("apply")
        return self._finished(ProcessingState.APPLIED, at)

    def cancel(self, at: datetime | None = None) -> Self:
        """Give the plan up, for good."""
        self._check("cancel")
        return self._finished(ProcessingState.CANCELLED, at)

    def edit(self, **changes: Any) -> Self:
        """
        Edit what is neither a step nor fixed, and check the result.

        Raises:
            SnapshotIsFrozen: The snapshot was to be changed.
            NotEditable: A field was to be changed that only a verb changes, or nobody.
            pydantic.ValidationError: A value cannot be a plan's, or there is no such field.
        """
        self._keep_snapshot(changes)
        refused = _NOT_EDITABLE.intersection(changes)
        if refused:
            raise NotEditable(sorted(refused))
        return self._with(**changes)

    def _check(self, verb: str) -> None:
        standing = (self.phase, self.processing_state)
        if STEPS[verb].allowed(*standing, self.reversion_count):
            return
        often = STEPS[verb].allowed(*standing, 0)
        reason = f"it went back {self.reversion_count} times already" if often else None
        raise StepNotAllowed(self.plan_id, *standing, verb, self.allowed_steps, reason)

    def _profile_for_a_child(self) -> ResolvedProfile:
        # What an earlier release froze is written out in full by this one, in its own schema.
        resolved = self.resolved_profile()
        profile = resolved.profile.model_copy(update={"schema_version": SCHEMA_VERSION})
        return resolved.model_copy(update={"profile": profile})

    def _queued(self, **changes: Any) -> Self:
        return self._with(
            processing_state=ProcessingState.QUEUED,
            error_message=None,
            error_details=None,
            **changes,
        )

    def _stopped(
        self, state: ProcessingState, message: str, details: Mapping[str, Any] | None
    ) -> Self:
        return self._with(
            processing_state=state, error_message=message_of(message), error_details=details
        )

    def _finished(self, state: ProcessingState, at: datetime | None) -> Self:
        return self._with(processing_state=state, completed_at=or_else(at, datetime.now(UTC)))

    def _with(self, **changes: Any) -> Self:
        # model_copy does not validate; building anew does.
        return type(self)(**{**dict(self), **changes})
