"""
Plans for tests: a plain one, and every valid one, as Hypothesis strategies.

The strategies know the domain's rules by its public names only, and go to their edges.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from cleveragents_plans import Plan
from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    AutomationProfileRef,
    EnvironmentPriority,
    Invariant,
    Level,
    Phase,
    PlanIdentity,
    ProcessingState,
    ProjectLink,
)

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)

_LARGEST = 2**31 - 1
_SNAPSHOT = BUILT_IN_PROFILES["balanced"].snapshot()
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

#: What editors, databases and encodings like to spoil; spelled by number where it is unseen.
AWKWARD = (
    *("", " ", "\t\r\n", "'", '"', "''; DROP TABLE v3_plans; --", "\\", "\\N", "\\x00", "\\u0000"),
    *("%s %(name)s :name ? $1 {brace}", "null", "{}", "[1]", "NaN", "balanced", "1e999", "0"),
    *("\x01\x1f\x7f\x85", "\u2028\u2029", "\ufeffmark", "\ufffe\uffff", "\u202eright to left"),
    *("Cafe\u0301", "Caf\u00e9", "\u00df\u0130\u0131", "\U0001f468\u200d\U0001f469", "\U0010ffff"),
    *("\u0623\u0635\u0644\u062d", "\u4fee\u7406\u5c4b\u9876", " leading and trailing \u3000"),
)

_CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def ulid(number: int) -> str:
    """Spell *number* as a ULID: greater numbers are later ids."""
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -5, -5))


def a_plan(number: int = 1, **fields: Any) -> Plan:
    """Make a root plan whose id is `ulid(number)`, created at noon, with *fields*."""
    known: dict[str, Any] = {
        "identity": PlanIdentity(plan_id=ulid(number)),
        "action_name": "local/lint",
        "created_at": NOON,
        "updated_at": NOON,
    }
    return Plan(**{**known, **fields})


def a_root(number: int = 1, **fields: Any) -> Plan:
    """Make a root plan as `a_plan` does, but with the snapshot of the default profile."""
    return a_plan(number, **{"effective_profile_snapshot": _SNAPSHOT, **fields})


def a_child(number: int, parent: Plan, **fields: Any) -> Plan:
    """Make a plan under *parent*, as `a_root` does."""
    place = {"parent_plan_id": parent.plan_id, "root_plan_id": parent.root_plan_id}
    return a_root(number, identity=PlanIdentity(plan_id=ulid(number), **place), **fields)


def a_chain(length: int) -> list[Plan]:
    """Make plans each under the one before, from a root on, with rows in every child table."""
    everything = {
        "arguments": {"a": 1, "b": 2},
        "invariants": [{"text": "dry"}],
        "project_links": [{"project_name": "p"}],
    }
    plans = [a_root(0, **everything)]
    for number in range(1, length):
        plans.append(a_child(number, plans[-1], **everything))
    return plans


def texts(shortest: int = 0, longest: int | None = None) -> st.SearchStrategy[str]:
    """Text of every kind that a plan can hold."""
    fitting = [
        text
        for text in AWKWARD
        if shortest <= len(text) <= (len(text) if longest is None else longest)
    ]
    return st.sampled_from(fitting) | st.text(_CHARACTERS, min_size=shortest, max_size=longest)


def _optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


ULIDS = st.integers(0, 2**128 - 1).map(ulid)
COUNTS = st.sampled_from([0, 1, _LARGEST]) | st.integers(0, _LARGEST)
SHORT = texts(longest=255) | st.just("x" * 255) | st.just("\U0001f468" * 255)
REFERENCES = texts(longest=26) | ULIDS
_ZONES = st.sampled_from([UTC, *(timezone(timedelta(hours=hours)) for hours in (5.75, -11))])
# A day from the edges, where another zone, or a later version, would leave the calendar.
TIMES = st.datetimes(
    datetime.min + timedelta(1),  # noqa: DTZ901  Hypothesis wants them without a zone
    datetime.max - timedelta(1),  # noqa: DTZ901
    timezones=_ZONES,
)
_PART = st.text(
    st.characters(categories=["L", "Nd"], include_characters="_-"), min_size=1, max_size=20
)
NAMES = st.sampled_from(["a", "local/a", "server:team/plan-1", "x" * 255, "_", "-"]) | st.builds(
    "{}:{}/{}".format, _PART, _PART, _PART
)
NAMESPACES = st.sampled_from(["local", "server:team", "x" * 255]) | _PART
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2])
    | texts(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(texts(), JSON, max_size=4)
LINKS = st.lists(
    st.builds(
        ProjectLink,
        project_name=texts(1, 255),
        alias=_optional(texts(1, 255)),
        read_only=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda link: object() if link.alias is None else link.alias,
)
INVARIANTS = st.lists(
    st.builds(Invariant, text=texts(1), source=st.sampled_from(Level)), max_size=3
)
PROFILES = st.builds(
    AutomationProfileRef,
    profile_name=st.sampled_from([*BUILT_IN_PROFILES]) | texts(1, 255),
    provenance=_optional(st.sampled_from(Level)),
)
SNAPSHOTS = st.sampled_from(
    [
        "{}",
        " { } ",
        '{"b":1, "a":1.0}',
        '{"a":"\\u00e9\\n"}',
        *(p.snapshot() for p in BUILT_IN_PROFILES.values()),
    ]
)


@st.composite
def standings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a phase, and a state that exists in it."""
    phase = draw(st.sampled_from(Phase))
    of_apply = {ProcessingState.APPLIED, ProcessingState.CONSTRAINED}
    states = [each for each in ProcessingState if phase is Phase.APPLY or each not in of_apply]
    return {"phase": phase, "processing_state": draw(st.sampled_from(states))}


