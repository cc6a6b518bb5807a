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

EACH = [
    NotJson("$.a", "nan", "a finite number"),
    StepNotAllowed("01J", Phase.ACTION, ProcessingState.QUEUED, "advance", ("begin",)),
    NotEditable(["phase", "attempt"]),
    SnapshotIsFrozen("01J"),
    SnapshotUnreadable('{"a":1}', "name: Field required"),
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
    assert str(UnknownProfile("zzz", ["manual"])) == (
        "unknown automation profile 'zzz'; known: manual"
    )


def test_a_refused_step_in_a_final_state_says_so():
    refused = StepNotAllowed("01J", Phase.APPLY, ProcessingState.APPLIED, "cancel", ())

    assert "allowed here: nothing, this state is final" in str(refused)


def test_a_long_snapshot_is_cut_short_in_its_message():
    assert len(str(SnapshotUnreadable('{"a":"' + "x" * 500 + '"}', "why"))) < 160
