"""New plans are stored in any order, all of them or none."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanRepository
from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    AutomationProfileRef,
    InvalidValue,
    Level,
    PlanIdentity,
    SnapshotUnreadable,
    UnknownProfile,
)
from cleveragents_plans.persistence import (
    PlanAlreadyStored,
    PlanCycle,
    RelatedPlanMissing,
    inserts,
)
from cleveragents_plans.persistence.inserts import insert_rows
from support.databases import ENGINES, ONE_OF_EACH
from support.plans import a_chain, a_child, a_plan, a_root, ulid
from support.statements import sent_by, wait_until_blocked


def test_a_plan_that_is_added_is_found(repository):
    plan = Plan.create(
        "team/roof",
        project_links=["local/house"],
        arguments={"b": 1, "a": [1.0, None]},
        invariants=["dry"],
        tags=["x"],
    )

    assert repository.add(plan) == plan
    assert repository.get(plan.plan_id) == plan
    assert repository.get(plan.plan_id.lower()) == plan


def test_a_plan_without_a_snapshot_is_given_that_of_its_profile(repository):
    ref = AutomationProfileRef(profile_name="trusted")

    stored = repository.add(a_plan(automation_profile=ref))

    assert stored.effective_profile_snapshot == BUILT_IN_PROFILES["trusted"].snapshot()
    assert stored.effective_profile == BUILT_IN_PROFILES["trusted"]


def test_a_plan_without_a_snapshot_and_of_an_unknown_profile_is_refused(repository, count):
    mine = AutomationProfileRef(profile_name="mine", provenance=Level.PROJECT)
    with pytest.raises(UnknownProfile, match=r"'mine', named by the project level.*balanced"):
        repository.add(a_plan(automation_profile=mine))

    assert count() == 0


def test_a_snapshot_that_is_empty_in_other_words_is_no_snapshot_either(repository):
    stored = repository.add(a_plan(effective_profile_snapshot=" { } "))

    assert stored.effective_profile == BUILT_IN_PROFILES["balanced"]


def test_a_snapshot_that_describes_no_profile_is_not_added(repository, count):
    with pytest.raises(SnapshotUnreadable, match=f"snapshot of plan {ulid(2)}") as caught:
        repository.add_all([a_root(1), a_root(2, effective_profile_snapshot='{"edit_code":1.0}')])

    assert caught.value.plan_id == ulid(2)
    assert count() == 0


def test_a_plan_is_added_once(repository):
    repository.add(a_root())

    with pytest.raises(PlanAlreadyStored, match=r"save\(\)") as caught:
        repository.add(a_root(description="another"))

    assert caught.value.plan_id == ulid(1)
    assert repository.get(ulid(1)) == a_root()


@pytest.mark.parametrize("related", ["parent_plan_id", "root_plan_id"])
def test_a_plan_whose_parent_or_root_is_missing_is_refused(repository, related):
    top = repository.add(a_root())
    place = {"parent_plan_id": top.plan_id, "root_plan_id": top.plan_id, related: ulid(9)}

    with pytest.raises(RelatedPlanMissing) as caught:
        repository.add(a_root(2, identity=PlanIdentity(plan_id=ulid(2), **place)))

    assert (caught.value.plan_id, caught.value.missing) == (ulid(2), ulid(9))


def test_other_errors_of_the_database_are_passed_on(repository, session, count):
    session.execute(text("CREATE UNIQUE INDEX one_author ON v3_plans (created_by)"))

    with pytest.raises(IntegrityError):
        repository.add_all([a_root(1, created_by="ann"), a_root(2, created_by="ann")])

    assert count() == 0


# Any order


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 100: what several do does not depend on how long one is."""
    monkeypatch.setattr(inserts, "_BATCH", 100)


