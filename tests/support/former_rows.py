"""
Make up the rows of the former release: trees of plans, of every kind that is found in use.

No database here, only tuples in the order of `COLUMNS`; equal seeds give equal rows.
"""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

Row = tuple[Any, ...]

#: What `plans_of` counts.
KINDS = (
    *("plans", "roots", "roots that name themselves", "children with their root"),
    *("children without a root", "children older than their parent"),
    *("detached from their parent", "parent does not exist"),
)

#: Of the children in a forgetful tree, so many were stored without a root; so many trees are.
NULL_ROOT_SHARE = 0.6
FORGETFUL_TREES = 0.3
#: Of the children, so many are older than their parent, cut off from it, or lost it.
OLDER_SHARE, DETACHED_SHARE, DANGLING_SHARE = 0.05, 0.01, 0.005
#: One tree in a hundred is a chain of so many plans, another one has so many children.
DEEP, WIDE = 50, 150

_BODIES = 997
#: So many actions; plans name one of them.
ACTIONS = 40
_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _CROCKFORD for b in _CROCKFORD]

_PHASES = ("action", "strategize", "execute", "apply")
_STATES = ("queued", "processing", "complete", "errored", "cancelled")
_PHASE_STATES = [(phase, state) for phase in _PHASES for state in _STATES]
_PHASE_STATES += [("apply", "applied"), ("apply", "constrained")]

# Characters are spelled by number where an editor would hide or reorder them.
TEXTS = (
    "Repair the roof before winter",
    "\u0623\u0635\u0644\u062d \u0627\u0644\u0633\u0642\u0641\u200f (v2) \u0642\u0628\u0644 \u0627",
    "\u4fee\u7406\u5c4b\u9876 \u2014 \u5c4b\u6839\u3092\u76f4\u3059 \uc9c0\ubd95 \U00020000",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 flag \U0001f1ea\U0001f1fa",
    "Cafe\u0301 a\u0323\u0302 \u1ea1\u0302 vs. Caf\u00e9",
    "\u202bright to left \u05e9\u05dc\u05d5\u05dd\u202c and back\u200e",
    "it's \"quoted\" `so` and ''so'' -- no comment; DROP TABLE v3_plans;",
    "first line\nsecond line\r\n\tindented\n",
    "C:\\plans\\new \\N \\x00 \\' \\\\",
    "100 % of %s, %(name)s, :name, ::text, {brace} $1 $$body$$ ?",
    " leading and trailing \u00a0\u3000",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0395\u03bb \ufeff",
)
BLANK_PROFILES = ("", " ", "\t\r\n", "   \n")

_NESTED: dict[str, Any] = {
    "kind": "Timeout",
    "steps": [1, 2.5, -3e-7, True, None, "x", [], {}],
    "by": {"actor": "local/builder", "said": TEXTS[1:5], "where": {"line": 12, "deep": [[[0]]]}},
}

_IDENTITY = ("plan_id", "parent_plan_id", "root_plan_id", "created_at", "updated_at")
_BODY = (
    *("attempt", "namespaced_name", "namespace", "action_name", "description"),
    *("definition_of_done", "phase", "processing_state", "strategy_actor", "execution_actor"),
    *("estimation_actor", "invariant_actor", "automation_profile", "changeset_id"),
    *("decision_root_id", "sandbox_refs_json", "validation_summary_json", "error_message"),
    *("error_details_json", "cost_actual_usd", "token_count_input", "token_count_output"),
    *("reversion_count", "last_completed_step", "last_checkpoint_id", "reusable", "read_only"),
    *("tags_json", "created_by", "execution_environment", "execution_env_priority"),
)
#: The columns of each table, in the order in which the rows here have them.
COLUMNS = {
    "v3_plans": (*_IDENTITY, "completed_at", *_BODY),
    "plan_projects": ("plan_id", "position", "project_name", "alias", "read_only"),
    "plan_arguments": ("plan_id", "position", "name", "value_json"),
    "plan_invariants": ("plan_id", "position", "text", "source"),
    "actions": ("namespaced_name", "description", "created_at"),
    "correction_attempts": (
        *("id", "plan_id", "original_decision_id", "new_decision_id"),
        *("guidance", "state", "created_at", "completed_at"),
    ),
}


