"""Concurrent writers: no write is lost without an error, and none waits without need."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session, selectinload

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.domain import BUILT_IN_PROFILES, PlanIdentity
from cleveragents_plans.persistence import (
    DatabaseReadOnly,
    PlanAlreadyStored,
    PlanConflict,
    RootInUse,
    open_engine,
    read_only,
)
from support.databases import ENGINES, ONE_OF_EACH, migrate
from support.plans import a_plan, ulid
from support.statements import wait_until_blocked

SNAPSHOT = BUILT_IN_PROFILES["balanced"].snapshot()

#: SQLite has one writer at a time, and one isolation level: nothing of this can happen there.
postgresql_only = pytest.mark.parametrize(
    "migrated_engine",
    [name for name in ENGINES if name != "sqlite"],
    indirect=True,
    scope="session",
)


def root(number: int = 1, **fields: object) -> Plan:
    return a_plan(number, effective_profile_snapshot=SNAPSHOT, **fields)


def child(number: int, parent: Plan) -> Plan:
    identity = PlanIdentity(
        plan_id=ulid(number), parent_plan_id=parent.plan_id, root_plan_id=parent.root_plan_id
    )
    return root(number, identity=identity)


@pytest.fixture
def stored(engine: Engine) -> Plan:
    with Session(engine) as session, session.begin():
        return PlanRepository(session).add(
            root(token_count_input=0, tags=["0"], arguments={"n": 0})
        )


def count_up(engine: Engine, times: int) -> tuple[int, int]:
    """Raise the plan's counter; give how often that was stored and how often refused."""
    won = lost = 0
    while won < times:
        with Session(engine) as session:
            repository = PlanRepository(session)
            plan = repository.get(ulid(1))
            session.rollback()  # as after a pause to think
            number = (plan.token_count_input or 0) + 1
            changed = plan.edit(
                token_count_input=number,
                tags=[str(each) for each in range(number)],
                arguments={"n": number},
                invariants=[{"text": str(number)}],
            )
            try:
                repository.save(changed)
                session.commit()
                won += 1
            except PlanConflict:
                session.rollback()
                lost += 1
    return won, lost


def count_up_in_a_process(url: str, times: int, results: multiprocessing.Queue) -> None:
    engine = open_engine(url)
    results.put(count_up(engine, times))
    engine.dispose()


def assert_consistent(plan: Plan, number: int) -> None:
    assert plan.token_count_input == number
    assert plan.arguments == {"n": number}
    assert plan.tags == tuple(str(each) for each in range(number))
    assert [each.text for each in plan.invariants] == [str(number)]


def test_no_update_of_many_threads_is_lost(engine, stored):
    with ThreadPoolExecutor(6) as pool:
        results = [each.result() for each in [pool.submit(count_up, engine, 8) for _ in range(6)]]

    with Session(engine) as session:
        assert_consistent(PlanRepository(session).get(ulid(1)), 48)
    assert sum(won for won, _ in results) == 48


@pytest.mark.fault
@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
def test_no_update_of_many_processes_is_lost(engine, stored):
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    url = engine.url.render_as_string(hide_password=False)
    processes = [
        spawn.Process(target=count_up_in_a_process, args=(url, 8, results)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    counted = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()

    with Session(engine) as session:
        assert_consistent(PlanRepository(session).get(ulid(1)), 32)
    assert sum(won for won, _ in counted) == 32


@postgresql_only
def test_one_of_two_readers_of_a_plan_can_save(engine, stored):
    with Session(engine) as first, Session(engine) as second:
        one, two = (PlanRepository(each).get(ulid(1)) for each in (first, second))
        saved = PlanRepository(first).save(one.begin())
        first.commit()

        with pytest.raises(PlanConflict):
            PlanRepository(second).save(two.cancel())
        second.commit()

    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)) == saved


@postgresql_only
@pytest.mark.parametrize("act", [lambda r, p: r.save(p.cancel()), lambda r, p: r.delete(p)])
def test_a_save_that_had_to_wait_for_another_is_refused(engine, stored, act):
    with Session(engine) as first, Session(engine) as second:
        saved = PlanRepository(first).save(stored.begin())
        waiting = ThreadPoolExecutor(1)
        outcome = waiting.submit(lambda: act(PlanRepository(second), stored))
        wait_until_blocked(engine)
        first.commit()

        assert isinstance(outcome.exception(timeout=120), PlanConflict)
        second.commit()
        waiting.shutdown()

    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)) == saved


