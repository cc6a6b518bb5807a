"""Deletes take what belongs to the plan, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import selectinload

from cleveragents_plans import InvalidValue, LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.persistence import (
    NotARoot,
    PlanConflict,
    PlanNotFound,
    PlanReferenced,
    RootInUse,
)
from support.plans import NOON, a_child, a_root, ulid


def test_a_deleted_plan_is_gone_with_all_that_belongs_to_it(repository, count, count_children):
    plan = repository.add(
        a_root(
            project_links=[{"project_name": "p"}], arguments={"a": 1}, invariants=[{"text": "x"}]
        )
    )
    assert count_children() == [1, 1, 1]

    repository.delete(plan)

    assert count() == 0
    assert count_children() == [0, 0, 0]


def test_a_root_that_others_name_is_not_deleted(repository, family, count):
    with pytest.raises(RootInUse, match="3 other plans") as caught:
        repository.delete(family["top"])

    assert (caught.value.plan_id, caught.value.named_by) == (ulid(1), 3)
    assert count() == 5


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
    read = repository.add(a_root())
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


@pytest.fixture
def refer(session) -> Callable[..., None]:
    """Let a row of the application refer to a plan."""

    def refer(plan: Plan, on_delete: str = "") -> None:
        session.execute(
            text(
                "CREATE TABLE IF NOT EXISTS tickets (number INTEGER PRIMARY KEY, plan VARCHAR(26)"
                f" CONSTRAINT fk_tickets_plan REFERENCES v3_plans (plan_id) {on_delete})"
            )
        )
        session.execute(
            text("INSERT INTO tickets SELECT count(*), :it FROM tickets"), {"it": plan.plan_id}
        )

    return refer


def test_plan_to_which_another_table_refers_is_not_deleted(repository, session, family, refer):
    refer(family["left"])

    with pytest.raises(PlanReferenced, match=r"table tickets refers to it.*ON DELETE") as caught:
        repository.delete(family["left"])

    on_sqlite = session.get_bind().dialect.name == "sqlite"
    assert (caught.value.plan_id, caught.value.table) == (ulid(2), "tickets")
    assert caught.value.constraint == (None if on_sqlite else "fk_tickets_plan")
    assert repository.get(ulid(2)) == family["left"]


@pytest.mark.parametrize("referenced", ["top", "left", "below"])
def test_tree_to_which_another_table_refers_is_not_deleted(repository, family, refer, referenced):
    refer(family[referenced])

    with pytest.raises(PlanReferenced, match=f"plan {ulid(1)} cannot be deleted: table tickets"):
        repository.delete_tree(ulid(1))

    assert len(repository.tree(ulid(1))) == 4


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
def test_plan_is_deleted_with_what_the_foreign_key_says(repository, session, family, refer, action):
    refer(family["left"], f"ON DELETE {action}")
    refer(family["other"])

    assert repository.delete_tree(ulid(1)) == 4

    left = session.execute(text("SELECT count(*) FROM tickets")).scalar()
    assert left == (1 if action == "CASCADE" else 2)


def test_old_trees_to_which_another_table_refers_are_told_or_skipped(repository, session, refer):
    for number in (1, 3, 5):
        root = repository.add(a_root(number))
        below = repository.add(a_child(number + 1, root))
        repository.save(below.cancel())
        repository.save(root.cancel())
        if number < 5:
            refer(below if number == 1 else root)
    now = datetime.now(UTC) + timedelta(days=1)

    with pytest.raises(PlanReferenced, match=r"one of the plans .* tickets"):
        repository.delete_trees(completed_before=now)
    assert repository.count() == 6

    counts = [
        repository.delete_trees(completed_before=now, limit=1, referenced="skip") for _ in range(2)
    ]

    assert counts == [2, 0]
    assert [plan.plan_id for plan in repository.stream()] == [ulid(it) for it in (1, 2, 3, 4)]
    session.execute(text("DELETE FROM tickets"))
    assert repository.delete_trees(completed_before=now, referenced="skip") == 4
    with pytest.raises(InvalidValue, match="referenced"):
        repository.delete_trees(completed_before=now, referenced="keep")
