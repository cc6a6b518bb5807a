"""Filters list the plans that pass, and no others, on both engines."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from sqlalchemy import text

from cleveragents_plans import Plan, PlanRepository
from cleveragents_plans.domain import Phase, PlanIdentity, ProcessingState, ProjectLink
from cleveragents_plans.persistence import PlanFilters, QueueFilters, UnknownFilter
from cleveragents_plans.persistence.filters import PhaseName, ProcessingStateName
from support.plans import AWKWARD, NOON, a_root, ulid

EAST = timezone(timedelta(hours=5))


def later(microseconds: int) -> datetime:
    return NOON + timedelta(microseconds=microseconds)


def projects(plan: Plan) -> set[str]:
    return {each.project_name for each in plan.project_links}


def variety() -> list[Plan]:
    return [
        a_root(
            number,
            identity=PlanIdentity(
                plan_id=ulid(number),
                parent_plan_id=ulid(number - 1) if number % 4 else None,
                root_plan_id=ulid(number - number % 4),
            ),
            phase=Phase.APPLY if number % 5 == 4 else [*Phase][number % 3],
            processing_state=(
                ProcessingState.APPLIED
                if number % 5 == 4
                else [ProcessingState.QUEUED, ProcessingState.ERRORED][number % 2]
            ),
            namespace=["local", "team", None][number % 3],
            action_name=["local/lint", "local/test"][number % 2],
            project_links=[
                *(ProjectLink(project_name=f"p{each}") for each in range(number % 3)),
                # By one more alias.
                *(ProjectLink(project_name="p1", alias=f"a{each}") for each in range(number % 2)),
            ],
            created_by=["ann", "bob", None][number % 3],
            tags=[f"t{number % 4}", "all"],
            created_at=later(number),
            updated_at=later(number + 100),
            completed_at=later(number + 200) if number % 5 == 4 else None,
        )
        for number in range(24)
    ]


Passes = Callable[[Plan], Any]
CASES: list[tuple[dict[str, Any], Passes]] = [
    ({}, lambda plan: True),
    ({"phase": Phase.EXECUTE}, lambda plan: plan.phase == "execute"),
    ({"phase": "execute"}, lambda plan: plan.phase == "execute"),
    ({"phase": ["action", Phase.APPLY]}, lambda plan: plan.phase in ("action", "apply")),
    ({"phase": {"action"}}, lambda plan: plan.phase == "action"),
    ({"phase": ()}, lambda plan: False),
    ({"processing_state": ProcessingState.ERRORED}, lambda it: it.processing_state == "errored"),
    ({"processing_state": ["errored", "applied"]}, lambda it: it.processing_state != "queued"),
    ({"is_final": True}, lambda plan: plan.is_final),
    ({"is_final": False}, lambda plan: not plan.is_final),
    ({"namespace": "team"}, lambda plan: plan.namespace == "team"),
    ({"namespace": ["team", "local"]}, lambda plan: plan.namespace is not None),
    ({"namespace": None}, lambda plan: True),
    ({"action": "local/test"}, lambda plan: plan.action_name == "local/test"),
    ({"action": "test"}, lambda plan: plan.action_name == "local/test"),
    ({"action": ["test", "lint"]}, lambda plan: True),
    ({"project": "p1"}, lambda it: "p1" in projects(it)),
    ({"project": ["p0", "p1"]}, lambda plan: plan.project_links),
    (
        {"project": ["p1"], "namespace": "local"},
        lambda it: it.namespace == "local" and "p1" in projects(it),
    ),
    (
        {"project": "p0", "processing_state": "errored"},
        lambda it: it.processing_state == "errored" and "p0" in projects(it),
    ),
    (
        {"phase": ["action", "execute"], "processing_state": ["queued", "errored", "queued"]},
        lambda it: it.phase in ("action", "execute") and it.processing_state != "applied",
    ),
    (
        {"phase": "action", "is_final": False},
        lambda it: it.phase == "action" and not it.is_final,
    ),
    (
        {"is_final": False, "processing_state": ["queued", "applied"]},
        lambda it: it.processing_state == "queued",
    ),
    ({"is_final": True, "processing_state": "errored"}, lambda it: False),
    ({"processing_state": []}, lambda it: False),
    (
        {"namespace": ["team"], "processing_state": "queued"},
        lambda it: (it.namespace, it.processing_state) == ("team", "queued"),
    ),
    ({"parent": ulid(2)}, lambda plan: plan.parent_plan_id == ulid(2)),
    ({"parent": [ulid(2), ulid(5).lower()]}, lambda it: it.parent_plan_id in (ulid(2), ulid(5))),
    ({"root": ulid(4)}, lambda plan: plan.root_plan_id == ulid(4)),
    ({"root": [ulid(4), ulid(8)]}, lambda plan: plan.root_plan_id in (ulid(4), ulid(8))),
    ({"created_by": "ann"}, lambda plan: plan.created_by == "ann"),
    ({"created_by": ["ann", "bob"]}, lambda plan: plan.created_by),
    ({"tag": "t2"}, lambda plan: "t2" in plan.tags),
    ({"tag": ["t2", "t3"]}, lambda plan: {"t2", "t3"} & {*plan.tags}),
    ({"tag": "t"}, lambda plan: False),
    ({"created_from": later(5)}, lambda plan: plan.created_at >= later(5)),
    ({"created_before": later(5)}, lambda plan: plan.created_at < later(5)),
    ({"updated_from": later(105)}, lambda plan: plan.updated_at >= later(105)),
    ({"updated_before": later(105)}, lambda plan: plan.updated_at < later(105)),
    ({"completed_from": later(209)}, lambda it: it.completed_at and it.completed_at >= later(209)),
    ({"completed_before": later(209)}, lambda it: it.completed_at and it.completed_at < later(209)),
    (
        {"phase": Phase.ACTION, "namespace": "local", "project": "p0", "tag": "all"},
        lambda it: it.phase == "action" and it.namespace == "local" and "p0" in projects(it),
    ),
]


def pages(repository: PlanRepository, **given: Any) -> Iterator[Plan]:
    after = None
    while True:
        page = repository.list(after=after, **given)
        yield from page
        after = page.next_cursor
        if after is None:
            return


@pytest.mark.parametrize(
    ("filters", "passes"), CASES, ids=lambda it: str(it)[:50] if isinstance(it, dict) else ""
)
def test_a_filter_lists_and_counts_the_plans_that_pass_and_no_others(repository, filters, passes):
    plans = variety()
    repository.add_all(plans)

    wanted = [plan for plan in plans if passes(plan)]

    assert [*repository.list(**filters)] == wanted
    assert [*repository.stream(order="newest", **filters)] == wanted[::-1]
    assert [*pages(repository, limit=2, **filters)] == wanted
    assert [*pages(repository, limit=3, order="newest", **filters)] == wanted[::-1]
    assert repository.count(**filters) == len(wanted)
    assert repository.exists(**filters) == bool(wanted)


def test_every_filter_is_tried_here():
    tried = {name for filters, _ in CASES for name in filters}

    assert tried == {*PlanFilters.__annotations__}


@pytest.mark.parametrize(
    ("names", "words"), [(PhaseName, Phase), (ProcessingStateName, ProcessingState)]
)
def test_words_that_type_checkers_accept_are_those_of_the_enumeration(names: Any, words: Any):
    assert get_args(names) == tuple(words)


def test_times_of_any_zone_are_compared_in_utc(repository):
    repository.add_all([a_root(1, created_at=NOON), a_root(2, created_at=later(2))])
    wanted = later(1).astimezone(EAST)

    assert [plan.plan_id for plan in repository.list(created_from=wanted)] == [ulid(2)]
    assert [plan.plan_id for plan in repository.stream(created_before=wanted)] == [ulid(1)]


def test_an_action_that_the_former_release_stored_without_a_namespace_is_one_of_local(
    repository, session
):
    repository.add(a_root(1))
    session.execute(text("UPDATE v3_plans SET action_name = 'lint'"))

    assert len(repository.list(action="local/lint")) == 1
    assert len(repository.list(action="lint")) == 1
    assert repository.list(action="team/lint") == ()
    assert repository.count_by("action") == {"local/lint": 1}


def test_thousands_of_values_are_one_filter(repository):
    repository.add_all(a_root(number) for number in range(5))

    assert repository.count(root=[ulid(number) for number in range(3, 70_000)]) == 2


# Tags are texts in a JSON array


@pytest.mark.parametrize("tag", [*AWKWARD, ",", '","', "a\\", '\\"', "[", "\U0001f600"], ids=ascii)
def test_a_tag_of_any_text_is_found(repository, tag):
    others = ["x,", ",y", '"', "\\", "a", *AWKWARD]
    repository.add_all([a_root(1, tags=[tag]), a_root(2, tags=[o for o in others if o != tag])])

    assert [plan.plan_id for plan in repository.list(tag=tag)] == [ulid(1)]


@pytest.mark.parametrize(
    "stored",
    ['[ "caf\\u00e9" , "b" ]', '["\\ud83d\\ude00", "caf\\u00E9"]', '["a\\/b\\n\\"", "café"]'],
)
def test_a_tag_is_found_however_its_json_is_spelled(repository, session, stored):
    repository.add(a_root(1))
    session.execute(text("UPDATE v3_plans SET tags_json = :it"), {"it": stored})

    assert repository.count(tag="café") == 1
    assert repository.count(tag="caf\\u00e9") == 0


@pytest.mark.parametrize(
    "stored",
    ["", "{", "[", '["a"', "[1]", '{"a": 1}', '"a"', "null", '["\\u0000", "a"]', '["\\ud800"]',
     '["a\\x"]', '["a]', "['a']", '["a" "b"]', '[["a"]]', "NaN", '["a",]', "\x01"],
    ids=ascii,
)  # fmt: skip
def test_a_row_whose_tags_cannot_be_read_hides_no_other(repository, session, stored):
    repository.add_all([a_root(1), a_root(2, tags=["a"])])
    session.execute(
        text("UPDATE v3_plans SET tags_json = :it WHERE plan_id = :id"),
        {"it": stored, "id": ulid(1)},
    )

    assert [*repository.list(tag="a", on_corrupt="skip")] == [a_root(2, tags=["a"])]


# Names and documentation


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("state", "processing_state"),
        ("processing_stat", "processing_state"),
        ("phases", "phase"),
        ("tags", "tag"),
        ("final", "is_final"),
        ("created_after", "created_from"),
        ("colour", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("method", ["list", "stream", "count", "exists"])
def test_an_unknown_filter_names_the_nearest(repository, method, name, nearest):
    with pytest.raises(UnknownFilter) as caught:
        getattr(repository, method)(**{name: "x"})

    assert caught.value.nearest == nearest
    assert f"there is no filter {name!r}; " in str(caught.value)
    assert (f"did you mean {nearest!r}? " in str(caught.value)) == (nearest is not None)
    assert "known: phase, namespace" in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("name", ["processing_state", "is_final", "completed_from"])
def test_a_filter_that_a_queue_has_no_use_for_is_unknown_there(repository, name):
    with pytest.raises(UnknownFilter):
        repository.claim(**{name: None})


@pytest.mark.parametrize(
    ("method", "filters"),
    [
        *((name, PlanFilters) for name in ("list", "stream", "count", "count_by", "exists")),
        *((name, QueueFilters) for name in ("claim", "requeue_stalled")),
    ],
)
def test_the_documentation_of_a_method_says_all_its_filters(method, filters):
    said = inspect.getdoc(getattr(PlanRepository, method)) or ""

    for name in filters.__annotations__:
        assert f"\n{name}" in said or f", {name}:" in said, name
