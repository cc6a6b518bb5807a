"""Deletes take what belongs to the plan, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.orm import selectinload

from cleveragents_plans import LifecyclePlanModel, PlanRepository
from cleveragents_plans.persistence import NotARoot, PlanConflict, PlanNotFound, RootInUse
from support.plans import NOON, a_root, ulid


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
