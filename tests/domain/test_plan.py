import copy
import inspect
import json
import pickle
import pydoc
import re
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest
from pydantic import ValidationError

from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    AutomationProfile,
    AutomationProfileRef,
    EditableFields,
    EnvironmentPriority,
    InvalidFields,
    InvalidType,
    InvalidValue,
    Invariant,
    JsonObject,
    Level,
    NotEditable,
    Phase,
    Plan,
    PlanIdentity,
    ProcessingState,
    ProfileNameTaken,
    ProjectLink,
    ResolvedProfile,
    SnapshotIsFrozen,
    SnapshotUnreadable,
    StepNotAllowed,
    UnknownProfile,
    resolve_profile,
)

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
A, B, C = (f"01J0000000000000000000000{last}" for last in "ABC")

# Each phase and state that a plan can be in, and the verbs that it may take there.
ANYWHERE = {
    "queued": "begin fail spawn cancel",
    "processing": "complete fail spawn cancel",
    "complete": "advance spawn cancel",
    "errored": "retry spawn cancel",
    "cancelled": "",
}
ALLOWED = {
    **{("action", state): verbs for state, verbs in ANYWHERE.items()},
    **{("strategize", state): verbs for state, verbs in ANYWHERE.items()},
    ("execute", "queued"): "begin fail revert spawn cancel",
    ("execute", "processing"): "complete fail revert spawn cancel",
    ("execute", "complete"): "advance revert spawn cancel",
    ("execute", "errored"): "retry revert spawn cancel",
    ("execute", "cancelled"): "",
    ("apply", "queued"): "begin fail revert spawn cancel",
    ("apply", "processing"): "complete fail revert constrain apply spawn cancel",
    ("apply", "complete"): "revert apply spawn cancel",
    ("apply", "errored"): "retry revert spawn cancel",
    ("apply", "constrained"): "revert resume spawn cancel",
    ("apply", "applied"): "",
    ("apply", "cancelled"): "",
}
VERBS = {
    "begin": Plan.begin,
    "complete": Plan.complete,
    "fail": lambda plan: plan.fail("it broke"),
    "retry": Plan.retry,
    "advance": Plan.advance,
    "revert": Plan.revert,
    "constrain": lambda plan: plan.constrain("not on Fridays"),
    "resume": Plan.resume,
    "apply": Plan.apply,
    "spawn": Plan.spawn,
    "cancel": Plan.cancel,
}


def a_plan(phase="action", state="queued", **fields):
    known = {
        "identity": {"plan_id": A},
        "action_name": "local/lint",
        "created_at": NOON,
        "updated_at": NOON,
        "phase": phase,
        "processing_state": state,
    }
    return Plan(**{**known, **fields})


def refused(**fields):
    with pytest.raises(ValidationError) as caught:
        a_plan(**fields)
    return str(caught.value)


# -- what a plan is


def test_a_plan_needs_no_more_than_an_id_an_action_and_its_times():
    plan = a_plan()

    assert (plan.plan_id, plan.parent_plan_id, plan.root_plan_id, plan.attempt) == (A, None, A, 1)
    assert plan.phase is Phase.ACTION
    assert plan.processing_state is ProcessingState.QUEUED
    assert plan.automation_profile == AutomationProfileRef(profile_name="balanced")
    assert plan.effective_profile_snapshot == "{}"
    assert plan.effective_profile is None
    assert plan.last_completed_step == -1
    assert plan.arguments == {}


def test_a_plan_is_a_root_a_child_or_detached():
    root = a_plan()
    child = a_plan(identity={"plan_id": B, "parent_plan_id": A, "root_plan_id": A})
    detached = a_plan(identity={"plan_id": C, "root_plan_id": A})

    assert [(plan.is_root, plan.is_detached) for plan in (root, child, detached)] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_a_child_of_an_earlier_release_is_readable_with_itself_as_root():
    child = a_plan(identity={"plan_id": B, "parent_plan_id": A, "root_plan_id": B})

    assert not child.is_root
    assert not child.is_detached


