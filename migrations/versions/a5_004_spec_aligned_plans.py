"""
Create the table of plans and its three child tables

Why:    plans are kept in one table, in the words of the specification.
Rows:   none yet.
Undo:   drops the plans themselves. While there are any it refuses, unless
        `-x drop-plans=yes` is given.
Locks:  new tables only, which are not in use yet. The way down takes ACCESS EXCLUSIVE
        on the four tables for as long as it takes to drop them.

Revision: a5_004_spec_aligned_plans, the first
"""

import sqlalchemy as sa
from alembic import op

from cleveragents_plans.evolution import (
    check_drop_tables,
    check_new_names,
    columns_of,
    drop_tables,
    missing_parts,
)

revision = "a5_004_spec_aligned_plans"
down_revision = None
branch_labels = None
depends_on = None
# Options that are `yes`, or not given.
confirm_options: tuple[str, ...] = ("drop-plans",)

# The last one is where a downgrade of m8_001 keeps the snapshots of these plans.
CHILDREN = ("plan_invariants", "plan_arguments", "plan_projects", "v3_plans_snapshot_archive")
# What it creates; constraints that have no index have no name in the pool of relations.
NAMES = (
    "v3_plans",
    "pk_v3_plans",
    "ix_v3_plans_root_plan_id",
    "ix_v3_plans_action_name",
    "plan_projects",
    "pk_plan_projects",
    "uq_plan_projects_plan_id_alias",
    "plan_arguments",
    "pk_plan_arguments",
    "uq_plan_arguments_plan_id_name",
    "plan_invariants",
    "pk_plan_invariants",
)
REAL_NUMBER: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    """Create the four tables as the first release had them."""
    for name, parts in _tables().items():
        op.create_table(name, *parts)
        if name == "v3_plans":
            op.create_index(op.f("ix_v3_plans_root_plan_id"), name, ["root_plan_id"])
            op.create_index(op.f("ix_v3_plans_action_name"), name, ["action_name"])


