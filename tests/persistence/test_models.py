"""Row objects and the repository, side by side on the same plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, defer, selectinload

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.domain import BUILT_IN_PROFILES, SnapshotIsFrozen
from cleveragents_plans.persistence import (
    CorruptPlanRow,
    NoLaterVersion,
    PlanArgumentModel,
    PlanConflict,
)
from cleveragents_plans.persistence.columns import time_text
from support.plans import NOON, a_plan, ulid

RELATIONS = [each.class_attribute for each in LifecyclePlanModel.__mapper__.relationships]
LAST = datetime.max.replace(tzinfo=UTC)


def a_full_plan(number: int = 1, **fields: object) -> Plan:
    known = {
        "effective_profile_snapshot": BUILT_IN_PROFILES["balanced"].snapshot(),
        "project_links": [{"project_name": "p", "alias": "a"}],
        "arguments": {"a": 1},
        "invariants": [{"text": "dry"}],
    }
    return a_plan(number, **{**known, **fields})


@pytest.fixture
def plan(repository: PlanRepository) -> Plan:
    return repository.add(a_full_plan())


def row_of(session: Session, number: int = 1) -> LifecyclePlanModel:
    row = session.get(LifecyclePlanModel, ulid(number), options=map(selectinload, RELATIONS))
    assert row is not None
    return row


# The version moves


@pytest.mark.parametrize(
    "change",
    [
        lambda row: setattr(row, "description", "mine"),
        lambda row: setattr(row, "projects", []),
        lambda row: row.invariants.clear(),
        lambda row: row.arguments.append(
            PlanArgumentModel(plan_id=ulid(1), position=1, name="b", value_json="2")
        ),
    ],
    ids=["a column", "a new list", "a list that is emptied", "a list that grows"],
)
def test_a_write_through_a_row_object_is_seen_by_whoever_read_the_plan(
    repository, session, plan, change
):
    change(row_of(session))
    session.flush()
    written = repository.get(plan.plan_id)

    for lose in (repository.save, repository.delete):
        with pytest.raises(PlanConflict):
            lose(plan)

    assert repository.get(plan.plan_id) == written != plan
    assert plan.updated_at < written.updated_at <= datetime.now(UTC)


def test_a_row_object_loses_against_a_save(engine, repository, session, plan):
    session.commit()
    with Session(engine, expire_on_commit=False) as other:
        row = row_of(other)
        other.commit()
        saved = repository.save(plan.begin())
        session.commit()

        row.description = "mine"
        with pytest.raises(Exception, match="0 were matched"):
            other.flush()

    assert repository.get(plan.plan_id) == saved


def test_a_version_from_the_future_moves_by_a_microsecond(repository, session):
    future = datetime.now(UTC) + timedelta(days=400)
    repository.add(a_full_plan(updated_at=future))

    row_of(session).description = "mine"
    session.flush()

    assert repository.get(ulid(1)).updated_at == future + timedelta(microseconds=1)


def test_a_version_that_the_writer_sets_is_kept(repository, session, plan):
    row = row_of(session)
    row.description, row.updated_at = "mine", time_text(NOON + timedelta(days=1))
    session.flush()

    assert repository.get(plan.plan_id).updated_at == NOON + timedelta(days=1)


def test_what_did_not_change_is_no_write(repository, session, plan):
    row = row_of(session)
    row.description = row.description + ""
    row.arguments = [*row.arguments]
    session.flush()

    assert repository.get(plan.plan_id) == plan


def test_a_child_row_that_is_edited_by_itself_does_not_move_the_version(repository, session, plan):
    row_of(session).arguments[0].value_json = "2"
    session.flush()

    assert repository.get(plan.plan_id) == plan.edit(arguments={"a": 2})


def test_a_version_that_is_no_time_is_named(repository, session, plan):
    session.execute(text("UPDATE v3_plans SET updated_at = 'yesterday'"))
    row_of(session).description = "mine"

    with pytest.raises(CorruptPlanRow, match=r"v3_plans\.updated_at holds 'yesterday'"):
        session.flush()


def test_the_last_time_there_is_leaves_no_later_version(repository, session):
    plan = repository.add(a_full_plan(updated_at=LAST))

    with pytest.raises(NoLaterVersion, match="correct updated_at in its row") as caught:
        repository.save(plan.begin())

    assert caught.value.plan_id == plan.plan_id
    assert repository.get(plan.plan_id) == plan
    row_of(session).description = "mine"
    with pytest.raises(NoLaterVersion):
        session.flush()


# What the session has not sent yet


@pytest.mark.parametrize("autoflush", [True, False])
def test_an_edit_that_was_not_sent_yet_counts_as_a_write(engine, autoflush):
    with Session(engine, autoflush=autoflush) as session:
        repository = PlanRepository(session)
        plan = repository.add(a_full_plan())
        row_of(session).description = "mine"

        with pytest.raises(PlanConflict):
            repository.save(plan.begin())

        assert repository.get(plan.plan_id).description == "mine"


@pytest.mark.parametrize("autoflush", [True, False])
def test_a_row_that_was_not_sent_yet_can_be_saved_and_deleted(engine, autoflush):
    with Session(engine, autoflush=autoflush) as session:
        repository = PlanRepository(session)
        plan = a_full_plan()
        session.add(LifecyclePlanModel.from_domain(plan))

        saved = repository.save(plan.edit(arguments={"b": 2}).begin())

        assert repository.get(plan.plan_id) == saved
        repository.delete(saved)
        assert repository.list().plans == ()


def test_a_row_object_tells_what_was_saved(repository, session, plan):
    row = row_of(session)

    saved = repository.save(plan.edit(arguments={"b": 2, "a": 1}, project_links=[]))

    assert row.to_domain() == saved == repository.get(plan.plan_id)


# What the database does by itself


def test_objects_of_a_session_follow_what_a_delete_does_to_their_rows(repository, session):
    top, middle, bottom = family = a_family()
    repository.add_all(family)
    rows = [row_of(session, number) for number in (1, 2, 3)]
    gone = rows[1].arguments[0]

    repository.delete(middle)

    assert [row.parent_plan_id for row in (rows[0], rows[2])] == [None, None]
    assert gone not in session
    assert rows[1] not in session
    assert repository.get(bottom.plan_id).is_detached
    assert rows[0].to_domain() == top
    session.flush()


def test_objects_of_a_session_follow_what_becomes_of_a_tree(repository, session):
    family = a_family()
    other = a_full_plan(4)
    repository.add_all([*family, other])
    rows = [row_of(session, number) for number in (1, 2, 3, 4)]
    children = [child for row in rows for child in (*row.arguments, *row.projects)]

    repository.delete_tree(ulid(1))

    assert [each in session for each in rows] == [False, False, False, True]
    assert [each in session for each in children] == [False] * 6 + [True] * 2
    session.flush()
    assert [*repository.stream()] == [other]


def test_rows_that_were_not_sent_yet_go_with_their_tree(engine):
    with Session(engine, autoflush=False) as session:
        repository = PlanRepository(session)
        session.add_all(map(LifecyclePlanModel.from_domain, a_family()))

        assert repository.delete_tree(ulid(1)) == 3
        session.flush()
        assert repository.list().plans == ()


def a_family() -> list[Plan]:
    places = [
        {"plan_id": ulid(1)},
        {"plan_id": ulid(2), "parent_plan_id": ulid(1), "root_plan_id": ulid(1)},
        {"plan_id": ulid(3), "parent_plan_id": ulid(2), "root_plan_id": ulid(1)},
    ]
    return [a_full_plan(identity=place) for place in places]


# The snapshot is frozen


OTHER = '{"name":"mine"}'


def as_it_was_read(session: Session) -> LifecyclePlanModel:
    return row_of(session)


def expired(session: Session) -> LifecyclePlanModel:
    row = row_of(session)
    session.expire(row)
    return row


def deferred(session: Session) -> LifecyclePlanModel:
    session.expunge_all()
    snapshot = LifecyclePlanModel.effective_profile_snapshot
    return session.scalars(select(LifecyclePlanModel).options(defer(snapshot))).one()


def exchange(row: LifecyclePlanModel) -> None:
    row.effective_profile_snapshot = OTHER


def take_out(row: LifecyclePlanModel) -> None:
    del row.effective_profile_snapshot


@pytest.mark.parametrize("change", [exchange, take_out])
@pytest.mark.parametrize("found", [as_it_was_read, expired, deferred])
def test_the_snapshot_of_a_stored_row_is_never_exchanged(repository, session, plan, found, change):
    row = found(session)

    with pytest.raises(SnapshotIsFrozen, match=plan.plan_id):
        change(row)

    session.flush()
    assert repository.get(plan.plan_id) == plan


def test_a_row_that_is_merged_brings_no_other_snapshot(repository, session, plan):
    row_of(session)
    other = LifecyclePlanModel.from_domain(a_full_plan(effective_profile_snapshot=OTHER))

    with pytest.raises(SnapshotIsFrozen, match=plan.plan_id):
        session.merge(other)

    assert repository.get(plan.plan_id) == plan
