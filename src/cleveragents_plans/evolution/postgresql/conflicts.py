"""Whether another session is why a batch was refused, and what is said if not."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import (
    AGAIN,
    EvolutionError,
    function_of,
    message_of,
    sqlstate,
)
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.lock_requests import LOCK_CONFLICTS

#: A row that another one refers to is not there, or is referred to.
FOREIGN_KEY_BROKEN = "23503"


class BackfillRefused(EvolutionError):
    """
    The database refuses rows of a backfill, and no other session is why.

    Attributes:
        table: The table.
    """

    def __init__(self, table: str, error: DBAPIError) -> None:
        found, remedy = reason_of(error)
        super().__init__(
            f"PostgreSQL refuses a batch of rows of {table}{found}; {remedy}, and {AGAIN}"
        )
        self.table = table


def reason_of(error: DBAPIError) -> tuple[str, str]:
    """Say in which function, or for which constraint, a batch was refused, and what ends it."""
    said: Any = getattr(error.orig, "diag", None)
    words, function = message_of(error)[:300], function_of(error)
    if function:
        return f" in the function {function}: {words}", "let it pass these rows, or disable it"
    if said is not None and said.constraint_name:
        found = f" for the constraint {said.constraint_name}: {words}"
        return found, "correct the rows, or drop it"
    return (
        f": {words}",
        "look for an index, a generated column or a trigger that refuses such a value",
    )


def is_conflict(connection: Connection, error: DBAPIError) -> bool:
    """
    Tell whether *error* comes from another session, so that the batch can be tried again.

    That is a lock, or a parent in the same table that was deleted meanwhile. A function that
    raises such an error refuses the rows, however often they are tried, and so does the foreign
    key of a value that is in no other table.

    Args:
        connection: One that can read the catalog: in no transaction that has failed.
        error: What a batch was refused with.
    """
    said: Any = getattr(error.orig, "diag", None)
    # The source of the server, in every language that it speaks.
    if said is None or said.source_function == "exec_stmt_raise":
        return False
    if sqlstate(error) in LOCK_CONFLICTS:
        return True
    names = {
        "schema": said.schema_name,
        "table": said.table_name,
        "constraint": said.constraint_name,
    }
    return sqlstate(error) == FOREIGN_KEY_BROKEN and bool(
        run(connection, _WITHIN_A_TABLE, names).scalar_one()
    )


_WITHIN_A_TABLE = """\
SELECT EXISTS (
  SELECT FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = CAST(%(schema)s AS text) AND c.relname = CAST(%(table)s AS text)
     AND f.conname = CAST(%(constraint)s AS text) AND f.contype = 'f'
     AND coalesce(pg_partition_root(f.conrelid)::oid, f.conrelid)
         = coalesce(pg_partition_root(f.confrelid)::oid, f.confrelid))"""