def _tables() -> dict[str, list[sa.schema.SchemaItem]]:
    plans: list[sa.schema.SchemaItem] = [
        sa.Column("plan_id", sa.String(26), nullable=False),
        sa.Column("parent_plan_id", sa.String(26)),
        sa.Column("root_plan_id", sa.String(26)),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("namespaced_name", sa.String(255)),
        sa.Column("namespace", sa.String(255)),
        sa.Column("action_name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("definition_of_done", sa.Text()),
        sa.Column("phase", sa.String(20), nullable=False, server_default=sa.text("'action'")),
        sa.Column(
            "processing_state", sa.String(20), nullable=False, server_default=sa.text("'queued'")
        ),
        sa.Column("strategy_actor", sa.String(255)),
        sa.Column("execution_actor", sa.String(255)),
        sa.Column("estimation_actor", sa.String(255)),
        sa.Column("invariant_actor", sa.String(255)),
        sa.Column("automation_profile", sa.Text()),
        sa.Column("changeset_id", sa.String(26)),
        sa.Column("decision_root_id", sa.String(26)),
        sa.Column("sandbox_refs_json", sa.Text()),
        sa.Column("validation_summary_json", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("error_details_json", sa.Text()),
        sa.Column("cost_actual_usd", REAL_NUMBER),
        sa.Column("token_count_input", sa.Integer()),
        sa.Column("token_count_output", sa.Integer()),
        sa.Column("reversion_count", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column(
            "last_completed_step", sa.Integer(), nullable=False, server_default=sa.text("-1")
        ),
        sa.Column("last_checkpoint_id", sa.String(26)),
        sa.Column("reusable", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("read_only", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("tags_json", sa.Text()),
        sa.Column("created_by", sa.String(255)),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.Column("completed_at", sa.Text()),
        sa.PrimaryKeyConstraint("plan_id", name=op.f("pk_v3_plans")),
        sa.ForeignKeyConstraint(
            ["parent_plan_id"],
            ["v3_plans.plan_id"],
            name=op.f("fk_v3_plans_parent_plan_id"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["root_plan_id"],
            ["v3_plans.plan_id"],
            name=op.f("fk_v3_plans_root_plan_id"),
            ondelete="RESTRICT",
        ),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_v3_plans_attempt")),
        sa.CheckConstraint(
            "phase IN ('action', 'strategize', 'execute', 'apply')", name=op.f("ck_v3_plans_phase")
        ),
        sa.CheckConstraint(
            "processing_state IN ('queued', 'processing', 'complete', 'errored',"
            " 'constrained', 'applied', 'cancelled')",
            name=op.f("ck_v3_plans_processing_state"),
        ),
        # The upper bound is the largest finite double: it keeps out infinity, and on
        # PostgreSQL NaN, which is larger than everything there.
        sa.CheckConstraint(
            "cost_actual_usd >= 0 AND cost_actual_usd <= 1.7976931348623157e308",
            name=op.f("ck_v3_plans_cost_actual_usd"),
        ),
        sa.CheckConstraint("token_count_input >= 0", name=op.f("ck_v3_plans_token_count_input")),
        sa.CheckConstraint("token_count_output >= 0", name=op.f("ck_v3_plans_token_count_output")),
        sa.CheckConstraint(
            "reversion_count >= 0 AND reversion_count <= 3",
            name=op.f("ck_v3_plans_reversion_count"),
        ),
        sa.CheckConstraint(
            "last_completed_step >= -1", name=op.f("ck_v3_plans_last_completed_step")
        ),
    ]
    projects = _child_table(
        "plan_projects",
        sa.Column("project_name", sa.String(255), nullable=False),
        sa.Column("alias", sa.String(255)),
        sa.Column("read_only", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.UniqueConstraint("plan_id", "alias", name=op.f("uq_plan_projects_plan_id_alias")),
    )
    arguments = _child_table(
        "plan_arguments",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("value_json", sa.Text(), nullable=False),
        sa.UniqueConstraint("plan_id", "name", name=op.f("uq_plan_arguments_plan_id_name")),
    )
    invariants = _child_table(
        "plan_invariants",
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source", sa.String(20), nullable=False),
        sa.CheckConstraint(
            "source IN ('plan', 'action', 'project', 'global')",
            name=op.f("ck_plan_invariants_source"),
        ),
    )
    return {
        "v3_plans": plans,
        "plan_projects": projects,
        "plan_arguments": arguments,
        "plan_invariants": invariants,
    }


def is_applied() -> bool:
    """Tell whether the tables look as if this revision had been run."""
    return bool(columns_of(op, "v3_plans"))


def missing() -> list[str]:
    """Name the tables and columns of this revision that are not there."""
    # The chain of an older application has a table of plans of its own, and no child tables.
    return lacking() if any(columns_of(op, name) for name in CHILDREN[:3]) else []


def lacking() -> list[str]:
    """Name the same, also where no child table is there."""
    return missing_parts(
        op,
        {
            name: [part.name for part in parts if isinstance(part, sa.Column)]
            for name, parts in _tables().items()
        },
    )


def check_upgrade() -> None:
    """Refuse names that something else has, before anything is created."""
    check_new_names(op, *NAMES)


def check_downgrade() -> None:
    """Refuse before the first step of a longer way down is taken."""
    check_drop_tables(op, "v3_plans", children=CHILDREN, confirm_option="drop-plans")


def downgrade() -> None:
    """Drop the four tables, if nothing is lost by it or the loss is wanted."""
    drop_tables(op, "v3_plans", children=CHILDREN, confirm_option="drop-plans")


def _child_table(name: str, *parts: sa.schema.SchemaItem) -> list[sa.schema.SchemaItem]:
    return [
        sa.Column("plan_id", sa.String(26), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        *parts,
        sa.PrimaryKeyConstraint("plan_id", "position", name=op.f(f"pk_{name}")),
        sa.ForeignKeyConstraint(
            ["plan_id"],
            ["v3_plans.plan_id"],
            name=op.f(f"fk_{name}_plan_id"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("position >= 0", name=op.f(f"ck_{name}_position")),
    ]
