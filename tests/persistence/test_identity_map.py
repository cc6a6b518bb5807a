"""Row objects of a session beside the repository: classes of an application among them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, ForeignKey
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    mapped_column,
    selectinload,
)

from cleveragents_plans import LifecyclePlanModel, PlanRepository
from cleveragents_plans.persistence.columns import time_text
from support.application import in_a_process
from support.plans import a_root, ulid

# Classes of the application with a parent_plan_id of their own


class Base(MappedAsDataclass, DeclarativeBase):
    pass


class Price(Base):
    """A row without a hash, whose plans have numbers."""

    __tablename__ = "prices"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_plan_id: Mapped[int | None] = mapped_column(ForeignKey("prices.id"), default=None)


class Job(Base):
    """A row without a hash that names a plan, and keeps its id."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_plan_id: Mapped[str | None] = mapped_column(default=None)


@pytest.fixture
def application(engine: Engine) -> Iterator[None]:
    """The tables of the application."""
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)


@pytest.mark.usefixtures("application")
@pytest.mark.parametrize("delete", ["delete", "delete_tree"])
def test_rows_of_an_application_stay_as_they_are_when_a_plan_is_deleted(engine, delete):
    with Session(engine) as session:
        repository = PlanRepository(session)
        plan, other = repository.add(a_root(1)), repository.add(a_root(2))
        mine = [Price(1), Price(2, 1), Job(1, ulid(1)), Job(2)]
        for each in mine:
            session.add(each)
            session.flush()
        row = session.get(LifecyclePlanModel, other.plan_id)

        getattr(repository, delete)(plan if delete == "delete" else plan.plan_id)

        assert all(each in session for each in (*mine, row))
        assert [each.parent_plan_id for each in mine] == [None, 1, ulid(1), None]
        session.commit()


# Classes of the application that inherit LifecyclePlanModel


def use_rows_of_a_subclass(engine: Engine) -> None:
    class Row(LifecyclePlanModel):
        pass

    with Session(engine) as session:
        repository = PlanRepository(session)
        plan = repository.add(a_root(1).edit(arguments={"a": 1}))
        row = session.get(Row, ulid(1), options=[selectinload(Row.arguments)])

        saved = repository.save(plan.begin().edit(arguments={"b": 2}))

        assert row.processing_state == "processing"
        assert row.updated_at == time_text(saved.updated_at)
        assert [(each.name, each.value_json) for each in row.arguments] == [("b", "2")]
        row.description = "mine"
        session.commit()
    with Session(engine) as session:
        row = session.get(Row, ulid(1), options=[selectinload(Row.arguments)])
        row.description, row.arguments[0].value_json = "again", "3"
        session.commit()
        plan = PlanRepository(session).get(ulid(1))
        assert (plan.description, plan.arguments) == ("again", {"b": 3})
        row = session.get(Row, ulid(1), options=[selectinload(Row.arguments)])
        row.arguments[0].value_json = "4"
        session.commit()
        assert PlanRepository(session).get(ulid(1)).updated_at > plan.updated_at
        PlanRepository(session).delete_tree(ulid(1))
        assert row not in session


def test_rows_of_a_class_that_inherits_from_ours_tell_what_was_saved(migrated_url):
    in_a_process(use_rows_of_a_subclass, migrated_url)
