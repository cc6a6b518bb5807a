"""
Say where a plan is to be executed

Why:    a plan may ask for an execution environment, as a fallback or as an override.
Rows:   plans stored so far asked for none: both columns are NULL.
Undo:   drops both columns and what they hold; the plans stay.
Locks:  ACCESS EXCLUSIVE on v3_plans for two changes of the catalog and one scan for the
        CHECK of the new column.

Revision: m4_003_plan_env_columns, after a5_004_spec_aligned_plans
"""

from alembic import op

import cleveragents_plans.evolution  # noqa: F401  registers the operations

revision = "m4_003_plan_env_columns"
down_revision = "a5_004_spec_aligned_plans"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both columns; SQLite takes the CHECK only as a part of the column."""
    _alter(
        "ALTER TABLE v3_plans ADD COLUMN execution_environment VARCHAR(255)",
        "ALTER TABLE v3_plans ADD COLUMN execution_env_priority VARCHAR(20)"
        " CONSTRAINT ck_v3_plans_execution_env_priority"
        " CHECK (execution_env_priority IN ('fallback', 'override'))",
    )


def downgrade() -> None:
    """Take both columns away again."""
    _alter(
        "ALTER TABLE v3_plans DROP COLUMN execution_env_priority",
        "ALTER TABLE v3_plans DROP COLUMN execution_environment",
    )


def _alter(*statements: str) -> None:
    # SQLite has one lock, and the whole run holds it already.
    if op.get_context().dialect.name == "sqlite":
        for statement in statements:
            op.execute(statement)
    else:
        op.short_lock("v3_plans", *statements)
