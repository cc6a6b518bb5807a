"""Row objects beside relationships that an application added to them."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.persistence import ChildrenNotLoaded
from support.application import in_a_process, models
from support.plans import a_root, ulid
from support.statements import recorded


def add_a_plan(engine: Engine) -> Plan:
    with Session(engine) as session, session.begin():
        return PlanRepository(session).add(a_root(1))


def changed(engine: Engine, kind: type, field: str, value: str) -> list[str]:
    """Change a field of the row 1; give the statements that write."""
    with recorded() as statements, Session(engine) as session, session.begin():
        setattr(session.get(kind, 1), field, value)
    return [
        each.split(" SET")[0]
        for each in statements
        if each.startswith(("INSERT", "UPDATE", "DELETE"))
    ]


def edit_orders(engine: Engine) -> None:
    order, line, _ = models(engine)
    plan = add_a_plan(engine)
    with Session(engine) as session, session.begin():
        row = session.get(LifecyclePlanModel, ulid(1))
        row.orders.extend(order(id=number, number=f"A-{number}") for number in (1, 2))
        session.flush()
        session.add_all([line(order_id=1), line(order_id=1)])
    assert changed(engine, order, "number", "B-1") == ["UPDATE orders"]
    with Session(engine) as session, session.begin():
        row = session.get(LifecyclePlanModel, ulid(1))
        session.delete(session.get(order, 2))
        session.add(order(id=3, number="A-3", plan=row))
    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)) == plan
        query = select(order.id, order.number).order_by(order.id)
        assert [*session.execute(query)] == [(1, "B-1"), (3, "A-3")]
        assert session.scalar(select(func.count()).select_from(line)) == 2


def edit_labels(engine: Engine) -> None:
    *_, label = models(engine)
    plan = add_a_plan(engine)
    with Session(engine) as session, session.begin():
        session.get(LifecyclePlanModel, ulid(1)).labels = [label(id=1, text="urgent")]
    assert changed(engine, label, "text", "later") == ["UPDATE labels"]
    with Session(engine) as session, session.begin():
        row = session.get(LifecyclePlanModel, ulid(1))
        row.labels.clear()
    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)) == plan
        assert session.get(label, 1).text == "later"


def edit_a_plan_beside_rows_of_the_application(engine: Engine) -> None:
    order, _, label = models(engine)
    plan = add_a_plan(engine)
    with Session(engine) as session, session.begin():
        row = session.get(LifecyclePlanModel, ulid(1), options=LifecyclePlanModel.with_children())
        session.add(order(number="A", plan=row))
        row.labels = [label(text="urgent")]
        row.description = "mine"
        session.flush()
        assert [each.number for each in (*row.orders, *row.numbered_orders)] == ["A", "A"]
        assert row.to_domain() == PlanRepository(session).get(ulid(1))
        assert row.to_domain().updated_at > plan.updated_at
    with Session(engine) as session:
        row = session.get(LifecyclePlanModel, ulid(1))
        with pytest.raises(ChildrenNotLoaded) as caught:
            row.to_domain()
        assert sorted(caught.value.relations) == ["arguments", "invariants", "projects"]


@pytest.mark.parametrize(
    "act", [edit_orders, edit_labels, edit_a_plan_beside_rows_of_the_application]
)
def test_rows_of_an_application_with_relationships_to_plans_are_left_alone(migrated_url, act):
    in_a_process(act, migrated_url)