@postgresql_only
@pytest.mark.parametrize("loaded", [False, True], ids=["afresh", "with loaded children"])
def test_a_delete_waits_for_a_save_without_a_deadlock(engine, stored, loaded):
    saver, updated, go_on = open_engine(engine.url), threading.Event(), threading.Event()

    def pause(_1, _2, statement, *_):
        if statement.startswith("UPDATE v3_plans"):
            updated.set()
            go_on.wait(120)

    def save() -> Plan:
        with Session(saver) as session, session.begin():
            return PlanRepository(session).save(stored.edit(arguments={"b": 2}))

    def delete() -> None:
        with Session(engine) as session, session.begin():
            if loaded:
                _kept = session.scalars(select(LifecyclePlanModel).options(selectinload("*"))).all()
            PlanRepository(session).delete(stored)

    event.listen(saver, "after_cursor_execute", pause)
    with ThreadPoolExecutor(2) as pool:
        saving = pool.submit(save)
        updated.wait(120)
        deleting = pool.submit(delete)
        wait_until_blocked(engine)
        go_on.set()
        saved = saving.result(timeout=120)
        assert isinstance(deleting.exception(timeout=120), PlanConflict)
    saver.dispose()

    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)) == saved


@postgresql_only
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("act", [lambda r, p: r.save(p.cancel()), lambda r, p: r.delete(p)])
def test_a_serialization_failure_is_a_plan_that_changed_meanwhile(engine, stored, level, act):
    strict = engine.execution_options(isolation_level=level)
    with Session(strict) as session:
        repository = PlanRepository(session)
        repository.add(root(2))
        read = repository.get(ulid(1))
        with Session(engine) as other, other.begin():
            saved = PlanRepository(other).save(stored.begin())

        with pytest.raises(PlanConflict):
            act(repository, read)
        # What the session did before is still there.
        assert repository.get(ulid(2)) == root(2)
        session.rollback()

    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)) == saved


@postgresql_only
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_plan_that_another_writer_just_added_is_stored_already(engine, stored, level):
    with Session(engine.execution_options(isolation_level=level)) as session:
        repository = PlanRepository(session)
        assert len(repository.list()) == 1
        with Session(engine) as other, other.begin():
            PlanRepository(other).add(root(2))

        with pytest.raises(PlanAlreadyStored, match=ulid(2)):
            repository.add(root(2))


@postgresql_only
def test_a_plan_that_is_added_to_a_tree_while_its_root_is_deleted_is_not_lost(engine, stored):
    with Session(engine) as first, Session(engine) as second:
        PlanRepository(first).add(child(2, stored))
        pool = ThreadPoolExecutor(2)
        outcome = pool.submit(lambda: PlanRepository(second).delete(stored))
        wait_until_blocked(engine)
        first.commit()

        error = outcome.exception(timeout=120)
        pool.shutdown()
        assert isinstance(error, RootInUse)
        assert error.named_by == 1


@postgresql_only
def test_a_plan_that_is_added_to_a_tree_while_it_is_deleted_is_not_lost(engine, stored):
    with Session(engine) as first, Session(engine) as second:
        PlanRepository(first).add(child(2, stored))
        pool = ThreadPoolExecutor(1)
        outcome = pool.submit(lambda: PlanRepository(second).delete_tree(ulid(1)))
        wait_until_blocked(engine)
        first.commit()

        error = outcome.exception(timeout=120)
        pool.shutdown()
        assert isinstance(error, RootInUse)


# Reads while others write


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("read", ["get", "list", "tree", "children", "get_many"])
def test_a_plan_that_is_written_while_it_is_read_is_read_in_one_piece(engine, read, level):
    with Session(engine) as session, session.begin():
        top = PlanRepository(session).add(root(9))
        PlanRepository(session).add(
            child(1, top).edit(token_count_input=0, tags=["0"], arguments={"n": 0})
        )
    stop, writer = threading.Event(), open_engine(engine.url)
    reader = read_only(engine)
    if engine.dialect.name == "postgresql":
        reader = reader.execution_options(isolation_level=level)

    def write() -> None:
        while not stop.is_set():
            count_up(writer, 1)

    seen = set()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            # However slow the writer is beside the reader.
            until = time.monotonic() + 60
            reads = 0
            while (reads := reads + 1) <= 60 or (len(seen) <= 5 and time.monotonic() < until):
                with Session(reader) as session:
                    plan = read_by(PlanRepository(session), read)
                assert plan.arguments == {"n": plan.token_count_input}
                assert len(plan.tags) == max(plan.token_count_input, 1)
                seen.add(plan.token_count_input)
        finally:
            stop.set()
        writing.result(timeout=120)
    writer.dispose()
    assert len(seen) > 5


