import pickle

import pytest

from cleveragents_plans.domain import (
    BadProfileFile,
    Level,
    NotEditable,
    NotJson,
    Phase,
    PlansError,
    ProcessingState,
    ProfileNameTaken,
    SnapshotIsFrozen,
    SnapshotUnreadable,
    StepNotAllowed,
    UnknownProfile,
)
from cleveragents_plans.domain.errors import shown

EACH = [
    NotJson("$.a", "nan", "a finite number"),
    StepNotAllowed("01J", Phase.ACTION, ProcessingState.QUEUED, "advance", ("begin",)),
    NotEditable(["phase", "attempt"]),
    SnapshotIsFrozen("01J"),
    SnapshotUnreadable('{"a":1}', "name: Field required"),
    SnapshotUnreadable('{"a":1}', "name: Field required", "01J"),
    UnknownProfile("trustd", ["manual", "trusted"], Level.PROJECT),
    ProfileNameTaken("manual"),
    BadProfileFile("profiles.yaml", "broken YAML"),
]


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_between_processes(error):
    copied = pickle.loads(pickle.dumps(error))

    assert isinstance(copied, PlansError)
    assert type(copied) is type(error)
    assert vars(copied) == vars(error)
    assert str(copied) == str(error)


def test_an_unknown_profile_says_who_named_it_and_what_was_probably_meant():
    assert str(UnknownProfile("trustd", ["manual", "trusted"], Level.PROJECT)) == (
        "unknown automation profile 'trustd', named by the project level;"
        " did you mean 'trusted'? known: manual, trusted"
    )
    assert UnknownProfile("TRUSTED", ["manual", "trusted"]).nearest == "trusted"
    assert str(UnknownProfile("zzz", ["manual"])) == (
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
