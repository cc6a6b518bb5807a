"""
Index what workers take, what trees are walked by, and what listings look for

Why:    deleting a plan, a poll of the queue and a listing of few plans read the whole table;
        docs/indexes.md has what each index saves and what it costs.
Rows:   none is changed.
Undo:   drops the indexes of these names and definitions. An equal index that was there under
        another name is used on the way up, and stays on the way down, as does an index of one of
        these names that is defined otherwise.
Locks:  PostgreSQL: CREATE INDEX CONCURRENTLY, so neither readers nor writers wait; each index waits
        for the transactions that are older. An INVALID index of one of these names is built anew.
        SQLite: the file, for one transaction.

Every step can be repeated: a run that was interrupted, in either direction, is run again in
either direction.

Revision: m8_002_index_plans, after m8_001_align_plans_schema
"""

from alembic import op

from cleveragents_plans.evolution import (
    check_index_names,
    check_index_rows,
    create_index,
    drop_index,
    indexes_of,
)

revision = "m8_002_index_plans"
down_revision = "m8_001_align_plans_schema"
branch_labels = None
depends_on = None


_OPEN = "processing_state NOT IN ('applied', 'cancelled')"

# The name, the table, the columns, and which rows the index has, if not all.
INDEXES = (
    # The database itself looks for the plans below one that is deleted.
    ("ix_v3_plans_parent_plan_id", "v3_plans", ("parent_plan_id",), "parent_plan_id IS NOT NULL"),
    ("ix_v3_plans_queued", "v3_plans", ("phase", "plan_id"), "processing_state = 'queued'"),
    ("ix_v3_plans_processing", "v3_plans", ("updated_at",), "processing_state = 'processing'"),
    ("ix_v3_plans_open", "v3_plans", ("processing_state", "plan_id"), _OPEN),
    # Trees that ended long ago are found by their roots.
    ("ix_v3_plans_completed_roots", "v3_plans", ("completed_at",), "root_plan_id = plan_id"),
    ("ix_v3_plans_namespace", "v3_plans", ("namespace", "plan_id"), None),
    ("ix_v3_plans_created_at", "v3_plans", ("created_at",), None),
    ("ix_plan_projects_project_name", "plan_projects", ("project_name", "plan_id"), None),
)


def is_applied() -> bool | None:
    """Tell whether the tables look as if this revision had been run; None if they do not tell."""
    found = {
        (table, each)
        for table in ("v3_plans", "plan_projects")
        for name, index in indexes_of(op, table).items()
        for each in (name, tuple(index["column_names"]))
    }
    # Where one lacks, an operator may have dropped it.
    return all(not found.isdisjoint({(it[1], it[0]), (it[1], it[2])}) for it in INDEXES) or None


def check_upgrade() -> None:
    """Refuse names that something else has, and rows that are too wide, before the first step."""
    _check_names()
    for table in ("v3_plans", "plan_projects"):
        columns = {name: columns for name, of, columns, _ in INDEXES if of == table}
        check_index_rows(op, table, columns)


def check_downgrade() -> None:
    """Refuse names that something else has, before the first step of a longer way down."""
    _check_names()


def _check_names() -> None:
    for name, table, _, _ in INDEXES:
        check_index_names(op, table, name)


def upgrade() -> None:
    """Create the indexes that are not there."""
    for name, table, columns, where in INDEXES:
        create_index(op, name, table, columns, where=where, use_equal=True)


def downgrade() -> None:
    """Drop the indexes that this revision created."""
    for name, table, columns, where in reversed(INDEXES):
        drop_index(op, name, table, columns, where=where)