def test_the_names_of_a_row_need_not_agree():
    plan = a_plan(namespaced_name="team/a", namespace="other", action_name="third")

    assert plan.namespace == "other"


def test_equal_plans_are_one_key():
    assert a_plan(arguments={"a": 1}) == a_plan(arguments={"a": 1})
    assert len({a_plan(tags=["x"]), a_plan(tags=["x"])}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"arguments": {"a": 1}}, {"arguments": {"a": 1.0}}),
        ({"arguments": {"a": 1}}, {"arguments": {"a": True}}),
        ({"arguments": {"a": 1, "b": 2}}, {"arguments": {"b": 2, "a": 1}}),
        ({"validation_summary": {}}, {"validation_summary": None}),
        ({"error_details": {"a": [1]}}, {"error_details": {"a": [1.0]}}),
        ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}),
    ],
)
def test_plans_whose_rows_differ_are_different(one, other):
    assert a_plan(**one) != a_plan(**other)


def test_a_plan_survives_copies_pickles_and_dumps():
    plan = Plan.create(
        "a", arguments={"b": [1], "a": None}, tags=["x"], project_links=["p"], invariants=["i"]
    ).fail("no", {"at": [1, 2]})

    assert pickle.loads(pickle.dumps(plan)) == plan
    assert copy.deepcopy(plan) == plan
    assert Plan.model_validate(plan.model_dump()) == plan
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_plan_is_shown_in_one_line():
    plan = Plan.create("local/x", description="so long\n" * 50, arguments={"a": "x" * 10_000})

    assert repr(plan) == (
        f"Plan(plan_id='{plan.plan_id}', namespaced_name='local/x',"
        f" description={plan.description[:40]!r}, standing='queued in action')"
    )
    for value in (plan.arguments, plan.effective_profile, resolve_profile()):
        assert len(repr(value)) < 200


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("description", "a\0b"),
        ("strategy_actor", "\ud800"),
        ("strategy_actor", "a" * 256),
        ("changeset_id", "a" * 27),
        ("action_name", "two words"),
        ("token_count_input", 2**31),
        ("token_count_output", -1),
        ("last_completed_step", -2),
        ("reversion_count", 4),
        ("cost_actual_usd", float("nan")),
        ("created_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - that is the point
        ("tags", "text"),
        ("sandbox_refs", None),
        ("execution_env_priority", "sometimes"),
        ("effective_profile_snapshot", "[]"),
        ("effective_profile_snapshot", "balanced"),
        ("effective_profile_snapshot", ""),
        ("nickname", "a"),
    ],
)
def test_a_value_that_no_row_can_hold_is_refused_by_its_name(field, wrong):
    assert f"\n{field}" in refused(**{field: wrong})


def test_two_projects_of_a_plan_cannot_have_one_alias():
    links = [{"project_name": name, "alias": "api"} for name in ("a", "b")]

    assert "two projects have the alias 'api'" in refused(project_links=links)


def test_projects_without_an_alias_do_not_clash():
    links = [{"project_name": "a"}, {"project_name": "b"}, {"project_name": "c", "alias": "x"}]

    assert len(a_plan(project_links=links).project_links) == 3


@pytest.mark.parametrize("state", ["applied", "constrained"])
@pytest.mark.parametrize("phase", ["action", "strategize", "execute"])
def test_a_plan_is_applied_or_constrained_in_the_apply_phase_only(phase, state):
    said = refused(phase=phase, processing_state=state)

    assert f"a plan is {state} in the apply phase only, not in {phase}" in said


# -- the snapshot


SNAPSHOT = BUILT_IN_PROFILES["ci"].snapshot()


def test_a_snapshot_is_kept_byte_for_byte():
    text = '{ "name" : "old",\n "edit_code": 0.250 }'
    plan = a_plan(effective_profile_snapshot=text)

    assert plan.effective_profile_snapshot == text
    assert plan.effective_profile.edit_code == 0.25


