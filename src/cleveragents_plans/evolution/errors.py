"""What a migration can refuse, in one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

AGAIN = "run the same command again: it does what is left to do"


class EvolutionError(CommandError):
    """A migration was refused or given up; Alembic's command line prints its one line."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way calls the class with the message, which is not what it was made of.
        return _restored, (type(self), self.args, vars(self))


def _restored(
    kind: type[EvolutionError], args: tuple[Any, ...], facts: dict[str, Any]
) -> EvolutionError:
    error = kind.__new__(kind, *args)
    vars(error).update(facts)
    return error


#: The revision that runs, which its operations name in their errors; the runner sets it.
running_revision: ContextVar[str | None] = ContextVar("running_revision", default=None)


@contextmanager
def naming_revisions() -> Iterator[None]:
    """Let `running_revision` be set for each step of a run, and end with it."""
    token = running_revision.set(None)
    try:
        yield
    finally:
        running_revision.reset(token)


class OperationRefused(EvolutionError):
    """
    A revision asks for something that an operation cannot do, or not safely.

    It is raised before the operation changes anything.

    Attributes:
        operation: The operation, such as ``create_index``.
        revision: The revision; None outside of a run.
    """

    def __init__(self, operation: str, found: str, remedy: str) -> None:
        self.operation = operation
        self.revision: str | None = running_revision.get()
        where = f"{self.revision}: {operation}" if self.revision else operation
        super().__init__(f"{where}: {found}; {remedy}; {operation} changed nothing")


class ColumnInUse(EvolutionError):
    """
    Something else is made from a column that is to be dropped.

    Attributes:
        table: The table.
        column: The column.
        users: What depends on it.
    """

    def __init__(self, table: str, column: str, users: Sequence[str]) -> None:
        super().__init__(
            f"{table}.{column}, which this step would drop, is used by {', '.join(users)}; drop "
            "that first and make it again afterwards; nothing was changed"
        )
        self.table = table
        self.column = column
        self.users: list[str] = list(users)


class BackfillNeverEnds(EvolutionError):
    """
    Rows need to be written however often they are.

    Attributes:
        table: The table.
    """

    def __init__(self, table: str, found: str) -> None:
        super().__init__(
            f"the backfill of {table} would never end: {found}; disable a trigger that undoes it, "
            "or correct the revision, so that the condition is false for a row that was written "
            "(or let a trigger fill in what clients write meanwhile), and run the same command "
            "again"
        )
        self.table = table


class WrongDialect(EvolutionError):
    """
    An operation was asked for on a database that it is not for.

    Attributes:
        operation: The operation.
        dialect: The database that was found.
    """

    def __init__(self, operation: str, dialect: str) -> None:
        super().__init__(
            f"{operation} is for PostgreSQL, and this database is {dialect}; "
            "let the revision do this step in another way there"
        )
        self.operation = operation
        self.dialect = dialect


class ExternalTransaction(EvolutionError):
    """A transaction of the caller is open, so that a run can have no short ones of its own."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found}; Alembic must own the transactions: hand context.configure() a connection "
            "that is in none, with transaction_per_migration=True"
        )


def listed(found: Sequence[object]) -> str:
    """Name the sessions that were *found*, or say that there are none."""
    return "; ".join(str(one) for one in found) or "none that can be seen now"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """
    Give *error*, what it was raised from or while handling, and so on.

    What is raised last is often a clean-up that could not be done any more.
    """
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def sqlstate(error: DBAPIError) -> str | None:
    """Give the five characters by which PostgreSQL tells errors apart."""
    return getattr(error.orig, "sqlstate", None)