class Body(NamedTuple):
    """What plans share: the values of the columns that say nothing about place or time."""

    values: Row
    finished: bool
    children: dict[str, list[Row]]


def plans_of(
    rng: random.Random, plans: int, pure: bool, *, dangling: bool, counts: Counter[str]
) -> Iterator[tuple[Row, Body]]:
    """
    Give *plans* rows of ``v3_plans``, parents first, and count their kinds in *counts*.

    With *pure*, only what the former release itself wrote. With *dangling*, some plans
    name a parent that does not exist, which only SQLite lets happen.
    """
    roots, children, state = _bodies(rng.getstate(), pure)
    rng.setstate(state)
    written, tree, now = 0, 0, 0
    while written < plans:
        forgetful = not pure and rng.random() < FORGETFUL_TREES
        ids: list[str] = []
        for parent in _shape(rng, tree)[: plans - written]:
            now += rng.randrange(1, 30_000)
            born = now
            body = rng.choice(roots if parent is None else children)
            if parent is None:
                plan, up, root, kind = _ulid(rng, born, written), None, None, "roots"
                if not pure and rng.random() < 0.01:
                    root, kind = plan, "roots that name themselves"
            else:
                up, root, kind = ids[parent], ids[0], "children with their root"
                luck = rng.random()
                if luck < OLDER_SHARE:
                    # Made on another machine, whose clock was behind.
                    born = max(now - rng.randrange(3_600_000, 90_000_000), 0)
                    counts["children older than their parent"] += 1
                plan = _ulid(rng, born, written)
                if forgetful and rng.random() < NULL_ROOT_SHARE:
                    root, kind = None, "children without a root"
                if luck > 1 - DETACHED_SHARE:
                    up, root, kind = None, ids[0], "detached from their parent"
                elif dangling and luck > 1 - DETACHED_SHARE - DANGLING_SHARE:
                    up = _ulid(rng, born, written, ghost=True)
                    counts["parent does not exist"] += 1
            counts["plans"] += 1
            counts[kind] += 1
            created = _EPOCH + timedelta(milliseconds=born)
            updated = created + timedelta(microseconds=rng.randrange(10**10))
            done = _time(updated) if body.finished else None
            yield (plan, up, root, _time(created), _time(updated), done, *body.values), body
            ids.append(plan)
            written += 1
        tree += 1


@functools.cache
def _bodies(state: tuple[Any, ...], pure: bool) -> tuple[list[Body], list[Body], tuple[Any, ...]]:
    """Make bodies of roots and of children from the *state* of a generator; give its next, too."""
    rng = random.Random()
    rng.setstate(state)
    roots = [_body(rng, pure, child=False) for _ in range(_BODIES)]
    children = [_body(rng, pure, child=True) for _ in range(_BODIES)]
    return roots, children, rng.getstate()


def _shape(rng: random.Random, tree: int) -> list[int | None]:
    """Give for each plan of a tree the position of its parent, which comes before it."""
    if tree % 100 == 3:
        return [None, *range(DEEP - 1)]
    if tree % 100 == 6:
        return [None] + [0] * WIDE
    wanted, depths = rng.randrange(1, 7), [1]
    shape: list[int | None] = [None]
    for _ in range(rng.randrange(0, 2 * wanted)):
        parent = len(depths) - 1 if depths[-1] < wanted else rng.randrange(len(depths))
        if depths[parent] < wanted:
            shape.append(parent)
            depths.append(depths[parent] + 1)
    return shape


