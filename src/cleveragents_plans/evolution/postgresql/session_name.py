"""
The name of the session that migrates, as `pg_stat_activity` shows it: how far the run is.

A name that was given (in the URL, by PGAPPNAME) stays.
"""

from __future__ import annotations

import re

from sqlalchemy import Connection

from cleveragents_plans.evolution import under_way
from cleveragents_plans.evolution.postgresql.connection import run

_PROGRAM = "cleveragents-plans"
# What is remembered of each connection: whether its name is ours to set.
_OURS = "evolution.session_name"
# m8_001 of m8_001_align_plans_schema.
_SHORT = re.compile(r"[a-z]*\d+_\d+(?=_)", re.IGNORECASE)
_MAX_REVISION = 30


def claim_session_name(connection: Connection) -> None:
    """Name the session after the program, if it has no name."""
    # The search path is still that of the role, so no operator stands in these statements.
    found = run(connection, "SELECT pg_catalog.current_setting('application_name')").scalar_one()
    connection.info[_OURS] = not found
    if not found:
        run(connection, f"SELECT pg_catalog.set_config('application_name', '{_PROGRAM}', false)")


def session_name(connection: Connection) -> str | None:
    """Give the name that the session is to have now; None where it has one that was given."""
    if not connection.info.get(_OURS):
        return None
    found = under_way.look()
    parts = [_PROGRAM]
    if found.revision:
        parts.append(short_revision(found.revision)[:_MAX_REVISION])
    if found.figures and found.figures.total:
        parts.append(f"{min(99, 100 * found.figures.done // found.figures.total)} %")
    return " ".join(parts)


def short_revision(revision: str) -> str:
    """Give the beginning of a *revision* by which Alembic knows it, such as ``m8_001``."""
    short = _SHORT.match(revision)
    return short[0] if short else revision


def name_session(connection: Connection) -> None:
    """Name the session after what is under way; the *connection* is in no transaction."""
    if name := session_name(connection):
        run(connection, "SELECT set_config('application_name', %(name)s, false)", {"name": name})
        connection.commit()
