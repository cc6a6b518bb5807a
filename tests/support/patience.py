"""A machine that stalls for some seconds is not taken for a process that has frozen."""

from __future__ import annotations

from cleveragents_plans.evolution.postgresql import locks

_LIMIT = "idle_in_transaction_session_timeout"

#: After that the server ends a session that has the exclusive lock and does nothing.
AS_RELEASED = locks._UNDER_LOCK[_LIMIT]


def set_limit(limit: str) -> None:
    """Let runs of this process have another limit."""
    locks._UNDER_LOCK[_LIMIT] = limit
