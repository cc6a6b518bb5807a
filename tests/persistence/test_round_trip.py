"""Every valid plan comes back from both databases as it went in, whichever way it took."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, selectinload

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.domain import BUILT_IN_PROFILES, SnapshotUnreadable
from cleveragents_plans.persistence import PlanConflict
from support.plans import NOON, a_plan, any_plan

MODERATELY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
BALANCED = BUILT_IN_PROFILES["balanced"].snapshot()
TABLES = ("v3_plans", "plan_projects", "plan_arguments", "plan_invariants")


def as_object(session: Session, plan_id: str) -> LifecyclePlanModel:
    relations = (
        selectinload(each.class_attribute) for each in LifecyclePlanModel.__mapper__.relationships
    )
    return session.scalars(
        select(LifecyclePlanModel).options(*relations).where(LifecyclePlanModel.plan_id == plan_id)
    ).one()


def is_recorded(plan: Plan) -> bool:
    """Whether the repository adds the plan as it is: its snapshot describes a profile."""
    try:
        return plan.effective_profile is not None
    except SnapshotUnreadable:
        return False


def stored(session: Session) -> str:
    # repr tells 1 from 1.0 and True.
    return repr(
        [session.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2")).all() for name in TABLES]
    )


@pytest.mark.slow
@MODERATELY
@given(plan=any_plan())
def test_a_plan_survives_the_row_objects_and_is_read_alike_by_the_repository(
    migrated_engine: Engine, plan
):
    with Session(migrated_engine) as session:
        session.add(LifecyclePlanModel.from_domain(plan))
        session.flush()
        session.expunge_all()

        assert as_object(session, plan.plan_id).to_domain() == plan
        assert PlanRepository(session).get(plan.plan_id) == plan


@pytest.mark.slow
@MODERATELY
@given(plan=any_plan().filter(is_recorded))
def test_a_plan_survives_the_repository_and_makes_the_same_rows(migrated_engine: Engine, plan):
    with Session(migrated_engine) as session:
        assert PlanRepository(session).add(plan) == plan
        assert as_object(session, plan.plan_id).to_domain() == plan
        by_repository = stored(session)
        session.rollback()

        session.add(LifecyclePlanModel.from_domain(plan))
        session.flush()
        assert stored(session) == by_repository


@pytest.mark.slow
@MODERATELY
@given(plan=any_plan(), data=any_plan())
def test_any_plan_can_become_any_other_by_a_save(migrated_engine: Engine, plan, data):
    fixed = ("identity", "effective_profile_snapshot", "updated_at")
    with Session(migrated_engine) as session:
        session.add(LifecyclePlanModel.from_domain(plan))
        session.flush()
        session.expunge_all()
        repository = PlanRepository(session)
        changed = type(plan)(**{**dict(data), **{name: getattr(plan, name) for name in fixed}})

        saved = repository.save(changed, unchecked=True)

        assert saved == repository.get(plan.plan_id)
        assert {**dict(saved), "updated_at": None} == {**dict(changed), "updated_at": None}
        assert saved.updated_at > plan.updated_at


@pytest.mark.parametrize(
    "form", ["2026-03-14T12:00:00+00:00", "2026-03-14T12:00:00Z", "2026-03-14T17:30:00.000+05:30"]
)
def test_a_plan_whose_times_are_in_another_form_is_used_like_any_other(repository, session, form):
    plan = repository.add(a_plan(effective_profile_snapshot=BALANCED))
    session.execute(text("UPDATE v3_plans SET created_at = :it, updated_at = :it"), {"it": form})

    read = repository.get(plan.plan_id)
    assert read.created_at == read.updated_at == NOON
    assert session.scalar(text("SELECT created_at FROM v3_plans")) == form
    touched = repository.touch(read)
    session.execute(text("UPDATE v3_plans SET updated_at = :it"), {"it": form})
    saved = repository.save(read.edit(description="new"))
    assert touched.updated_at > NOON
    assert repository.get(plan.plan_id) == saved
    with pytest.raises(PlanConflict):
        repository.save(read)
    session.execute(text("UPDATE v3_plans SET updated_at = :it"), {"it": form})
    row = session.get(LifecyclePlanModel, plan.plan_id, populate_existing=True)
    row.description = "mine"
    session.flush()
    assert repository.get(plan.plan_id).updated_at > NOON
    session.execute(text("UPDATE v3_plans SET updated_at = :it"), {"it": form})
    repository.delete(repository.get(plan.plan_id))
    assert session.scalar(text("SELECT count(*) FROM v3_plans")) == 0
