"""The rule that a saved plan follows from the stored one by verbs and edits."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from cleveragents_plans.domain import AutomationProfileRef, Phase, Plan, ProcessingState
from cleveragents_plans.domain.lifecycle import FIXED_FIELDS, change_refused

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
A, B = (f"01J0000000000000000000000{last}" for last in "AB")


def a_plan(phase="action", state="queued", **fields) -> Plan:
    known = {
        "identity": {"plan_id": A},
        "action_name": "local/lint",
        "created_at": NOON,
        "updated_at": NOON,
        "phase": phase,
        "processing_state": state,
    }
    return Plan(**{**known, **fields})


def tried(number: int) -> dict[str, object]:
    return {"identity": {"plan_id": A, "attempt": number}}


@pytest.mark.parametrize(
    "verbs",
    [
        "",
        "begin",
        "begin complete advance begin complete advance",
        "begin fail retry",
        "begin complete advance begin complete advance begin revert",
        "cancel",
    ],
)
def test_verbs_and_edits_between_two_saves_are_accepted(verbs):
    stored = plan = a_plan()
    for verb in verbs.split():
        plan = plan.fail("it broke") if verb == "fail" else getattr(plan, verb)()

    assert change_refused(stored, plan.edit(description="new", tags=["x"])) is None


@pytest.mark.parametrize(
    ("stored", "wanted", "why"),
    [
        (
            a_plan(state="cancelled", completed_at=NOON),
            a_plan(),
            r"no verbs lead from cancelled in action \(attempt 1\) to queued in action",
        ),
        (a_plan("apply", "applied"), a_plan("apply", "complete"), "from applied in apply"),
        (a_plan(), a_plan(**tried(99)), r"to queued in action \(attempt 99\)"),
        (a_plan(), a_plan(**tried(3)), "attempt 3"),
        (a_plan(**tried(2)), a_plan(**tried(1)), r"\(attempt 2\) to queued in action \(attempt 1"),
        (a_plan("apply"), a_plan("execute"), "from queued in apply"),
        (a_plan("execute", "complete"), a_plan("execute", "processing"), "from complete"),
        (a_plan(reversion_count=2), a_plan(), r"\(attempt 1, 2 reversions\)"),
        (a_plan(), a_plan(completed_at=NOON), "completed_at changes only"),
        (a_plan(), a_plan(state="processing", completed_at=NOON), "completed_at changes only"),
        (
            a_plan(state="cancelled", completed_at=NOON),
            a_plan(state="cancelled"),
            "completed_at changes only when a plan is applied or cancelled",
        ),
    ],
)
def test_a_change_that_no_verb_makes_is_refused_with_its_reason(stored, wanted, why):
    assert re.search(why, change_refused(stored, wanted) or "accepted")


OTHER = {
    "plan_id": {"identity": {"plan_id": B}},
    "parent_plan_id": {"identity": {"plan_id": A, "parent_plan_id": B, "root_plan_id": A}},
    "root_plan_id": {"identity": {"plan_id": A, "root_plan_id": B}},
    "automation_profile": {"automation_profile": AutomationProfileRef(profile_name="ci")},
    "effective_profile_snapshot": {"effective_profile_snapshot": '{"name":"x"}'},
    "created_at": {"created_at": datetime(2001, 1, 1, tzinfo=UTC)},
}


@pytest.mark.parametrize("field", FIXED_FIELDS)
def test_a_field_that_never_changes_is_refused_by_its_name(field):
    wanted = a_plan(**OTHER.get(field, {field: "other"}))

    assert field in str(change_refused(a_plan(), wanted))
    assert str(change_refused(a_plan(), wanted)).endswith("cannot change")


def test_every_standing_leads_where_its_verbs_lead_and_an_end_leads_nowhere():
    for phase in Phase:
        for state in ProcessingState:
            if phase != "apply" and state in ("applied", "constrained"):
                continue
            plan = a_plan(phase, state)
            leads = {
                other
                for other in ProcessingState
                if phase == "apply" or other not in ("applied", "constrained")
                if change_refused(plan, a_plan(phase, other)) is None
            }
            assert state in leads
            assert (leads == {state}) == plan.is_final
