"""What clients send, and what they are sent."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from cleveragents_plans import (
    EnvironmentPriority,
    Invariant,
    Order,
    Phase,
    Plan,
    PlanView,
    ProcessingState,
    ProjectLink,
    UnknownFilter,
)


class _Body(BaseModel, extra="forbid"):
    """What is not known is refused, not dropped."""


class NewChild(_Body):
    """A plan to be spawned; what is not given is inherited, as `Plan.spawn` says."""

    description: str = ""
    action_name: str | None = None
    definition_of_done: str | None = None
    profile: str | None = None
    project_links: list[ProjectLink | str] | None = None
    arguments: dict[str, Any] | None = None
    invariants: list[Invariant | str] = []
    tags: list[str] = []
    strategy_actor: str | None = None
    execution_actor: str | None = None
    estimation_actor: str | None = None
    invariant_actor: str | None = None
    created_by: str | None = None
    plan_id: str | None = None
    """A ULID that the client made: a request that is sent twice then creates one plan."""

    def given(self) -> dict[str, Any]:
        """Give what was sent, for `Plan.create` and `Plan.spawn`."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class NewPlan(NewChild):
    """A plan to be created, the root of a tree."""

    namespaced_name: str
    project_links: list[ProjectLink | str] = []
    execution_environment: str | None = None
    execution_env_priority: EnvironmentPriority | None = None
    reusable: bool = False
    read_only: bool = False


class Step(_Body):
    """A verb that a plan is to take."""

    step: Literal["begin", "complete", "retry", "advance", "revert", "resume", "apply", "cancel"]

    def take(self, plan: Plan) -> Plan:
        """Give the plan as it stands afterwards."""
        return getattr(plan, self.step)()  # type: ignore[no-any-return]


class Stop(_Body):
    """A verb that says why the plan stops."""

    step: Literal["fail", "constrain"]
    message: str
    details: dict[str, Any] | None = None

    def take(self, plan: Plan) -> Plan:
        """Give the plan as it stands afterwards."""
        return getattr(plan, self.step)(self.message, self.details)  # type: ignore[no-any-return]


AnyStep = Annotated[Step | Stop, Field(discriminator="step")]


class Query(BaseModel, extra="allow"):
    """The part of a listing that is asked for, and its filters."""

    order: Order = "oldest"
    after: str | None = None
    """The `next_cursor` of the page before."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    phase: list[Phase] | None = None
    processing_state: list[ProcessingState] | None = None
    is_final: bool | None = None
    namespace: list[str] | None = None
    action: list[str] | None = None
    project: list[str] | None = None
    parent: list[str] | None = None
    root: list[str] | None = None
    created_by: list[str] | None = None
    tag: list[str] | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    updated_from: datetime | None = None
    updated_before: datetime | None = None
    completed_from: datetime | None = None
    completed_before: datetime | None = None

    def given(self) -> dict[str, Any]:
        """
        Give what was asked, for `PlanRepository.list`.

        Raises:
            UnknownFilter: A filter is not known; the error names the nearest.
        """
        for name in self.model_extra or ():
            raise UnknownFilter(name, tuple(type(self).model_fields))
        return self.model_dump(exclude_none=True)


class Listing(BaseModel):
    """A page of plans."""

    plans: list[PlanView]
    next_cursor: str | None
    """To be sent as `after`; none on the last page."""
