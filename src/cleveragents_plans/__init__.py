"""Lifecycle plans: what they are, how they are kept, and how their table changes."""

from cleveragents_plans import domain, persistence
from cleveragents_plans.domain import *  # noqa: F403  the domain's public names are the package's
from cleveragents_plans.persistence import *  # noqa: F403  and so are those of persistence

__version__ = "0.2.0"
__all__ = [*domain.__all__, *persistence.__all__, "__version__"]
