"""A plan as JSON for those who only read it: with what they would have to work out otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import ConfigDict, computed_field

from cleveragents_plans.domain.errors import SnapshotUnreadable
from cleveragents_plans.domain.plan import Plan
from cleveragents_plans.domain.profiles import AutomationProfile


class PlanView(Plan):
    """
    A plan whose JSON has `plan_id`, `allowed_steps`, the frozen profile and the like besides.

    It serves as a response model. What it writes it reads again; as `Plan` reads its own JSON only,
    a view is no body for what writes plans.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Show *plan*."""
        return cls(**dict(plan))

    # For type checkers these are the properties that they were.
    if not TYPE_CHECKING:
        plan_id = computed_field(Plan.plan_id)
        parent_plan_id = computed_field(Plan.parent_plan_id)
        root_plan_id = computed_field(Plan.root_plan_id)
        attempt = computed_field(Plan.attempt)
        is_root = computed_field(Plan.is_root)
        is_detached = computed_field(Plan.is_detached)
        is_final = computed_field(Plan.is_final)
        allowed_steps = computed_field(Plan.allowed_steps)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def profile(self) -> AutomationProfile | None:
        """
        The profile as it was when the plan was created.

        It is None where none was recorded, and where `effective_profile_snapshot`, which is
        written in any case, describes none.
        """
        try:
            return self.effective_profile
        except SnapshotUnreadable:
            return None
