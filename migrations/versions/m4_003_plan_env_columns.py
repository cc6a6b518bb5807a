"""
Say where a plan is to be executed

Why:    a plan may ask for an execution environment, as a fallback or as an override.
Rows:   plans stored so far asked for none: both columns are NULL.
Undo:   drops both columns and what they hold; the plans stay.
Locks:  PostgreSQL: ACCESS EXCLUSIVE on v3_plans for changes of the catalog only, some
        milliseconds; the scan for the CHECK stops neither readers nor writers.

A downgrade is refused before its first step where something is made from a column that it drops: a
view of one, which any role may create, stopped it here, behind all that m8_001 had undone.

Revision: m4_003_plan_env_columns, after a5_004_spec_aligned_plans
"""

from alembic import op

from cleveragents_plans.evolution import (
    check_droppable,
    columns_of,
    missing_parts,
    validate_constraint,
    with_exclusive_lock,
)

revision = "m4_003_plan_env_columns"
down_revision = "a5_004_spec_aligned_plans"
branch_labels = None
depends_on = None


# With its schema, for PostgreSQL.
TABLE = "{schema}.v3_plans"
COLUMNS = ("execution_env_priority", "execution_environment")
CHECK_NAME = "ck_v3_plans_execution_env_priority"
CHECK = f"CONSTRAINT {CHECK_NAME} CHECK (execution_env_priority IN ('fallback', 'override'))"


def is_applied() -> bool | None:
    """Tell whether the tables look as if this revision had been run; None if they do not tell."""
    # The chain of an older application has this revision without these columns.
    return True if "execution_environment" in columns_of(op, "v3_plans") else None


def missing() -> list[str]:
    """Name the columns of this revision that are not there."""
    if not columns_of(op, "plan_projects"):  # that application has no such table
        return []
    return missing_parts(op, {"v3_plans": ["execution_environment", "execution_env_priority"]})


def check_downgrade() -> None:
    """Refuse before the first step of a longer way down is taken."""
    for column in COLUMNS:
        check_droppable(op, "v3_plans", column, ours=(CHECK_NAME,))


def upgrade() -> None:
    """Add both columns and the CHECK of one."""
    if op.get_context().dialect.name == "sqlite":
        # It has one lock, which the whole run holds, and takes a CHECK only with its column.
        op.execute("ALTER TABLE v3_plans ADD COLUMN execution_environment VARCHAR(255)")
        op.execute(f"ALTER TABLE v3_plans ADD COLUMN execution_env_priority VARCHAR(20) {CHECK}")
        return
    with_exclusive_lock(
        op,
        "v3_plans",
        f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS execution_environment VARCHAR(255)",
        f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS execution_env_priority VARCHAR(20)",
        # It may be there, of a run that was interrupted.
        f"ALTER TABLE {TABLE} DROP CONSTRAINT IF EXISTS {CHECK_NAME}",
        f"ALTER TABLE {TABLE} ADD {CHECK} NOT VALID",
    )
    validate_constraint(op, "v3_plans", CHECK_NAME)


def downgrade() -> None:
    """Drop both columns."""
    if op.get_context().dialect.name == "sqlite":
        for column in COLUMNS:
            op.execute(f"ALTER TABLE v3_plans DROP COLUMN {column}")
        return
    # An upgrade that was interrupted early has none yet.
    statements = [f"ALTER TABLE {TABLE} DROP COLUMN IF EXISTS {column}" for column in COLUMNS]
    with_exclusive_lock(op, "v3_plans", *statements, in_version_transaction=True)
