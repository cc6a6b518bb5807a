"""What a caller gives wrongly is refused in our words, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import computed_field
from sqlalchemy import event
from sqlalchemy.orm import Session

from cleveragents_plans import Plan
from cleveragents_plans.domain import BUILT_IN_PROFILES, InvalidFields, PlanIdentity
from cleveragents_plans.persistence import CorruptPlanRow
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


@pytest.mark.parametrize("method", ["list", "stream"])
@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"namespace": "\0"}, ValueError, r"namespace is '\\x00'; expected text without NUL"),
        ({"action": "\udcff"}, ValueError, r"action is '\\udcff'; expected text without NUL"),
        ({"project": 5}, TypeError, "project is 5; expected text"),
        ({"phase": "Action"}, ValueError, "phase is 'Action'; expected one of action, strategize"),
        ({"phase": 5}, ValueError, "phase is 5; expected one of action"),
        ({"state": "gone"}, ValueError, "state is 'gone'; expected one of queued, processing"),
        ({"created_from": datetime(2026, 3, 14)}, ValueError, "00:00:00; expected a time zone"),  # noqa: DTZ001
        ({"created_before": "2026-01-01"}, TypeError, "'2026-01-01'; expected a datetime with a"),
        ({"created_from": datetime.min.replace(tzinfo=EAST)}, ValueError, "between the years 1"),
        ({"colour": "red"}, TypeError, "no filter 'colour'; known: phase, state"),
        ({"on_corrupt": "ignore"}, ValueError, "on_corrupt is 'ignore'; expected 'raise', 'skip'"),
        ({"on_corrupt": None}, ValueError, "on_corrupt is None; expected 'raise', 'skip' or a fun"),
    ],
    ids=str,
)
def test_what_no_listing_can_use_is_refused_at_once(
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
        ({"after": 5}, TypeError, "after is 5; expected text"),
        ({"after": "\ud800"}, ValueError, "expected (text without NUL|what a page ended with)"),
    ],
    ids=lambda each: (
        str(each)[:40] if isinstance(each, dict) and each.get("limit") != 10**5000 else ""
    ),
)
def test_what_no_page_can_be_is_refused(repository, sent, arguments, error, said):
    with pytest.raises(error, match=said):
        repository.list(**arguments)

    assert sent == []


@pytest.mark.parametrize("method", ["children", "tree", "ancestors"])
def test_what_is_to_be_done_with_corrupt_rows_is_asked_first(repository, sent, method):
    with pytest.raises(ValueError, match="on_corrupt is 'ignore'"):
        getattr(repository, method)(ulid(1), on_corrupt="ignore")

    assert sent == []


@pytest.mark.parametrize("method", ["add", "save", "delete"])
@pytest.mark.parametrize("wrong", ["x", None, {"plan_id": ulid(1)}])
def test_what_is_no_plan_is_refused(repository, sent, method, wrong):
    with pytest.raises(TypeError, match=r"plan is .*; expected a Plan"):
        getattr(repository, method)(wrong)

    assert sent == []


@pytest.mark.parametrize("wrong", [a_plan(), 5, None])
def test_what_is_not_many_plans_is_refused(repository, sent, wrong):
    with pytest.raises(TypeError, match=r"plans is .*; expected several Plans"):
        repository.add_all(wrong)
    assert sent == []

    with pytest.raises(TypeError, match="plans has 'x'; expected Plans"):
        repository.add_all(["x"])


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


# Ids in lower case


LETTERS = [f"{ulid(0)[:-1]}{last}" for last in "ABCD"]


def test_a_page_may_begin_after_an_id_in_lower_case(repository):
    plans = [root(identity=PlanIdentity(plan_id=each)) for each in LETTERS]
    repository.add_all(plans)

    assert repository.list(after=LETTERS[1].lower()).plans == tuple(plans[2:])
    assert repository.list(after="0" * 25 + "a", limit=1).next == LETTERS[1]


def test_pages_go_on_after_a_corrupt_id_in_lower_case(repository, session):
    repository.add_all(root(identity=PlanIdentity(plan_id=each)) for each in LETTERS)
    for each in LETTERS[:2]:
        session.connection().exec_driver_sql(
            f"UPDATE v3_plans SET plan_id = '{each.lower()}', root_plan_id = '{each.lower()}'"
            f" WHERE plan_id = '{each}'"
        )

    told, after, pages = [], None, 0
    while pages == 0 or after is not None:
        page = repository.list(after=after, limit=1, on_corrupt=told.append)
        after, pages = page.next, pages + 1
        assert pages <= 4

    assert {each.plan_id for each in told} == {each.lower() for each in LETTERS[:2]}


# PostgreSQL holds nothing but text in a column of texts.
@pytest.mark.parametrize("migrated_engine", ["sqlite"], indirect=True, scope="session")
@pytest.mark.parametrize(
    "corrupt",
    ["CAST(x'3031ff{}' AS TEXT)", "CAST(x'303100{}' AS TEXT)", "x'3031{}'"],
    ids=["no UTF-8", "NUL", "bytes"],
)
def test_pages_go_on_after_an_id_that_is_no_text(repository, session, corrupt):
    repository.add_all(root(number) for number in (1, 2, 3, 4))
    for number in (2, 3):
        broken = corrupt.format(30 + number)
        session.connection().exec_driver_sql(
            f"UPDATE v3_plans SET plan_id = {broken}, root_plan_id = {broken}"
            f" WHERE plan_id = '{ulid(number)}'"
        )

    told, read, after, pages = [], [], None, 0
    while pages == 0 or after is not None:
        page = repository.list(after=after, limit=1, on_corrupt=told.append)
        read += page.plans
        after, pages = page.next, pages + 1

    assert (pages, [plan.plan_id for plan in read]) == (4, [ulid(1), ulid(4)])
    assert [type(each) for each in told] == [CorruptPlanRow] * 2
    assert len([*repository.stream(on_corrupt="skip")]) == 2


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


def test_times_of_any_zone_are_compared_in_utc(repository):
    noon = datetime(2026, 3, 14, 12, tzinfo=UTC)
    repository.add_all([root(1, created_at=noon), root(2, created_at=noon + timedelta(hours=1))])
    wanted = (noon + timedelta(minutes=30)).astimezone(EAST)

    assert [plan.plan_id for plan in repository.list(created_from=wanted).plans] == [ulid(2)]
    assert [plan.plan_id for plan in repository.stream(created_before=wanted)] == [ulid(1)]
