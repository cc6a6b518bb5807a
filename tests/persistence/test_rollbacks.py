"""Row objects of a session after what was done beside them is rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.orm.exc import ObjectDeletedError

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.persistence import CorruptPlanRow, PlanArgumentModel
from support.databases import SERVERS
from support.plans import a_child, a_root, ulid
from support.statements import dying_at, recorded

ALL = LifecyclePlanModel.with_children()
SOON = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def plan(engine: Engine) -> Plan:
    """A stored plan with two arguments, and a child."""
    with Session(engine) as session, session.begin():
        repository = PlanRepository(session)
        plan = repository.add(a_root(1).edit(arguments={"a": 1, "b": 2}))
        repository.add(a_child(2, plan))
        return plan


def row_of(session: Session, number: int = 1) -> LifecyclePlanModel:
    return session.get(LifecyclePlanModel, ulid(number), options=ALL)


def stored(engine: Engine, number: int = 1) -> Plan:
    with Session(engine) as session:
        return PlanRepository(session).get(ulid(number))


@contextmanager
def savepoint(session: Session) -> Iterator[None]:
    with session.begin_nested() as nested:
        yield
        nested.rollback()


@contextmanager
def two_savepoints(session: Session) -> Iterator[None]:
    with savepoint(session), session.begin_nested():
        yield


@contextmanager
def transaction(session: Session) -> Iterator[None]:
    yield
    session.rollback()


@contextmanager
def transaction_with_a_savepoint(session: Session) -> Iterator[None]:
    with session.begin_nested():
        yield
    session.rollback()


ROLLBACKS = [
    savepoint,
    two_savepoints,
    transaction,
    transaction_with_a_savepoint,
]


# What the repository wrote


WRITES: dict[str, Callable[[PlanRepository, Plan], Any]] = {
    "save": lambda repository, plan: repository.save(plan.begin()),
    "save of fewer arguments": lambda repository, plan: repository.save(
        plan.edit(arguments={"b": 3})
    ),
    "save of more arguments": lambda repository, plan: repository.save(
        plan.edit(arguments={"c": 3, "b": 2, "a": 1})
    ),
    "change": lambda repository, plan: repository.change(plan.plan_id, Plan.begin),
    "touch": lambda repository, plan: repository.touch(plan),
    "claim": lambda repository, plan: repository.claim(limit=2),
    "requeue": lambda repository, plan: (
        repository.claim(limit=2),
        repository._session.execute(
            update(LifecyclePlanModel.__table__).values(updated_at="2020-01-01T00:00:00+00:00")
        ),
        repository.requeue_stalled(not_touched_for=timedelta(1)),
    ),
    "delete": lambda repository, plan: repository.delete(repository.get(ulid(2))),
    "delete of the tree": lambda repository, plan: repository.delete_tree(plan.plan_id),
    "delete of ended trees": lambda repository, plan: (
        repository.change(ulid(2), Plan.cancel),
        repository.change(plan.plan_id, Plan.cancel),
        repository.delete_trees(completed_before=SOON),
    ),
    "a deleted row object": lambda repository, plan: (
        repository._session.delete(row_of(repository._session, 2)),
        repository._session.flush(),
    ),
}


@pytest.mark.parametrize("rolled_back", ROLLBACKS)
@pytest.mark.parametrize("write", WRITES)
def test_row_objects_are_as_they_are_stored_after_a_rollback(engine, plan, write, rolled_back):
    with Session(engine) as session:
        repository = PlanRepository(session)
        rows = row, below = [row_of(session, number) for number in (1, 2)]
        arguments = [*row.arguments]

        with rolled_back(session):
            WRITES[write](repository, plan)

        assert all(each in session for each in (*rows, *arguments))
        assert (row.processing_state, below.parent_plan_id) == ("queued", ulid(1))
        assert row_of(session).to_domain() == plan == repository.get(ulid(1))
        assert row_of(session) is row
        assert row.arguments == arguments
        row.description, below.description, arguments[0].value_json = "mine", "below", "7"
        session.commit()

    assert (stored(engine).description, stored(engine).arguments) == ("mine", {"a": 7, "b": 2})
    assert stored(engine, 2).description == "below"


@pytest.mark.parametrize("write", WRITES)
def test_row_objects_that_a_commit_expired_follow_the_rollback_of_a_savepoint(engine, plan, write):
    with Session(engine) as session:
        rows = [row_of(session), row_of(session, 2)]
        children = [*rows[0].arguments]
        session.commit()
        with savepoint(session):
            WRITES[write](PlanRepository(session), plan)
            for number in (1, 2):
                row = session.get(LifecyclePlanModel, ulid(number), options=ALL)
                if row is not None:
                    (
                        row.parent_plan_id,
                        row.updated_at,
                        [each.value_json for each in row.arguments],
                    )
        for number, row in enumerate(rows, 1):
            assert row in session
            assert row_of(session, number) is row
            assert row.to_domain() == PlanRepository(session).get(ulid(number))
        assert [(each.name, each.value_json) for each in children] == [("a", "1"), ("b", "2")]

        rows[0].description = "written afterwards"
        session.commit()

    assert stored(engine).description == "written afterwards"


def test_child_row_that_was_given_to_another_session_keeps_no_rollback_from_ending(engine, plan):
    with Session(engine) as session, Session(engine) as other:
        row = row_of(session)
        child = row.arguments[0]
        session.expunge(child)
        other.add(child)
        PlanRepository(session).save(plan.edit(arguments={"z": 1}))
        session.rollback()

        assert PlanRepository(session).get(plan.plan_id) == plan
        assert row in session
        assert child in other


def test_rows_that_a_savepoint_leaves_are_those_that_were_written(engine, plan):
    with Session(engine) as session:
        row = row_of(session)
        with session.begin_nested():
            saved = PlanRepository(session).save(plan.edit(arguments={"b": 3}).begin())
        assert row.to_domain() == saved
        with savepoint(session):
            pass
        with recorded() as statements:
            assert row.to_domain() == saved
        assert statements == []


def test_child_row_that_a_rollback_took_away_is_told(engine, plan):
    with Session(engine) as session:
        row = row_of(session)
        with savepoint(session):
            PlanRepository(session).save(plan.edit(arguments={"a": 1, "b": 2, "c": 3}))
            new = row.arguments[2]
        with pytest.raises(ObjectDeletedError):
            _ = new.value_json


def refuse(corrupt: CorruptPlanRow) -> None:
    raise corrupt


@pytest.mark.parametrize("on_corrupt", ["raise", refuse])
def test_claim_that_raises_leaves_row_objects_as_they_are_stored(engine, plan, on_corrupt):
    with Session(engine) as session:
        row = row_of(session)
        session.execute(
            text("UPDATE v3_plans SET tags_json = '{' WHERE plan_id = :it"), {"it": ulid(2)}
        )
        with pytest.raises(CorruptPlanRow):
            PlanRepository(session).claim(limit=2, on_corrupt=on_corrupt)

        assert row.processing_state == "queued"
        row.description = "mine"
        session.commit()
    assert stored(engine).description == "mine"


def test_requeue_that_raises_leaves_row_objects_as_they_are_stored(engine, plan):
    with Session(engine) as session:
        session.execute(
            text(
                "UPDATE v3_plans SET processing_state = 'processing',"
                " updated_at = '2020-01-01T00:00:00.000000+00:00'"
            )
        )
        session.execute(
            text("UPDATE v3_plans SET tags_json = '{' WHERE plan_id = :it"), {"it": ulid(2)}
        )
        row = row_of(session)
        with pytest.raises(CorruptPlanRow):
            PlanRepository(session).requeue_stalled(
                not_touched_for=timedelta(1), on_corrupt="raise"
            )

        assert (row.processing_state, row.attempt) == ("processing", 1)
        row.description = "mine"
        session.commit()
    assert stored(engine).description == "mine"


@pytest.mark.parametrize("migrated_engine", SERVERS, indirect=True, scope="session")
def test_row_objects_follow_where_each_statement_is_a_transaction(engine, plan):
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        row = row_of(session)
        session.execute(
            text("UPDATE v3_plans SET tags_json = '{' WHERE plan_id = :it"), {"it": ulid(2)}
        )
        with pytest.raises(CorruptPlanRow):
            PlanRepository(session).claim(limit=2, on_corrupt="raise")
        assert row.processing_state == "queued"
        with dying_at("INSERT INTO plan_arguments"):
            PlanRepository(session).save(plan.edit(arguments={"c": 2}))
        assert row_of(session).to_domain() == plan == stored(engine)


@pytest.mark.parametrize("migrated_engine", SERVERS, indirect=True, scope="session")
def test_row_objects_are_as_they_are_stored_where_a_commit_of_the_repository_is_refused(
    engine, plan
):
    old = {"updated_at": "2020-01-01T00:00:00+00:00", "processing_state": "processing"}
    with Session(engine) as session, session.begin():
        session.execute(update(LifecyclePlanModel.__table__).values(old))
    statements = (
        "CREATE FUNCTION nope() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'nope'; END$$",
        "CREATE CONSTRAINT TRIGGER nope AFTER UPDATE ON v3_plans DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION nope()",
    )
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        for statement in statements:
            session.execute(text(statement))
        row = row_of(session)

        with pytest.raises(DBAPIError, match="nope"):
            PlanRepository(session).requeue_stalled(not_touched_for=timedelta(1))

        told = (row.processing_state, row.attempt, row.updated_at)
        session.execute(text("DROP FUNCTION nope() CASCADE"))
    assert told == ("processing", 1, "2020-01-01T00:00:00+00:00")


# What a session goes on with


def test_session_begins_again_after_a_rollback(engine, plan):
    with Session(engine) as session:
        with session.begin() as begun:
            row = row_of(session)
            PlanRepository(session).delete_tree(ulid(1))
            begun.rollback()
        assert row in session
        assert not session.in_transaction()
        with session.begin():
            row.description = "mine"
    assert stored(engine).description == "mine"


def test_session_that_never_begins_by_itself_has_its_row_objects_back(engine, plan):
    with Session(engine, autobegin=False) as session:
        with session.begin():
            row = row_of(session)
        with session.begin() as begun:
            PlanRepository(session).delete_tree(ulid(1))
            begun.rollback()
        with session.begin():
            assert row.description == plan.description


def test_session_of_a_thread_has_its_row_objects_back(engine, plan):
    session: Any = scoped_session(sessionmaker(engine))
    row = row_of(session)
    PlanRepository(session).delete_tree(ulid(1))
    session.rollback()
    assert row in session
    session.remove()


def test_row_objects_that_were_new_are_not_taken_for_stored(engine):
    with Session(engine) as session:
        row = LifecyclePlanModel.from_domain(a_root(1).edit(arguments={"a": 1, "b": 2}))
        session.add(row)
        session.flush()
        first, second = row.arguments
        first.name, second.name = second.name, first.name
        session.flush()
        PlanRepository(session).delete_tree(ulid(1))
        session.rollback()
        assert row not in session
        session.add(row)
        session.commit()
    assert stored(engine).arguments == {"b": 1, "a": 2}


def test_row_object_that_was_deleted_takes_the_place_of_one_that_was_loaded_since(engine, plan):
    with Session(engine) as session:
        former = row_of(session)
        with savepoint(session):
            PlanRepository(session).delete_tree(ulid(1))
            PlanRepository(session).add(a_root(1).edit(arguments={"c": 1}))
            since = row_of(session)
            assert since is not former
        assert (former in session, since in session) == (True, False)
        session.refresh(former)
        assert row_of(session) is former
        assert former.to_domain() == plan


# Child rows of a row object


def remove(session: Session, row: LifecyclePlanModel) -> None:
    del row.arguments[0]


def delete_one(session: Session, row: LifecyclePlanModel) -> None:
    session.delete(row.arguments[1])


def swap(session: Session, row: LifecyclePlanModel) -> None:
    first, second = row.arguments
    first.name, second.name = second.name, first.name


def swap_positions(session: Session, row: LifecyclePlanModel) -> None:
    first, second = row.arguments
    first.position, second.position = 1, 0


def swap_twice(session: Session, row: LifecyclePlanModel) -> None:
    swap_positions(session, row)
    session.flush()
    with session.begin_nested():
        swap(session, row)


def replace(session: Session, row: LifecyclePlanModel) -> None:
    row.arguments = [
        PlanArgumentModel(position=position, name=name, value_json="9")
        for position, name in enumerate("bz")
    ]


def remove_and_add(session: Session, row: LifecyclePlanModel) -> None:
    del row.arguments[0]
    row.arguments.append(PlanArgumentModel(position=0, name="a", value_json="9"))


def move_up(session: Session, row: LifecyclePlanModel) -> None:
    del row.arguments[0]
    row.arguments[0].position = 0
    row.arguments.append(PlanArgumentModel(position=1, name="c", value_json="9"))


def swap_and_delete(session: Session, row: LifecyclePlanModel) -> None:
    swap_positions(session, row)
    session.flush()
    PlanRepository(session).delete_tree(row.plan_id)


@pytest.mark.parametrize("rolled_back", ROLLBACKS)
@pytest.mark.parametrize(
    "act",
    [
        remove, delete_one, swap, swap_positions, swap_twice, replace, remove_and_add,
        swap_and_delete, move_up,
    ],
)  # fmt: skip
def test_child_rows_are_as_they_are_stored_after_a_rollback(engine, plan, act, rolled_back):
    with Session(engine) as session:
        row = row_of(session)
        first, second = row.arguments

        with rolled_back(session):
            act(session, row)
            session.flush()

        assert (first in session, second in session) == (True, True)
        assert [(each.position, each.name) for each in (first, second)] == [(0, "a"), (1, "b")]
        session.refresh(row)
        assert row_of(session).arguments == [first, second]
        first.value_json = "7"
        second.name = "c"
        session.commit()

    assert dict(stored(engine).arguments) == {"a": 7, "c": 2}


def test_child_rows_that_change_places_are_updated(engine, plan):
    """What refers to them by ON DELETE CASCADE stays."""
    with Session(engine) as session:
        row = row_of(session)
        with recorded() as statements:
            swap_positions(session, row)
            session.commit()
        assert not [each for each in statements if each.startswith("INSERT")]
    assert [*stored(engine).arguments] == ["b", "a"]