def a_bush(size: int) -> list[Plan]:
    plans = [a_root(0, arguments={"a": 1})]
    for number in range(1, size):
        plans.append(a_child(number, plans[(number - 1) // 3], arguments={"a": number}))
    return plans


@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
@pytest.mark.parametrize(
    "reorder",
    [
        lambda plans: plans,
        lambda plans: plans[::-1],
        lambda plans: random.Random(1).sample(plans, len(plans)),
        lambda plans: [*plans[1:], plans[0]],
        lambda plans: [*plans[0::2], *plans[1::2]],
    ],
    ids=["as they are", "backwards", "at random", "the root last", "every other one"],
)
@pytest.mark.usefixtures("small_batches")
def test_plans_may_come_in_any_order(repository, reorder):
    plans = a_bush(350)

    assert repository.add_all(iter(reorder(plans))) == 350
    assert list(repository.stream()) == plans


@pytest.mark.usefixtures("small_batches")
def test_a_parent_that_never_comes_is_named(repository, count):
    plans = a_bush(250)
    del plans[7]

    with pytest.raises(RelatedPlanMissing) as caught:
        repository.add_all(plans[::-1])

    assert caught.value.missing == ulid(7)
    assert count() == 0


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
def test_a_cycle_over_several_batches_is_named(repository, count):
    top = a_root(0)
    plans = [a_child(number, a_child(number + 1, top)) for number in range(1, 250)]
    plans.append(a_child(250, a_child(1, top)))

    with pytest.raises(PlanCycle) as caught:
        repository.add_all([top, *plans])

    assert len(caught.value.plan_ids) == 250
    assert count() == 0


def test_plans_that_are_under_one_another_are_refused(repository, count):
    repository.add(a_root(1))
    circle = [
        a_child(2, a_child(3, a_root(1))),
        a_child(3, a_child(2, a_root(1))),
        a_child(4, a_root(1)),
    ]

    with pytest.raises(PlanCycle, match="a tree has a root") as caught:
        repository.add_all(circle)

    assert set(caught.value.plan_ids) == {ulid(2), ulid(3)}
    assert count() == 1


def test_a_plan_under_another_may_name_itself_as_its_root(repository):
    # As the former release left them.
    own = a_root(
        2, identity={"plan_id": ulid(2), "parent_plan_id": ulid(1), "root_plan_id": ulid(2)}
    )

    repository.add_all([a_child(3, own), own, a_root(1)])

    assert repository.ancestors(ulid(3)) == (own, a_root(1))


def test_a_child_may_stand_before_the_only_root_that_it_names(repository):
    detached = a_root(
        1,
        identity=PlanIdentity.model_construct(
            plan_id=ulid(1), parent_plan_id=None, root_plan_id=ulid(2), attempt=1
        ),
    )

    repository.add_all([detached, a_root(2)])

    assert repository.get(ulid(1)).is_detached


@pytest.mark.usefixtures("small_batches")
def test_adding_many_is_all_or_nothing(repository, count, count_children):
    plans = [a_root(number, tags=["t"], arguments={"a": 1}) for number in range(250)]

    with pytest.raises(PlanAlreadyStored):
        repository.add_all([*plans, plans[3]])

    assert count() == 0
    assert count_children() == [0, 0, 0]
    assert repository.add_all([]) == 0


def test_a_plan_that_comes_twice_is_refused(repository, count):
    with pytest.raises(PlanAlreadyStored, match=ulid(2)):
        repository.add_all([a_root(1), a_root(2), a_root(3), a_root(2, description="another")])

    assert count() == 0


def test_plans_are_added_with_as_many_statements_as_there_are_batches(repository, session):
    few = sent_by(session, lambda: repository.add_all(a_chain(2)))
    repository.delete_tree(ulid(0))
    batch = sent_by(session, lambda: repository.add_all(a_chain(1000)))
    more = [a_child(number, a_root(0), arguments={"a": 1}) for number in range(1000, 3000)]
    batches = sent_by(session, lambda: repository.add_all(more))

    assert len(few) == len(batch)
    # Two more batches, without projects and invariants: a savepoint, two inserts, its release.
    assert len(batches) - len(batch) == 4 - 2


# What is stored already


@pytest.mark.usefixtures("small_batches")
def test_an_import_can_be_repeated(repository):
    plans = a_bush(250)
    repository.add_all(plans[:170])
    changed = repository.save(plans[3].begin())

    assert repository.add_all(plans[::-1], existing="skip") == 80
    assert repository.add_all(plans, existing="skip") == 0
    assert list(repository.stream()) == [*plans[:3], changed, *plans[4:]]


def test_a_plan_that_comes_twice_is_skipped_as_well(repository):
    again = [a_root(1), a_root(2), a_root(1, description="another")]

    assert repository.add_all(again, existing="skip") == 2
    assert repository.get(ulid(1)) == a_root(1)


@pytest.mark.parametrize("wrong", ["replace", None, True])
def test_another_word_for_what_is_stored_is_refused(repository, wrong):
    with pytest.raises(InvalidValue, match=r"existing is .*; expected 'raise' or 'skip'"):
        repository.add_all([], existing=wrong)


@pytest.mark.parametrize(
    "migrated_engine", [e for e in ENGINES if e != "sqlite"], indirect=True, scope="session"
)
def test_a_plan_that_another_transaction_adds_meanwhile_is_skipped(engine):
    with Session(engine) as first, Session(engine) as second:
        PlanRepository(first).add_all([a_root(1), a_root(2)])
        with ThreadPoolExecutor(1) as pool:
            adding = [a_root(2), a_root(3)]
            added = pool.submit(PlanRepository(second).add_all, adding, existing="skip")
            wait_until_blocked(engine)
            first.commit()
            assert added.result(timeout=120) == 1
        second.commit()

    with Session(engine) as session:
        assert PlanRepository(session).count() == 3


# A column of the model that no row has a value for


@pytest.fixture
def boxes(session):
    table = Table(
        *("box", MetaData(), Column("id", Integer, primary_key=True), Column("word", String(9))),
        *(Column("size", Integer, server_default=text("7"), nullable=False), Column("note", Text)),
        prefixes=["TEMPORARY"],
    )
    table.create(session.connection())
    return table


@pytest.mark.parametrize("number", [1, 60])
def test_column_without_a_value_gets_its_default_or_null(session, boxes, number):
    insert_rows(session, boxes, [{"word": "red", "id": each} for each in range(number)])

    assert {*session.execute(select(*boxes.c).where(boxes.c.id == 0))} == {(0, "red", 7, None)}


def test_column_that_must_have_a_value_is_named(session, boxes):
    with pytest.raises(TypeError, match=r"^box\.id is NOT NULL without a DEFAULT.* plan_row and"):
        insert_rows(session, boxes, [{"word": "red"}])
