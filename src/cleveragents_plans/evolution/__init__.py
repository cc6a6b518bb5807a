"""
Everything that a revision may use; nothing here knows what a plan is.

Operations are plain functions whose first argument is Alembic's ``op``.
"""

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.expressions import Sql, json_integer, json_text
from cleveragents_plans.evolution.lookups import (
    columns_of,
    indexes_of,
    missing_parts,
    qualified_name,
)
from cleveragents_plans.evolution.operations.backfill import backfill
from cleveragents_plans.evolution.operations.columns import (
    add_column,
    drop_column,
    drop_default,
    rename_column,
    set_default,
)
from cleveragents_plans.evolution.operations.constraints import (
    add_check,
    add_foreign_key,
    drop_constraint,
    drop_not_null,
    set_not_null,
)
from cleveragents_plans.evolution.operations.indexes import (
    check_index_names,
    check_index_rows,
    create_index,
    drop_index,
)
from cleveragents_plans.evolution.operations.keys import check_key
from cleveragents_plans.evolution.operations.names import check_new_names
from cleveragents_plans.evolution.operations.triggers import create_trigger, drop_trigger
from cleveragents_plans.evolution.postgresql.alterations import check_alterable
from cleveragents_plans.evolution.postgresql.batches import run_in_batches
from cleveragents_plans.evolution.postgresql.checks import check_writable
from cleveragents_plans.evolution.postgresql.column_users import check_droppable
from cleveragents_plans.evolution.postgresql.constraints import validate_constraint
from cleveragents_plans.evolution.postgresql.kept_not_null import (
    check_drop_not_null,
    check_set_not_null,
)
from cleveragents_plans.evolution.postgresql.locks import with_exclusive_lock
from cleveragents_plans.evolution.postgresql.not_null import drop_not_null_sql
from cleveragents_plans.evolution.postgresql.row_security import check_row_security
from cleveragents_plans.evolution.postgresql.triggers import Trigger, drop_trigger_sql
from cleveragents_plans.evolution.recipes.column_archive import (
    ColumnArchive,
    archive_column,
    check_archive,
    drop_if_empty,
    restore_column,
)
from cleveragents_plans.evolution.recipes.guarded_drop import check_drop_tables, drop_tables
from cleveragents_plans.evolution.recipes.parent_trees import ParentTree, check_parent_tree
from cleveragents_plans.evolution.recipes.root_finder import root_in_copy
from cleveragents_plans.evolution.recipes.roots import ColumnDefault, fill_roots, fill_trigger
from cleveragents_plans.evolution.sqlite.rebuild import rebuild_table
from cleveragents_plans.evolution.sqlite.written_values import check_insertable

__all__ = [
    "ColumnArchive",
    "ColumnDefault",
    "EvolutionError",
    "ParentTree",
    "Sql",
    "Trigger",
    "add_check",
    "add_column",
    "add_foreign_key",
    "archive_column",
    "backfill",
    "check_alterable",
    "check_archive",
    "check_drop_not_null",
    "check_drop_tables",
    "check_droppable",
    "check_index_names",
    "check_index_rows",
    "check_insertable",
    "check_key",
    "check_new_names",
    "check_parent_tree",
    "check_row_security",
    "check_set_not_null",
    "check_writable",
    "columns_of",
    "create_index",
    "create_trigger",
    "drop_column",
    "drop_constraint",
    "drop_default",
    "drop_if_empty",
    "drop_index",
    "drop_not_null",
    "drop_not_null_sql",
    "drop_tables",
    "drop_trigger",
    "drop_trigger_sql",
    "fill_roots",
    "fill_trigger",
    "indexes_of",
    "json_integer",
    "json_text",
    "missing_parts",
    "qualified_name",
    "rebuild_table",
    "rename_column",
    "restore_column",
    "root_in_copy",
    "run_in_batches",
    "set_default",
    "set_not_null",
    "validate_constraint",
    "with_exclusive_lock",
]
