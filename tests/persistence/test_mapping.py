"""A plan and its rows say the same, in both directions, field by field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from pydantic import ValidationError

from cleveragents_plans import LifecyclePlanModel, Plan
from cleveragents_plans.domain import (
    Arguments,
    AutomationProfileRef,
    EnvironmentPriority,
    Invariant,
    JsonObject,
    Level,
    Phase,
    PlanIdentity,
    ProcessingState,
    ProjectLink,
    SnapshotIsFrozen,
)
from cleveragents_plans.persistence import CorruptPlanRow
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.mapping import child_rows, plan_row, read_plan
from support.plans import NOON, a_plan, any_plan, ulid

A, B, C = (ulid(number) for number in (1, 2, 3))

# What a field holds, and what its column does: not one of them the default.
FIELDS = {
    "namespaced_name": ("team/roof", "team/roof"),
    "namespace": ("team", "team"),
    "action_name": ("local/repair", "local/repair"),
    "description": ("before winter", "before winter"),
    "definition_of_done": ("dry", "dry"),
    "strategy_actor": ("s", "s"),
    "execution_actor": ("e", "e"),
    "estimation_actor": ("t", "t"),
    "invariant_actor": ("i", "i"),
    "effective_profile_snapshot": ('{ "name":"x" }', '{ "name":"x" }'),
    "changeset_id": ("c", "c"),
    "decision_root_id": ("d", "d"),
    "error_message": ("fell", "fell"),
    "cost_actual_usd": (0.1, 0.1),
    "token_count_input": (7, 7),
    "token_count_output": (8, 8),
    "reversion_count": (2, 2),
    "last_completed_step": (5, 5),
    "last_checkpoint_id": ("k", "k"),
    "reusable": (True, True),
    "read_only": (True, True),
    "created_by": ("ann", "ann"),
    "execution_environment": ("docker", "docker"),
    "execution_env_priority": (EnvironmentPriority.OVERRIDE, "override"),
    "created_at": (NOON - timedelta(days=1), "2026-03-13T12:00:00.000000+00:00"),
    "updated_at": (NOON + timedelta(microseconds=1), "2026-03-14T12:00:00.000001+00:00"),
    "completed_at": (NOON + timedelta(days=1), "2026-03-15T12:00:00.000000+00:00"),
}
# Fields that are stored in another form, or under another name.
CONVERTED = {
    "tags": (("b", "a"), "tags_json", '["b","a"]'),
    "sandbox_refs": (("x", "\u00e9\n"), "sandbox_refs_json", '["x","\u00e9\\n"]'),
    "validation_summary": ({"b": [1], "a": 1.0}, "validation_summary_json", '{"a":1.0,"b":[1]}'),
    "error_details": ({}, "error_details_json", "{}"),
    "automation_profile": (
        AutomationProfileRef(profile_name="trusted", provenance=Level.ACTION),
        "automation_profile",
        '{"profile_name":"trusted","provenance":"action"}',
    ),
}
EVERY = [(field, value, field, stored) for field, (value, stored) in FIELDS.items()] + [
    (field, *rest) for field, rest in CONVERTED.items()
]


def row_of(plan: Plan, **columns: object) -> SimpleNamespace:
    return SimpleNamespace(**{**plan_row(plan), **columns})


def test_the_table_of_fields_knows_every_field_of_a_plan():
    known = {field for field, *_ in EVERY}

    assert known | {"identity", "phase", "processing_state"} | {
        "project_links",
        "arguments",
        "invariants",
    } == set(Plan.model_fields)


@pytest.mark.parametrize(("field", "value", "column", "stored"), EVERY, ids=[e[0] for e in EVERY])
def test_a_field_is_stored_in_its_column_and_in_no_other(field, value, column, stored):
    plain, changed = plan_row(a_plan()), plan_row(a_plan(**{field: value}))

    differing = {name: changed[name] for name in changed if changed[name] != plain[name]}

    assert differing == {column: stored}


@pytest.mark.parametrize(("field", "value", "column", "stored"), EVERY, ids=[e[0] for e in EVERY])
def test_a_field_is_read_from_its_column(field, value, column, stored):
    plan = read_plan(row_of(a_plan(), **{column: stored}), [], [], [])

    assert plan == a_plan(**{field: value})


def test_phase_and_state_are_stored_as_their_words():
    plan = a_plan(phase=Phase.APPLY, processing_state=ProcessingState.CONSTRAINED)
    row = plan_row(plan)

    assert (row["phase"], row["processing_state"]) == ("apply", "constrained")
    assert type(row["phase"]) is str
    assert read_plan(row_of(plan), [], [], []) == plan


def test_an_identity_is_four_columns():
    identity = PlanIdentity(plan_id=A, parent_plan_id=B, root_plan_id=C, attempt=4)
    row = plan_row(a_plan(identity=identity))

    assert [row[name] for name in PlanIdentity.model_fields] == [A, B, C, 4]
    assert read_plan(SimpleNamespace(**row), [], [], []).identity == identity


def test_the_columns_are_those_of_the_table():
    assert {*plan_row(a_plan())} == {*LifecyclePlanModel.__table__.columns.keys()}


def test_links_arguments_and_invariants_are_rows_in_their_order():
    plan = a_plan(
        project_links=[
            ProjectLink(project_name="p", alias="a", read_only=True),
            {"project_name": "q"},
        ],
        arguments={"z": [1.0, {"b": 1, "a": None}], "a": "\u00e9"},
        invariants=[Invariant(text="dry"), Invariant(text="whole", source=Level.GLOBAL)],
    )

    assert child_rows(plan) == (
        [
            {"plan_id": A, "position": 0, "project_name": "p", "alias": "a", "read_only": True},
            {"plan_id": A, "position": 1, "project_name": "q", "alias": None, "read_only": False},
        ],
        [
            {"plan_id": A, "position": 0, "name": "z", "value_json": '[1.0,{"a":null,"b":1}]'},
            {"plan_id": A, "position": 1, "name": "a", "value_json": '"\u00e9"'},
        ],
        [
            {"plan_id": A, "position": 0, "text": "dry", "source": "plan"},
            {"plan_id": A, "position": 1, "text": "whole", "source": "global"},
        ],
    )


@given(any_plan())
def test_a_plan_survives_its_row_object(plan):
    assert LifecyclePlanModel.from_domain(plan).to_domain() == plan


@given(any_plan())
def test_equal_plans_make_equal_rows(plan):
    again = Plan(**dict(plan))

    assert again == plan
    assert repr((plan_row(again), child_rows(again))) == repr((plan_row(plan), child_rows(plan)))


def test_arguments_in_another_order_are_another_plan_and_other_rows():
    one, other = a_plan(arguments={"a": 1, "b": 2}), a_plan(arguments={"b": 2, "a": 1})

    assert one != other
    assert child_rows(one) != child_rows(other)
    assert [*LifecyclePlanModel.from_domain(other).to_domain().arguments] == ["b", "a"]


def test_no_arguments_and_no_objects_are_told_from_empty_ones():
    plan = LifecyclePlanModel.from_domain(a_plan(validation_summary={})).to_domain()

    assert plan.validation_summary == JsonObject()
    assert plan.error_details is None
    assert plan.arguments == Arguments()


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000+00:00"),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), "9999-12-31T23:59:59.999999+00:00"),
        (
            datetime(2026, 3, 14, 1, tzinfo=timezone(timedelta(hours=2))),
            "2026-03-13T23:00:00.000000+00:00",
        ),
    ],
)
def test_a_time_is_stored_in_utc_with_a_fixed_width(moment, text):
    assert time_text(moment) == text


@pytest.mark.parametrize(
    ("stored", "moment"),
    [
        ("2026-03-14T00:05:32+00:00", datetime(2026, 3, 14, 0, 5, 32, tzinfo=UTC)),
        ("2026-03-14T00:05:32Z", datetime(2026, 3, 14, 0, 5, 32, tzinfo=UTC)),
        ("2026-03-14t00:05:32.5z", datetime(2026, 3, 14, 0, 5, 32, 500_000, tzinfo=UTC)),
        ("2026-03-14 02:05:32.000001+02:00", datetime(2026, 3, 14, 0, 5, 32, 1, tzinfo=UTC)),
        ("2026-03-14T00:05:32.123456000+00:00", datetime(2026, 3, 14, 0, 5, 32, 123456, UTC)),
        ("2026-03-13T19:05:32-05:00", datetime(2026, 3, 14, 0, 5, 32, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999+00:00", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_a_time_is_read_exactly_in_every_form_that_names_its_zone(stored, moment):
    plan = read_plan(row_of(a_plan(), created_at=stored, completed_at=stored), [], [], [])

    assert plan.created_at == plan.completed_at == moment
    assert plan.created_at.tzinfo is UTC


@pytest.mark.parametrize(
    "stored",
    [
        *("2026-03-14T00:05:32", "2026-03-14", "00:05:32Z", "1773446732", "", "noon", None, 5),
        *("2026-03-14T00:05:32.1234567Z", "2026-03-14T00:05:60Z", "2026-02-30T00:05:32Z"),
        *("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "2026-03-14T00:05Z"),
        *("2026-W11-6T00:05:32Z", "20260314T000532Z", " 2026-03-14T00:05:32Z", b"2026-03-14"),
    ],
)
def test_a_time_that_leaves_a_doubt_is_named(stored):
    with pytest.raises(CorruptPlanRow, match=r"v3_plans\.updated_at holds .*expected a time like"):
        read_plan(row_of(a_plan(), updated_at=stored), [], [], [])


def test_the_two_times_of_an_hour_that_comes_twice_are_stored_as_two():
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
    fields = {**dict(a_plan()), "created_at": first, "updated_at": first.replace(fold=1)}

    row = plan_row(Plan.model_construct(**fields))

    assert (row["created_at"][11:16], row["updated_at"][11:16]) == ("00:30", "01:30")


def test_a_negative_zero_is_stored_as_zero():
    assert repr(plan_row(a_plan(cost_actual_usd=-0.0))["cost_actual_usd"]) == "0.0"


@pytest.mark.parametrize("field", ["description", "error_message", "created_by", "action_name"])
def test_a_nul_is_refused_by_the_domain_before_any_database_sees_it(field):
    with pytest.raises(ValidationError, match="NUL"):
        a_plan(**{field: "a\0b"})


def test_a_plan_that_was_built_without_validation_gets_its_own_id_as_root():
    identity = PlanIdentity.model_construct(plan_id=A)
    plan = Plan.model_construct(
        identity=identity, action_name="local/lint", created_at=NOON, updated_at=NOON
    )

    row = LifecyclePlanModel.from_domain(plan)

    assert row.root_plan_id == A
    assert row.to_domain() == a_plan()


def test_a_missing_root_of_none_becomes_the_plans_own_id_too():
    identity = PlanIdentity.model_construct(plan_id=A, parent_plan_id=None, root_plan_id=None)

    assert plan_row(a_plan().model_copy(update={"identity": identity}))["root_plan_id"] == A


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("balanced", AutomationProfileRef()),
        ("trusted", AutomationProfileRef(profile_name="trusted")),
        ('"trusted"', AutomationProfileRef(profile_name="trusted")),
        ('"balanced"', AutomationProfileRef()),
        (
            '{"provenance": "plan", "profile_name": "balanced"}',
            AutomationProfileRef(provenance=Level.PLAN),
        ),
        ('{"profile_name": "ci"}', AutomationProfileRef(profile_name="ci")),
        ("my profile", AutomationProfileRef(profile_name="my profile")),
    ],
)
def test_a_profile_is_read_as_an_object_a_bare_name_or_a_string(text, ref):
    plan = read_plan(row_of(a_plan(), automation_profile=text), [], [], [])

    assert plan.automation_profile == ref


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "\n", "{", '{"profile_name": 1}', "{}", "[]", "1", "1.5", "null", "true", "NaN"),
        *('"', '""', '{"profile_name": "ci", "provenance": "nobody"}', '["ci"]', " ci", "ci "),
        *('{"profile_name": "ci", "more": 1}', "Infinity", "-Infinity", b"balanced", 1, None, 1.5),
        *('{"profile_name": "ci"} x', "x" * 256, "\ud800"),
    ],
)
def test_anything_else_is_no_profile(text):
    with pytest.raises(CorruptPlanRow) as caught:
        read_plan(row_of(a_plan(), automation_profile=text), [], [], [])

    assert caught.value.plan_id == A
    assert caught.value.column == "v3_plans.automation_profile"
    assert caught.value.found == text
    assert '{"profile_name":' in caught.value.reason


def test_the_default_profile_is_stored_as_a_bare_word_and_a_chosen_one_is_not():
    chosen = AutomationProfileRef(provenance=Level.GLOBAL)

    assert plan_row(a_plan())["automation_profile"] == "balanced"
    assert plan_row(a_plan(automation_profile=chosen))["automation_profile"] == (
        '{"profile_name":"balanced","provenance":"global"}'
    )


# A profile that is named in JSON's own words must not be read as what the word means.
@given(any_plan())
def test_a_profile_reads_back_whatever_its_name(plan):
    row = row_of(a_plan(automation_profile=plan.automation_profile))

    assert read_plan(row, [], [], []).automation_profile == plan.automation_profile


def test_a_snapshot_cannot_be_exchanged_on_the_row_object():
    row = LifecyclePlanModel.from_domain(a_plan(effective_profile_snapshot='{"name":"x"}'))

    row.effective_profile_snapshot = '{"name":"x"}'
    with pytest.raises(SnapshotIsFrozen, match=A):
        row.effective_profile_snapshot = "{}"
    assert row.effective_profile_snapshot == '{"name":"x"}'


def test_an_empty_snapshot_is_frozen_too():
    row = LifecyclePlanModel.from_domain(a_plan())

    with pytest.raises(SnapshotIsFrozen):
        row.effective_profile_snapshot = '{"name":"x"}'
    with pytest.raises(SnapshotIsFrozen):
        a_plan().edit(effective_profile_snapshot='{"name":"x"}')
