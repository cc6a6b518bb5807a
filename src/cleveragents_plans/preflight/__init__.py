"""What an upgrade or a downgrade would refuse, wait for and take, found out without running it."""

from cleveragents_plans.preflight.findings import Preflight
from cleveragents_plans.preflight.preflight import preflight

__all__ = ["Preflight", "preflight"]