def read_by(repository: PlanRepository, method: str) -> Plan:
    if method == "get":
        return repository.get(ulid(1))
    if method == "list":
        return repository.list(limit=1)[0]
    if method == "tree":
        return repository.tree(ulid(9))[0]
    if method == "children":
        return repository.children(ulid(9))[0]
    return repository.get_many([ulid(1)])[ulid(1)]


# SQLite: who waits for whom


def test_readers_go_on_during_a_write(engine, stored):
    with Session(engine) as writing:
        PlanRepository(writing).save(stored.begin())
        with Session(read_only(engine)) as reading:
            assert PlanRepository(reading).get(ulid(1)) == stored
        writing.commit()
    with Session(read_only(engine)) as reading:
        assert PlanRepository(reading).get(ulid(1)).processing_state == "processing"


def test_a_read_only_engine_sees_one_state_on_sqlite_and_writes_nothing(engine, stored):
    with Session(read_only(engine)) as reading:
        repository = PlanRepository(reading)
        before = repository.get(ulid(1))
        with Session(engine) as writing, writing.begin():
            PlanRepository(writing).save(stored.begin())
        if engine.dialect.name == "sqlite":
            assert repository.get(ulid(1)) == before
        with pytest.raises(DatabaseReadOnly, match=r"read-?only"):
            repository.add(root(2))
    # The connection goes back, and the next one to have it may write.
    with Session(engine) as writing, writing.begin():
        PlanRepository(writing).add(root(3))


def open_and_write(url: str, number: int, start: threading.Barrier | None, failed: list) -> None:
    engine = open_engine(url)
    try:
        if start is not None:
            start.wait()
        for each in range(5):
            with Session(engine) as session, session.begin():
                repository = PlanRepository(session)
                repository.list()
                repository.add(root(number * 10 + each))
    except Exception as error:
        failed.append(error)
    finally:
        engine.dispose()


def write_in_a_process(url: str, number: int, results: multiprocessing.Queue) -> None:
    failed: list = []
    open_and_write(url, number, None, failed)
    results.put([repr(error) for error in failed])


def test_a_fresh_file_that_many_open_at_once_is_never_locked(sqlite_url):
    # The migration leaves the journal as it was, so that each one here asks for WAL.
    migrate(sqlite_url, "head")
    start, failed = threading.Barrier(8), []
    threads = [
        threading.Thread(target=open_and_write, args=(sqlite_url, number, start, failed))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    engine = open_engine(sqlite_url)
    with Session(engine) as session:
        assert len(PlanRepository(session).list()) == 40
    engine.dispose()


@pytest.mark.slow
def test_read_then_write_transactions_of_many_processes_are_never_locked(sqlite_url):
    migrate(sqlite_url, "head")
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [
        spawn.Process(target=write_in_a_process, args=(sqlite_url, number, results))
        for number in range(4)
    ]
    for process in processes:
        process.start()
    failed = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()

    assert failed == [[]] * 4
    engine = open_engine(sqlite_url)
    with Session(engine) as session:
        assert len(PlanRepository(session).list()) == 20
    engine.dispose()


def test_row_objects_are_checked_as_well(engine, stored):
    query = select(LifecyclePlanModel).options(selectinload("*"))
    with Session(engine) as session:
        row = session.scalars(query).one()
        session.connection().execute(
            text("UPDATE v3_plans SET updated_at = :t"),
            {
                "t": LifecyclePlanModel.from_domain(
                    stored.model_copy(update={"updated_at": stored.updated_at + timedelta(1)})
                ).updated_at
            },
        )
        row.description = "lost"
        with pytest.raises(Exception, match="0 were matched"):
            session.flush()
        session.rollback()