def test_a_snapshot_that_describes_no_profile_can_be_kept_but_not_read():
    plan = a_plan(effective_profile_snapshot='{"some":"thing"}')

    with pytest.raises(SnapshotUnreadable, match="name: Field required") as caught:
        _ = plan.effective_profile
    assert caught.value.plan_id == plan.plan_id


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.edit(effective_profile_snapshot="{}"),
        lambda plan: plan.model_copy(update={"effective_profile_snapshot": "{}"}),
        lambda plan: setattr(plan, "effective_profile_snapshot", "{}"),
    ],
    ids=["edit", "model_copy", "assignment"],
)
def test_a_snapshot_is_never_exchanged(change):
    plan = a_plan(effective_profile_snapshot=SNAPSHOT)

    with pytest.raises(SnapshotIsFrozen, match=A) as caught:
        change(plan)
    assert caught.value.plan_id == A
    assert plan.effective_profile_snapshot == SNAPSHOT


def test_the_same_snapshot_is_no_change():
    plan = a_plan(effective_profile_snapshot=SNAPSHOT)

    assert plan.edit(effective_profile_snapshot=SNAPSHOT) == plan
    assert plan.model_copy(update={"effective_profile_snapshot": SNAPSHOT}) == plan
    assert plan.model_copy() == plan


def test_any_other_field_is_frozen_as_well():
    with pytest.raises(ValidationError, match="frozen"):
        a_plan().description = "other"


def test_a_copy_is_checked_like_a_new_plan():
    plan = a_plan()

    assert plan.model_copy(update={"description": "new"}) == plan.edit(description="new")
    assert plan.model_copy(deep=True) == plan
    for wrong in ({"description": 5}, {"processing_state": "applied"}, {"colour": "red"}):
        with pytest.raises(InvalidFields, match=r"valid string|apply phase only|not permitted"):
            plan.model_copy(update=wrong)
    with pytest.raises(InvalidFields, match="ULID"):
        plan.identity.model_copy(update={"plan_id": "1"})


# -- create


def test_a_new_plan_is_a_queued_root_with_its_profile_frozen():
    plan = Plan.create("refactor-auth")

    assert plan.is_root
    assert plan.namespaced_name == plan.action_name == "local/refactor-auth"
    assert plan.namespace == "local"
    assert (plan.phase, plan.processing_state) == (Phase.ACTION, ProcessingState.QUEUED)
    assert plan.automation_profile == AutomationProfileRef()
    assert plan.effective_profile_snapshot == BUILT_IN_PROFILES["balanced"].snapshot()
    assert plan.created_at == plan.updated_at
    assert abs(datetime.now(UTC) - plan.created_at) < timedelta(minutes=1)


def test_a_new_plan_takes_over_everything_that_is_given():
    plan = Plan.create(
        "srv:team/refactor",
        action_name="lint",
        description="Tidy up",
        definition_of_done="No warning",
        project_links=["local/web", ProjectLink(project_name="local/api", alias="api")],
        arguments={"depth": 2, "also": ["x"]},
        invariants=["Keep the API", Invariant(text="No new dependency", source=Level.PROJECT)],
        tags=(tag for tag in ("a", "b")),
        strategy_actor="s",
        execution_actor="x",
        estimation_actor="e",
        invariant_actor="i",
        execution_environment="docker",
        execution_env_priority=EnvironmentPriority.OVERRIDE,
        reusable=True,
        read_only=True,
        created_by="ada",
        created_at=NOON,
        plan_id=A.lower(),
    )

    assert plan == Plan(
        identity=PlanIdentity(plan_id=A),
        namespaced_name="srv:team/refactor",
        namespace="team",
        action_name="local/lint",
        description="Tidy up",
        definition_of_done="No warning",
        effective_profile_snapshot=BUILT_IN_PROFILES["balanced"].snapshot(),
        project_links=[
            {"project_name": "local/web"},
            {"project_name": "local/api", "alias": "api"},
        ],
        arguments={"depth": 2, "also": ["x"]},
        invariants=[
            {"text": "Keep the API", "source": "plan"},
            {"text": "No new dependency", "source": "project"},
        ],
        tags=["a", "b"],
        strategy_actor="s",
        execution_actor="x",
        estimation_actor="e",
        invariant_actor="i",
        execution_environment="docker",
        execution_env_priority="override",
        reusable=True,
        read_only=True,
        created_by="ada",
        created_at=NOON,
        updated_at=NOON,
    )


