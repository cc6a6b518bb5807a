"""The function of the trigger that fills in what a former release leaves out (PostgreSQL)."""

from __future__ import annotations

from typing import Final

from cleveragents_plans.evolution.postgresql.search_path import SETTINGS
from cleveragents_plans.persistence import triggers

#: The name of the trigger and of its function.
FILL: Final = "v3_plans_fill"
#: Where the SQL is that creates both; tests/docs/test_security.py types it.
FILL_SQL: Final = '"To create v3_plans_fill again" in docs/security.md'


def is_ours(body: str, settings: list[str] | None, schema: str) -> bool:
    """Tell whether a function of *schema*, as in SQL, is the one that this release creates."""
    return has_our_body(body, schema) and has_our_settings(settings)


def has_our_settings(settings: list[str] | None) -> bool:
    """Tell whether *settings*, as ``pg_proc`` has them, are those of that function."""
    return settings is not None and len(settings) == 1 and settings[0] in SETTINGS


def has_our_body(body: str, schema: str) -> bool:
    """Tell whether *body* is that which this release gives the function in *schema*."""
    # The statements are the function, its body between $$, and the trigger.
    return _lines(body) == _lines(triggers.STATEMENTS.split("$$")[1].replace("{schema}", schema))


def _lines(body: str) -> list[str]:
    return [line.rstrip() for line in body.strip().splitlines()]
