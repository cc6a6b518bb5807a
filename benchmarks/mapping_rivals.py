"""
What others would use for the same tables: SQLModel, and advanced-alchemy's `to_schema`.

Both give the same checked values as a `Plan` has, in a pydantic class with the columns'
names; neither freezes JSON, and neither tells a corrupt row by its column.
"""

# Their packages are wanted for this comparison only, and not installed for type checks.
# mypy: ignore-errors

from __future__ import annotations

import types
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import sqlalchemy
from advanced_alchemy.repository import SQLAlchemySyncRepository
from advanced_alchemy.service import SQLAlchemySyncRepositoryService
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import from_json
from sqlalchemy import Engine, ForeignKey
from sqlalchemy.orm import Session, selectinload
from sqlmodel import Field as Column
from sqlmodel import Relationship, SQLModel, select
from sqlmodel import Session as SQLModelSession

from cleveragents_plans import LifecyclePlanModel, Plan
from cleveragents_plans.domain import PlanIdentity
from cleveragents_plans.persistence.mapping import ChildRows, child_rows, plan_row

_CHILDREN = {
    "projects": "plan_projects",
    "arguments": "plan_arguments",
    "invariants": "plan_invariants",
}


def _json(default: Any) -> Any:
    return BeforeValidator(lambda text: default if text is None else from_json(text))


def _profile(text: str) -> Any:
    return from_json(text) if text[0] == "{" else {"profile_name": text}


def _arguments(rows: Any) -> dict[str, Any]:
    return {row.name: from_json(row.value_json) for row in rows}


def _schema() -> type[BaseModel]:
    """Describe what a `Plan` holds, flat, so that it can be filled from a row's attributes."""
    special: dict[str, Any] = {
        "tags": ("tags_json", _json(())),
        "sandbox_refs": ("sandbox_refs_json", _json(())),
        "validation_summary": ("validation_summary_json", _json(None)),
        "error_details": ("error_details_json", _json(None)),
        "automation_profile": ("automation_profile", BeforeValidator(_profile)),
        "project_links": (
            "projects",
            BeforeValidator(_plain("project_name", "alias", "read_only")),
        ),
        "arguments": ("arguments", BeforeValidator(_arguments)),
        "invariants": ("invariants", BeforeValidator(_plain("text", "source"))),
    }
    fields: dict[str, Any] = {}
    for owner in (PlanIdentity, Plan):
        for name, field in owner.model_fields.items():
            if name == "identity":
                continue
            kind: Any = (
                Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            )
            if name in special:
                alias, reader = special[name]
                fields[name] = (Annotated[kind, reader], Field(validation_alias=alias))
            else:
                fields[name] = (kind, ...)
    config = ConfigDict(from_attributes=True, frozen=True)
    return create_model("FlatPlan", __config__=config, **fields)


def _plain(*names: str) -> Any:
    return lambda rows: [{name: getattr(row, name) for name in names} for row in rows]


FlatPlan = _schema()


class Rival:
    """One way to read and write the same plans in the same tables."""

    def __init__(self, engine: Engine, plans: Sequence[Plan]) -> None:
        self._engine, self._plans = engine, plans

    def same(self, read: Sequence[Any], plans: Sequence[Plan]) -> bool:
        """Tell whether what was *read* says all that *plans* say."""
        found = {each.plan_id: each for each in read}
        return len(read) == len(plans) and all(
            getattr(found[plan.plan_id], name) == getattr(plan, name)
            for plan in plans
            for name in FlatPlan.model_fields
        )


class SqlModelRival(Rival):
    """Table classes of SQLModel, objects into a session, `model_validate` out of it."""

    def __init__(self, engine: Engine, plans: Sequence[Plan]) -> None:
        super().__init__(engine, plans)
        self._plan, self._children = _table_classes()

    def read(self) -> list[Any]:
        """Read all plans."""
        query = select(self._plan).options(
            *(selectinload(getattr(self._plan, name)) for name in _CHILDREN)
        )
        with SQLModelSession(self._engine) as session:
            return [FlatPlan.model_validate(row) for row in session.exec(query)]

    def write(self) -> None:
        """Write all plans."""
        with SQLModelSession(self._engine) as session:
            session.add_all(
                self._plan(
                    **plan_row(plan),
                    **{
                        name: [self._children[name](**row) for row in rows]
                        for name, rows in zip(ChildRows._fields, child_rows(plan), strict=True)
                    },
                )
                for plan in self._plans
            )
            session.commit()


@cache
def _table_classes() -> tuple[Any, dict[str, Any]]:
    tables = LifecyclePlanModel.metadata.tables
    children = {name: _table_class(tables[table], {}) for name, table in _CHILDREN.items()}
    return _table_class(tables["v3_plans"], children), children


def _table_class(table: Any, children: dict[str, Any]) -> Any:
    def body(namespace: dict[str, Any]) -> None:
        namespace["__tablename__"] = table.name
        namespace["__module__"] = __name__
        namespace["__annotations__"] = annotations = {}
        for column in table.columns:
            kind = column.type.python_type
            annotations[column.key] = kind | None if column.nullable else kind
            options = {"default": None} if column.nullable else {}
            keys = [ForeignKey(key.target_fullname) for key in column.foreign_keys]
            stored = sqlalchemy.Column(
                column.key,
                column.type,
                *keys,
                primary_key=column.primary_key,
                nullable=column.nullable,
            )
            namespace[column.key] = Column(sa_column=stored, **options)
        for name, child in children.items():
            annotations[name] = list[child]
            namespace[name] = Relationship(
                sa_relationship_kwargs={"order_by": child.position, "lazy": "raise"}
            )

    return types.new_class(f"{table.name}_rival", (SQLModel,), {"table": True}, body)


class AdvancedAlchemyRival(Rival):
    """Our ORM classes behind advanced-alchemy's service, `to_schema` out of it."""

    def read(self) -> Sequence[Any]:
        """Read all plans."""
        with Session(self._engine) as session:
            service = _Service(session=session)
            rows = service.list(load=[each.class_attribute for each in _relations()])
            return service.to_schema(rows, schema_type=FlatPlan).items

    def write(self) -> None:
        """Write all plans."""
        with Session(self._engine) as session:
            service = _Service(session=session)
            service.create_many([LifecyclePlanModel.from_domain(plan) for plan in self._plans])
            session.commit()


class _Repository(SQLAlchemySyncRepository[LifecyclePlanModel]):
    model_type = LifecyclePlanModel
    id_attribute = "plan_id"


class _Service(SQLAlchemySyncRepositoryService[LifecyclePlanModel]):
    repository_type = _Repository


def _relations() -> Any:
    return LifecyclePlanModel.__mapper__.relationships


def rivals(engine: Engine, plans: Sequence[Plan]) -> dict[str, Any]:
    """Prepare the rivals for one database."""
    return {
        "SQLModel": SqlModelRival(engine, plans),
        "advanced-alchemy, to_schema": AdvancedAlchemyRival(engine, plans),
    }