@pytest.mark.parametrize("make", [partial(Plan.create, "a"), Plan.create("a").spawn])
@pytest.mark.parametrize("value", ["abc", b"abc", {"a": 1}, 5])
@pytest.mark.parametrize("field", ["tags", "invariants", "project_links"])
def test_single_value_is_not_taken_for_a_list(make, field, value):
    with pytest.raises(InvalidFields, match=f"{field}: .*valid tuple"):
        make(**{field: value})


@pytest.mark.parametrize("name", [5, None, b"a"])
def test_a_name_that_is_no_text_is_refused(name):
    for make in (lambda: Plan.create(name), lambda: Plan.create("a", action_name=name or 0)):
        with pytest.raises(TypeError, match=r"the name is .*; expected text like namespace/name"):
            make()


def custom_profile(**fields):
    return AutomationProfile(**{**BUILT_IN_PROFILES["ci"].model_dump(), "name": "mine", **fields})


@pytest.mark.parametrize(
    ("choice", "profile", "level"),
    [
        ("ci", BUILT_IN_PROFILES["ci"], Level.PLAN),
        ("balanced", BUILT_IN_PROFILES["balanced"], Level.PLAN),
        (BUILT_IN_PROFILES["ci"], BUILT_IN_PROFILES["ci"], Level.PLAN),
        (custom_profile(), custom_profile(), Level.PLAN),
        (resolve_profile(project="ci"), BUILT_IN_PROFILES["ci"], Level.PROJECT),
        (resolve_profile(), BUILT_IN_PROFILES["balanced"], None),
        (None, BUILT_IN_PROFILES["balanced"], None),
    ],
)
def test_a_new_plan_has_the_profile_that_was_chosen_and_says_by_whom(choice, profile, level):
    plan = Plan.create("a", profile=choice)

    assert plan.effective_profile == profile
    assert plan.automation_profile == AutomationProfileRef(
        profile_name=profile.name, provenance=level
    )


def test_a_new_plan_cannot_have_a_profile_that_does_not_exist():
    with pytest.raises(UnknownProfile, match="'ci'"):
        Plan.create("a", profile="cii")


def test_a_new_plan_cannot_have_another_profile_under_a_built_in_name():
    posing = custom_profile(name="manual")

    for choice in (posing, ResolvedProfile(profile=posing)):
        with pytest.raises(ProfileNameTaken):
            Plan.create("a", profile=choice)
        with pytest.raises(ProfileNameTaken):
            Plan.create("a").spawn(profile=choice)


def test_a_child_keeps_what_a_built_in_profile_said_when_its_parent_was_created():
    of_old = custom_profile(name="manual")
    parent = a_plan(
        effective_profile_snapshot=of_old.snapshot(), automation_profile={"profile_name": "manual"}
    )

    assert parent.spawn().effective_profile == of_old


@pytest.mark.parametrize("wrong", [{"approve_plan": 7.0}, {"safety": 1}, {"name": "two words"}])
def test_a_copy_of_a_profile_is_checked_like_a_new_one(wrong):
    with pytest.raises(InvalidFields, match=next(iter(wrong))):
        custom_profile().model_copy(update=wrong)


# -- spawn


PARENT = Plan.create(
    "refactor",
    profile="cautious",
    project_links=["local/api"],
    arguments={"depth": 2},
    invariants=["Keep the API"],
    tags=["a"],
    strategy_actor="s",
    execution_actor="x",
    estimation_actor="e",
    invariant_actor="i",
    execution_environment="docker",
    execution_env_priority=EnvironmentPriority.FALLBACK,
    read_only=True,
    reusable=True,
    created_by="ada",
    created_at=NOON,
)


