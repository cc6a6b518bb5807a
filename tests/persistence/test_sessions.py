"""The repository works on a session whatever it is bound to, and however it is set up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, UpdateBase, create_engine, event, text
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from cleveragents_plans import Base, LifecyclePlanModel, Plan, PlanRepository, read_only
from cleveragents_plans.domain import BUILT_IN_PROFILES, PlanIdentity
from cleveragents_plans.persistence import (
    DatabaseReadOnly,
    ForeignKeysOff,
    PlanAlreadyStored,
    open_engine,
)
from cleveragents_plans.schema import upgrade
from support.databases import SERVERS
from support.plans import a_plan, ulid
from support.statements import dying_at

TABLES = ("v3_plans", "plan_projects", "plan_arguments", "plan_invariants")


def root(number: int = 1, **fields: object) -> Plan:
    known = {
        "effective_profile_snapshot": BUILT_IN_PROFILES["balanced"].snapshot(),
        "project_links": [{"project_name": "p"}],
        "arguments": {"a": 1},
        "invariants": [{"text": "dry"}],
    }
    return a_plan(number, **{**known, **fields})


def child(number: int, parent: Plan) -> Plan:
    place = {"parent_plan_id": parent.plan_id, "root_plan_id": parent.root_plan_id}
    return root(number, identity=PlanIdentity(plan_id=ulid(number), **place))


def use_everything(repository: PlanRepository) -> None:
    """Call every method, and check what it gives."""
    top = repository.add(root(1))
    middle, bottom = child(2, top), child(3, child(2, top))
    assert repository.add_all([middle, bottom]) == 2
    assert repository.get(ulid(2)) == middle
    assert repository.tree(ulid(1)) == (top, middle, bottom)
    assert repository.children(ulid(1)) == (middle,)
    assert repository.ancestors(ulid(3)) == (middle, top)
    assert repository.depth(ulid(3)) == 2
    assert len(repository.list(project="p", limit=2)) == 2
    saved = repository.save(middle.edit(arguments={"b": 2}, project_links=[]).begin())
    assert [*repository.stream()] == [top, saved, bottom]
    repository.delete(saved)
    assert repository.get(ulid(3)).is_detached
    assert repository.delete_tree(ulid(1)) == 2
    assert repository.list() == ()


@pytest.mark.parametrize("every", [[Base], Base.metadata.tables.values()], ids=["base", "tables"])
def test_a_session_may_have_several_engines(engine, every):
    with Session(binds=dict.fromkeys(every, engine)) as session:
        use_everything(PlanRepository(session))


def test_a_session_may_be_bound_to_a_connection(engine):
    with engine.connect() as connection, Session(connection) as session:
        use_everything(PlanRepository(session))


@pytest.mark.parametrize("settings", [{"autoflush": False}, {"expire_on_commit": False}], ids=str)
def test_a_session_may_be_set_up_otherwise(engine, settings):
    with Session(engine, **settings) as session:
        use_everything(PlanRepository(session))
        session.commit()
        use_everything(PlanRepository(session))


def test_criteria_that_an_application_adds_to_its_queries_hide_no_plan(engine):
    """docs/security.md says so, and what to use."""

    class OfTenant(Session):
        pass

    @event.listens_for(OfTenant, "do_orm_execute")
    def hide(state: ORMExecuteState) -> None:
        mine = with_loader_criteria(LifecyclePlanModel, LifecyclePlanModel.created_by == "me")
        state.statement = state.statement.options(mine)

    with OfTenant(engine) as session, session.begin():
        use_everything(PlanRepository(session))


def test_session_that_chooses_its_engine_by_the_statement_cannot_write(engine):
    """docs/scaling.md says so, and what to use."""
    standby = read_only(engine)

    class Routing(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:
            return engine if self._flushing or isinstance(clause, UpdateBase) else standby

    with Routing() as session, pytest.raises(DatabaseReadOnly):
        PlanRepository(session).add(root())
    standby.dispose()


@pytest.fixture
def tenant(engine: Engine) -> Iterator[Engine]:
    """An engine that finds the plans in another schema, of the same tables."""
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA tenant"))
    translated = engine.execution_options(schema_translate_map={None: "tenant"})
    Base.metadata.create_all(translated)
    yield translated
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA tenant CASCADE"))


@pytest.mark.parametrize("migrated_engine", SERVERS, indirect=True, scope="session")
def test_plans_are_put_and_found_in_the_schema_that_the_engine_names(engine, tenant):
    with Session(tenant) as session:
        use_everything(PlanRepository(session))
        PlanRepository(session).add(root())
        session.commit()

    with engine.connect() as connection:
        for schema, rows in (("public", 0), ("tenant", 1)):
            found = [
                connection.scalar(text(f"SELECT count(*) FROM {schema}.{table}"))
                for table in TABLES
            ]
            assert found == [rows] * 4


def test_the_schema_that_holds_the_tables_anyway_can_be_named(engine):
    schema = "main" if engine.dialect.name == "sqlite" else "public"
    named = engine.execution_options(schema_translate_map={None: schema})
    with Session(named) as session:
        use_everything(PlanRepository(session))


@pytest.mark.parametrize("migrated_engine", ["sqlite"], indirect=True, scope="session")
def test_an_engine_that_was_opened_otherwise_neither_adds_nor_deletes(engine):
    with Session(engine) as session, session.begin():
        plan = PlanRepository(session).add(root())
    otherwise = create_engine(engine.url)

    with Session(otherwise) as session:
        repository = PlanRepository(session)
        assert repository.get(plan.plan_id) == plan
        for write in (
            lambda: repository.add(root(2)),
            lambda: repository.delete(plan),
            lambda: repository.delete_tree(plan.plan_id),
        ):
            with pytest.raises(ForeignKeysOff, match=r"open the database by open_engine\(\)"):
                write()
        session.commit()
    otherwise.dispose()

    with Session(engine) as session:
        assert PlanRepository(session).tree(plan.plan_id) == (plan,)


@pytest.mark.parametrize("opened", [open_engine, create_engine])
def test_connection_that_sqlite_has_count_its_changes_is_worked_with(sqlite_url, opened):
    upgrade(sqlite_url)
    engine = opened(sqlite_url)

    @event.listens_for(engine, "connect")
    def configure(driver: sqlite3.Connection, _record: object) -> None:
        for name in ("foreign_keys", "count_changes"):
            driver.execute(f"PRAGMA {name} = ON")

    with Session(engine) as session, session.begin():
        use_everything(PlanRepository(session))
        assert PlanRepository(session).delete_trees(completed_before=datetime.now(UTC)) == 0
    engine.dispose()


# Each statement a transaction by itself


@pytest.fixture
def alone(engine: Engine) -> Iterator[Session]:
    """A session whose statements are transactions by themselves."""
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        yield session


@pytest.mark.parametrize("migrated_engine", SERVERS, indirect=True, scope="session")
def test_everything_works_where_each_statement_is_a_transaction(engine, alone):
    use_everything(PlanRepository(alone))

    with Session(engine) as session:
        assert PlanRepository(session).count() == 0


@pytest.mark.parametrize("migrated_engine", SERVERS, indirect=True, scope="session")
def test_what_is_more_than_a_statement_is_done_as_a_whole_where_each_is_a_transaction(
    engine, alone
):
    repository = PlanRepository(alone)
    stored = repository.add(root(1))

    with pytest.raises(PlanAlreadyStored):
        repository.add_all([root(2), root(1)])
    with dying_at("INSERT INTO plan_arguments"):
        repository.save(stored.edit(arguments={"b": 2}, project_links=[]))

    with Session(engine) as session:
        assert [*PlanRepository(session).stream()] == [stored]
    begun = repository.save(stored.begin())
    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)) == begun
    released = repository.release(begun)
    with Session(engine) as session:
        assert PlanRepository(session).get(ulid(1)) == released
