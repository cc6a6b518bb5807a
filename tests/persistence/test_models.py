"""Row objects and the repository, side by side on the same plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer
from sqlalchemy.orm.exc import StaleDataError

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.domain import BUILT_IN_PROFILES, InvalidValue, SnapshotIsFrozen
from cleveragents_plans.persistence import (
    ChildrenNotLoaded,
    CorruptPlanRow,
    NoLaterVersion,
    PlanArgumentModel,
    PlanConflict,
)
from cleveragents_plans.persistence.columns import time_text
from support.plans import NOON, a_plan, ulid

ALL = LifecyclePlanModel.with_children()
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
    row = session.get(LifecyclePlanModel, ulid(number), options=ALL)
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
def test_write_through_a_row_object_is_a_conflict_for_earlier_readers(
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


def test_flush_without_a_change_is_no_write(repository, session, plan):
    row = row_of(session)
    row.description = row.description + ""
    row.arguments = [*row.arguments]
    session.flush()

    assert repository.get(plan.plan_id) == plan


def an_argument(session: Session) -> PlanArgumentModel:
    return session.scalars(select(PlanArgumentModel)).one()


BY_THEMSELVES = {
    "edited": (lambda session: setattr(an_argument(session), "value_json", "2"), {"a": 2}),
    "deleted": (lambda session: session.delete(an_argument(session)), {}),
    "added": (
        lambda session: session.add(
            PlanArgumentModel(plan_id=ulid(1), position=1, name="b", value_json="2")
        ),
        {"a": 1, "b": 2},
    ),
}


@pytest.mark.parametrize("with_row", [True, False], ids=["row loaded", "row not loaded"])
@pytest.mark.parametrize("change", BY_THEMSELVES)
def test_a_child_row_that_is_changed_by_itself_moves_the_version(
    engine, repository, session, plan, change, with_row
):
    session.commit()
    write, arguments = BY_THEMSELVES[change]
    with Session(engine) as other, other.begin():
        row = row_of(other) if with_row else None
        write(other)
        other.flush()
        del row

    written = repository.get(plan.plan_id)
    assert written.arguments == arguments
    assert written.updated_at > plan.updated_at
    with pytest.raises(PlanConflict):
        repository.save(plan.begin())


def test_a_new_row_is_stored_with_its_own_version(session, repository):
    plan = a_full_plan()
    session.add(LifecyclePlanModel.from_domain(plan))
    session.flush()

    assert repository.get(plan.plan_id) == plan


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


# Loading


def test_a_row_that_was_loaded_without_its_children_says_how_to_load_them(session, plan):
    row = session.get(LifecyclePlanModel, ulid(1), options=ALL[1:])
    assert row is not None
    with pytest.raises(ChildrenNotLoaded, match=r"^projects of the row .*with_children\(\)\)$"):
        row.to_domain()

    session.expunge_all()
    assert row_of(session).to_domain() == plan
    assert LifecyclePlanModel(plan_id="x").projects == []


def test_a_row_is_shown_in_one_line_and_nothing_is_loaded_for_it(session, plan):
    row = row_of(session)
    session.commit()

    assert repr(row) == "LifecyclePlanModel()"
    assert repr(LifecyclePlanModel.from_domain(plan)) == (
        f"LifecyclePlanModel(plan_id='{ulid(1)}', namespaced_name=None, phase='action',"
        " processing_state='queued')"
    )


# Times


EAST = timezone(timedelta(hours=5, minutes=30))


def listed(session: Session, *conditions: object) -> list[str]:
    query = select(LifecyclePlanModel.plan_id).where(*conditions)
    return [*session.scalars(query.order_by(LifecyclePlanModel.plan_id))]


@pytest.mark.parametrize("zone", [UTC, EAST, timezone(-timedelta(hours=12))], ids=str)
@pytest.mark.parametrize("form", [lambda it: it, datetime.isoformat], ids=["datetime", "text"])
def test_times_compare_as_times_whatever_their_zone(repository, session, zone, form):
    created = LifecyclePlanModel.created_at
    hours = [NOON + timedelta(hours=number) for number in range(3)]
    plans = [a_full_plan(number, created_at=at) for number, at in enumerate(hours, 1)]
    repository.add_all(plans)
    at = form(hours[1].astimezone(zone))

    assert listed(session, created < at) == [ulid(1)]
    assert listed(session, created <= at) == [ulid(1), ulid(2)]
    assert listed(session, created > at) == [ulid(3)]
    assert listed(session, created >= at) == [ulid(2), ulid(3)]
    assert listed(session, created.between(at, at)) == [ulid(2)]
    assert listed(session, LifecyclePlanModel.__table__.c.created_at < at) == [ulid(1)]
    assert listed(session, hours[1].astimezone(zone) > created) == [ulid(1)]
    assert listed(session, created == hours[1].astimezone(zone)) == [ulid(2)]
    assert listed(session, created != hours[1].astimezone(zone)) == [ulid(1), ulid(3)]
    assert listed(session, created.in_([hours[1].astimezone(zone)])) == [ulid(2)]
    assert session.scalar(select(func.max(created)).where(created < at)) == time_text(hours[0])


@pytest.mark.parametrize("wrong", [datetime(2026, 3, 14), "2026-03-14T12:00:00", "2026", "noon"])  # noqa: DTZ001
def test_value_that_is_no_point_in_time_is_not_compared(wrong):
    for compare in (
        lambda: LifecyclePlanModel.updated_at < wrong,
        lambda: LifecyclePlanModel.completed_at.between(wrong, NOON),
    ):
        with pytest.raises(InvalidValue, match=r"the time is .*; expected"):
            compare()


def test_a_datetime_is_stored_as_text(repository, session, plan):
    row = row_of(session)

    row.completed_at = NOON.astimezone(EAST)
    assert row.completed_at == "2026-03-14T12:00:00.000000+00:00"
    session.flush()
    session.execute(update(LifecyclePlanModel).values(created_at=NOON.astimezone(EAST)))

    stored = session.execute(text("SELECT completed_at, created_at FROM v3_plans")).one()
    assert [*stored] == ["2026-03-14T12:00:00.000000+00:00"] * 2
    with pytest.raises(InvalidValue, match="expected a time zone"):
        row.completed_at = datetime(2026, 3, 14)  # noqa: DTZ001


# Bulk UPDATE


BULK = {
    "update": lambda session: session.execute(
        update(LifecyclePlanModel).where(LifecyclePlanModel.plan_id == ulid(1)),
        {"description": "b"},
    ),
    "values": lambda session: session.execute(
        update(LifecyclePlanModel)
        .where(LifecyclePlanModel.plan_id == ulid(1))
        .values(description="b")
    ),
    "query": lambda session: session.query(LifecyclePlanModel).update({"description": "b"}),
    "table": lambda session: session.execute(
        update(LifecyclePlanModel.__table__).values(description="b")
    ),
}


@pytest.mark.parametrize("bulk", BULK)
def test_a_bulk_update_moves_the_version_so_that_a_stale_save_loses(
    repository, session, plan, bulk
):
    BULK[bulk](session)
    written = repository.get(plan.plan_id)

    assert written.description == "b"
    assert plan.updated_at < written.updated_at
    assert abs(datetime.now(UTC) - written.updated_at) < timedelta(minutes=5)
    with pytest.raises(PlanConflict):
        repository.save(plan.begin())
    assert repository.get(plan.plan_id) == written


@pytest.mark.parametrize(("sets", "conflict"), [((), False), (("updated_at",), True)])
def test_an_upsert_moves_the_version_where_it_sets_it(repository, session, plan, sets, conflict):
    table = LifecyclePlanModel.__table__
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = dict(session.execute(select(table)).mappings().one())
    upsert = dialect.insert(table).values(row)
    values = {"description": "b"} | dict.fromkeys(sets, time_text(datetime.now(UTC)))
    session.execute(upsert.on_conflict_do_update(index_elements=["plan_id"], set_=values))

    assert repository.get(plan.plan_id).description == "b"
    if conflict:
        with pytest.raises(PlanConflict):
            repository.save(plan.begin())
    else:
        assert repository.save(plan.begin()).description == plan.description


@pytest.mark.parametrize(
    ("stored", "moved"),
    [
        ("2999-12-31T23:59:59.123456+00:00", "2999-12-31T23:59:59.123457+00:00"),
        ("2999-12-31T23:59:59.999999+00:00", "3000-01-01T00:00:00.000000+00:00"),
        ("9999-12-31T23:59:59.999998+00:00", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_a_bulk_update_moves_a_version_from_the_future_by_a_microsecond(
    repository, session, stored, moved
):
    repository.add(a_full_plan(updated_at=datetime.fromisoformat(stored)))

    BULK["values"](session)

    assert session.scalar(select(LifecyclePlanModel.updated_at)) == moved


def test_a_bulk_update_is_refused_where_no_later_version_is_left(repository, session):
    repository.add(a_full_plan(updated_at=LAST))

    with pytest.raises(IntegrityError), session.begin_nested():
        BULK["values"](session)

    assert repository.get(ulid(1)).updated_at == LAST


def test_a_bulk_update_passes_over_versions_that_are_no_times(repository, session):
    repository.add_all([a_full_plan(1), a_full_plan(2)])
    broken = "UPDATE v3_plans SET updated_at = 'a while ago' WHERE plan_id = :it"
    session.execute(text(broken), {"it": ulid(2)})

    BULK["values"](session)

    assert repository.get(ulid(1)).description == "b"


def test_a_bulk_update_that_sets_the_version_keeps_it(repository, session, plan):
    later = NOON + timedelta(days=1)
    session.execute(update(LifecyclePlanModel).values(updated_at=later))

    assert repository.get(plan.plan_id) == plan.model_copy(update={"updated_at": later})


def test_a_bulk_update_is_seen_by_objects_of_its_session(repository, session, plan):
    row = row_of(session)

    BULK["values"](session)
    row.definition_of_done = "dry"
    session.flush()

    assert repository.get(plan.plan_id).description == "b"
    assert repository.get(plan.plan_id).definition_of_done == "dry"


# Child rows that change places


SWAPS = {
    "two arguments": {"arguments": {"b": 2, "a": 1}},
    "the first argument goes": {"arguments": {"b": 2}},
    "an argument comes first": {"arguments": {"c": 3, "a": 1, "b": 2}},
    "two aliases": {
        "project_links": [{"project_name": "p", "alias": "y"}, {"project_name": "q", "alias": "x"}]
    },
    "an alias moves on": {
        "project_links": [{"project_name": "p"}, {"project_name": "q", "alias": "x"}]
    },
    "two invariants": {"invariants": [{"text": "whole"}, {"text": "dry"}]},
}


def merge(session: Session, plan: Plan) -> None:
    session.merge(LifecyclePlanModel.from_domain(plan), options=ALL)


def assign(session: Session, plan: Plan) -> None:
    row, new = row_of(session), LifecyclePlanModel.from_domain(plan)
    row.arguments, row.projects = [*new.arguments], [*new.projects]
    row.invariants = [*new.invariants]


def edit_in_place(session: Session, plan: Plan) -> None:
    row, new = row_of(session), LifecyclePlanModel.from_domain(plan)
    for relation in ("projects", "arguments", "invariants"):
        stored, wanted = getattr(row, relation), getattr(new, relation)
        for old, its in zip(stored, wanted, strict=False):
            for column in old.__table__.columns:
                setattr(old, column.key, getattr(its, column.key))
        stored[len(wanted) :] = wanted[len(stored) :]


@pytest.fixture
def paired(engine: Engine) -> Plan:
    """A stored plan with two rows in each child table."""
    plan = a_full_plan(
        arguments={"a": 1, "b": 2},
        project_links=[{"project_name": "p", "alias": "x"}, {"project_name": "q", "alias": "y"}],
        invariants=[{"text": "dry"}, {"text": "whole"}],
    )
    with Session(engine) as session, session.begin():
        return PlanRepository(session).add(plan)


@pytest.mark.parametrize("write", [merge, assign, edit_in_place])
@pytest.mark.parametrize("swap", SWAPS)
def test_child_rows_of_a_row_object_change_places(engine, paired, swap, write):
    wanted = paired.edit(**SWAPS[swap])
    with Session(engine) as session, session.begin():
        write(session, wanted)

    with Session(engine) as session:
        written = PlanRepository(session).get(paired.plan_id)
        assert row_of(session).to_domain() == written
        assert {**dict(written), "updated_at": None} == {**dict(wanted), "updated_at": None}
        assert written.updated_at > paired.updated_at
        with pytest.raises(PlanConflict):
            PlanRepository(session).save(paired.begin())


def test_positions_of_child_rows_change_places(engine, paired):
    with Session(engine, expire_on_commit=False) as session:
        row = row_of(session)
        session.commit()
        for position, argument in enumerate(reversed(row.arguments)):
            argument.position = position
        session.commit()
        session.expire_all()

    with Session(engine) as session:
        assert [*PlanRepository(session).get(paired.plan_id).arguments] == ["b", "a"]


def test_child_row_moves_up_where_another_is_added(engine, paired):
    with Session(engine) as session, session.begin():
        row = row_of(session)
        del row.arguments[0]
        row.arguments[0].position, row.arguments[0].value_json = 0, "9"
        row.arguments.append(PlanArgumentModel(position=1, name="c", value_json="3"))

    with Session(engine) as session:
        written = PlanRepository(session).get(paired.plan_id)
        assert written.arguments == {"b": 9, "c": 3}
        assert written.updated_at > paired.updated_at


@pytest.mark.parametrize("other", ["stored", "new"])
def test_child_row_is_given_to_another_plan(engine, paired, other):
    with Session(engine) as session, session.begin():
        row = row_of(session)
        taker = LifecyclePlanModel.from_domain(a_full_plan(2))
        taker.arguments = []
        session.add(taker)
        if other == "stored":
            session.flush()
        taker.arguments.append(row.arguments.pop(0))
        row.arguments[0].position = 0
        row.arguments.append(PlanArgumentModel(position=1, name="c", value_json="3"))

    with Session(engine) as session:
        given, taken = map(PlanRepository(session).get, (ulid(1), ulid(2)))
        assert (given.arguments, taken.arguments) == ({"b": 2, "c": 3}, {"a": 1})
        assert given.updated_at > paired.updated_at


def test_a_session_goes_on_with_child_rows_that_changed_places(engine, paired):
    with Session(engine) as session:
        assign(session, paired.edit(arguments={"b": 2, "a": 1}))
        session.commit()
        row = row_of(session)
        row.arguments[0].value_json = "3"
        session.commit()
        assert row_of(session).to_domain().arguments == {"b": 3, "a": 1}
        row_of(session).arguments.pop()
        session.rollback()
        assert row_of(session).to_domain().arguments == {"b": 3, "a": 1}
        session.delete(row_of(session))
        session.commit()
        assert session.scalar(select(func.count()).select_from(PlanArgumentModel)) == 0


def test_equal_names_are_refused_when_child_rows_change_places(engine, paired):
    with Session(engine) as session:
        row = row_of(session)
        row.arguments[0].name, row.arguments[1].name = "b", "b"
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
        assert PlanRepository(session).get(paired.plan_id) == paired


def test_a_row_object_with_new_lists_loses_against_a_save(engine, paired):
    with Session(engine, expire_on_commit=False) as session:
        row = row_of(session)
        session.commit()
        with Session(engine) as other, other.begin():
            saved = PlanRepository(other).save(paired.begin())

        row.arguments = [PlanArgumentModel(plan_id=ulid(1), position=0, name="b", value_json="1")]
        with pytest.raises(StaleDataError):
            session.flush()
        session.rollback()
        assert PlanRepository(session).get(paired.plan_id) == saved


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
        assert repository.list() == ()


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
        assert repository.list() == ()


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
