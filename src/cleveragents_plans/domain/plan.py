"""The plan: the aggregate and its verbs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self, Unpack

from cleveragents_plans.domain.enums import EnvironmentPriority
from cleveragents_plans.domain.errors import (
    InvalidValue,
    NotEditable,
    StepNotAllowed,
    UnknownProfile,
    text_of_problem,
)
from cleveragents_plans.domain.fields import PlanRecord
from cleveragents_plans.domain.inputs import EditableFields
from cleveragents_plans.domain.lifecycle import FIXED_FIELDS, STEPS, Standing
from cleveragents_plans.domain.profiles import (
    BUILT_IN_PROFILES,
    SCHEMA_VERSION,
    ProfileChoice,
    ResolvedProfile,
    chosen_profile,
)
from cleveragents_plans.domain.types import Invariant, ProjectLink, full_name, namespace_of
from cleveragents_plans.domain.ulid import new_ulid

# `edit` refuses another snapshot by an error of its own.
_NOT_EDITABLE = {"identity", *FIXED_FIELDS, *Standing._fields, "updated_at", "completed_at"} - {
    "effective_profile_snapshot"
}


class Plan(PlanRecord):
    """
    A piece of work on its way from an idea to a result that counts.

    A plan never changes in place: each verb returns the plan as it stands
    afterwards and leaves the old one as it was. No verb touches `updated_at`:
    the repository moves it with each write, as the version of an optimistic lock.

    A class that inherits from it may add methods, and fields that are not stored
    (``Field(exclude=True)``): the repository refuses other fields, and reads each
    plan as a `Plan`.
    """

    # No part of the plan: neither compared nor copied, pickled or serialised. The plan that verbs
    # and edits began with, and the row that a repository read it from.
    __slots__ = ("_origin", "_row")

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
            profile: A built-in profile's name, a profile, or what `resolve_profile` found; the
                default if none is given.
            project_links: Links, or just the names of projects.
            arguments: Any JSON values; their order is kept. The plan has them frozen, lists as
                tuples; ``plan.model_dump()["arguments"]`` gives lists and dicts again.
            invariants: Invariants, or just the texts of the plan's own.
            created_at: Now if not given.
            plan_id: A new ULID if not given.

        Raises:
            UnknownProfile: *profile* names no built-in profile.
            ProfileNameTaken: *profile* differs from the built-in one of its name.
            InvalidType: *namespaced_name* is no text, or *profile* names none.
            InvalidFields: A value cannot be a plan's.
        """
        name = full_name(namespaced_name)
        resolved = chosen_profile(profile)
        now = datetime.now(UTC) if created_at is None else created_at
        return cls._valid(
            identity={"plan_id": new_ulid() if plan_id is None else plan_id},
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
            tags=tags,
            created_by=created_by,
            execution_environment=execution_environment,
            execution_env_priority=execution_env_priority,
            created_at=now,
            updated_at=now,
            project_links=project_links,
            arguments={} if arguments is None else arguments,
            invariants=invariants,
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

        The child inherits what is not given: action, profile as this plan has it frozen,
        projects, actors, execution environment, author, and being read-only. A *profile* that is
        given may allow more than that of this plan. *invariants* add
        to those of this plan, which hold for the child as well. Arguments and tags are its own.

        Raises:
            StepNotAllowed: This plan is applied or cancelled.
            UnknownProfile: This plan's profile was not recorded, and is no built-in one either.
            SnapshotUnreadable: What this plan has recorded describes no profile.

        And what `create` raises.
        """
        self._after("spawn")
        now = datetime.now(UTC) if created_at is None else created_at
        resolved = self._profile_for_a_child() if profile is None else chosen_profile(profile)
        given = {
            "strategy_actor": strategy_actor,
            "execution_actor": execution_actor,
            "estimation_actor": estimation_actor,
            "invariant_actor": invariant_actor,
            "created_by": created_by,
            "project_links": project_links,
        }
        child = self._valid(
            identity={
                "plan_id": new_ulid() if plan_id is None else plan_id,
                "parent_plan_id": self.plan_id,
                "root_plan_id": self.root_plan_id,
            },
            action_name=self.action_name if action_name is None else full_name(action_name),
            description=description,
            definition_of_done=definition_of_done,
            automation_profile=resolved.ref,
            effective_profile_snapshot=resolved.profile.snapshot(),
            read_only=self.read_only,
            tags=tags,
            execution_environment=self.execution_environment,
            execution_env_priority=self.execution_env_priority,
            created_at=now,
            updated_at=now,
            arguments={} if arguments is None else arguments,
            invariants=invariants,
            **{
                name: getattr(self, name) if value is None else value
                for name, value in given.items()
            },
        )
        every = dict.fromkeys((*self.invariants, *child.invariants))
        return child._with(invariants=tuple(every))

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
            raise UnknownProfile(ref.profile_name, tuple(BUILT_IN_PROFILES), ref.provenance)
        return ResolvedProfile(profile=profile, provenance=ref.provenance)

    def begin(self) -> Self:
        """Take up the work of the phase."""
        return self._take("begin")

    def complete(self) -> Self:
        """Finish the work of the phase."""
        return self._take("complete")

    def fail(self, message: str | BaseException, details: Mapping[str, Any] | None = None) -> Self:
        """
        Record that this attempt went wrong, and how.

        Args:
            message: What is wrong, in words; or the exception that was caught: its class and
                text, whatever they are, what cannot be stored being escaped.
            details: More about it, as JSON.

        Raises:
            StepNotAllowed: The plan is neither queued nor processing.
            InvalidType: *message* is neither text nor an exception.
            InvalidValue: *message* is blank.
            InvalidFields: *details* are no JSON.
        """
        return self._stop("fail", message, details)

    def retry(self) -> Self:
        """Queue a plan that failed for another attempt; the error goes with the old one."""
        return self._requeue("retry")

    def advance(self) -> Self:
        """Go on to the next phase, and queue there."""
        return self._requeue("advance")

    def revert(self) -> Self:
        """Go back to strategize, and queue there; a plan may do so three times."""
        return self._requeue("revert")

    def constrain(
        self, message: str | BaseException, details: Mapping[str, Any] | None = None
    ) -> Self:
        """
        Hold the plan back from being applied, by the rule that *message* names.

        Raises:
            StepNotAllowed: The plan is not processing in the apply phase.

        And what `fail` raises.
        """
        return self._stop("constrain", message, details)

    def resume(self) -> Self:
        """Queue a constrained plan again, as nothing holds it back any more."""
        return self._requeue("resume")

    def apply(self, at: datetime | None = None) -> Self:
        """Make the result count, for good; *at* is not before the plan was created."""
        return self._finish("apply", at)

    def cancel(self, at: datetime | None = None) -> Self:
        """Give the plan up, for good; *at* is not before the plan was created."""
        return self._finish("cancel", at)

    def edit(self, **changes: Unpack[EditableFields]) -> Self:
        """
        Edit what is neither a step nor fixed, and check the result.

        Raises:
            SnapshotIsFrozen: The snapshot was to be changed.
            NotEditable: A field was to be changed that only a verb changes, or that is fixed.
            InvalidFields: A value cannot be a plan's, or there is no such field.
        """
        self._keep_snapshot(changes)
        refused = _NOT_EDITABLE.intersection(changes)
        if refused:
            raise NotEditable(tuple(sorted(refused)))
        return self._with(**changes)

    @property
    def _first(self) -> Plan:
        """The plan that verbs and edits began with; itself if there were none."""
        first: Plan = getattr(self, "_origin", self)
        return first

    def _with(self, **changes: Any) -> Self:
        changed = super()._with(**changes)
        object.__setattr__(changed, "_origin", self._first)
        return changed

    def _after(self, verb: str) -> Standing:
        at, step = self.standing, STEPS[verb]
        if step.allowed(at):
            return step.after(at)
        reason = None
        if step.allowed(at._replace(reversion_count=0)):
            reason = f"it went back {at.reversion_count} times already"
        elif step.allowed(at._replace(attempt=1)):
            reason = f"attempt {at.attempt} is the last that can be counted"
        standing = (at.phase, at.processing_state)
        raise StepNotAllowed(self.plan_id, *standing, verb, self.allowed_steps, reason)

    def _take(self, verb: str, **changes: Any) -> Self:
        after = self._after(verb)._asdict()
        identity = {**dict(self.identity), "attempt": after.pop("attempt")}
        return self._with(identity=identity, **after, **changes)

    def _requeue(self, verb: str) -> Self:
        return self._take(verb, error_message=None, error_details=None)

    def _finish(self, verb: str, at: datetime | None) -> Self:
        finished = self._take(verb, completed_at=datetime.now(UTC) if at is None else at)
        # Now can be earlier, by the clock of another machine; what is given is checked.
        if at is not None and finished.completed_at and finished.completed_at < self.created_at:
            raise InvalidValue("at", str(at), f"a time from {self.created_at}, its created_at, on")
        return finished

    def _stop(self, verb: str, message: Any, details: Mapping[str, Any] | None) -> Self:
        return self._take(verb, error_message=text_of_problem(message), error_details=details)

    def _profile_for_a_child(self) -> ResolvedProfile:
        # What an earlier release froze is written out in full by this one, in its own schema.
        resolved = self.resolved_profile()
        profile = resolved.profile.model_copy(update={"schema_version": SCHEMA_VERSION})
        return resolved.model_copy(update={"profile": profile})