@st.composite
def any_plan(draw: st.DrawFn, identity: PlanIdentity | None = None) -> Plan:
    """Draw any valid plan: a root with an id of its own, if *identity* is not given."""
    if identity is None:
        attempt = draw(st.sampled_from([1, 2, _LARGEST]))
        identity = PlanIdentity(plan_id=draw(ULIDS), attempt=attempt)
    optional: dict[str, st.SearchStrategy[Any]] = {
        **{f"{kind}_actor": SHORT for kind in ("strategy", "execution", "estimation", "invariant")},
        "namespaced_name": NAMES,
        "namespace": NAMESPACES,
        "definition_of_done": texts(),
        "changeset_id": REFERENCES,
        "decision_root_id": REFERENCES,
        "last_checkpoint_id": REFERENCES,
        "validation_summary": OBJECTS,
        "error_message": texts(),
        "error_details": OBJECTS,
        "cost_actual_usd": st.floats(0, 1.7976931348623157e308) | st.just(-0.0),
        "token_count_input": COUNTS,
        "token_count_output": COUNTS,
        "created_by": SHORT,
        "execution_environment": SHORT,
        "execution_env_priority": st.sampled_from(EnvironmentPriority),
        "completed_at": TIMES,
    }
    needed: dict[str, st.SearchStrategy[Any]] = {
        "action_name": NAMES,
        "description": texts(),
        "automation_profile": PROFILES,
        "effective_profile_snapshot": SNAPSHOTS,
        "sandbox_refs": st.lists(texts(), max_size=3),
        "reversion_count": st.integers(0, 3),
        "last_completed_step": st.sampled_from([-1, 0, _LARGEST]),
        "reusable": st.booleans(),
        "read_only": st.booleans(),
        "tags": st.lists(texts(), max_size=3),
        "created_at": TIMES,
        "updated_at": TIMES,
        "project_links": LINKS,
        "arguments": st.dictionaries(texts(1, 255), JSON, max_size=4),
        "invariants": INVARIANTS,
    }
    every = st.fixed_dictionaries(
        needed | {name: _optional(each) for name, each in optional.items()}
    )
    return Plan(identity=identity, **draw(standings()), **draw(every))
