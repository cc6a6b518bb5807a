"""Two sessions on one database take turns, against a model of what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cleveragents_plans import (
    Plan,
    PlanConflict,
    PlanNotFound,
    PlanNotStored,
    PlanRepository,
    RootInUse,
    open_engine,
)
from support.databases import ENGINES, empty_database, migrate

pytestmark = pytest.mark.slow

_STEPS = ("begin", "complete", "advance", "revert", "cancel")


class TwoSessions(RuleBasedStateMachine):
    """
    Each rule is one transaction of one of two sessions that live as long as the machine.

    Plans that were read stay in the hands of the program, so that most of them are stale by
    the time they are saved.
    """

    engine: Engine
    held = Bundle("held")
    sides = st.sampled_from((0, 1))

    def __init__(self) -> None:
        super().__init__()
        self.sessions = [Session(self.engine), Session(self.engine)]
        self.stored: dict[str, Plan] = {}

    def teardown(self) -> None:
        for session in self.sessions:
            session.close()
        with Session(self.engine) as session:
            plans = PlanRepository(session)
            for root in {plan.root_plan_id for plan in self.stored.values()}:
                plans.delete_tree(root)
            session.commit()

    def plans(self, side: int) -> PlanRepository:
        return PlanRepository(self.sessions[side])

    def stale(self, plan: Plan) -> bool:
        # A plan whose parent was deleted has another identity, and the same updated_at.
        stored = self.stored.get(plan.plan_id)
        return stored is None or (stored.updated_at, stored.identity) != (
            plan.updated_at,
            plan.identity,
        )

    @rule(target=held, side=sides, tags=st.lists(st.text("ab", max_size=2), max_size=2))
    def add_a_root(self, side: int, tags: list[str]) -> Plan:
        plan = self.plans(side).add(Plan.create("local/two", tags=tuple(tags)))
        self.sessions[side].commit()
        self.stored[plan.plan_id] = plan
        return plan

    @rule(target=held, side=sides, parent=held)
    def add_a_child(self, side: int, parent: Plan) -> Plan:
        plan = parent
        if parent.plan_id in self.stored and not parent.is_final:
            plan = self.plans(side).add(parent.spawn("deeper"))
            self.stored[plan.plan_id] = plan
        self.sessions[side].commit()
        return plan

    @rule(target=held, side=sides, plan=held)
    def read(self, side: int, plan: Plan) -> Plan:
        expected = self.stored.get(plan.plan_id)
        try:
            found = self.plans(side).get(plan.plan_id)
        except PlanNotFound:
            assert expected is None
            found = plan
        else:
            assert found == expected
        self.sessions[side].commit()
        return found

    @rule(target=held, side=sides, plan=held, step=st.sampled_from(_STEPS), keep=st.booleans())
    def save(self, side: int, plan: Plan, step: str, keep: bool) -> Plan:
        if step not in plan.allowed_steps:
            return plan
        before = self.stored.get(plan.plan_id)
        try:
            after = self.plans(side).save(getattr(plan, step)())
        except (PlanConflict, PlanNotStored):
            self.sessions[side].rollback()
            assert self.stale(plan)
            return plan
        assert before is not None
        assert not self.stale(plan)
        assert after.updated_at > before.updated_at
        if not keep:
            self.sessions[side].rollback()
            return plan
        self.sessions[side].commit()
        self.stored[plan.plan_id] = after
        return after

    @rule(side=sides, plan=consumes(held))
    def delete(self, side: int, plan: Plan) -> None:
        named = any(other.root_plan_id == plan.plan_id != key for key, other in self.stored.items())
        try:
            self.plans(side).delete(plan)
        except RootInUse:
            assert named
            self.sessions[side].rollback()
        except (PlanConflict, PlanNotStored):
            assert self.stale(plan)
            self.sessions[side].rollback()
        else:
            self.sessions[side].commit()
            assert not self.stale(plan)
            assert not named
            del self.stored[plan.plan_id]
            with Session(self.engine) as session:
                # A plan in the middle leaves its children behind, without parent.
                for key, other in self.stored.items():
                    if other.parent_plan_id == plan.plan_id:
                        self.stored[key] = PlanRepository(session).get(key)
                        assert self.stored[key].parent_plan_id is None
                        assert self.stored[key].root_plan_id == other.root_plan_id

    @invariant()
    def a_third_session_reads_what_is_stored(self) -> None:
        with Session(self.engine) as session:
            found = {plan.plan_id: plan for plan in PlanRepository(session).stream()}
        assert found == self.stored


@pytest.fixture(scope="module", params=ENGINES)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    with empty_database(request.param, tmp_path_factory.mktemp("two")) as url:
        migrate(url, "head")
        engine = open_engine(url)
        yield engine
        engine.dispose()


def test_two_sessions_lose_no_update_and_read_only_what_is_stored(engine: Engine, tmp_path: Path):
    machine = type("Machine", (TwoSessions,), {"engine": engine})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
