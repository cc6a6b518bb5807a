"""
The rows of plans: four tables, as the migration chain leaves them.

The columns are described by revision in ``migrations/versions``; a test compares the
schema that these classes create with the one that the chain builds.
"""

from __future__ import annotations

from typing import Any, Final, Self

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
    inspect,
    text,
)
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Mapped, mapped_column, relationship, selectinload, validates
from sqlalchemy.orm.interfaces import ORMOption

from cleveragents_plans.domain import DEFAULT_PROFILE_NAME, Plan
from cleveragents_plans.persistence import mapping, row_events, triggers
from cleveragents_plans.persistence.base import Base
from cleveragents_plans.persistence.errors import ChildrenNotLoaded
from cleveragents_plans.persistence.types import (
    REAL_NUMBER,
    FoundBoolean,
    NextVersion,
    TimeText,
    as_stored,
)

#: Conditions of partial indexes; a query uses one if it has the same text.
IS_OPEN: Final = "processing_state NOT IN ('applied', 'cancelled')"
IS_ROOT: Final = "root_plan_id = plan_id"


def _index(name: str, *columns: str, where: str) -> Index:
    """Describe an index of some rows."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


class LifecyclePlanModel(Base):
    """
    One row per plan.

    Attributes hold what the columns hold, text for JSON and times; `to_domain` reads them. A
    ``datetime`` can be assigned to a time, and compared with it, whatever its zone.

    Child rows are loaded by the options `with_children`; those that were not raise when they are
    touched. Only what a commit expired is read again then, as SQLAlchemy does it: by one query for
    the row.

    Every UPDATE through SQLAlchemy moves `updated_at` on, unless it sets it, so that those who
    read the plan before find a conflict: a flush that changes a column or one of the lists
    `projects`, `arguments` and `invariants`, and ``update(LifecyclePlanModel)``. INSERT with ON
    CONFLICT DO UPDATE does not, unless its ``set_`` names `updated_at`; nor does SQL as text: a
    save replaces what they wrote, without a conflict. Rows of the child tables that are edited by
    themselves do not move it. New lists may swap names and aliases.
    """

    __tablename__ = "v3_plans"

    plan_id: Mapped[str] = mapped_column(String(26), primary_key=True)
    parent_plan_id: Mapped[str | None] = mapped_column(
        String(26), ForeignKey("v3_plans.plan_id", ondelete="SET NULL")
    )
    root_plan_id: Mapped[str] = mapped_column(
        String(26), ForeignKey("v3_plans.plan_id", ondelete="RESTRICT"), index=True
    )
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    namespaced_name: Mapped[str | None] = mapped_column(String(255))
    namespace: Mapped[str | None] = mapped_column(String(255))
    action_name: Mapped[str] = mapped_column(String(255), index=True)
    description: Mapped[str] = mapped_column(Text, server_default=text("''"))
    definition_of_done: Mapped[str | None] = mapped_column(Text)
    phase: Mapped[str] = mapped_column(String(20), server_default=text("'action'"))
    processing_state: Mapped[str] = mapped_column(String(20), server_default=text("'queued'"))
    strategy_actor: Mapped[str | None] = mapped_column(String(255))
    execution_actor: Mapped[str | None] = mapped_column(String(255))
    estimation_actor: Mapped[str | None] = mapped_column(String(255))
    invariant_actor: Mapped[str | None] = mapped_column(String(255))
    automation_profile: Mapped[str] = mapped_column(
        Text, server_default=text(f"'{DEFAULT_PROFILE_NAME}'")
    )
    changeset_id: Mapped[str | None] = mapped_column(String(26))
    decision_root_id: Mapped[str | None] = mapped_column(String(26))
    sandbox_refs_json: Mapped[str | None] = mapped_column(Text)
    validation_summary_json: Mapped[str | None] = mapped_column(Text)
    error_message: Mapped[str | None] = mapped_column(Text)
    error_details_json: Mapped[str | None] = mapped_column(Text)
    cost_actual_usd: Mapped[float | None] = mapped_column(REAL_NUMBER)
    token_count_input: Mapped[int | None] = mapped_column(Integer)
    token_count_output: Mapped[int | None] = mapped_column(Integer)
    reversion_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_completed_step: Mapped[int] = mapped_column(Integer, server_default=text("-1"))
    last_checkpoint_id: Mapped[str | None] = mapped_column(String(26))
    reusable: Mapped[bool] = mapped_column(FoundBoolean, server_default=false())
    read_only: Mapped[bool] = mapped_column(FoundBoolean, server_default=false())
    tags_json: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[str] = mapped_column(TimeText)
    updated_at: Mapped[str] = mapped_column(TimeText, onupdate=NextVersion())
    completed_at: Mapped[str | None] = mapped_column(TimeText)
    execution_environment: Mapped[str | None] = mapped_column(String(255))
    execution_env_priority: Mapped[str | None] = mapped_column(String(20))
    effective_profile_snapshot: Mapped[str] = mapped_column(Text, server_default=text("'{}'"))

    projects: Mapped[list[PlanProjectModel]] = relationship(
        order_by="PlanProjectModel.position",
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )
    arguments: Mapped[list[PlanArgumentModel]] = relationship(
        order_by="PlanArgumentModel.position",
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )
    invariants: Mapped[list[PlanInvariantModel]] = relationship(
        order_by="PlanInvariantModel.position",
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )

    __table_args__: Any = (
        CheckConstraint("attempt >= 1", name="attempt"),
        CheckConstraint("phase IN ('action', 'strategize', 'execute', 'apply')", name="phase"),
        CheckConstraint(
            "processing_state IN ('queued', 'processing', 'complete', 'errored',"
            " 'constrained', 'applied', 'cancelled')",
            name="processing_state",
        ),
        CheckConstraint(
            "cost_actual_usd >= 0 AND cost_actual_usd <= 1.7976931348623157e308",
            name="cost_actual_usd",
        ),
        CheckConstraint("token_count_input >= 0", name="token_count_input"),
        CheckConstraint("token_count_output >= 0", name="token_count_output"),
        CheckConstraint("reversion_count >= 0 AND reversion_count <= 3", name="reversion_count"),
        CheckConstraint("last_completed_step >= -1", name="last_completed_step"),
        CheckConstraint(
            "execution_env_priority IN ('fallback', 'override')", name="execution_env_priority"
        ),
        _index("ix_v3_plans_parent_plan_id", "parent_plan_id", where="parent_plan_id IS NOT NULL"),
        _index("ix_v3_plans_queued", "phase", "plan_id", where="processing_state = 'queued'"),
        _index("ix_v3_plans_processing", "updated_at", where="processing_state = 'processing'"),
        _index("ix_v3_plans_open", "processing_state", "plan_id", where=IS_OPEN),
        _index("ix_v3_plans_completed_roots", "completed_at", where=IS_ROOT),
        Index("ix_v3_plans_namespace", "namespace", "plan_id"),
        Index("ix_v3_plans_created_at", "created_at"),
    )
    # The specification's optimistic check: an UPDATE names the updated_at that was read.
    # Its next value is not SQLAlchemy's to make: the repository's, or that of the event below.
    __mapper_args__: Any = {"version_id_col": updated_at, "version_id_generator": False}  # noqa: RUF012  SQLAlchemy's own spelling

    @validates("created_at", "updated_at", "completed_at")
    def _as_text(self, _name: str, value: Any) -> Any:
        return as_stored(value)

    @classmethod
    def from_domain(cls, plan: Plan) -> Self:
        """Lay *plan* out as a row and its child rows."""
        children = mapping.child_rows(plan)
        return cls(
            **mapping.plan_row(plan),
            projects=[PlanProjectModel(**row) for row in children.projects],
            arguments=[PlanArgumentModel(**row) for row in children.arguments],
            invariants=[PlanInvariantModel(**row) for row in children.invariants],
        )

    @classmethod
    def with_children(cls) -> tuple[ORMOption, ...]:
        """
        Give the loader options for all that a plan consists of.

        They go into ``select(LifecyclePlanModel).options(*LifecyclePlanModel.with_children())``,
        ``session.get(…, options=…)`` and ``session.merge(…, options=…)``: three more SELECTs,
        however many plans there are.
        """
        return tuple(selectinload(each) for each in (cls.projects, cls.arguments, cls.invariants))

    def to_domain(self) -> Plan:
        """
        Read the row and its child rows as a plan, checked by the domain's own rules.

        Raises:
            CorruptPlanRow: A column holds what no plan can hold.
            ChildrenNotLoaded: The row was loaded without its child rows.
        """
        try:
            return mapping.read_plan(self, self.projects, self.arguments, self.invariants)
        except InvalidRequestError:
            missing = inspect(self).unloaded.intersection(mapping.ChildRows._fields)
            if not missing:
                raise
            raise ChildrenNotLoaded(tuple(sorted(missing))) from None

    def __repr__(self) -> str:
        known = vars(self)
        names = ("plan_id", "namespaced_name", "phase", "processing_state")
        shown = ", ".join(f"{name}={known[name]!r}" for name in names if name in known)
        return f"{type(self).__name__}({shown})"


class PlanProjectModel(Base):
    """A project that a plan works on."""

    __tablename__ = "plan_projects"

    plan_id: Mapped[str] = mapped_column(
        String(26), ForeignKey("v3_plans.plan_id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    project_name: Mapped[str] = mapped_column(String(255))
    alias: Mapped[str | None] = mapped_column(String(255))
    read_only: Mapped[bool] = mapped_column(FoundBoolean, server_default=false())

    __table_args__: Any = (
        UniqueConstraint("plan_id", "alias"),
        Index("ix_plan_projects_project_name", "project_name", "plan_id"),
        CheckConstraint("position >= 0", name="position"),
    )


class PlanArgumentModel(Base):
    """An argument that a plan was given."""

    __tablename__ = "plan_arguments"

    plan_id: Mapped[str] = mapped_column(
        String(26), ForeignKey("v3_plans.plan_id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(255))
    value_json: Mapped[str] = mapped_column(Text)

    __table_args__: Any = (
        UniqueConstraint("plan_id", "name"),
        CheckConstraint("position >= 0", name="position"),
    )


class PlanInvariantModel(Base):
    """Something that must stay true while a plan is carried out."""

    __tablename__ = "plan_invariants"

    plan_id: Mapped[str] = mapped_column(
        String(26), ForeignKey("v3_plans.plan_id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(20))

    __table_args__: Any = (
        CheckConstraint("position >= 0", name="position"),
        CheckConstraint("source IN ('plan', 'action', 'project', 'global')", name="source"),
    )


triggers.create_with(LifecyclePlanModel.__table__)
row_events.listen_to(LifecyclePlanModel)
