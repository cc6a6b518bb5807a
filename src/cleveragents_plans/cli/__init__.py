"""The command line: ``cleveragents-plans``, also as ``python -m cleveragents_plans``."""

from cleveragents_plans.cli.main import main

__all__ = ["main"]