def test_a_child_takes_over_what_holds_for_the_work_of_its_parent():
    child = PARENT.spawn("Part one", plan_id=B, created_at=NOON)

    assert child == Plan(
        identity={
            "plan_id": B,
            "parent_plan_id": PARENT.plan_id,
            "root_plan_id": PARENT.plan_id,
        },
        action_name="local/refactor",
        description="Part one",
        automation_profile={"profile_name": "cautious", "provenance": "plan"},
        effective_profile_snapshot=PARENT.effective_profile_snapshot,
        project_links=PARENT.project_links,
        invariants=PARENT.invariants,
        strategy_actor="s",
        execution_actor="x",
        estimation_actor="e",
        invariant_actor="i",
        execution_environment="docker",
        execution_env_priority="fallback",
        read_only=True,
        created_by="ada",
        created_at=NOON,
        updated_at=NOON,
    )


def test_a_child_has_what_it_is_given():
    child = PARENT.begin().spawn(
        action_name="lint",
        definition_of_done="Done",
        profile="manual",
        project_links=[],
        arguments={"x": 1},
        invariants=["Keep the API", "No new dependency"],
        tags=["b"],
        strategy_actor="s2",
        execution_actor="x2",
        estimation_actor="e2",
        invariant_actor="i2",
        created_by="bob",
    )

    assert child.plan_id != PARENT.plan_id
    assert child.processing_state is ProcessingState.QUEUED
    assert child.action_name == "local/lint"
    assert child.definition_of_done == "Done"
    assert child.effective_profile == BUILT_IN_PROFILES["manual"]
    assert child.project_links == ()
    assert child.arguments == {"x": 1}
    assert [one.text for one in child.invariants] == ["Keep the API", "No new dependency"]
    assert child.tags == ("b",)
    assert child.created_by == "bob"
    assert [
        child.strategy_actor,
        child.execution_actor,
        child.estimation_actor,
        child.invariant_actor,
    ] == ["s2", "x2", "e2", "i2"]


def test_a_grandchild_belongs_to_the_root_of_the_tree():
    grandchild = PARENT.spawn(plan_id=B).spawn()

    assert grandchild.parent_plan_id == B
    assert grandchild.root_plan_id == PARENT.plan_id


def test_a_child_keeps_to_the_profile_that_its_parent_was_created_under():
    parent = Plan.create("a", profile=custom_profile())

    assert parent.spawn().effective_profile == custom_profile()


def test_a_child_of_a_plan_of_another_release_has_this_releases_snapshot():
    parent = a_plan(effective_profile_snapshot='{"name":"cautious","schema_version":"0.9","x":1}')
    child = parent.spawn()

    assert parent.effective_profile.schema_version == "0.9"
    assert json.loads(child.effective_profile_snapshot)["schema_version"] == "1.0"
    assert {*json.loads(child.effective_profile_snapshot)} == {*AutomationProfile.model_fields}


def test_a_child_of_an_unrecorded_parent_has_a_full_snapshot_nevertheless():
    parent = a_plan(automation_profile={"profile_name": "ci", "provenance": "global"})
    child = parent.spawn()

    assert child.effective_profile == BUILT_IN_PROFILES["ci"]
    assert child.automation_profile == parent.automation_profile


def test_a_child_of_a_parent_whose_profile_is_lost_needs_one():
    parent = a_plan(automation_profile={"profile_name": "gone", "provenance": "project"})

    with pytest.raises(UnknownProfile, match="'gone', named by the project level"):
        parent.spawn()
    assert parent.spawn(profile="auto").effective_profile == BUILT_IN_PROFILES["auto"]


# -- verbs


@pytest.mark.parametrize(("phase", "state"), ALLOWED)
def test_a_plan_may_take_the_steps_of_where_it_stands(phase, state):
    plan = a_plan(phase, state)

    assert sorted(plan.allowed_steps) == sorted(ALLOWED[phase, state].split())
    for verb in plan.allowed_steps:
        VERBS[verb](plan)


@pytest.mark.parametrize(("phase", "state"), ALLOWED)
def test_a_plan_may_take_no_other_step(phase, state):
    plan = a_plan(phase, state)

    for verb in VERBS.keys() - set(ALLOWED[phase, state].split()):
        with pytest.raises(StepNotAllowed) as caught:
            VERBS[verb](plan)
        error = caught.value
        assert (error.plan_id, error.phase, error.processing_state) == (A, phase, state)
        assert (error.wanted, error.allowed) == (verb, plan.allowed_steps)


