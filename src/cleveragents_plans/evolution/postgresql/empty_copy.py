"""Try a statement on an empty copy of a table, before a lock on the table itself is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import OperationRefused, sqlstate
from cleveragents_plans.evolution.postgresql.connection import run

_MAY_NOT = "42501"
# Syntax error, feature not supported, data that a constant cannot have, and the like: what
# the revision says is wrong, whatever the rows are.
_OF_THE_REVISION = ("42", "0A", "22", "2B", "3F")


@contextmanager
def empty_copy(connection: Connection, operation: str, table: str) -> Iterator[str]:
    """
    Give the name of an empty temporary table with the columns of *table*, the quoted name.

    PostgreSQL refuses there what it would refuse on the table itself. It takes ACCESS SHARE
    on *table* for some milliseconds; all of it is rolled back.

    Raises:
        OperationRefused: A statement was refused because of what it says, or the role may
            not create temporary tables.
    """
    run(connection, "BEGIN")
    try:
        with refusing(operation):
            run(connection, f"CREATE TEMPORARY TABLE evolution_copy (LIKE {table})")
            yield "pg_temp.evolution_copy"
    finally:
        if not connection.invalidated:
            run(connection, "ROLLBACK")


@contextmanager
def refusing(operation: str) -> Iterator[None]:
    """
    Turn what PostgreSQL finds wrong with the text of a statement into one line.

    Raises:
        OperationRefused: Such an error came up; others pass.
    """
    try:
        yield
    except DBAPIError as error:
        state = sqlstate(error) or ""
        if not state.startswith(_OF_THE_REVISION):
            raise
        diagnosis = getattr(error.orig, "diag", None)
        said = " ".join(str(getattr(diagnosis, "message_primary", error.orig)).split())
        remedy = "grant the role what it lacks" if state == _MAY_NOT else "correct the revision"
        raise OperationRefused(operation, f"PostgreSQL refuses it ({said})", remedy) from error
