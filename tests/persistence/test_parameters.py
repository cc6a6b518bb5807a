"""What a caller gives wrongly is refused in our words, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import computed_field
from sqlalchemy import event
from sqlalchemy.orm import Session

from cleveragents_plans import Plan
from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    InvalidArgument,
    InvalidFields,
    InvalidType,
    PlanIdentity,
)
from cleveragents_plans.persistence import PlanNotFound, read_only
from support.plans import a_plan, ulid

EAST = timezone(timedelta(hours=5))


def root(number: int = 1, **fields: object) -> Plan:
    return a_plan(
        number, effective_profile_snapshot=BUILT_IN_PROFILES["balanced"].snapshot(), **fields
    )


@pytest.fixture
def sent(session: Session) -> Iterator[list[str]]:
    """The statements that are sent to the database."""
    statements: list[str] = []
    listener = lambda *what: statements.append(what[2])  # noqa: E731
    event.listen(session.get_bind(), "before_cursor_execute", listener)
    yield statements
    event.remove(session.get_bind(), "before_cursor_execute", listener)


BY_ID = ["get", "children", "tree", "ancestors", "depth", "delete_tree"]
NO_TEXT = ["a\0", "\ud800", ulid(1)[:-1] + "\udcff"]


@pytest.mark.parametrize("method", BY_ID)
@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        *((text, ValueError, "expected text without NUL and surrogates") for text in NO_TEXT),
        *((other, TypeError, "expected the id of a plan") for other in (None, 5, b"a", a_plan())),
    ],
    ids=ascii,
)
def test_an_id_that_can_be_none_is_refused(repository, sent, method, wrong, error, said):
    with pytest.raises(error, match=rf"plan_id is .*; {said}"):
        getattr(repository, method)(wrong)

    assert sent == []


HUGE = "A" * 10_000_000


@pytest.mark.parametrize("method", [*BY_ID, "tree_summary"])
def test_an_id_of_ten_megabytes_is_that_of_no_plan(repository, method):
    with pytest.raises(PlanNotFound) as caught:
        getattr(repository, method)(HUGE)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["namespace", "action", "project", "created_by", "tag"])
def test_a_filter_of_ten_megabytes_passes_no_plan_or_is_refused(repository, name):
    try:
        assert repository.list(**{name: HUGE}) == ()
    except InvalidArgument as error:
        assert len(str(error)) < 300  # noqa: PT017  either will do


@pytest.mark.parametrize("name", ["parent", "root"])
def test_a_filter_by_an_id_of_ten_megabytes_is_refused(repository, sent, name):
    with pytest.raises(InvalidArgument, match=f"{name} is .*expected a ULID") as caught:
        repository.count(**{name: HUGE})

    assert len(str(caught.value)) < 300
    assert sent == []


@pytest.mark.parametrize("method", ["list", "stream"])
@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"namespace": "\0"}, ValueError, r"namespace is '\\x00'; expected text without NUL"),
        ({"action": "\udcff"}, ValueError, r"action is '\\udcff'; expected text without NUL"),
        ({"project": 5}, TypeError, "project is 5; expected text"),
        ({"phase": "Action"}, ValueError, "phase is 'Action'; expected one of action, strategize"),
        ({"phase": 5}, ValueError, "phase is 5; expected one of action"),
        ({"processing_state": "gone"}, ValueError, "_state is 'gone'; expected one of queued,"),
        ({"created_from": datetime(2026, 3, 14)}, ValueError, "00:00:00; expected a time zone"),  # noqa: DTZ001
        ({"created_before": "2026-01-01"}, TypeError, "'2026-01-01'; expected a datetime with a"),
        ({"created_from": datetime.min.replace(tzinfo=EAST)}, ValueError, "between the years 1"),
        ({"colour": "red"}, TypeError, "no filter 'colour'; known: phase, namespace"),
        ({"on_corrupt": "ignore"}, ValueError, "on_corrupt is 'ignore'; expected 'raise', 'skip'"),
        (
            {"on_corrupt": None},
            ValueError,
            "on_corrupt is None; expected 'raise', 'skip', 'log' or",
        ),
    ],
    ids=str,
)
def test_argument_that_no_listing_can_use_is_refused_at_once(
    repository, sent, method, arguments, error, said
):
    with pytest.raises(error, match=said):
        getattr(repository, method)(**arguments)

    assert sent == []


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"limit": 0}, ValueError, "limit is 0; expected a whole number from 1 to 2147483646"),
        ({"limit": -1}, ValueError, "limit is -1; expected"),
        ({"limit": 2**63}, ValueError, "limit is 9223372036854775808; expected"),
        ({"limit": 10**5000}, ValueError, "limit is a value of type int; expected"),
        ({"limit": 1.5}, TypeError, r"limit is 1\.5; expected"),
        ({"limit": True}, TypeError, "limit is True; expected"),
        ({"limit": None}, TypeError, "limit is None; expected"),
        ({"after": 5}, TypeError, "after is 5; expected the next_cursor"),
        ({"after": "\ud800"}, ValueError, "after is .*; expected the next_cursor"),
    ],
    ids=lambda each: (
        str(each)[:40] if isinstance(each, dict) and each.get("limit") != 10**5000 else ""
    ),
)
def test_limit_that_no_page_can_have_is_refused(repository, sent, arguments, error, said):
    with pytest.raises(error, match=said):
        repository.list(**arguments)

    assert sent == []


@pytest.mark.parametrize("method", ["children", "tree", "ancestors"])
def test_on_corrupt_is_checked_first(repository, sent, method):
    with pytest.raises(ValueError, match="on_corrupt is 'ignore'"):
        getattr(repository, method)(ulid(1), on_corrupt="ignore")

    assert sent == []


@pytest.mark.parametrize("method", ["add", "save", "delete"])
@pytest.mark.parametrize("wrong", ["x", None, {"plan_id": ulid(1)}])
def test_argument_that_is_no_plan_is_refused(repository, sent, method, wrong):
    with pytest.raises(TypeError, match=r"plan is .*; expected a Plan"):
        getattr(repository, method)(wrong)

    assert sent == []


@pytest.mark.parametrize("wrong", [a_plan(), 5, None, "", b""])
def test_argument_that_is_no_iterable_of_plans_is_refused(repository, sent, wrong):
    with pytest.raises(TypeError, match=r"plans is .*; expected several Plans"):
        repository.add_all(wrong)
    assert sent == []

    with pytest.raises(TypeError, match="one of the plans is 'x'; expected a Plan"):
        repository.add_all(["x"])


@pytest.mark.parametrize("wrong", ["sqlite:///plans.db", None])
def test_argument_that_is_no_engine_is_refused(wrong):
    with pytest.raises(InvalidType, match=r"engine is .*; expected an Engine or an AsyncEngine"):
        read_only(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"description": "a\0b"},
        {"description": 5},
        {"token_count_input": -4},
        {"phase": "execute", "processing_state": "applied"},
        {"identity": PlanIdentity.model_construct(plan_id="1", parent_plan_id=None)},
    ],
    ids=str,
)
def test_a_plan_that_was_never_checked_is_checked_before_it_is_written(
    repository, session, wrong: dict[str, Any]
):
    plan = repository.add(root())
    unchecked = Plan.model_construct(**{**dict(plan), **wrong})

    for write in (repository.save, repository.add):
        with pytest.raises(InvalidFields):
            write(unchecked)

    assert repository.get(ulid(1)) == plan


def test_a_plan_that_was_never_checked_and_is_valid_is_written(repository):
    identity = PlanIdentity.model_construct(plan_id=ulid(1), parent_plan_id=None, root_plan_id=None)

    stored = repository.add(Plan.model_construct(**{**dict(root()), "identity": identity}))

    assert stored == root()


class Answer(Plan):
    """A plan that tells one thing more."""

    @computed_field
    @property
    def label(self) -> str:
        """What it is called."""
        return f"{self.action_name} {self.attempt}"


def test_a_class_of_ones_own_may_compute_what_it_tells(repository):
    plan = Answer(**dict(root()))

    assert dict(repository.add(plan)) == dict(plan)


def test_a_value_that_was_never_checked_is_named(repository):
    with pytest.raises(InvalidFields, match=r"arguments"):
        repository.add(Plan.model_construct(**{**dict(root()), "arguments": [1]}))

    raw = Plan.model_construct(**{**dict(root()), "arguments": {"a": 1}})
    assert repository.add(raw).arguments == {"a": 1}
