from datetime import UTC, datetime
from inspect import signature

import pytest

from cleveragents_plans.domain import (
    AutomationProfile,
    InvalidFields,
    InvalidValue,
    JsonObject,
    Level,
    NotJson,
    Phase,
    Plan,
    PlansError,
    ProcessingState,
    SnapshotUnreadable,
    StepNotAllowed,
    UnknownProfile,
    canonical_json,
    load_profiles,
    resolve_profile,
)
from cleveragents_plans.domain.errors import shown


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda: Plan.create("a b"), ValueError),
        (lambda: Plan.create(5), TypeError),
        (lambda: Plan.create("a", description="\0"), ValueError),
        (lambda: Plan.create("a", arguments={"x": object()}), ValueError),
        (lambda: Plan.create("a", plan_id="x" * 10**7), ValueError),
        (lambda: Plan.create("a").fail(""), ValueError),
        (lambda: Plan.create("a").fail(None), TypeError),
        (lambda: Plan.create("a").fail("x", {1: 2}), ValueError),
        (lambda: Plan.create("a").cancel("noon"), ValueError),
        (lambda: Plan.create("a").edit(nickname="x"), ValueError),
        (lambda: Plan.create("a").spawn(tags="x"), ValueError),
        (lambda: Plan.create("a", profile="x"), LookupError),
        (lambda: resolve_profile(plan=3), TypeError),
    ],
)
def test_an_input_that_cannot_be_used_is_one_line_of_an_error_of_ours(wrong, expected):
    with pytest.raises(PlansError) as caught:
        wrong()

    assert isinstance(caught.value, expected)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


JUNK = [
    *(None, True, 5, 10**5000, 1.5, float("nan"), b"x", object(), [], {}, {1: 2}, {"a": object()}),
    *("", "\0", "\ud800", "a\nb", "x" * 10**6, [5], ["\0"], [None], ["x"] * 1000, set(), iter([5])),
    *(datetime(2026, 3, 14), datetime.min, Plan, Plan.create("a"), lambda: None),  # noqa: DTZ001, DTZ901
]
PLAN = Plan.create("a").begin()
CALLS = [
    *((Plan.create, name) for name in signature(Plan.create).parameters),
    *((PLAN.spawn, name) for name in signature(PLAN.spawn).parameters),
    *((PLAN.edit, name) for name in (*Plan.model_fields, *PLAN.identity.__class__.model_fields)),
    *((PLAN.fail, name) for name in ("message", "details")),
    *((resolve_profile, name) for name in signature(resolve_profile).parameters),
    (PLAN.cancel, "at"),
    (AutomationProfile.from_mapping, "fields"),
    (AutomationProfile.from_snapshot, "text"),
    (load_profiles, "path"),
    (canonical_json, None),
    (JsonObject, None),
]


@pytest.mark.parametrize(
    ("call", "name"), CALLS, ids=lambda it: getattr(it, "__qualname__", str(it))
)
def test_junk_is_used_or_refused_in_one_line_by_an_error_of_ours(call, name):
    known = {"namespaced_name": "a"} if call == Plan.create else {}
    known |= {"message": "it broke"} if call == PLAN.fail else {}
    refusals = []
    for junk in JUNK:
        try:
            call(junk) if name is None else call(**known | {name: junk})
        except PlansError as error:
            refusals.append(str(error))

    assert refusals
    assert all(said.isprintable() and len(said) < 1000 for said in refusals)


def test_an_unknown_profile_says_who_named_it_and_what_was_probably_meant():
    assert str(UnknownProfile("trustd", ("manual", "trusted"), Level.PROJECT)) == (
        "unknown automation profile 'trustd', named by the project level;"
        " did you mean 'trusted'? known: manual, trusted"
    )
    assert UnknownProfile("TRUSTED", ("manual", "trusted")).nearest == "trusted"
    assert str(UnknownProfile("zzz", ("manual",))) == (
        "unknown automation profile 'zzz'; known: manual"
    )


def test_a_refused_step_in_a_final_state_says_so():
    refused = StepNotAllowed("01J", Phase.APPLY, ProcessingState.APPLIED, "cancel", ())

    assert "allowed here: nothing, this state is final" in str(refused)


def test_a_snapshot_that_cannot_be_read_is_named_with_its_plan_and_column():
    assert str(SnapshotUnreadable('{"a":1}', "name: Field required", "01J")) == (
        "effective_profile_snapshot of plan 01J describes no automation profile:"
        " name: Field required; found '{\"a\":1}'"
    )


ENDLESS: list[object] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "found",
    ['{"a":"' + "x" * 500 + '"}', b"{}", 3, None, 10**5000, "\ud800", ENDLESS, [[[[[1]]]]] * 99],
    ids=lambda found: type(found).__name__,
)
def test_whatever_was_found_is_shown_in_one_short_line(found):
    for error in (SnapshotUnreadable(found, "why"), NotJson("$", shown(found), "text")):
        assert len(str(error)) < 260
        assert str(error).isprintable()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda: Plan.create("a\0b"), "namespaced_name"),
        (lambda: Plan.create("a", action_name="a b"), "action_name"),
        (lambda: Plan.create("a", plan_id="x"), "identity.plan_id"),
        (lambda: Plan.create("a").spawn(plan_id="x"), "identity.plan_id"),
    ],
)
def test_field_that_is_wrong_is_the_only_one_that_is_told(wrong, field):
    with pytest.raises(InvalidFields) as caught:
        wrong()

    assert [".".join(each["loc"]) for each in caught.value.errors] == [field]


class Unwritable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ValueError("no such branch"), "ValueError: no such branch"),
        (KeyError(), "KeyError"),
        (OSError(" \n"), "OSError"),
        (ValueError("a\0b"), r"ValueError: a\x00b"),
        (ValueError("\udcff"), r"ValueError: \udcff"),
        (Unwritable(), "Unwritable"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("x" * 10**6), f"ValueError: {'x' * 10_000}…"),
    ],
)
def test_exception_is_what_a_plan_fails_with_whatever_it_says(error, kept):
    plan = PLAN.model_copy(update={"phase": Phase.APPLY})

    assert PLAN.fail(error).error_message == kept
    assert plan.constrain(error, {"by": 1}).error_message == kept


def test_plan_ends_after_it_was_created():
    plan = Plan.create("a", created_at=datetime(2026, 3, 14, tzinfo=UTC))
    early = datetime(2026, 3, 13, tzinfo=UTC)

    for end in (plan.cancel, plan.begin().model_copy(update={"phase": Phase.APPLY}).apply):
        with pytest.raises(InvalidValue, match=r"at is 2026-03-13 .*a time from 2026-03-14 "):
            end(early)
        assert end(plan.created_at).completed_at == plan.created_at
        for other in (1, "2026-03-13T00:00:00Z"):  # what is read as a time, too
            with pytest.raises(InvalidValue, match=r"at is .*a time from 2026-03-14 "):
                end(other)
    assert Plan.create("a", created_at=datetime.max.replace(tzinfo=UTC)).cancel().is_final