@pytest.mark.parametrize(
    ("phase", "state", "verb", "to_phase", "to_state"),
    [
        ("action", "queued", "begin", "action", "processing"),
        ("action", "processing", "complete", "action", "complete"),
        ("action", "complete", "advance", "strategize", "queued"),
        ("strategize", "complete", "advance", "execute", "queued"),
        ("execute", "complete", "advance", "apply", "queued"),
        ("execute", "processing", "fail", "execute", "errored"),
        ("execute", "errored", "retry", "execute", "queued"),
        ("execute", "complete", "revert", "strategize", "queued"),
        ("apply", "constrained", "revert", "strategize", "queued"),
        ("apply", "processing", "constrain", "apply", "constrained"),
        ("apply", "constrained", "resume", "apply", "queued"),
        ("apply", "complete", "apply", "apply", "applied"),
        ("strategize", "errored", "cancel", "strategize", "cancelled"),
    ],
)
def test_a_step_leads_where_it_should(phase, state, verb, to_phase, to_state):
    before = a_plan(phase, state)
    after = VERBS[verb](before)

    assert (after.phase, after.processing_state) == (to_phase, to_state)
    assert (before.phase, before.processing_state) == (phase, state)
    assert after.updated_at == before.updated_at


def test_a_refused_step_says_what_would_be_allowed():
    with pytest.raises(StepNotAllowed) as caught:
        a_plan().advance()

    assert str(caught.value) == (
        "a plan that is queued in the action phase cannot advance;"
        f" allowed here: begin, fail, spawn, cancel [{A}]"
    )


def test_a_plan_goes_back_three_times_and_no_more():
    plan = a_plan("execute")
    for times in (1, 2, 3):
        plan = plan.revert()
        assert plan.reversion_count == times
        plan = plan.begin().complete().advance()

    assert "revert" not in plan.allowed_steps
    with pytest.raises(StepNotAllowed, match="went back 3 times already") as caught:
        plan.revert()
    assert caught.value.reason


def test_the_last_attempt_that_can_be_counted_is_not_retried():
    last = a_plan(identity=PlanIdentity(plan_id=A, attempt=2**31 - 1))
    failed = last.begin().fail("no")

    assert failed.allowed_steps == ("spawn", "cancel")
    with pytest.raises(
        StepNotAllowed, match=r"cannot retry \(attempt 2147483647 is the last .* \["
    ) as caught:
        failed.retry()
    assert caught.value.plan_id == A


def test_another_try_counts_and_leaves_the_error_behind():
    failed = a_plan("execute", "processing").fail("it broke", {"line": 3})
    again = failed.retry()

    assert (failed.error_message, failed.error_details) == ("it broke", JsonObject({"line": 3}))
    assert failed.attempt == 1
    assert again.attempt == 2
    assert again.plan_id == A
    assert (again.error_message, again.error_details) == (None, None)


def test_a_plan_that_is_held_back_says_by_what():
    held = a_plan("apply", "processing").constrain("Not on Fridays", {"day": 5})

    assert (held.error_message, held.error_details) == ("Not on Fridays", {"day": 5})
    assert held.resume().error_message is None
    assert held.attempt == held.resume().attempt


@pytest.mark.parametrize(
    ("message", "error"), [(None, InvalidType), ("", InvalidValue), (" ", InvalidValue)]
)
def test_errors_are_said_in_words(message, error):
    with pytest.raises(error, match=f"message is {message!r}; expected text that says"):
        a_plan().fail(message)
    with pytest.raises(error, match=f"message is {message!r}; expected text that says"):
        a_plan("apply", "processing").constrain(message)


@pytest.mark.parametrize("verb", [Plan.apply, Plan.cancel])
def test_a_plan_that_is_done_says_when(verb):
    plan = a_plan("apply", "processing")

    assert verb(plan, at=NOON).completed_at == NOON
    assert abs(datetime.now(UTC) - verb(plan).completed_at) < timedelta(minutes=1)
    assert verb(plan).is_final
    assert not plan.is_final


