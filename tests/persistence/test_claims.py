"""Queued plans are claimed once, in their order, and plans of lost workers are queued again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session, selectinload

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.domain import InvalidType, InvalidValue, Phase, ProcessingState
from cleveragents_plans.persistence import (
    CorruptPlanRow,
    NoLaterVersion,
    PlanConflict,
    QueueConflict,
    UnknownFilter,
    claims,
    read_only,
)
from support.databases import ENGINES
from support.plans import a_child, a_root, ulid
from support.statements import recorded_in, sent_by, wait_until_blocked

postgresql_only = pytest.mark.parametrize(
    "migrated_engine",
    [name for name in ENGINES if name != "sqlite"],
    indirect=True,
    scope="session",
)
FUTURE = datetime(2999, 1, 1, tzinfo=UTC)
EVERYTHING: dict[str, Any] = {
    "arguments": {"b": 1, "a": [None, "é"]},
    "invariants": [{"text": "dry"}, {"text": "whole", "source": "global"}],
    "project_links": [{"project_name": "p", "alias": "x", "read_only": True}],
    "tags": ["t"],
    "error_details": {"a": 1.5},
}


def numbers(plans: tuple[Plan, ...]) -> list[int]:
    return [int(plan.plan_id, 32) for plan in plans]


@contextmanager
def another(engine: Engine, **options: Any) -> Iterator[PlanRepository]:
    with Session(engine.execution_options(**options)) as session:
        yield PlanRepository(session)


@pytest.fixture
def queue(repository: PlanRepository, session: Session) -> list[Plan]:
    """Nine queued plans, each third one in another phase."""
    phases = [Phase.ACTION, Phase.EXECUTE, Phase.APPLY]
    plans = [a_root(number, phase=phases[number % 3], **EVERYTHING) for number in range(9)]
    repository.add_all(plans)
    session.commit()
    return plans


# Taking


def test_a_time_that_a_clock_shows_twice_is_not_taken_for_the_first_of_them(repository):
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    second = first.replace(fold=1)  # an hour later, and equal for Python
    at = datetime(2026, 10, 25, 1, tzinfo=UTC)
    repository.add(a_root(1, created_at=at, updated_at=at))

    assert not repository.claim(created_before=first)
    assert repository.claim(created_before=second)


def test_a_claim_begins_the_oldest_plan_and_gives_it_as_it_is_stored(repository, queue):
    before = datetime.now(UTC)

    (plan,) = repository.claim(phase="execute")

    assert plan.processing_state is ProcessingState.PROCESSING
    assert before <= plan.updated_at <= datetime.now(UTC)
    assert plan == queue[1].begin().model_copy(update={"updated_at": plan.updated_at})
    assert repository.get(plan.plan_id) == plan
    assert [*repository.list(processing_state="queued")] == [queue[0], *queue[2:]]


def test_claims_go_through_a_queue_in_its_order(repository, queue):
    taken = [repository.claim(phase="action") for _ in range(4)]

    assert [numbers(each) for each in taken] == [[0], [3], [6], []]


@pytest.mark.parametrize(
    ("phase", "wanted"),
    [
        (None, [0, 1, 2, 3]),
        (["apply", Phase.ACTION], [0, 2, 3, 5]),
        ({"apply"}, [2, 5, 8]),
        ([], []),
        (["apply", "apply"], [2, 5, 8]),
        ("strategize", []),
    ],
)
def test_a_claim_takes_several_plans_of_several_phases(repository, queue, phase, wanted):
    plans = repository.claim(limit=4, phase=phase)

    assert numbers(plans) == wanted
    assert [repository.get(plan.plan_id) for plan in plans] == [*plans]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"project": "p"}, [0]),
        ({"project": "q"}, []),
        ({"tag": ["t", "u"]}, [0]),
        ({"created_by": "ann"}, []),
        ({"parent": ulid(0)}, [10]),
        ({"root": [ulid(0)], "phase": "strategize"}, [11]),
        ({"action": "lint", "namespace": None}, [0]),
        ({"updated_before": FUTURE, "created_from": FUTURE}, []),
    ],
    ids=str,
)
def test_a_claim_takes_filters(repository, queue, filters, wanted):
    below = a_child(11, queue[0], phase=Phase.STRATEGIZE)
    repository.add_all([a_child(10, queue[0]), below])

    assert numbers(repository.claim(**filters)) == wanted


def test_a_claim_takes_what_is_queued_and_nothing_else(repository):
    states = [state for state in ProcessingState if state != "queued"]
    repository.add_all(
        a_root(number, phase="apply", processing_state=state) for number, state in enumerate(states)
    )

    assert repository.claim(limit=100) == ()
    assert repository.count_by("processing_state") == dict.fromkeys(states, 1)


def test_a_claim_is_lasting_when_the_caller_commits(engine, queue):
    with another(engine) as repository:
        repository.claim(limit=9)
    with another(engine) as repository:
        assert repository.count(processing_state="queued") == 9
        repository.claim(limit=9)
        repository._session.commit()
    with another(engine) as repository:
        assert repository.claim() == ()


def test_a_row_object_shows_that_its_plan_was_claimed(repository, session, queue):
    relations = [each.class_attribute for each in LifecyclePlanModel.__mapper__.relationships]
    row = session.get(LifecyclePlanModel, ulid(0), options=map(selectinload, relations))

    (plan,) = repository.claim()

    assert row.to_domain() == plan
    row.description = "mine"
    session.flush()
    with pytest.raises(PlanConflict):
        repository.save(plan)


def test_a_claim_sees_what_the_session_has_not_sent_yet(engine):
    with Session(engine, autoflush=False) as session:
        session.add(LifecyclePlanModel.from_domain(a_root()))

        assert numbers(PlanRepository(session).claim()) == [1]


def test_a_claim_is_one_statement_on_postgresql_and_one_update_on_sqlite(
    repository, session, queue
):
    for filters in ({"phase": "action"}, {"limit": 2}, {"phase": "strategize"}):
        sent = sent_by(session, lambda filters=filters: repository.claim(**filters))
        updates = [each for each in sent if "UPDATE v3_plans" in each]

        assert len(updates) == 1
        if session.get_bind().dialect.name == "postgresql":
            assert len(sent) == 1
            assert "SKIP LOCKED" in sent[0]
        else:
            assert "RETURNING" in updates[0]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"limit": 0}, InvalidValue, "limit is 0; expected a whole number from 1"),
        ({"limit": "1"}, InvalidType, "limit is '1'; expected"),
        ({"phase": "Action"}, InvalidValue, "phase is 'Action'; expected one of action"),
        ({"phase": ["action", "x"]}, InvalidValue, "phase is 'x'; expected one of action"),
        ({"processing_state": "queued"}, UnknownFilter, "no filter 'processing_state'; known"),
        ({"phas": "action"}, UnknownFilter, r"did you mean 'phase'\?"),
        ({"namespace": "\0"}, InvalidValue, "namespace is"),
        ({"on_corrupt": "ignore"}, InvalidValue, "on_corrupt is 'ignore'; expected"),
    ],
    ids=str,
)
def test_an_argument_that_no_claim_can_use_is_refused(
    repository, session, queue, arguments, error, said
):
    with recorded_in(session) as sent, pytest.raises(error, match=said):
        repository.claim(**arguments)

    assert sent == []


# Plans that one statement cannot begin by itself


def test_a_version_from_the_future_moves_by_a_microsecond(repository):
    repository.add_all([a_root(1, updated_at=FUTURE, **EVERYTHING), a_root(2)])

    plans = repository.claim(limit=2)

    assert numbers(plans) == [1, 2]
    assert plans[0].updated_at == FUTURE + timedelta(microseconds=1)
    assert [repository.get(plan.plan_id) for plan in plans] == [*plans]


def test_a_plan_without_a_later_version_is_told_and_the_others_are_taken(repository):
    last = a_root(1, updated_at=datetime.max.replace(tzinfo=UTC))
    repository.add_all([last, a_root(2), a_root(3)])
    told: list[CorruptPlanRow] = []

    with pytest.raises(NoLaterVersion, match=f"^plan '{ulid(1)}' cannot be written: ") as caught:
        repository.claim(limit=2, on_corrupt="raise")
    assert caught.value.plan_id == ulid(1)
    assert repository.count(processing_state="queued") == 3

    assert numbers(repository.claim(on_corrupt="skip")) == [2]
    assert numbers(repository.claim(limit=2, on_corrupt=told.append)) == [3]
    assert [(type(each), each.plan_id) for each in told] == [(NoLaterVersion, ulid(1))]
    assert repository.get(ulid(1)) == last


@pytest.mark.parametrize("verb", ["begin", "cancel", "fail"])
def test_every_write_without_a_later_version_names_the_plan(repository, verb):
    plan = repository.add(a_root(1, updated_at=datetime.max.replace(tzinfo=UTC)))
    taken = {"fail": lambda it: it.fail("x")}.get(verb, lambda it: getattr(it, verb)())
    in_work = repository.add(
        a_root(2, updated_at=plan.updated_at, processing_state=ProcessingState.PROCESSING)
    )

    for write, named in (
        (lambda: repository.save(taken(plan)), 1),
        (lambda: repository.change(ulid(1), taken), 1),
        (lambda: repository.touch(in_work), 2),
        (lambda: repository.release(in_work), 2),
    ):
        with pytest.raises(NoLaterVersion, match=f"^plan '{ulid(named)}' cannot be written: "):
            write()


@pytest.mark.parametrize("error", [RuntimeError("broken"), StopIteration()], ids=repr)
def test_a_claim_that_fails_takes_nothing(repository, session, queue, monkeypatch, error):
    read = claims.plan_in

    def fail_at_the_third(row: Any) -> Plan:
        if row.plan_id == ulid(2):
            raise error
        return read(row)

    monkeypatch.setattr(claims, "plan_in", fail_at_the_third)

    with pytest.raises(type(error)):
        repository.claim(limit=4)

    session.commit()
    assert repository.count(processing_state="queued") == 9


def test_a_corrupt_row_at_the_head_is_passed_over_and_stays_as_it_is(
    repository, session, queue, corrupt
):
    corrupt(0, 1)
    rows = text("SELECT * FROM v3_plans WHERE tags_json = '{' ORDER BY plan_id")
    before = session.execute(rows).all()
    told: list[CorruptPlanRow] = []

    taken = [repository.claim(on_corrupt=told.append) for _ in range(8)]

    assert [numbers(each) for each in taken] == [[2], [3], [4], [5], [6], [7], [8], []]
    assert [each.plan_id for each in told] == [ulid(0), ulid(1)] * 8
    assert session.execute(rows).all() == before


def test_a_corrupt_row_in_the_middle_hides_no_other(repository, queue, corrupt):
    corrupt(3)
    told: list[CorruptPlanRow] = []

    plans = repository.claim(phase="action", limit=2, on_corrupt=told.append)

    assert numbers(plans) == [0, 6]
    assert [repository.get(plan.plan_id) for plan in plans] == [*plans]
    assert len(told) == 1


def test_hundreds_of_corrupt_rows_do_not_block_the_queue(repository, corrupt):
    repository.add_all(a_root(number) for number in range(350))
    corrupt(*range(340))

    assert [plan.plan_id for plan in repository.claim(limit=2)] == [ulid(340), ulid(341)]


def test_a_corrupt_row_is_logged_if_nothing_else_is_asked_for(repository, queue, corrupt, caplog):
    corrupt(0)

    repository.claim()

    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert ulid(0) in caplog.text


def test_a_corrupt_row_raises_where_that_is_asked_for_and_nothing_is_taken(
    repository, queue, corrupt
):
    corrupt(3)

    with pytest.raises(CorruptPlanRow, match=ulid(3)):
        repository.claim(phase="action", limit=3, on_corrupt="raise")

    assert repository.count(processing_state="queued") == 9
    assert repository.get(ulid(0)) == queue[0]


def test_a_function_that_raises_leaves_the_queue_as_it_was(repository, queue, corrupt):
    corrupt(3)

    def refuse(error: CorruptPlanRow) -> None:
        raise KeyError(error.plan_id)

    with pytest.raises(KeyError):
        repository.claim(phase="action", limit=3, on_corrupt=refuse)

    assert repository.count(processing_state="queued") == 9


@pytest.mark.parametrize("migrated_engine", ["sqlite"], indirect=True, scope="session")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("plan_id", "CAST(x'2fff' AS TEXT)"),
        ("plan_id", "x'30'"),
        ("updated_at", "x'41'"),
        ("updated_at", "7"),
        ("attempt", "0"),
        ("description", "CAST(x'ff' AS TEXT)"),
    ],
)
def test_a_row_that_only_sqlite_holds_is_passed_over(repository, session, queue, column, value):
    session.execute(text("PRAGMA ignore_check_constraints = ON"))
    session.execute(text("PRAGMA defer_foreign_keys = ON"))
    session.execute(
        text(f"UPDATE v3_plans SET {column} = {value} WHERE plan_id = :it"), {"it": ulid(0)}
    )
    session.execute(text("PRAGMA ignore_check_constraints = OFF"))
    told: list[CorruptPlanRow] = []

    assert numbers(repository.claim(limit=9, on_corrupt=told.append)) == [*range(1, 9)]
    assert len(told) == 1


@postgresql_only
def test_a_row_that_breaks_a_constraint_that_was_not_validated_is_passed_over(
    repository, session, queue
):
    name = "ck_v3_plans_attempt"
    session.execute(text(f"ALTER TABLE v3_plans DROP CONSTRAINT {name}"))
    session.execute(text("UPDATE v3_plans SET attempt = 0 WHERE plan_id = :it"), {"it": ulid(0)})
    session.execute(
        text(f"ALTER TABLE v3_plans ADD CONSTRAINT {name} CHECK (attempt >= 1) NOT VALID")
    )
    told: list[CorruptPlanRow] = []

    assert numbers(repository.claim(on_corrupt=told.append)) == [1]
    assert [each.column for each in told] == ["v3_plans.attempt"]
    session.rollback()


# Many workers


def claim_all(engine: Engine, found: list[str], start: threading.Barrier) -> None:
    start.wait()
    empty = 0
    while empty < 3:
        with Session(engine) as session, session.begin():
            plans = PlanRepository(session).claim(limit=2)
        found += [plan.plan_id for plan in plans]
        empty += not plans


def claimed_by(engine: Engine, workers: int) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(workers)]
    start = threading.Barrier(workers)
    with ThreadPoolExecutor(workers) as pool:
        for each in [pool.submit(claim_all, engine, mine, start) for mine in found]:
            each.result(timeout=120)
    return found


def test_sixteen_workers_take_one_plan_once(engine):
    with another(engine) as repository:
        repository.add(a_root())
        repository._session.commit()

    found = claimed_by(engine, 16)

    assert sorted(plan_id for mine in found for plan_id in mine) == [ulid(1)]


def test_workers_take_each_plan_once(engine):
    with another(engine) as repository:
        repository.add_all(a_root(number, phase=[*Phase][number % 4]) for number in range(120))
        repository._session.commit()

    found = claimed_by(engine, 6)

    assert sorted(plan_id for mine in found for plan_id in mine) == [ulid(n) for n in range(120)]


def test_one_worker_takes_nothing_from_an_empty_queue(repository):
    assert repository.claim() == ()
    assert repository.claim(limit=100, phase=["action", "apply"]) == ()


@postgresql_only
def test_a_claim_passes_over_what_another_transaction_has_locked(engine, queue):
    with another(engine) as first, another(engine) as second, another(engine) as third:
        assert numbers(first.claim(phase="action")) == [0]
        assert numbers(second.claim(phase="action")) == [3]
        second._session.rollback()
        assert numbers(third.claim(phase="action", limit=5)) == [3, 6]


@postgresql_only
def test_a_child_that_is_added_meanwhile_does_not_hide_its_parent(engine, queue):
    with another(engine) as adding, another(engine) as claiming:
        adding.add(a_child(20, queue[0]))

        assert numbers(claiming.claim(phase="action")) == [0]


@postgresql_only
def test_a_plan_that_is_saved_while_it_is_claimed_is_claimed_in_one_piece(engine, queue):
    """The lock gets the newest version of a row, the statement sees child rows as they were."""
    slow = engine.execution_options()

    def wait_first(_1, _2, statement, parameters, *_):
        condition = "v3_plans.processing_state = 'queued'"
        waiting = f"{condition} AND (SELECT pg_advisory_xact_lock_shared(7)) IS NOT NULL"
        return statement.replace(condition, waiting, 1), parameters

    event.listen(slow, "before_cursor_execute", wait_first, retval=True)
    with another(engine) as saving, Session(slow) as session, ThreadPoolExecutor(1) as pool:
        saving._session.execute(text("SELECT pg_advisory_xact_lock(7)"))
        claiming = pool.submit(PlanRepository(session).claim, phase="action")
        wait_until_blocked(engine)
        saved = saving.save(queue[0].edit(arguments={"new": 1}, description="new"))
        saving._session.commit()
        (claimed,) = claiming.result(timeout=120)

        assert claimed.plan_id == saved.plan_id
        assert claimed == saved.begin().model_copy(update={"updated_at": claimed.updated_at})
        assert PlanRepository(session).get(ulid(0)) == claimed


@postgresql_only
def test_a_claim_is_lasting_at_once_where_each_statement_is_a_transaction(
    engine, session, queue, corrupt
):
    corrupt(0)
    session.execute(
        text("UPDATE v3_plans SET updated_at = '2999-01-01' WHERE plan_id = :it"), {"it": ulid(3)}
    )
    session.execute(
        text("UPDATE v3_plans SET updated_at = :at WHERE plan_id = :it"),
        {"it": ulid(6), "at": "2999-01-01T00:00:00.000000+00:00"},
    )
    session.commit()
    told: list[CorruptPlanRow] = []

    with another(engine, isolation_level="AUTOCOMMIT") as alone, another(engine) as reading:
        taken = alone.claim(phase="action", limit=3, on_corrupt=told.append)
        assert numbers(taken) == [6]
        assert {each.plan_id for each in told} == {ulid(0), ulid(3)}
        assert reading.get(ulid(6)) == taken[0]
        sent = sent_by(
            alone._session, lambda: alone.save(alone.claim(phase="execute")[0].complete())
        )
        assert [each.split()[0] for each in sent] == ["WITH", "UPDATE"]
        assert reading.count_by("processing_state") == {"queued": 7, "processing": 1, "complete": 1}


@postgresql_only
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stricter_transaction_is_told_that_another_one_was_faster(engine, queue, level):
    with another(engine, isolation_level=level) as strict:
        assert strict.count() == 9  # it sees one state from here on
        with another(engine) as first:
            first.claim(phase="action")
            first._session.commit()

        with pytest.raises(QueueConflict, match="roll back and begin again"):
            strict.claim(phase="action")

        strict._session.rollback()
        assert numbers(strict.claim(phase="action")) == [3]


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_readers_see_a_plan_before_or_after_its_claim_and_never_wait(engine, queue, level):
    reader = read_only(engine)
    if engine.dialect.name == "postgresql":
        reader = reader.execution_options(isolation_level=level)
    with Session(reader) as reading, another(engine) as claiming:
        before = PlanRepository(reading).get(ulid(0))
        (claimed,) = claiming.claim()
        assert PlanRepository(reading).get(ulid(0)) == before == queue[0]
        claiming._session.commit()
        seen = PlanRepository(reading).get(ulid(0))
        one_state = level == "REPEATABLE READ" or engine.dialect.name == "sqlite"
        assert seen == (before if one_state else claimed)


# Lost workers


@pytest.fixture
def stalled(repository: PlanRepository, session: Session) -> list[Plan]:
    """Four plans in work, two of which were not written for an hour."""
    now, hour = datetime.now(UTC), timedelta(hours=1)
    plans = [
        a_root(
            number,
            processing_state="processing",
            updated_at=now - hour * (number % 2),
            **EVERYTHING,
        )
        for number in range(4)
    ]
    repository.add_all(plans)
    session.commit()
    return plans


MINUTE = timedelta(minutes=1)


def test_plans_of_lost_workers_are_queued_for_one_more_attempt(repository, stalled):
    plans = repository.requeue_stalled(not_touched_for=MINUTE)

    assert numbers(plans) == [1, 3]
    for plan, before in zip(plans, stalled[1::2], strict=True):
        assert (plan.processing_state, plan.attempt) == ("queued", 2)
        assert plan == repository.get(plan.plan_id)
        last = before.updated_at.isoformat(timespec="microseconds")
        assert plan.error_message == (
            f"attempt 1 was given up: its worker did not write the plan after {last}"
        )
        assert plan.arguments == before.arguments
    assert repository.requeue_stalled(not_touched_for=MINUTE) == ()
    assert [repository.get(ulid(number)) for number in (0, 2)] == stalled[0::2]


def test_a_worker_that_comes_back_loses_its_save(repository, stalled):
    (again,) = repository.requeue_stalled(not_touched_for=MINUTE, limit=1)

    for late in (
        lambda: repository.save(stalled[1].complete()),
        lambda: repository.touch(stalled[1]),
    ):
        with pytest.raises(PlanConflict):
            late()

    (taken,) = repository.claim()
    assert (taken.plan_id, taken.attempt) == (again.plan_id, 2)
    # The reason is there until the plan goes on to the next phase.
    assert taken.error_message == again.error_message
    assert repository.save(taken.complete().advance()).error_message is None


def test_a_plan_that_used_up_its_attempts_fails_instead(repository, stalled):
    plans = repository.requeue_stalled(not_touched_for=MINUTE, max_attempts=1)

    assert [(plan.processing_state, plan.attempt) for plan in plans] == [("errored", 1)] * 2
    assert "attempt 1 was given up" in plans[0].error_message
    assert repository.claim() == ()


@pytest.mark.parametrize("max_attempts", [None, 2**31 - 2, 3])
def test_a_stalled_plan_at_the_last_attempt_fails_and_the_others_are_queued(
    repository, session, stalled, max_attempts
):
    session.execute(
        text("UPDATE v3_plans SET attempt = 2147483647 WHERE plan_id = :it"), {"it": ulid(1)}
    )

    plans = repository.requeue_stalled(not_touched_for=MINUTE, max_attempts=max_attempts)

    assert [(int(each.plan_id, 32), each.processing_state, each.attempt) for each in plans] == [
        (1, "errored", 2**31 - 1),
        (3, "queued", 2),
    ]
    assert "attempt 2147483647 was given up" in plans[0].error_message


def test_stalled_plans_are_queued_in_parts_and_by_filters(repository, stalled):
    filters = {"not_touched_for": MINUTE, "phase": "action"}

    assert repository.requeue_stalled(project="q", **filters) == ()
    assert numbers(repository.requeue_stalled(limit=1, **filters)) == [1]
    assert numbers(repository.requeue_stalled(limit=1, project="p", **filters)) == [3]


def test_a_corrupt_stalled_row_hides_no_other(repository, stalled, corrupt):
    corrupt(1)
    told: list[CorruptPlanRow] = []

    plans = repository.requeue_stalled(not_touched_for=MINUTE, on_corrupt=told.append)

    assert numbers(plans) == [3]
    assert [each.plan_id for each in told] == [ulid(1)]


@postgresql_only
def test_a_plan_that_its_worker_is_saving_is_not_queued_again(engine, stalled):
    with another(engine) as worker, another(engine) as recovery:
        worker.save(stalled[1].complete())

        assert numbers(recovery.requeue_stalled(not_touched_for=MINUTE)) == [3]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, TypeError, "not_touched_for"),
        ({"not_touched_for": 60}, InvalidType, "not_touched_for is 60; expected a timedelta"),
        ({"not_touched_for": -MINUTE}, InvalidValue, "not_touched_for is -1 day, 23:59:00; exp"),
        ({"not_touched_for": timedelta.max}, InvalidValue, "expected a timedelta from 0 to 2000"),
        ({"not_touched_for": MINUTE, "limit": -1}, InvalidValue, "limit is -1"),
        ({"not_touched_for": MINUTE, "max_attempts": 0}, InvalidValue, "max_attempts is 0"),
        ({"not_touched_for": MINUTE, "is_final": True}, UnknownFilter, "no filter 'is_final'"),
    ],
    ids=str,
)
def test_an_argument_that_no_recovery_can_use_is_refused(
    repository, session, stalled, arguments, error, said
):
    with recorded_in(session) as sent, pytest.raises(error, match=said):
        repository.requeue_stalled(**arguments)

    assert sent == []
