"""Whether a database is as its revision makes it, and whether its plans can be read."""

from cleveragents_plans.verification.findings import Finding, Kind
from cleveragents_plans.verification.repair import repair_roots
from cleveragents_plans.verification.verify import Verification, verify

__all__ = ["Finding", "Kind", "Verification", "repair_roots", "verify"]