# -- edit


def test_an_edit_takes_the_short_forms_of_create():
    fields = {"project_links": ["local/api"], "invariants": ["Keep it"], "tags": {"x": 1}.keys()}

    edited = a_plan().edit(**fields)

    assert edited.project_links == Plan.create("a", **fields).project_links
    assert edited.invariants == (Invariant(text="Keep it"),)
    assert edited.tags == ("x",)


def test_every_field_is_edited_or_refused_by_its_name():
    editable = set(EditableFields.__annotations__)

    refused = set()
    for name in (*Plan.model_fields, *PlanIdentity.model_fields):
        try:
            a_plan().edit(**{name: object()})
        except NotEditable:
            refused.add(name)
        except (InvalidFields, SnapshotIsFrozen):
            pass
    assert set(Plan.model_fields) - refused == editable | {"effective_profile_snapshot"}


def test_plain_facts_can_be_edited_and_are_checked():
    plan = a_plan().edit(description="New", tags=["x"], token_count_input=5)

    assert (plan.description, plan.tags, plan.token_count_input) == ("New", ("x",), 5)
    with pytest.raises(InvalidFields, match=r"token_count_input: .* or equal to 0"):
        plan.edit(token_count_input=-1)
    with pytest.raises(InvalidFields, match="descripton: Extra inputs"):
        plan.edit(descripton="A field that does not exist")


@pytest.mark.parametrize(
    "field",
    ["identity", "plan_id", "parent_plan_id", "root_plan_id", "attempt", "namespaced_name",
     "namespace", "action_name", "phase", "processing_state", "reversion_count",
     "automation_profile", "created_by", "created_at", "updated_at", "completed_at"],
)  # fmt: skip
def test_fields_that_only_a_verb_changes_cannot_be_edited(field):
    with pytest.raises(NotEditable, match=field) as caught:
        a_plan().edit(**{field: None, "description": "New"})
    assert caught.value.fields == (field,)


def test_a_snapshot_is_stored_as_the_json_of_the_whole_profile():
    recorded = json.loads(Plan.create("a", profile="auto").effective_profile_snapshot)

    assert recorded == BUILT_IN_PROFILES["auto"].model_dump(mode="json")


def test_help_of_a_plan_says_what_its_fields_take():
    shown = pydoc.render_doc(Plan, renderer=pydoc.plaintext)

    assert "<text of up to 255 characters>" in shown
    assert "<a ULID: 26 characters of Crockford base 32, the first of them 0 to 7>" in repr(
        inspect.signature(PlanIdentity)
    )
    assert "_TextSchema" not in shown
    documented = set(re.findall(r"\w+", inspect.getdoc(EditableFields) or ""))
    assert set(EditableFields.__annotations__) <= documented


def test_standing_reads_as_words():
    assert str(Plan.create("a").begin().standing) == "processing in action (attempt 1)"


def test_arguments_come_back_frozen_and_are_thawed_by_model_dump():
    given = {"paths": ["a", {"b": [1, None]}]}
    plan = Plan.create("a", arguments=given)

    assert plan.arguments == given
    assert isinstance(plan.arguments["paths"], tuple)
    assert json.loads(json.dumps(plan.model_dump()["arguments"])) == given


class Nanoseconds(datetime):
    """As the time of pandas: a datetime with more, and a form of its own."""

    nanosecond = 7

    def isoformat(self, *_: object, **__: object) -> str:
        return "noon"


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=2))])
def test_time_of_a_derived_class_becomes_a_datetime_of_the_same_moment(zone):
    given = Nanoseconds(2026, 3, 14, 12, 0, 0, 5, tzinfo=zone)

    plan = Plan.create("local/lint", created_at=given)

    assert type(plan.created_at) is datetime
    assert plan.created_at == datetime(2026, 3, 14, 12, 0, 0, 5, tzinfo=zone)
    assert plan.begin().created_at == plan.created_at
