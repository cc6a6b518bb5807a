"""A short run of the fuzz; `make fuzz SECONDS=3600` is the long one."""

from __future__ import annotations

import pytest

from fuzz.migrations import Fault, fuzz
from fuzz.oracle import NEW, Oracle
from support.databases import ENGINES

_SECONDS = 20


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_random_migrations_kills_and_writes_leave_what_the_oracle_expects(engine: str):
    done = fuzz(engine, _SECONDS, seed=1)

    # How many in so many seconds is the machine's affair.
    assert sum(done.values()) > 0


def test_oracle_names_a_wrong_root_profile_and_snapshot_and_a_lost_plan():
    oracle = Oracle()
    for key, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", None)):
        oracle.insert(key, parent, None, None, "{}")
    oracle.arrived(NEW)
    good = {key: (parent, root, "balanced", "{}") for key, parent, root in _FAMILY}

    assert oracle.faults(good) == []
    for name, wrong in _WRONG.items():
        (fault,) = oracle.faults({**good, "c": wrong})
        assert f"{name} of c" in fault
    assert oracle.faults({key: good[key] for key in "abc"}) == ["d is missing"]


_FAMILY = [("a", None, "a"), ("b", "a", "a"), ("c", "b", "a"), ("d", None, "d")]
_WRONG = {
    "root": ("b", "c", "balanced", "{}"),
    "profile": ("b", "a", "", "{}"),
    "snapshot": ("b", "a", "balanced", '{"odd":1}'),
    "parent": (None, "a", "balanced", "{}"),
}


def test_fuzz_reports_the_seed_and_the_steps_that_led_to_a_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Oracle, "faults", lambda *_: ["the root of a plan is wrong"])

    with pytest.raises(Fault, match=r"sqlite, seed 5: .*the root of a plan is wrong"):
        fuzz("sqlite", 120, seed=5)
