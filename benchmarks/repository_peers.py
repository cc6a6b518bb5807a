"""
One plan that is read, changed and saved, and a page of a listing: the repository beside others.

The bare driver sends one SELECT of the plan with its child rows, one UPDATE that names the version,
and COMMIT. advanced-alchemy and SQLModel do what their documentation shows.
"""

# Their packages are wanted for this comparison only, and not installed for type checks.
# mypy: ignore-errors

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import Engine, desc, func
from sqlalchemy.orm import Session, selectinload

import mapping_rivals
from cleveragents_plans import LifecyclePlanModel, PlanRepository
from cleveragents_plans.persistence import queries
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.queries import plans_query
from support.plan_tables import plan_id

Task = Callable[[], Any]
_LOADED = [each.class_attribute for each in mapping_rivals._relations()]


def saving(engine: Engine, number: int) -> dict[str, Task]:
    """Name the ways to read a plan, change it, save it and commit; the bare driver comes first."""
    wanted = plan_id(number)

    def repository() -> None:
        with Session(engine) as session, session.begin():
            plans = PlanRepository(session)
            plans.save(plans.get(wanted).edit(description="x"))

    def alchemy() -> None:
        with Session(engine) as session:
            service = mapping_rivals._Service(session=session)
            row = service.get(wanted, load=_LOADED)
            mapping_rivals.FlatPlan.model_validate(row)
            row.description = "y" if row.description == "x" else "x"
            service.update(row)
            session.commit()

    def sqlmodel() -> None:
        model, _ = mapping_rivals._table_classes()
        with mapping_rivals.SQLModelSession(engine) as session:
            options = [selectinload(getattr(model, name)) for name in mapping_rivals._CHILDREN]
            query = mapping_rivals.select(model).where(model.plan_id == wanted).options(*options)
            row = session.exec(query).one()
            mapping_rivals.FlatPlan.model_validate(row)
            row.description = "y" if row.description == "x" else "x"
            row.updated_at = time_text(datetime.now(UTC))
            session.add(row)
            session.commit()

    return {
        "floor: bare driver": _bare(engine, wanted),
        "repository": repository,
        "advanced-alchemy": alchemy,
        "SQLModel": sqlmodel,
    }


def shares(engine: Engine, number: int) -> dict[str, Task]:
    """Name what the repository does for one such change, in parts, each within one transaction."""
    wanted = plan_id(number)
    session = Session(engine)
    plans = PlanRepository(session)
    read = {"plan": plans.get(wanted), "row": queries.row_of(session, wanted)}

    def save() -> None:
        read["plan"] = plans.save(read["plan"])

    def nothing() -> None:
        with Session(engine) as other, other.begin():
            other.connection()

    return {
        "`get`: the statement": lambda: queries.row_of(session, wanted),
        "`get`: reading and checking the plan": lambda: queries.plan_in(read["row"]),
        "`edit`": lambda: read["plan"].edit(description="x"),
        "`save`": save,
        # Ends the session above, whose transaction would keep others from writing.
        "Session, BEGIN, and COMMIT of nothing": lambda: (session.close(), nothing()),
    }


def _bare(engine: Engine, wanted: str) -> Task:
    with Session(engine) as session:
        read = str(plans_query(session).compile(engine))
    mark = "?" if engine.dialect.name == "sqlite" else "%s"
    read = f"{read.replace('%', '%%') if mark == '%s' else read} WHERE v3_plans.plan_id = {mark}"
    write = (
        f"UPDATE v3_plans SET description = {mark}, updated_at = {mark}"
        f" WHERE plan_id = {mark} AND updated_at = {mark}"
    )
    connection: Any
    if engine.dialect.name == "sqlite":
        connection = sqlite3.connect(str(engine.url.database), isolation_level=None)
        for pragma in ("foreign_keys = ON", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")
    else:
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg.connect(url, autocommit=True)

    def task() -> None:
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE" if mark == "?" else "BEGIN")
        row = cursor.execute(read, (wanted,)).fetchone()
        names = [column[0] for column in cursor.description]
        version = dict(zip(names, row, strict=True))["updated_at"]
        cursor.execute(write, ("x", time_text(datetime.now(UTC)), wanted, version))
        if cursor.rowcount != 1:
            raise RuntimeError("the plan was changed meanwhile")
        cursor.execute("COMMIT")

    return task


def listing(engine: Engine) -> dict[str, Task]:
    """Name the ways to read the newest hundred plans of a namespace."""
    row = LifecyclePlanModel

    def alchemy() -> Any:
        with Session(engine) as session:
            service = mapping_rivals._Service(session=session)
            rows = service.list(
                *(row.namespace == "team7",),
                statement=mapping_rivals.sqlalchemy.select(row)
                .order_by(desc(row.plan_id))
                .limit(100),
                load=_LOADED,
            )
            return service.to_schema(rows, schema_type=mapping_rivals.FlatPlan).items

    def sqlmodel() -> Any:
        model, _ = mapping_rivals._table_classes()
        options = [selectinload(getattr(model, name)) for name in mapping_rivals._CHILDREN]
        query = mapping_rivals.select(model).where(model.namespace == "team7").options(*options)
        with mapping_rivals.SQLModelSession(engine) as session:
            rows = session.exec(query.order_by(desc(model.plan_id)).limit(100))
            return [mapping_rivals.FlatPlan.model_validate(each) for each in rows]

    return {
        "repository": _asked(engine, lambda it: it.list(namespace="team7", order="newest")),
        "advanced-alchemy": alchemy,
        "SQLModel": sqlmodel,
    }


def counting(engine: Engine) -> dict[str, Task]:
    """Name the ways to count the plans of a namespace."""

    def alchemy() -> Any:
        with Session(engine) as session:
            service = mapping_rivals._Service(session=session)
            return service.count(LifecyclePlanModel.namespace == "team7")

    def sqlmodel() -> Any:
        model, _ = mapping_rivals._table_classes()
        query = mapping_rivals.select(func.count()).select_from(model)
        with mapping_rivals.SQLModelSession(engine) as session:
            return session.exec(query.where(model.namespace == "team7")).one()

    return {
        "repository": _asked(engine, lambda it: it.count(namespace="team7")),
        "advanced-alchemy": alchemy,
        "SQLModel": sqlmodel,
    }


def _asked(engine: Engine, ask: Callable[[PlanRepository], Any]) -> Task:
    def task() -> Any:
        with Session(engine) as session:
            return ask(PlanRepository(session))

    return task
