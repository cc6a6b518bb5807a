"""
The schema of the plans, for programs: migrate it, create it for tests, keep it beside others.

`upgrade`, `downgrade`, `current` and `create_schema` take a URL, an engine, a connection, or
an engine of asyncio, for which they are awaited. They print nothing: what an operator would
see is logged, by the logger ``alembic``. They can be called in threads: one migrates at a time
in a process. What is refused raises Alembic's ``CommandError``, with one line that says what
was found, and what to do.
"""

from cleveragents_plans.schema.chain import (
    chain_config,
    chain_location,
    include_object,
    run_environment,
)
from cleveragents_plans.schema.creation import create_schema
from cleveragents_plans.schema.migration import current, downgrade, upgrade

__all__ = [
    "chain_config",
    "chain_location",
    "create_schema",
    "current",
    "downgrade",
    "include_object",
    "run_environment",
    "upgrade",
]
