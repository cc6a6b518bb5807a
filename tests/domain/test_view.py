"""A plan as JSON for those who only read it."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from pydantic import TypeAdapter

from cleveragents_plans.domain import BUILT_IN_PROFILES, Plan, PlanView
from support.plans import a_plan, any_plan


def test_a_view_has_what_a_reader_would_have_to_work_out():
    root = Plan.create("local/x", profile="trusted")
    plan = root.spawn("Part one").begin()

    found = json.loads(PlanView.of(plan).model_dump_json())

    assert {name: found[name] for name in found.keys() - Plan.model_fields.keys()} == {
        "plan_id": plan.plan_id,
        "parent_plan_id": root.plan_id,
        "root_plan_id": root.plan_id,
        "attempt": 1,
        "is_root": False,
        "is_detached": False,
        "is_final": False,
        "allowed_steps": ["complete", "fail", "spawn", "cancel"],
        "profile": BUILT_IN_PROFILES["trusted"].model_dump(mode="json"),
    }
    assert {name: found[name] for name in Plan.model_fields} == plan.model_dump(mode="json")


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
@given(any_plan())
def test_a_view_reads_what_it_writes(plan):
    view = PlanView.of(plan)

    assert PlanView.model_validate_json(view.model_dump_json()) == view
    assert Plan(**dict(view)) == plan


def test_a_view_is_made_of_a_plan_by_a_framework_as_well():
    plan = Plan.create("local/x")

    assert TypeAdapter(PlanView).validate_python(plan, from_attributes=True) == PlanView.of(plan)


def test_a_view_has_no_profile_where_the_snapshot_describes_none():
    for snapshot in ("{}", '{"some":"thing"}'):
        view = PlanView.of(a_plan(effective_profile_snapshot=snapshot))

        assert view.profile is None
        assert json.loads(view.model_dump_json())["effective_profile_snapshot"] == snapshot
