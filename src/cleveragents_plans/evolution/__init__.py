"""
Operations for revisions that change a live table; nothing here knows what a plan is.

Importing this package registers them on Alembic's ``op``.
"""

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql import (  # noqa: F401  to register their operations
    backfill,
    checks,
    constraints,
    locks,
)
from cleveragents_plans.evolution.postgresql.constraints import allow_null
from cleveragents_plans.evolution.postgresql.triggers import create_trigger, drop_trigger
from cleveragents_plans.evolution.recipes import guarded_drop  # noqa: F401  likewise
from cleveragents_plans.evolution.recipes.column_archive import ColumnArchive
from cleveragents_plans.evolution.recipes.parent_trees import ParentTree
from cleveragents_plans.evolution.recipes.roots import ColumnDefault, fill_trigger, root_in_copy
from cleveragents_plans.evolution.runner import unfinished  # noqa: F401  likewise
from cleveragents_plans.evolution.sqlite import rebuild  # noqa: F401  likewise

__all__ = [
    "ColumnArchive",
    "ColumnDefault",
    "EvolutionError",
    "ParentTree",
    "allow_null",
    "create_trigger",
    "drop_trigger",
    "fill_trigger",
    "root_in_copy",
]
