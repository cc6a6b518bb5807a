"""A save keeps what it promises: no update is lost, and few statements are sent."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    ChangeNotAllowed,
    InvalidFields,
    InvalidType,
    InvalidValue,
    Phase,
    ProcessingState,
    ProjectLink,
    SnapshotIsFrozen,
    StepNotAllowed,
)
from cleveragents_plans.domain.errors import InvalidArgument
from cleveragents_plans.persistence import PlanConflict, PlanNotFound, PlanNotStored
from support.databases import ENGINES
from support.plans import a_plan, a_root, ulid
from support.statements import sent_by

postgresql_only = pytest.mark.parametrize(
    "migrated_engine",
    [name for name in ENGINES if name != "sqlite"],
    indirect=True,
    scope="session",
)


def test_a_saved_plan_is_later_than_the_one_that_was_read(repository):
    before = datetime.now(UTC)
    read = repository.add(a_root())

    saved = repository.save(read.edit(description="new"))

    assert before <= saved.updated_at <= datetime.now(UTC)
    assert saved == repository.get(ulid(1))
    assert saved.description == "new"


def test_a_plan_from_the_future_becomes_one_microsecond_later(repository):
    future = datetime.now(UTC) + timedelta(days=400)
    read = repository.add(a_root(updated_at=future))

    assert repository.save(read).updated_at == future + timedelta(microseconds=1)


def test_two_saves_in_a_row_work(repository):
    plan = repository.add(a_root())

    for verb in (Plan.begin, Plan.complete, Plan.advance, Plan.begin):
        plan = repository.save(verb(plan))

    assert repository.get(ulid(1)) == plan
    assert plan.phase is Phase.STRATEGIZE


def test_the_loser_of_two_saves_leaves_nothing_behind(repository, session):
    read = repository.add(a_root(arguments={"a": 1}, project_links=[ProjectLink(project_name="p")]))
    won = repository.save(read.edit(description="first", arguments={"b": 2}))

    with pytest.raises(PlanConflict, match="read it again") as caught:
        repository.save(read.edit(description="second", arguments={}, project_links=[]))

    assert caught.value.plan_id == ulid(1)
    assert repository.get(ulid(1)) == won
    session.commit()
    assert repository.get(ulid(1)) == won


def test_a_plan_that_was_deleted_meanwhile_is_not_saved(repository):
    read = repository.add(a_root())
    repository.delete(read)

    with pytest.raises(PlanConflict):
        repository.save(read)


@pytest.mark.parametrize("act", [PlanRepository.save, PlanRepository.delete])
def test_a_plan_that_was_never_added_is_not_stored(repository, act):
    with pytest.raises(PlanNotStored, match=r"is not stored: add\(\) it if it is new") as caught:
        act(repository, a_root())

    assert caught.value.plan_id == ulid(1)


def test_a_plan_whose_parent_was_deleted_meanwhile_is_not_saved(repository, family):
    repository.delete(family["left"])

    with pytest.raises(PlanConflict):
        repository.save(family["below"].begin())

    detached = repository.get(family["below"].plan_id)
    assert detached.is_detached
    assert repository.save(detached.begin()).processing_state is ProcessingState.PROCESSING


def test_aliases_and_names_may_change_places(repository):
    links = [
        ProjectLink(project_name="p", alias="a"),
        ProjectLink(project_name="q", alias="b"),
        ProjectLink(project_name="r"),
    ]
    read = repository.add(a_root(project_links=links, arguments={"x": 1, "y": 2}))
    swapped = [
        links[1].model_copy(update={"alias": "a"}),
        links[0].model_copy(update={"alias": "b"}),
    ]

    saved = repository.save(read.edit(project_links=swapped, arguments={"y": 2, "x": 1}))

    assert repository.get(ulid(1)) == saved
    assert saved.project_links == tuple(swapped)
    assert [*saved.arguments] == ["y", "x"]


def test_lists_that_became_shorter_or_longer_are_stored(repository, count_children):
    read = repository.add(a_root(invariants=[{"text": each} for each in "abc"]))

    longer = repository.save(read.edit(invariants=[{"text": each} for each in "xabcd"]))
    none = repository.save(longer.edit(invariants=[]))

    assert [each.text for each in longer.invariants] == [*"xabcd"]
    assert repository.get(ulid(1)) == none
    assert count_children() == [0, 0, 0]


def test_children_that_did_not_change_are_not_written_again(repository, session):
    read = repository.add(a_root(arguments={"a": 1}, invariants=[{"text": "dry"}]))

    sent = sent_by(session, lambda: repository.save(read.begin()))

    assert [each.split()[0] for each in sent] == ["UPDATE"]
    # Only what differs is set.
    columns, condition = sent[0].split("WHERE", 1)
    assert "processing_state" in columns
    assert "effective_profile_snapshot" not in columns
    assert "effective_profile_snapshot" in condition


@pytest.mark.parametrize(
    ("edit", "table"),
    [
        ({"arguments": {"a": 2}}, "plan_arguments"),
        ({"invariants": ["wet"]}, "plan_invariants"),
        ({"project_links": ["p"]}, "plan_projects"),
    ],
)
def test_only_the_child_table_that_changed_is_written(repository, session, edit, table):
    read = repository.add(a_root(arguments={"a": 1}, invariants=[{"text": "dry"}]))

    sent = sent_by(session, lambda: repository.save(read.edit(**edit)))

    verbs = [each.split()[0] for each in sent]
    assert verbs == ["SAVEPOINT", "UPDATE", "DELETE", "INSERT", "RELEASE"]
    assert all(table in each for each in sent[2:4])


READ = {
    "get": lambda repository: repository.get(ulid(1)),
    "list": lambda repository: repository.list()[0],
    "stream": lambda repository: next(repository.stream()),
    "tree": lambda repository: repository.tree(ulid(1))[0],
    "claim": lambda repository: repository.claim()[0].fail("no").retry(),
    "save": lambda repository: repository.save(repository.get(ulid(1)).edit(tags=["new"])),
    "touch": lambda repository: repository.touch(repository.get(ulid(1))),
    "touch of an edit": lambda repository: repository.touch(repository.get(ulid(1)).edit(tags=[])),
    "change": lambda repository: repository.change(ulid(1), lambda it: it.edit(tags=["new"])),
}


@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_a_plan_that_was_read_is_saved_by_one_statement(repository, session, read):
    repository.add(a_root(arguments={"a": 1}, project_links=["p"], invariants=["x"], tags=["t"]))
    plan = read(repository)

    sent = sent_by(session, lambda: repository.save(plan.begin()))

    assert [each.split()[0] for each in sent] == ["UPDATE"]
    saved = repository.get(ulid(1))
    assert saved == plan.begin().model_copy(update={"updated_at": saved.updated_at})


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE v3_plans SET tags_json = '[\"by hand\"]'",
        "UPDATE plan_arguments SET value_json = '2'",
        "DELETE FROM plan_projects",
    ],
)
def test_a_save_replaces_what_was_changed_by_hand_without_a_new_version(
    repository, session, change
):
    read = repository.add(a_root(arguments={"a": 1}, project_links=["p"], tags=["t"]))
    session.execute(text(change))

    sent = sent_by(session, lambda: repository.save(read.begin()))

    # As it was: the plan that is saved replaces all that is stored of this version.
    assert [each.split()[0] for each in sent][:2] == ["UPDATE", "SELECT"]
    saved = repository.get(ulid(1))
    assert saved == read.begin().model_copy(update={"updated_at": saved.updated_at})


def test_a_plan_that_was_read_elsewhere_is_saved_as_a_whole(repository, session, engine):
    read = repository.add(a_root(arguments={"a": 1}, tags=["t"]))
    session.rollback()
    repository.add(a_root(arguments={"b": 2}, description="other", updated_at=read.updated_at))

    saved = repository.save(read.begin())

    assert repository.get(ulid(1)) == saved
    assert saved == read.begin().model_copy(update={"updated_at": saved.updated_at})


def test_a_part_that_was_never_checked_is_checked_though_its_plan_was_read(repository):
    read = repository.add(a_root(project_links=["p"]))
    wrong = ProjectLink.model_construct(project_name=5, alias=None, read_only=False)

    with pytest.raises(InvalidFields, match="project_links"):
        repository.save(read.edit(project_links=[wrong]))
    with pytest.raises(InvalidFields, match="project_links"):
        repository.touch(read.begin().edit(project_links=[wrong]).complete())

    assert repository.get(ulid(1)) == read


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_a_copy_of_a_plan_is_saved_like_the_plan(repository, copied):
    read = repository.add(a_root(arguments={"a": 1}))

    saved = repository.save(copied(copied(read).begin()))

    assert repository.get(ulid(1)) == saved
    assert saved.processing_state is ProcessingState.PROCESSING


def test_a_plan_that_did_not_change_gets_a_later_version(repository):
    read = repository.add(a_root())

    saved = repository.save(read)

    assert saved.updated_at > read.updated_at
    assert repository.get(ulid(1)) == saved


def test_another_snapshot_is_not_saved(repository):
    read = repository.add(a_root())
    other = a_root(
        effective_profile_snapshot=BUILT_IN_PROFILES["ci"].snapshot(), updated_at=read.updated_at
    )

    with pytest.raises(SnapshotIsFrozen):
        repository.save(other)

    assert repository.get(ulid(1)) == read


def test_a_snapshot_that_was_not_recorded_stays_so(repository, session):
    session.add(LifecyclePlanModel.from_domain(a_plan()))
    session.flush()

    saved = repository.save(repository.get(ulid(1)).begin())

    assert saved.effective_profile_snapshot == "{}"
    assert repository.get(ulid(1)).effective_profile_snapshot == "{}"


# Steps that no verb takes


def with_fields(plan: Plan, **fields: object) -> Plan:
    """What a client sends back: any valid plan, read from JSON."""
    body = plan.model_dump(mode="json")
    identity = body["identity"] | {
        name: fields.pop(name) for name in ("attempt", "root_plan_id") if name in fields
    }
    return Plan.model_validate(body | fields | {"identity": identity})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"processing_state": "complete"}, "no verbs lead from cancelled in action"),
        ({"phase": "apply", "processing_state": "applied"}, "no verbs lead from cancelled in act"),
        ({"attempt": 99}, "no verbs lead from cancelled in action"),
        ({"reversion_count": 1}, "no verbs lead from"),
        ({"created_by": "mallory"}, "created_by cannot change"),
        ({"namespace": "other", "action_name": "other/x"}, "namespace, action_name cannot change"),
        ({"created_at": "2001-01-01T00:00:00Z"}, "created_at cannot change"),
        ({"completed_at": None}, "completed_at changes only when"),
    ],
    ids=str,
)
def test_a_step_that_no_verb_takes_is_refused_unless_it_is_asked_for(
    repository, session, fields, said
):
    stored = repository.save(repository.add(a_root()).cancel())
    wanted = with_fields(stored, **fields)

    with pytest.raises(ChangeNotAllowed, match=said) as caught:
        repository.save(wanted)
    assert r"save(plan, unchecked=True)" in str(caught.value)
    assert repository.get(ulid(1)) == stored

    saved = repository.save(wanted, unchecked=True)
    assert saved == wanted.model_copy(update={"updated_at": saved.updated_at})
    assert repository.get(ulid(1)) == saved


def test_another_snapshot_or_place_is_not_saved_even_if_it_is_asked_for(repository):
    stored = repository.add(a_root())
    other = BUILT_IN_PROFILES["ci"].snapshot()

    with pytest.raises(SnapshotIsFrozen):
        repository.save(with_fields(stored, effective_profile_snapshot=other), unchecked=True)
    with pytest.raises(PlanConflict):
        repository.save(with_fields(stored, root_plan_id=ulid(9)), unchecked=True)

    assert repository.get(ulid(1)) == stored


def test_many_verbs_may_lie_between_two_saves(repository):
    plan = repository.add(a_root())

    plan = repository.save(plan.begin().complete().advance().begin().fail("no").retry().begin())
    plan = repository.save(plan.complete().advance().begin().complete().advance().revert())

    assert (plan.phase, plan.attempt, plan.reversion_count) == (Phase.STRATEGIZE, 2, 1)


@pytest.mark.parametrize("wrong", [1, None, "yes"])
def test_unchecked_is_a_flag(repository, wrong):
    with pytest.raises(InvalidType, match="unchecked is"):
        repository.save(a_root(), unchecked=wrong)


# touch


def test_a_touch_moves_the_version_and_nothing_else(repository, session):
    plan = repository.add(a_root(arguments={"a": 1}))
    sent = sent_by(session, lambda: repository.touch(plan.begin()))

    assert [each.split()[0] for each in sent] == ["UPDATE"]
    touched = repository.get(ulid(1))
    assert touched == plan.model_copy(update={"updated_at": touched.updated_at})
    assert touched.updated_at > plan.updated_at
    assert repository.touch(touched) == repository.get(ulid(1))


@pytest.mark.parametrize("act", [PlanRepository.save, lambda r, p: r.touch(r.touch(p))])
def test_a_touch_is_refused_when_another_writer_was_first(repository, act):
    plan = repository.add(a_root())
    written = act(repository, plan)

    with pytest.raises(PlanConflict, match="read it again"):
        repository.touch(plan)

    assert repository.get(ulid(1)) == written


def test_a_touch_of_a_plan_that_is_not_stored_says_so(repository):
    with pytest.raises(PlanNotStored):
        repository.touch(a_root())


def test_a_heartbeat_may_go_on_beside_the_work(repository):
    plan = repository.add(a_root()).begin()

    for _ in range(5):
        plan = repository.touch(repository.save(plan))

    assert repository.save(plan.complete()).processing_state is ProcessingState.COMPLETE


# change


def test_a_change_reads_once_and_writes_once(repository, session):
    repository.add(a_root(arguments={"a": 1}))

    sent = sent_by(session, lambda: repository.change(ulid(1).lower(), Plan.begin))

    assert [each.split()[0] for each in sent] == ["SELECT", "UPDATE"]
    assert repository.get(ulid(1)).processing_state is ProcessingState.PROCESSING


def test_a_change_is_repeated_when_another_writer_was_first(engine):
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(a_root(arguments={"n": 0}))
    seen = []

    def step(plan: Plan) -> Plan:
        seen.append(plan.arguments["n"])
        if len(seen) == 1 and engine.dialect.name == "postgresql":
            with Session(engine) as other, other.begin():
                PlanRepository(other).change(ulid(1), lambda it: it.edit(arguments={"n": 7}))
        return plan.edit(arguments={"n": plan.arguments["n"] + 1})

    with Session(engine) as session, session.begin():
        plan = PlanRepository(session).change(ulid(1), step)

    # On SQLite no other connection can write while a transaction does.
    assert (seen, plan.arguments["n"]) in (([0, 7], 8), ([0], 1))
    assert (len(seen) == 2) == (engine.dialect.name == "postgresql")


@postgresql_only
@pytest.mark.parametrize(
    ("attempts", "level"), [(1, "READ COMMITTED"), (5, "REPEATABLE READ"), (5, "SERIALIZABLE")]
)
def test_a_change_that_cannot_succeed_is_a_conflict(engine, attempts, level):
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(a_root())

    def step(plan: Plan) -> Plan:
        with Session(engine) as other, other.begin():
            stored = PlanRepository(other).get(ulid(1))
            PlanRepository(other).touch(stored)
        return plan.begin()

    with Session(engine.execution_options(isolation_level=level)) as session:
        repository = PlanRepository(session)
        with pytest.raises(PlanConflict):
            repository.change(ulid(1), step, attempts=attempts)
        assert repository.count() == 1  # the transaction goes on


def test_changes_of_many_threads_all_count(engine):
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(a_root(token_count_input=0))

    def count_up(_: int) -> None:
        with Session(engine) as session, session.begin():
            PlanRepository(session).change(
                ulid(1), lambda it: it.edit(token_count_input=(it.token_count_input or 0) + 1)
            )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(count_up, range(64)))

    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)).token_count_input == 64


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((5, Plan.begin), InvalidType, "plan_id is 5"),
        ((ulid(1), "begin"), InvalidType, "step is 'begin'; expected a function"),
        ((ulid(1), lambda plan: None), InvalidType, "what the step gave is None; expected plan"),
        ((ulid(1), lambda plan: a_root(2)), InvalidValue, "what the step gave is plan 0"),
        ((ulid(1), Plan.apply), StepNotAllowed, "cannot apply"),
        ((ulid(2), Plan.begin), PlanNotFound, "no plan"),
    ],
    ids=["id", "step", "nothing", "another plan", "not allowed", "not stored"],
)
def test_a_change_that_makes_no_sense_is_refused(repository, arguments, error, said):
    stored = repository.add(a_root())

    with pytest.raises(error, match=said):
        repository.change(*arguments)

    assert repository.get(ulid(1)) == stored


@pytest.mark.parametrize("wrong", [0, -1, 2.0, None, True])
def test_attempts_are_counted_from_one(repository, wrong):
    with pytest.raises(InvalidArgument, match="attempts is"):
        repository.change(ulid(1), Plan.begin, attempts=wrong)


# Versions in another spelling


@pytest.mark.parametrize(
    "spelled", ["2026-03-14T12:00:00Z", "2026-03-14t14:00:00.000+02:00", "2999-03-14T12:00:00Z"]
)
@pytest.mark.parametrize(
    "act",
    [
        lambda r, plan: r.save(plan.begin()),
        lambda r, plan: r.touch(plan),
        lambda r, plan: r.change(plan.plan_id, Plan.begin),
        lambda r, plan: r.claim()[0],
        lambda r, plan: r.delete(plan),
    ],
    ids=["save", "touch", "change", "claim", "delete"],
)
def test_a_version_in_another_spelling_is_the_same_version(repository, session, spelled, act):
    repository.add(a_root(arguments={"a": 1}))
    session.execute(text("UPDATE v3_plans SET updated_at = :it"), {"it": spelled})
    read = repository.get(ulid(1))

    written = act(repository, read)

    if written is None:
        assert not repository.exists()
        return
    assert written == repository.get(ulid(1))
    assert written.updated_at > read.updated_at
    for lose in (repository.save, repository.touch, repository.delete):
        with pytest.raises(PlanConflict):
            lose(read)


def test_a_version_whose_text_is_less_is_not_stalled(repository, session):
    repository.add(a_root(processing_state="processing"))
    east = datetime.now(UTC).astimezone(timezone(timedelta(hours=-12))).isoformat()
    session.execute(text("UPDATE v3_plans SET updated_at = :it"), {"it": east})

    assert repository.requeue_stalled(not_touched_for=timedelta(hours=1)) == ()
    assert len(repository.requeue_stalled(not_touched_for=timedelta(0))) == 1


# release


def test_a_released_plan_is_queued_again_in_the_same_attempt(repository):
    repository.add(a_root())
    (plan,) = repository.claim()

    released = repository.release(plan.edit(last_checkpoint_id="c1", arguments={"done": 1}))

    assert released == repository.get(plan.plan_id)
    assert (released.processing_state, released.attempt) == (ProcessingState.QUEUED, 1)
    assert (released.last_checkpoint_id, released.arguments["done"]) == ("c1", 1)
    assert repository.claim() == (repository.get(plan.plan_id),)
    with pytest.raises(PlanConflict):
        repository.save(plan.complete())


def test_a_plan_is_not_released_that_is_not_processing_or_was_given_up(repository):
    plan = repository.add(a_root())
    with pytest.raises(StepNotAllowed, match="queued in the action phase cannot be released"):
        repository.release(plan)
    (taken,) = repository.claim()
    (again,) = repository.requeue_stalled(not_touched_for=timedelta(0))
    with pytest.raises(PlanConflict):
        repository.release(taken)
    repository.save(again.cancel())

    with pytest.raises(PlanConflict):
        repository.release(again.begin())
    again = {"processing_state": ProcessingState.PROCESSING, "completed_at": None}
    with pytest.raises(ChangeNotAllowed):
        repository.release(repository.get(ulid(1)).model_copy(update=again))
