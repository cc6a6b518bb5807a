"""
The rows of plans: four tables, as the migration chain leaves them.

The columns are described by revision in ``migrations/versions``; a test compares the
schema that these classes create with the one that the chain builds.
"""

from __future__ import annotations

from typing import Any, Self

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Integer,
    String,
    Text,
    UniqueConstraint,
    event,
    false,
    inspect,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from cleveragents_plans.domain import DEFAULT_PROFILE_NAME, Plan, SnapshotIsFrozen
from cleveragents_plans.persistence import mapping, triggers
from cleveragents_plans.persistence.base import Base
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.types import REAL_NUMBER, FoundBoolean


class LifecyclePlanModel(Base):
    """
    One row per plan.

    Attributes hold what the columns hold, text for JSON and times; `to_domain` reads them.
    Child rows that were not loaded with the row raise when they are touched. Only what a commit
    expired is read again then, as SQLAlchemy does it: by one query for the row.

    A flush that changes a column, or puts rows into `projects`, `arguments` or `invariants` or
    takes them out, moves `updated_at` on, unless the writer set it: whoever read the plan before
    is told. Rows of the child tables that are edited by themselves do not move it.
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
    created_at: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[str] = mapped_column(Text)
    completed_at: Mapped[str | None] = mapped_column(Text)
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

    __table_args__ = (
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
    )
    # The specification's optimistic check: an UPDATE names the updated_at that was read.
    # Its next value is not SQLAlchemy's to make: the repository's, or that of the event below.
    __mapper_args__ = {"version_id_col": updated_at, "version_id_generator": False}  # noqa: RUF012  SQLAlchemy's own spelling

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

    def to_domain(self) -> Plan:
        """
        Read the row and its child rows as a plan, checked by the domain's own rules.

        Raises:
            CorruptPlanRow: A column holds what no plan can hold.
        """
        return mapping.read_plan(self, self.projects, self.arguments, self.invariants)


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

    __table_args__ = (
        UniqueConstraint("plan_id", "alias"),
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

    __table_args__ = (
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

    __table_args__ = (
        CheckConstraint("position >= 0", name="position"),
        CheckConstraint("source IN ('plan', 'action', 'project', 'global')", name="source"),
    )


triggers.create_with(LifecyclePlanModel.__table__)


@event.listens_for(
    LifecyclePlanModel.effective_profile_snapshot, "set", active_history=True, propagate=True
)
def _keep_snapshot(row: LifecyclePlanModel, new: str, old: Any, _initiator: object) -> None:
    # A snapshot is taken once: only a row that has none yet (old is one of SQLAlchemy's
    # symbols then) can be given one.
    if isinstance(old, str) and new != old:
        raise SnapshotIsFrozen(row.plan_id)


@event.listens_for(
    LifecyclePlanModel.effective_profile_snapshot, "remove", active_history=True, propagate=True
)
def _keep_snapshot_in_place(row: LifecyclePlanModel, old: Any, _initiator: object) -> None:
    # Or else one that was taken out could be replaced.
    if isinstance(old, str):
        raise SnapshotIsFrozen(row.plan_id)


@event.listens_for(LifecyclePlanModel, "before_update", propagate=True)
def _move_version(_mapper: object, _connection: object, row: LifecyclePlanModel) -> None:
    # A writer who leaves updated_at alone would not be seen by those who check it.
    state = inspect(row)
    # Only what was set can have changed; to ask every attribute takes as long as the flush.
    changed = {name for name in state.committed_state if state.attrs[name].history.has_changes()}
    if changed and "updated_at" not in changed:
        row.updated_at = time_text(mapping.next_version(row.plan_id, row.updated_at))
