"""The repository works in the transaction of its session."""

from __future__ import annotations

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository
from cleveragents_plans.persistence import (
    PlanAlreadyStored,
    PlanConflict,
    PlanNotFound,
    RootInUse,
)
from support.plans import a_child, a_root, ulid


def test_the_session_is_neither_committed_nor_rolled_back(engine, count):
    ended = []
    with Session(engine.execution_options()) as session:
        event.listen(session.get_bind(), "commit", lambda *_: ended.append("commit"))
        event.listen(session.get_bind(), "rollback", lambda *_: ended.append("rollback"))
        repository = PlanRepository(session)
        plan = repository.save(repository.add(a_root()).begin())
        repository.add_all([a_child(2, plan), a_child(3, plan)])
        for refused in (
            lambda: repository.add(plan),
            lambda: repository.save(a_root()),
            lambda: repository.delete(plan),
            lambda: repository.get(ulid(9)),
        ):
            with pytest.raises((PlanAlreadyStored, PlanConflict, RootInUse, PlanNotFound)):
                refused()
        repository.delete(repository.get(ulid(3)))
        repository.delete_tree(plan.plan_id)
        assert ended == []
        repository.add(a_root(7))
    with Session(engine) as session:
        assert count() == 0
