"""Plans of a class of the application that inherits from `Plan`."""

from __future__ import annotations

import pytest
from pydantic import Field

from cleveragents_plans import LifecyclePlanModel, Plan
from cleveragents_plans.domain.errors import InvalidType
from support.plans import a_root, ulid


class Priced(Plan):
    price: int = 7


class Named(Plan):
    """What it adds is not stored."""

    nickname: str = Field(default="", exclude=True)

    @property
    def label(self) -> str:
        return f"{self.nickname} {self.plan_id}"


def as_a(kind: type[Plan], plan: Plan, **fields: object) -> Plan:
    return kind(**{name: getattr(plan, name) for name in Plan.model_fields}, **fields)


def test_plan_with_a_field_that_is_not_stored_is_refused(repository, count):
    stored = repository.add(a_root(1))
    priced = as_a(Priced, a_root(2), price=3)

    for write in (
        lambda: repository.add(priced),
        lambda: repository.add_all([a_root(3), priced]),
        lambda: repository.save(as_a(Priced, stored).begin()),
        lambda: repository.change(ulid(1), lambda plan: as_a(Priced, plan).begin()),
        lambda: LifecyclePlanModel.from_domain(priced),
    ):
        with pytest.raises(InvalidType) as caught:
            write()
        assert str(caught.value) == (
            "plan is a Priced, which has price besides, and no column for it; expected a Plan, "
            "or Field(exclude=True) for what is not stored"
        )

    assert count() == 1
    assert repository.get(ulid(1)) == stored


def test_plan_whose_other_fields_are_left_out_is_stored_as_a_plan(repository):
    named = as_a(Named, a_root(1), nickname="roof")

    added = repository.add(named)
    saved = repository.save(as_a(Named, added, nickname="house").begin())

    assert (type(added), type(saved.complete())) == (Plan, Named)
    assert repository.get(ulid(1)) == as_a(Plan, saved)
