"""Short transactions of our own inside a revision, and SQL that is sent as it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, CursorResult

from cleveragents_plans.evolution.errors import ExternalTransaction, WrongDialect
from cleveragents_plans.evolution.op import Op


@contextmanager
def online(op: Op) -> Iterator[Connection]:
    """
    Leave Alembic's transaction for a while: each statement is one of its own.

    What the revision did so far is committed. Blocks may be nested; afterwards Alembic
    has a new transaction, in which the version changes.

    Raises:
        ExternalTransaction: Alembic has not begun the transaction.
    """
    context = op.get_context()
    connection = context.connection
    assert connection is not None  # noqa: S101  # on line there is one
    if in_autocommit(connection):
        yield connection
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(context.autocommit_block())
        except (AssertionError, AttributeError):  # what Alembic does then
            raise ExternalTransaction("the connection was in a transaction already") from None
        yield connection


def in_autocommit(connection: Connection) -> bool:
    """Tell whether each statement on *connection* is a transaction of its own."""
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


def require_postgresql(op: Op, operation: str) -> MigrationContext:
    """
    Give the context of *op*.

    Raises:
        WrongDialect: The database is not PostgreSQL.
    """
    context = op.get_context()
    if context.dialect.name != "postgresql":
        raise WrongDialect(operation, context.dialect.name)
    return context


def run(
    connection: Connection, sql: str, parameters: Mapping[str, Any] | None = None
) -> CursorResult[*tuple[Any, ...]]:
    """
    Send *sql* to the server, character by character.

    Neither ``:name`` nor ``%`` mean anything in it, unless there are *parameters*: then
    ``%(name)s`` does.
    """
    if parameters is None:
        return connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
    return connection.exec_driver_sql(sql, dict(parameters))


def _ended(statement: str) -> str:
    text = statement.strip().rstrip(";")
    # A semicolon behind a trailing comment would be part of it.
    return text + ("\n;" if "--" in text.rsplit("\n", 1)[-1] else ";")


def write_sql(context: MigrationContext, *statements: str) -> None:
    """Write *statements* into the offline script, character by character."""
    for statement in statements:
        context.impl.static_output(_ended(statement))


def as_table_owner(table: str) -> str:
    """
    Give the statement after which what a transaction creates belongs to the owner of *table*.

    *table* is named as in SQL, with its schema. A superuser who migrates must not leave
    functions behind that run with a superuser's rights.
    """
    return f"""\
SELECT set_config('role', pg_get_userbyid(c.relowner), true)
  FROM pg_class c WHERE c.oid = to_regclass('{table}')"""


def raise_if(condition: str, message: str, hint: str) -> str:
    """
    Give a statement that raises *message*, with *hint*, where *condition* is true.

    It checks in the transaction that it protects, and in a script, which cannot ask. What it
    raises is told as it is, see `StatementFailed`.
    """
    message, hint = (each.replace("'", "''") for each in (message, hint))
    return f"""\
DO $check$ BEGIN
  IF {condition} THEN
    RAISE EXCEPTION USING MESSAGE = '{message}',
      HINT = '{hint}';
  END IF;
END $check$"""


@contextmanager
def transaction(connection: Connection, begin: str = "BEGIN") -> Iterator[None]:
    """Hold one transaction on a *connection* that has none by itself."""
    run(connection, begin)
    try:
        yield
    except BaseException:
        if not connection.invalidated:
            run(connection, "ROLLBACK")
        raise
    run(connection, "COMMIT")


@contextmanager
def session(connection: Connection, **wanted: str) -> Iterator[None]:
    """Set parameters of the session for a while; those that the server does not know are left."""
    former = parameters(connection, wanted)
    set_parameters(connection, {name: wanted[name] for name in former})
    try:
        yield
    finally:
        if not connection.invalidated:
            set_parameters(connection, former)


def parameters(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Read those parameters of the session that the server knows."""
    query = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%(names)s)"
    return {row[0]: row[1] for row in run(connection, query, {"names": list(names)})}


def set_parameters(
    connection: Connection, values: Mapping[str, str], *, local: bool = False
) -> None:
    """Set parameters of the session; *local*: until the transaction ends."""
    scope = str(local).lower()
    calls = ", ".join(f"set_config('{name}', %({name})s, {scope})" for name in values)
    run(connection, f"SELECT {calls}", values)