def _body(rng: random.Random, pure: bool, *, child: bool) -> Body:
    """Make up everything about a plan but its place and its times; many plans share it."""
    phase, state = rng.choice(_PHASE_STATES)

    def maybe(value: Any) -> Any:
        return value if rng.random() < 0.5 else None

    def document(value: Any) -> str:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5, sort_keys=rng.random() < 0.5)

    def identifier() -> str:
        return _ulid(rng, rng.randrange(10**9), 0)

    named = None if child else f"team-{rng.randrange(9)}"
    profile = {
        "profile_name": rng.choice(("manual", "trusted", "full-auto", "night-shift")),
        "provenance": rng.choice(("plan", "action", "project", "global")),
    }
    blank = not pure and rng.random() < 0.1
    environment = maybe(rng.choice(("container/python", "local", TEXTS[3])))
    values: Row = (
        rng.randrange(1, 5),
        named and f"{named}/plan_{rng.randrange(10**6)}",
        named,
        f"local/action-{rng.randrange(ACTIONS)}",
        rng.choice(("", *TEXTS)),
        maybe(rng.choice(TEXTS)),
        phase,
        state,
        *(maybe(f"local/{role}-{rng.randrange(5)}") for role in ("plan", "do", "guess", "guard")),
        rng.choice(BLANK_PROFILES) if blank else maybe(document(profile)),
        maybe(identifier()),
        maybe(identifier()),
        maybe(document([f"sandbox://{n}?q=%20:x" for n in range(rng.randrange(4))])),
        maybe(document(_NESTED)),
        maybe(rng.choice(TEXTS)),
        maybe(document({**_NESTED, "message": rng.choice(TEXTS)})),
        maybe(rng.choice((0.0, 0.1 + 0.2, 1e-300, 123456.789, rng.random()))),
        maybe(rng.choice((0, 2**31 - 1, rng.randrange(10**6)))),
        maybe(rng.randrange(10**6)),
        rng.randrange(4),
        rng.randrange(-1, 20),
        maybe(identifier()),
        rng.random() < 0.2,
        rng.random() < 0.2,
        maybe(document(rng.sample(TEXTS, 3))),
        maybe(f"user-{rng.randrange(50)}@example.org"),
        environment,
        environment and maybe(rng.choice(("fallback", "override"))),
    )
    projects = [(f"local/site-{n}", maybe(f"alias-{n}"), bool(n % 2)) for n in range(1, 4)]
    arguments = [(f"arg-{n}", document(value)) for n, value in enumerate((1, TEXTS[5:], _NESTED))]
    invariants = [(rng.choice(TEXTS), level) for level in ("plan", "action", "project", "global")]
    rows: dict[str, list[Row]] = {
        "plan_projects": [*projects],
        "plan_arguments": [*arguments],
        "plan_invariants": [*invariants],
    }
    everything = rng.random() < 0.1
    chosen = {
        table: some if everything else some[: max(0, rng.randrange(-6, len(some)))]
        for table, some in rows.items()
    }
    return Body(values, state in ("applied", "cancelled"), chosen)


def action(number: int) -> Row:
    """Give the row of one action."""
    return (f"local/action-{number}", TEXTS[number % len(TEXTS)], _time(_EPOCH))


def correction(rng: random.Random, plan: str) -> Row:
    """Give the row of one attempt to correct *plan*."""
    made = [_ulid(rng, rng.randrange(10**9), n) for n in range(3)]
    state = rng.choice(("pending", "done"))
    new, completed = (made[2], _time(_EPOCH)) if state == "done" else (None, None)
    return (made[0], plan, made[1], new, rng.choice(TEXTS), state, _time(_EPOCH), completed)


def _ulid(rng: random.Random, born: int, number: int, *, ghost: bool = False) -> str:
    # The running number in the low bits keeps any two apart; a ghost has the top bit of them.
    milliseconds = int(_EPOCH.timestamp() * 1000) + born
    value = milliseconds << 80 | rng.getrandbits(47) << 33 | ghost << 32 | number
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
