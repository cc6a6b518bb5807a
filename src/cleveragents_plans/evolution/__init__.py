"""
Operations for revisions that change a live table; nothing here knows what a plan is.

Importing this package registers them on Alembic's ``op``.
"""

from cleveragents_plans.evolution import (  # noqa: F401  imported to register their operations
    backfill,
    drop,
    locks,
    marker,
    not_null,
    rebuild,
    trees,
)
from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.not_null import allow_null

__all__ = ["EvolutionError", "allow_null"]
