"""Pages hold every plan once, in both orders, and their cursors fit into a URL."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

from cleveragents_plans import Plan, PlanRepository
from cleveragents_plans.domain import InvalidType, InvalidValue, PlanIdentity
from cleveragents_plans.persistence import CorruptPlanRow, Page
from cleveragents_plans.persistence.pages import cursor_of
from support.plans import a_root, ulid


@pytest.fixture
def plans(repository: PlanRepository) -> list[Plan]:
    plans = [a_root(number) for number in range(24)]
    repository.add_all(plans[::-1])
    return plans


def pages_of(repository: PlanRepository, **arguments: Any) -> list[Page]:
    pages = [repository.list(**arguments)]
    while pages[-1].next_cursor is not None:
        pages.append(repository.list(after=pages[-1].next_cursor, **arguments))
        assert len(pages) < 100
    return pages


@pytest.mark.parametrize("limit", [1, 5, 24, 25])
@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_hold_every_plan_once(repository, plans, limit, order):
    pages = pages_of(repository, limit=limit, order=order)

    assert [plan for page in pages for plan in page] == plans[:: 1 if order == "oldest" else -1]
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages) == -(-24 // limit)


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_plans_that_come_and_go_between_pages_repeat_nothing(repository, order):
    plans = [a_root(number) for number in range(1, 24)]
    repository.add_all(plans)
    wanted = plans[:: 1 if order == "oldest" else -1]

    first = repository.list(limit=10, order=order)
    repository.delete(first[3])
    repository.add_all([a_root(0), a_root(99)])
    second = repository.list(limit=12, after=first.next_cursor, order=order)

    assert [*first, *second] == wanted[:22]


def test_a_page_is_a_sequence_of_plans(repository, plans):
    page = repository.list(limit=3)

    assert list(page) == plans[:3]
    assert (len(page), page[0], page[1:]) == (3, plans[0], tuple(plans[1:3]))
    assert page == tuple(plans[:3])
    assert page
    assert not repository.list(phase="apply")
    assert repr(page) == f"<Page of 3 plans, next_cursor={page.next_cursor!r}>"


@pytest.mark.parametrize("duplicate", [copy.copy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_page_can_be_copied_with_its_cursor(repository, plans, duplicate):
    page = repository.list(limit=3)

    again = duplicate(page)

    assert (type(again), again, again.next_cursor) == (Page, page, page.next_cursor)


def test_an_empty_database_has_one_empty_page(repository):
    assert repository.list() == ()
    assert repository.list().next_cursor is None
    assert list(repository.stream()) == []


def test_a_stream_goes_in_both_orders(repository, plans):
    assert [*repository.stream()] == plans
    assert [*repository.stream(order="newest")] == plans[::-1]


def test_a_cursor_fits_into_a_url(repository, plans):
    for page in pages_of(repository, limit=1):
        assert page.next_cursor is None or re.fullmatch(r"[A-Za-z0-9_-]{1,60}", page.next_cursor)


WRONG_CURSORS = [
    *("", "\0", "\ud800", "x", "====", "é", ulid(3), ulid(3).lower(), "A" * 10_000_000),
    cursor_of(ulid(3), "newest"),
    cursor_of(ulid(3), "oldest") + "=",
    cursor_of(ulid(3), "oldest")[:-1] + "!",
    cursor_of(ulid(3), "oldest")[:-2],
    cursor_of(ulid(3), "oldest")[:-4],
    cursor_of(ulid(3), "oldest").swapcase(),
]


@pytest.mark.parametrize("wrong", WRONG_CURSORS, ids=lambda it: ascii(it)[:20])
def test_text_that_is_no_cursor_of_this_order_is_refused(repository, plans, wrong):
    with pytest.raises(
        InvalidValue, match=r"^after is .*; expected the next_cursor of a page"
    ) as it:
        repository.list(after=wrong)

    assert len(str(it.value).splitlines()) == 1
    assert len(str(it.value)) < 300


@pytest.mark.parametrize("wrong", [5, b"x", ["x"]])
def test_a_cursor_that_is_no_text_is_refused(repository, wrong):
    with pytest.raises(InvalidType, match=r"after is .*; expected the next_cursor"):
        repository.list(after=wrong)


def test_a_cursor_of_any_other_text_leads_to_plans_or_is_refused(repository, plans):
    for held in ("\0", "\udcff", "zzz", "", ulid(3).lower(), "é"):
        try:
            page = repository.list(after=cursor_of(held, "oldest"), on_corrupt="skip")
        except InvalidValue as error:
            assert "after is" in str(error)  # noqa: PT017  either will do
        else:
            assert all(isinstance(plan, Plan) for plan in page)


# Pages that end with a row that cannot be read


def test_a_page_of_corrupt_rows_leads_on_to_the_next(repository, plans, corrupt):
    corrupt(0, 1)

    page = repository.list(limit=2, on_corrupt="skip")

    assert page == ()
    assert repository.list(limit=2, after=page.next_cursor) == tuple(plans[2:4])


LETTERS = [f"{ulid(0)[:-1]}{last}" for last in "ABCD"]


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_go_on_after_a_corrupt_id_in_lower_case(repository, session, order):
    repository.add_all(a_root(identity=PlanIdentity(plan_id=each)) for each in LETTERS)
    for each in LETTERS[:2]:
        session.connection().exec_driver_sql(
            f"UPDATE v3_plans SET plan_id = '{each.lower()}', root_plan_id = '{each.lower()}'"
            f" WHERE plan_id = '{each}'"
        )
    told: list[CorruptPlanRow] = []

    pages_of(repository, limit=1, order=order, on_corrupt=told.append)

    assert sorted(str(each.plan_id) for each in told) == [each.lower() for each in LETTERS[:2]]


# PostgreSQL holds nothing but text in a column of texts.
@pytest.mark.parametrize("migrated_engine", ["sqlite"], indirect=True, scope="session")
@pytest.mark.parametrize(
    "stored",
    ["CAST(x'3031ff{}' AS TEXT)", "CAST(x'303100{}' AS TEXT)", "x'3031{}'"],
    ids=["no UTF-8", "NUL", "bytes"],
)
@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_go_on_after_an_id_that_is_no_text(repository, session, stored, order):
    repository.add_all(a_root(number) for number in (1, 2, 3, 4))
    for number in (2, 3):
        broken = stored.format(30 + number)
        session.connection().exec_driver_sql(
            f"UPDATE v3_plans SET plan_id = {broken}, root_plan_id = {broken}"
            f" WHERE plan_id = '{ulid(number)}'"
        )
    told: list[CorruptPlanRow] = []
    note: Callable[[CorruptPlanRow], None] = told.append

    pages = pages_of(repository, limit=1, order=order, on_corrupt=note)

    assert len(pages) == 4
    assert {plan.plan_id for page in pages for plan in page} == {ulid(1), ulid(4)}
    assert len(told) == 2
    assert len([*repository.stream(order=order, on_corrupt="skip")]) == 2
