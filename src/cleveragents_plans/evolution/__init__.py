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
from cleveragents_plans.evolution.recipes.column_archive import Archive
from cleveragents_plans.evolution.recipes.parent_trees import Tree
from cleveragents_plans.evolution.recipes.roots import Fill, fill_trigger, root_in_copy
from cleveragents_plans.evolution.runner import unfinished  # noqa: F401  likewise
from cleveragents_plans.evolution.sqlite import rebuild  # noqa: F401  likewise

__all__ = [
    "Archive",
    "EvolutionError",
    "Fill",
    "Tree",
    "allow_null",
    "create_trigger",
    "drop_trigger",
    "fill_trigger",
    "root_in_copy",
]
