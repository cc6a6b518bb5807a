"""Plans are found, walked and listed, with a fixed number of statements."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.domain import InvalidType
from cleveragents_plans.persistence import CorruptPlanRow, PlanNotFound
from support.databases import ONE_OF_EACH
from support.plans import a_chain, a_child, a_root, ulid
from support.statements import sent_by

NO_PLAN = ulid(9)


# Single plans


def test_a_plan_that_is_not_stored_is_not_found(repository):
    with pytest.raises(PlanNotFound, match=NO_PLAN) as caught:
        repository.get(NO_PLAN)

    assert caught.value.plan_id == NO_PLAN
    assert isinstance(caught.value, LookupError)


def test_a_row_that_the_session_has_not_sent_yet_is_read(repository, session):
    session.add(LifecyclePlanModel.from_domain(a_root()))

    assert repository.get(ulid(1)) == a_root()


def test_several_plans_are_read_in_the_order_of_their_ids(repository, session, family):
    asked = [ulid(5), ulid(2).lower(), NO_PLAN, ulid(5)]

    sent = sent_by(session, lambda: repository.get_many(asked))
    found = repository.get_many(asked)

    assert list(found.items()) == [(ulid(5), family["other"]), (ulid(2), family["left"])]
    assert len(sent) == 1
    assert repository.get_many(iter([])) == {}


@pytest.mark.parametrize("wrong", [ulid(1), 5, None, [ulid(1), 5]])
def test_ids_that_are_none_are_refused(repository, wrong):
    with pytest.raises(InvalidType, match="plan_ids is"):
        repository.get_many(wrong)


def test_a_plan_exists_if_it_is_stored_and_passes_the_filters(repository, family):
    assert repository.exists()
    assert repository.exists(ulid(2).lower())
    assert repository.exists(ulid(2), parent=ulid(1))
    assert not repository.exists(ulid(2), parent=ulid(3))
    assert not repository.exists(NO_PLAN)
    assert not repository.exists(phase="apply")


# Trees


def test_a_tree_is_walked_in_every_direction(repository, family):
    top, left, right, below = (family[name] for name in ("top", "left", "right", "below"))

    assert repository.children(top.plan_id) == (left, right)
    assert repository.children(below.plan_id) == ()
    assert repository.tree(top.plan_id) == (top, left, right, below)
    assert repository.ancestors(below.plan_id) == (left, top)
    assert repository.ancestors(top.plan_id) == ()
    assert [repository.depth(plan.plan_id) for plan in (top, left, below)] == [0, 1, 2]


def test_a_walk_up_ends_where_a_parent_was_deleted(repository, family):
    repository.delete(family["left"])

    assert repository.ancestors(family["below"].plan_id) == ()
    assert family["top"].plan_id in {plan.plan_id for plan in repository.tree(ulid(1))}


def test_a_walk_in_a_circle_ends(repository, session, family):
    session.execute(
        text("UPDATE v3_plans SET parent_plan_id = :below WHERE plan_id = :top"),
        {"below": ulid(4), "top": ulid(1)},
    )

    assert [plan.plan_id for plan in repository.ancestors(ulid(4))] == [ulid(2), ulid(1)]
    assert repository.depth(ulid(1)) == 2


@pytest.mark.parametrize(
    "ask",
    [
        PlanRepository.ancestors,
        PlanRepository.children,
        PlanRepository.depth,
        PlanRepository.tree,
        PlanRepository.tree_summary,
    ],
)
def test_a_plan_that_is_not_stored_has_no_place(repository, family, ask):
    with pytest.raises(PlanNotFound, match=NO_PLAN):
        ask(repository, NO_PLAN)


def test_a_deep_tree_is_walked(repository):
    chain = [a_root(0)]
    for number in range(1, 300):
        chain.append(a_child(number, chain[-1]))
    repository.add_all(chain)

    assert repository.ancestors(chain[-1].plan_id) == tuple(chain[-2::-1])
    assert repository.depth(chain[-1].plan_id) == 299


# Rows that cannot be read


@pytest.fixture
def readable(repository: PlanRepository, corrupt: Callable[..., None]) -> list[Plan]:
    """Five plans, of which the third one cannot be read, without it."""
    plans = [a_root(1), *(a_child(number, a_root(1)) for number in range(2, 6))]
    repository.add_all(plans)
    corrupt(3)
    return [plan for plan in plans if plan.plan_id != ulid(3)]


def test_a_corrupt_row_stops_a_listing_that_asks_for_no_more(repository, readable):
    with pytest.raises(CorruptPlanRow) as caught:
        repository.list()

    assert (caught.value.plan_id, caught.value.column) == (ulid(3), "v3_plans.tags_json")


def test_a_corrupt_row_does_not_hide_the_others(repository, readable):
    told = []
    assert [*repository.list(on_corrupt="skip")] == readable
    assert [*repository.stream(on_corrupt=told.append)] == readable
    assert [*repository.tree(ulid(1), on_corrupt=told.append)] == readable
    assert [*repository.children(ulid(1), on_corrupt=told.append)] == readable[1:]
    several = repository.get_many(map(ulid, range(6)), on_corrupt=told.append)
    assert [*several.values()] == readable

    assert [(each.plan_id, each.found) for each in told] == [(ulid(3), "{")] * 4


def test_a_corrupt_row_is_logged_where_that_is_asked_for(repository, readable, caplog):
    assert [*repository.list(on_corrupt="log")] == readable

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("cleveragents_plans", "ERROR")
    assert record.getMessage().startswith(f"plan '{ulid(3)}' cannot be read: v3_plans.tags_json")


# Statements and memory


@pytest.mark.parametrize(
    "read",
    [
        lambda repository: repository.list(limit=1000),
        lambda repository: repository.list(limit=1000, order="newest"),
        lambda repository: repository.tree(ulid(0)),
        lambda repository: repository.children(ulid(0)),
        lambda repository: repository.get_many(map(ulid, range(900))),
        lambda repository: list(repository.stream()),
    ],
    ids=["list", "newest", "tree", "children", "get_many", "stream"],
)
def test_a_read_is_one_statement_however_many_plans_there_are(repository, session, read):
    repository.add_all([a_root(0), a_child(1, a_root(0), arguments={"a": 1})])
    few = len(sent_by(session, lambda: read(repository)))
    more = [a_child(number, a_root(0), arguments={"a": 1}) for number in range(2, 900)]
    repository.add_all(more)

    assert len(sent_by(session, lambda: read(repository))) == few == 1


@pytest.mark.parametrize(
    "act",
    [
        lambda repository, last: repository.ancestors(last.plan_id),
        lambda repository, last: repository.depth(last.plan_id),
        lambda repository, last: repository.save(last.begin()),
        lambda repository, last: repository.save(
            last.edit(
                arguments={each: each for each in last.tags},
                invariants=[{"text": f"not {each}"} for each in last.tags],
                project_links=[],
            )
        ),
        lambda repository, last: repository.touch(last),
        lambda repository, last: repository.claim(limit=2),
        lambda repository, last: repository.delete(last),
        lambda repository, last: repository.delete_tree(ulid(0)),
        lambda repository, last: repository.tree_summary(ulid(0)),
        lambda repository, last: repository.add_all([a_child(900, last), a_child(901, last)]),
    ],
    ids=lambda act: act.__code__.co_names[0],
)
def test_the_number_of_statements_does_not_depend_on_how_much_there_is(engine, act):
    assert statements_at(engine, 2, act) == statements_at(engine, 60, act)


def statements_at(engine: Engine, length: int, act: Callable[..., object]) -> int:
    """Count what *act* sends for the last of a chain of *length* plans, which has as many rows."""
    with Session(engine) as session:
        repository = PlanRepository(session)
        *above, last = a_chain(length)
        texts = [str(each) for each in range(length)]
        last = last.edit(tags=texts, invariants=[{"text": each} for each in texts])
        repository.add_all([*above, last])
        return len(sent_by(session, lambda: act(repository, last)))


def test_a_depth_is_counted_without_reading_the_plans(repository, session):
    plans = a_chain(5)
    repository.add_all(plans)

    (sent,) = sent_by(session, lambda: repository.depth(plans[-1].plan_id))

    assert "description" not in sent


@pytest.mark.fault
@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
def test_a_stream_needs_no_more_memory_for_more_plans(repository, session):
    repository.add_all(a_root(number, arguments={"a": 1}) for number in range(8_000))
    session.expunge_all()
    peaks = []

    tracemalloc.start()
    for number, _ in enumerate(repository.stream(), 1):
        if number in (2_000, 8_000):
            peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()

    assert peaks[1] < peaks[0] * 1.2
    assert not list(session)
