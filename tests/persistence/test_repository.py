"""The repository keeps what it promises, on both engines."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import Session, selectinload

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    AutomationProfileRef,
    Level,
    Phase,
    PlanIdentity,
    ProcessingState,
    ProjectLink,
    SnapshotIsFrozen,
    SnapshotUnreadable,
    UnknownProfile,
)
from cleveragents_plans.persistence import (
    CorruptPlanRow,
    NotARoot,
    PlanAlreadyStored,
    PlanConflict,
    PlanCycle,
    PlanNotFound,
    PlanNotStored,
    RelatedPlanMissing,
    RootInUse,
)
from support.databases import ONE_OF_EACH
from support.plans import NOON, a_plan, ulid

SNAPSHOT = BUILT_IN_PROFILES["balanced"].snapshot()


def root(number: int = 1, **fields: object) -> Plan:
    return a_plan(number, **{"effective_profile_snapshot": SNAPSHOT, **fields})


def child(number: int, parent: Plan, **fields: object) -> Plan:
    identity = PlanIdentity(
        plan_id=ulid(number), parent_plan_id=parent.plan_id, root_plan_id=parent.root_plan_id
    )
    return root(number, identity=identity, **fields)


@pytest.fixture
def family(repository: PlanRepository) -> dict[str, Plan]:
    """A root with two children, one of which has a child, and another root."""
    top = root(1)
    left, right = child(2, top), child(3, top)
    below, other = child(4, left), root(5)
    repository.add_all([top, left, right, below, other])
    return {"top": top, "left": left, "right": right, "below": below, "other": other}


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(LifecyclePlanModel)) or 0


def children_stored(session: Session) -> list[int]:
    return [
        session.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
        for name in ("plan_projects", "plan_arguments", "plan_invariants")
    ]


# add


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


def test_a_plan_without_a_snapshot_and_of_an_unknown_profile_is_refused(repository, session):
    mine = AutomationProfileRef(profile_name="mine", provenance=Level.PROJECT)
    with pytest.raises(UnknownProfile, match=r"'mine', named by the project level.*balanced"):
        repository.add(a_plan(automation_profile=mine))

    assert count(session) == 0


def test_a_snapshot_that_is_empty_in_other_words_is_no_snapshot_either(repository):
    stored = repository.add(a_plan(effective_profile_snapshot=" { } "))

    assert stored.effective_profile == BUILT_IN_PROFILES["balanced"]


def test_a_snapshot_that_describes_no_profile_is_not_added(repository, session):
    with pytest.raises(SnapshotUnreadable, match=f"snapshot of plan {ulid(2)}") as caught:
        repository.add_all([root(1), root(2, effective_profile_snapshot='{"edit_code":1.0}')])

    assert caught.value.plan_id == ulid(2)
    assert count(session) == 0


def test_a_plan_is_added_once(repository):
    repository.add(root())

    with pytest.raises(PlanAlreadyStored, match=r"save\(\)") as caught:
        repository.add(root(description="another"))

    assert caught.value.plan_id == ulid(1)
    assert repository.get(ulid(1)) == root()


@pytest.mark.parametrize("related", ["parent_plan_id", "root_plan_id"])
def test_a_plan_whose_parent_or_root_is_missing_is_refused(repository, related):
    top = repository.add(root())
    place = {"parent_plan_id": top.plan_id, "root_plan_id": top.plan_id, related: ulid(9)}

    with pytest.raises(RelatedPlanMissing) as caught:
        repository.add(root(2, identity=PlanIdentity(plan_id=ulid(2), **place)))

    assert (caught.value.plan_id, caught.value.missing) == (ulid(2), ulid(9))


def test_what_else_the_database_refuses_is_passed_on(repository, session):
    session.execute(text("CREATE UNIQUE INDEX one_author ON v3_plans (created_by)"))

    with pytest.raises(IntegrityError):
        repository.add_all([root(1, created_by="ann"), root(2, created_by="ann")])

    assert count(session) == 0


def test_children_may_stand_before_their_parents(repository):
    plans = [root(0)]
    for number in range(1, 3000):
        plans.append(child(number, plans[(number - 1) // 3]))
    batches = [plans[start : start + 1000][::-1] for start in range(0, 3000, 1000)]

    assert repository.add_all(plan for batch in batches for plan in batch) == 3000
    assert list(repository.stream()) == plans


def test_plans_that_are_under_one_another_are_refused(repository, session):
    repository.add(root(1))
    circle = [child(2, child(3, root(1))), child(3, child(2, root(1))), child(4, root(1))]

    with pytest.raises(PlanCycle, match="a tree has a root") as caught:
        repository.add_all(circle)

    assert set(caught.value.plan_ids) == {ulid(2), ulid(3)}
    assert count(session) == 1


def test_a_plan_under_another_may_name_itself_as_its_root(repository):
    # As the former release left them.
    own = root(2, identity={"plan_id": ulid(2), "parent_plan_id": ulid(1), "root_plan_id": ulid(2)})

    repository.add_all([child(3, own), own, root(1)])

    assert repository.ancestors(ulid(3)) == (own, root(1))


def test_a_child_may_stand_before_the_only_root_that_it_names(repository, session):
    detached = root(
        1,
        identity=PlanIdentity.model_construct(
            plan_id=ulid(1), parent_plan_id=None, root_plan_id=ulid(2), attempt=1
        ),
    )

    repository.add_all([detached, root(2)])

    assert repository.get(ulid(1)).is_detached


def test_adding_many_is_all_or_nothing(repository, session):
    plans = [root(number, tags=["t"], arguments={"a": 1}) for number in range(2500)]

    with pytest.raises(PlanAlreadyStored):
        repository.add_all([*plans, plans[3]])

    assert count(session) == 0
    assert children_stored(session) == [0, 0, 0]
    assert repository.add_all([]) == 0


# get


def test_a_plan_that_is_not_stored_is_not_found(repository):
    with pytest.raises(PlanNotFound, match=ulid(7)) as caught:
        repository.get(ulid(7))

    assert caught.value.plan_id == ulid(7)
    assert isinstance(caught.value, LookupError)


def test_what_the_session_has_not_sent_yet_is_read(repository, session):
    session.add(LifecyclePlanModel.from_domain(root()))

    assert repository.get(ulid(1)) == root()


def test_what_was_not_loaded_raises_when_it_is_touched(repository, session):
    repository.add(root())
    row = session.get(LifecyclePlanModel, ulid(1))

    for relation in ("projects", "arguments", "invariants"):
        with pytest.raises(InvalidRequestError, match=relation):
            getattr(row, relation)
    with pytest.raises(InvalidRequestError):
        row.to_domain()


# save


def test_a_saved_plan_is_later_than_the_one_that_was_read(repository):
    before = datetime.now(UTC)
    read = repository.add(root())

    saved = repository.save(read.edit(description="new"))

    assert before <= saved.updated_at <= datetime.now(UTC)
    assert saved == repository.get(ulid(1))
    assert saved.description == "new"


def test_a_plan_from_the_future_becomes_one_microsecond_later(repository):
    future = datetime.now(UTC) + timedelta(days=400)
    read = repository.add(root(updated_at=future))

    assert repository.save(read).updated_at == future + timedelta(microseconds=1)


def test_two_saves_in_a_row_work(repository):
    plan = repository.add(root())

    for verb in (Plan.begin, Plan.complete, Plan.advance, Plan.begin):
        plan = repository.save(verb(plan))

    assert repository.get(ulid(1)) == plan
    assert plan.phase is Phase.STRATEGIZE


def test_the_loser_of_two_saves_leaves_nothing_behind(repository, session):
    read = repository.add(root(arguments={"a": 1}, project_links=[ProjectLink(project_name="p")]))
    won = repository.save(read.edit(description="first", arguments={"b": 2}))

    with pytest.raises(PlanConflict, match="read it again") as caught:
        repository.save(read.edit(description="second", arguments={}, project_links=[]))

    assert caught.value.plan_id == ulid(1)
    assert repository.get(ulid(1)) == won
    session.commit()
    assert repository.get(ulid(1)) == won


def test_a_plan_that_was_deleted_meanwhile_is_not_saved(repository):
    read = repository.add(root())
    repository.delete(read)

    with pytest.raises(PlanConflict):
        repository.save(read)


@pytest.mark.parametrize("act", [PlanRepository.save, PlanRepository.delete])
def test_a_plan_that_was_never_added_is_not_stored(repository, act):
    with pytest.raises(PlanNotStored, match=r"is not stored: add\(\) it if it is new") as caught:
        act(repository, root())

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
    read = repository.add(root(project_links=links, arguments={"x": 1, "y": 2}))
    swapped = [
        links[1].model_copy(update={"alias": "a"}),
        links[0].model_copy(update={"alias": "b"}),
    ]

    saved = repository.save(read.edit(project_links=swapped, arguments={"y": 2, "x": 1}))

    assert repository.get(ulid(1)) == saved
    assert saved.project_links == tuple(swapped)
    assert [*saved.arguments] == ["y", "x"]


def test_what_became_shorter_or_longer_is_stored_as_it_is(repository, session):
    read = repository.add(root(invariants=[{"text": each} for each in "abc"]))

    longer = repository.save(read.edit(invariants=[{"text": each} for each in "xabcd"]))
    none = repository.save(longer.edit(invariants=[]))

    assert [each.text for each in longer.invariants] == [*"xabcd"]
    assert repository.get(ulid(1)) == none
    assert children_stored(session) == [0, 0, 0]


def test_children_that_did_not_change_are_not_written_again(repository, session):
    read = repository.add(root(arguments={"a": 1}, invariants=[{"text": "dry"}]))
    written = []
    event.listen(
        session.get_bind(),
        "before_cursor_execute",
        listener := lambda *sent: (
            written.append(sent[2].split()[:2])
            if not sent[2].startswith(("SELECT", "SAVEPOINT", "RELEASE"))
            else None
        ),
    )

    repository.save(read.begin())

    event.remove(session.get_bind(), "before_cursor_execute", listener)
    assert written == [["UPDATE", "v3_plans"]]


def test_another_snapshot_is_not_saved(repository):
    read = repository.add(root())
    other = root(
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


# delete


def test_a_deleted_plan_is_gone_with_all_that_belongs_to_it(repository, session):
    plan = repository.add(
        root(project_links=[{"project_name": "p"}], arguments={"a": 1}, invariants=[{"text": "x"}])
    )
    assert children_stored(session) == [1, 1, 1]

    repository.delete(plan)

    assert count(session) == 0
    assert children_stored(session) == [0, 0, 0]


def test_a_root_that_others_name_is_not_deleted(repository, session, family):
    with pytest.raises(RootInUse, match="3 other plans") as caught:
        repository.delete(family["top"])

    assert (caught.value.plan_id, caught.value.named_by) == (ulid(1), 3)
    assert count(session) == 5


def test_a_refused_delete_leaves_what_a_row_object_has_loaded(repository, session, family):
    relations = [each.class_attribute for each in LifecyclePlanModel.__mapper__.relationships]
    row = session.get(LifecyclePlanModel, ulid(1), options=map(selectinload, relations))

    with pytest.raises(RootInUse):
        repository.delete(family["top"])
    with pytest.raises(PlanConflict):
        repository.delete(family["top"].model_copy(update={"updated_at": NOON - timedelta(days=1)}))

    assert row.to_domain() == family["top"]


def test_deleting_a_plan_in_the_middle_detaches_its_children(repository, family):
    repository.delete(family["left"])

    below = repository.get(family["below"].plan_id)
    assert below.is_detached
    assert below.root_plan_id == family["top"].plan_id


def test_a_plan_that_changed_since_it_was_read_is_not_deleted(repository):
    read = repository.add(root())
    changed = repository.save(read.begin())

    with pytest.raises(PlanConflict):
        repository.delete(read)

    assert repository.get(ulid(1)) == changed


def test_a_whole_tree_is_deleted_and_nothing_else(repository, family):
    assert repository.delete_tree(family["top"].plan_id.lower()) == 4

    assert list(repository.stream()) == [family["other"]]


@pytest.mark.parametrize("ask", [PlanRepository.tree, PlanRepository.delete_tree])
def test_a_branch_is_no_tree(repository, family, ask):
    with pytest.raises(NotARoot, match=f"its tree is that of {ulid(1)}") as caught:
        ask(repository, family["left"].plan_id)

    assert (caught.value.plan_id, caught.value.root_plan_id) == (ulid(2), ulid(1))


def test_a_tree_that_is_not_stored_is_not_found(repository):
    with pytest.raises(PlanNotFound):
        repository.delete_tree(ulid(1))


# trees


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
    ],
)
def test_a_plan_that_is_not_stored_has_no_place(repository, family, ask):
    with pytest.raises(PlanNotFound, match=ulid(9)):
        ask(repository, ulid(9))


def test_a_deep_tree_is_walked_with_a_fixed_number_of_statements(repository):
    chain = [root(0)]
    for number in range(1, 300):
        chain.append(child(number, chain[-1]))
    repository.add_all(chain)

    assert repository.ancestors(chain[-1].plan_id) == tuple(chain[-2::-1])
    assert repository.depth(chain[-1].plan_id) == 299


# list


def variety() -> list[Plan]:
    return [
        root(
            number,
            phase=[*Phase][number % 4],
            processing_state=[ProcessingState.QUEUED, ProcessingState.ERRORED][number % 2],
            namespace=["local", "team", None][number % 3],
            action_name=["local/lint", "local/test"][number % 2],
            project_links=[ProjectLink(project_name=f"p{each}") for each in range(number % 3)],
            created_at=NOON + timedelta(microseconds=number),
        )
        for number in range(24)
    ]


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({"phase": Phase.EXECUTE}, lambda plan: plan.phase == "execute"),
        ({"phase": "execute"}, lambda plan: plan.phase == "execute"),
        ({"state": ProcessingState.ERRORED}, lambda plan: plan.processing_state == "errored"),
        ({"namespace": "team"}, lambda plan: plan.namespace == "team"),
        ({"namespace": None}, lambda plan: True),
        ({"action": "local/test"}, lambda plan: plan.action_name == "local/test"),
        ({"action": "test"}, lambda plan: plan.action_name == "local/test"),
        (
            {"project": "p1"},
            lambda plan: "p1" in {each.project_name for each in plan.project_links},
        ),
        (
            {"created_from": NOON + timedelta(microseconds=5)},
            lambda plan: plan.created_at >= NOON + timedelta(microseconds=5),
        ),
        (
            {"created_before": NOON + timedelta(microseconds=5)},
            lambda plan: plan.created_at < NOON + timedelta(microseconds=5),
        ),
        (
            {"phase": Phase.ACTION, "namespace": "local", "project": "p0"},
            lambda plan: (
                plan.phase == "action" and plan.namespace == "local" and plan.project_links
            ),
        ),
        ({}, lambda plan: True),
    ],
)
def test_a_filter_lists_the_plans_that_pass_and_no_others(repository, filters, passes):
    plans = variety()
    repository.add_all(plans)

    wanted = [plan for plan in plans if passes(plan)]

    assert [*repository.list(**filters).plans] == wanted
    assert [*repository.stream(**filters)] == wanted


def test_an_action_that_the_former_release_stored_without_a_namespace_is_that_of_local(
    repository, session
):
    repository.add(root(1))
    session.execute(text("UPDATE v3_plans SET action_name = 'lint'"))

    assert len(repository.list(action="local/lint").plans) == 1
    assert len(repository.list(action="lint").plans) == 1
    assert repository.list(action="team/lint").plans == ()


@pytest.mark.parametrize("limit", [1, 5, 24, 25])
def test_pages_hold_every_plan_once(repository, limit):
    plans = variety()
    repository.add_all(plans[::-1])

    pages, after = [], None
    while not pages or after is not None:
        page = repository.list(limit=limit, after=after)
        pages.append(page.plans)
        after = page.next

    assert [plan for page in pages for plan in page] == plans
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages) == -(-24 // limit)


def test_plans_that_come_and_go_between_pages_repeat_nothing(repository):
    plans = variety()
    repository.add_all(plans[1:])

    first = repository.list(limit=10)
    repository.delete(plans[3])
    repository.add(plans[0])
    second = repository.list(limit=100, after=first.next)

    assert [*first.plans, *second.plans] == plans[1:]


def test_an_empty_database_has_one_empty_page(repository):
    assert repository.list() == ((), None)
    assert list(repository.stream()) == []


@pytest.fixture
def one_broken(repository, session) -> list[Plan]:
    """Five plans, of which the third one cannot be read."""
    plans = [root(1), *(child(number, root(1)) for number in range(2, 6))]
    repository.add_all(plans)
    session.execute(
        text("UPDATE v3_plans SET tags_json = '{' WHERE plan_id = :it"), {"it": plans[2].plan_id}
    )
    return [plan for plan in plans if plan.plan_id != ulid(3)]


def test_a_bad_row_stops_a_listing_that_asks_for_no_more(repository, one_broken):
    with pytest.raises(CorruptPlanRow) as caught:
        repository.list()

    assert (caught.value.plan_id, caught.value.column) == (ulid(3), "v3_plans.tags_json")


def test_a_bad_row_does_not_hide_the_others(repository, one_broken):
    told = []
    assert [*repository.list(on_corrupt="skip").plans] == one_broken
    assert [*repository.stream(on_corrupt=told.append)] == one_broken
    assert [*repository.tree(ulid(1), on_corrupt=told.append)] == one_broken
    assert [*repository.children(ulid(1), on_corrupt=told.append)] == one_broken[1:]

    assert [(each.plan_id, each.found) for each in told] == [(ulid(3), "{")] * 3


def test_a_page_of_bad_rows_only_leads_on_to_the_next(repository, session):
    plans = [root(number) for number in range(4)]
    repository.add_all(plans)
    session.execute(
        text("UPDATE v3_plans SET tags_json = '{' WHERE plan_id < :it"), {"it": ulid(2)}
    )

    page = repository.list(limit=2, on_corrupt="skip")

    assert page.plans == ()
    assert repository.list(limit=2, after=page.next).plans == tuple(plans[2:])


# statements, memory, transactions


def sent_by(session: Session, work) -> list[str]:
    sent: list[str] = []
    bind = session.get_bind()
    event.listen(bind, "before_cursor_execute", listener := lambda *what: sent.append(what[2]))
    work()
    event.remove(bind, "before_cursor_execute", listener)
    return [each for each in sent if not each.startswith("BEGIN")]


def statements_of(session: Session, work) -> int:
    return len(sent_by(session, work))


@pytest.mark.parametrize(
    "read",
    [
        lambda repository: repository.list(limit=1000),
        lambda repository: repository.tree(ulid(0)),
        lambda repository: repository.children(ulid(0)),
        lambda repository: list(repository.stream()),
    ],
    ids=["list", "tree", "children", "stream"],
)
def test_reading_more_plans_takes_no_more_statements(repository, session, read):
    repository.add_all([root(0), child(1, root(0), arguments={"a": 1})])
    few = statements_of(session, lambda: read(repository))
    more = [child(number, root(0), arguments={"a": 1}) for number in range(2, 900)]
    repository.add_all(more)

    assert statements_of(session, lambda: read(repository)) == few
    assert few == (5 if session.get_bind().dialect.name == "postgresql" else 4)


def a_chain(length: int) -> list[Plan]:
    """Each plan under the one before, from a root on, with rows in every child table."""
    everything = {
        "arguments": {"a": 1, "b": 2},
        "invariants": [{"text": "dry"}],
        "project_links": [{"project_name": "p"}],
    }
    plans = [root(0, **everything)]
    for number in range(1, length):
        plans.append(child(number, plans[-1], **everything))
    return plans


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
        lambda repository, last: repository.delete(last),
        lambda repository, last: repository.delete_tree(ulid(0)),
        lambda repository, last: repository.add_all([child(900, last), child(901, last)]),
    ],
    ids=["ancestors", "depth", "save", "save children", "delete", "delete_tree", "add_all"],
)
def test_the_number_of_statements_does_not_depend_on_how_much_there_is(engine, act):
    assert statements_at(engine, 2, act) == statements_at(engine, 60, act)


def statements_at(engine: Engine, length: int, act) -> int:
    """Count what *act* sends for the last of a chain of *length* plans, which has as many rows."""
    with Session(engine) as session:
        repository = PlanRepository(session)
        *above, last = a_chain(length)
        texts = [str(each) for each in range(length)]
        last = last.edit(tags=texts, invariants=[{"text": each} for each in texts])
        repository.add_all([*above, last])
        return statements_of(session, lambda: act(repository, last))


def test_a_depth_is_counted_without_reading_the_plans(repository, session):
    plans = a_chain(5)
    repository.add_all(plans)

    sent = sent_by(session, lambda: repository.depth(plans[-1].plan_id))

    assert len(sent) == 1
    assert "description" not in sent[0]


def test_plans_are_added_with_as_many_statements_as_there_are_batches(repository, session):
    few = statements_of(session, lambda: repository.add_all(a_chain(2)))
    repository.delete_tree(ulid(0))
    batch = statements_of(session, lambda: repository.add_all(a_chain(1000)))
    more = [child(number, root(0), arguments={"a": 1}) for number in range(1000, 3000)]
    batches = statements_of(session, lambda: repository.add_all(more))

    assert few == batch
    # Two more batches, without projects and invariants: a savepoint, two inserts, its release.
    assert batches - batch == 4 - 2


@pytest.mark.slow
@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
def test_streaming_needs_no_more_memory_for_more_plans(repository, session):
    repository.add_all(root(number, arguments={"a": 1}) for number in range(8_000))
    session.expunge_all()
    peaks = []

    tracemalloc.start()
    for number, _ in enumerate(repository.stream(), 1):
        if number in (2_000, 8_000):
            peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()

    assert peaks[1] < peaks[0] * 1.2
    assert not list(session)


def test_the_session_is_neither_committed_nor_rolled_back(engine):
    ended = []
    with Session(engine.execution_options()) as session:
        event.listen(session.get_bind(), "commit", lambda *_: ended.append("commit"))
        event.listen(session.get_bind(), "rollback", lambda *_: ended.append("rollback"))
        repository = PlanRepository(session)
        plan = repository.save(repository.add(root()).begin())
        repository.add_all([child(2, plan), child(3, plan)])
        for refused in (
            lambda: repository.add(plan),
            lambda: repository.save(root()),
            lambda: repository.delete(plan),
            lambda: repository.get(ulid(9)),
        ):
            with pytest.raises((PlanAlreadyStored, PlanConflict, RootInUse, PlanNotFound)):
                refused()
        repository.delete(repository.get(ulid(3)))
        repository.delete_tree(plan.plan_id)
        assert ended == []
        repository.add(root(7))
    with Session(engine) as session:
        assert count(session) == 0


def test_a_plan_that_comes_twice_is_refused(repository, session):
    with pytest.raises(PlanAlreadyStored, match=ulid(2)):
        repository.add_all([root(1), root(2), root(3), root(2, description="another")])

    assert count(session) == 0
