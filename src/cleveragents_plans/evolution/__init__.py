"""
Operations for revisions that change a live table; nothing here knows what a plan is.

Importing this package registers them on Alembic's ``op``.
"""

from cleveragents_plans.evolution import (  # noqa: F401  imported to register their operations
    backfill,
    drop,
    locks,
    looks,
    marker,
    not_null,
    rebuild,
)
from cleveragents_plans.evolution.archive import Archive
from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.not_null import allow_null
from cleveragents_plans.evolution.roots import Fill, fill_trigger, root_in_copy
from cleveragents_plans.evolution.trees import Tree
from cleveragents_plans.evolution.triggers import create_trigger, drop_trigger

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
