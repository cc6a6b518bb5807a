"""Errors of persistence name the plan, and say what to do."""

from __future__ import annotations

import pytest

from cleveragents_plans.domain import PlansError
from cleveragents_plans.persistence import (
    CorruptPlanRow,
    NoLaterVersion,
    NotARoot,
    PlanAlreadyStored,
    PlanConflict,
    PlanNotFound,
    PlanNotStored,
    PlanReferenced,
    RelatedPlanMissing,
    RootInUse,
)

ERRORS = [
    (PlanNotFound("A"), "list the plans"),
    (PlanAlreadyStored("A"), "use save"),
    (PlanConflict("A", "then"), "read it again"),
    (PlanNotStored("A", "then"), "add() it"),
    (NoLaterVersion("A", "then"), "correct updated_at"),
    (RootInUse("A", 2), "delete_tree"),
    (PlanReferenced("A", "tickets", None), "ON DELETE"),
    (CorruptPlanRow("A", "v3_plans.phase", "x", "a phase"), "repair the row"),
    (NotARoot("A", "B"), "name that one"),
    (RelatedPlanMissing("A", "B"), "add that one first"),
]


@pytest.mark.parametrize(("error", "advice"), ERRORS, ids=lambda each: type(each).__name__)
def test_an_error_names_the_plan_and_says_what_to_do(error, advice):
    assert isinstance(error, PlansError)
    assert error.plan_id == "A"
    assert advice in str(error)
    assert "\n" not in str(error)
