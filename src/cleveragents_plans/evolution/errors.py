"""What a migration can refuse, in one line each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.printable import printable

AGAIN = "run the same command again: it does what is left to do"
_reading: ContextVar[bool] = ContextVar("reading", default=False)


@contextmanager
def only_reading() -> Iterator[None]:
    """Let `again` be said of a command that changes nothing, of which nothing is left to do."""
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def is_reading() -> bool:
    """Tell whether the command changes nothing."""
    return _reading.get()


def again() -> str:
    """Give `AGAIN` for a run, or what is said of a command that only reads."""
    return AGAIN.partition(":")[0] if is_reading() else AGAIN


#: What to do with a table that may hold what is nowhere else.
RENAME = "rename it, and drop it only if nothing in it is needed"


class EvolutionError(CommandError):
    """A migration was refused or given up; Alembic's command line prints its one line."""

    def __init__(self, message: str) -> None:
        # It may quote names of other roles, and Alembic prints it as it is.
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way calls the class with the message, which is not what it was made of.
        return _restored, (type(self), self.args, vars(self))


def _restored(
    kind: type[EvolutionError], args: tuple[Any, ...], facts: dict[str, Any]
) -> EvolutionError:
    error = kind.__new__(kind, *args)
    vars(error).update(facts)
    return error


@dataclass(frozen=True, slots=True)
class RunningRevision:
    """A revision while it is checked, rehearsed or run."""

    name: str
    #: Whether an earlier run began it, and did not end it.
    resumed: bool = False
    #: Tells whether a change of it, by this run or an earlier one, was committed.
    has_changes: Callable[[], bool] = lambda: False


#: The revision that runs, which its operations name in their errors; the runner sets it.
running_revision: ContextVar[RunningRevision | None] = ContextVar("running_revision", default=None)


@contextmanager
def naming_revisions() -> Iterator[None]:
    """Let `running_revision` be set for each step of a run, and end with it."""
    token = running_revision.set(None)
    try:
        yield
    finally:
        running_revision.reset(token)


def in_revision(text: str) -> str:
    """Put the name of the revision that runs, if one does, before *text*."""
    running = running_revision.get()
    return f"{running.name}: {text}" if running else text


def what_is_kept(operation: str) -> str:
    """Say what the database has kept of a revision whose *operation* was refused."""
    running = running_revision.get()
    if running is None:
        return f"{operation} changed nothing"
    if running.has_changes():
        return f"{operation} changed nothing, what the revision did before stays; {AGAIN}"
    return "the revision changed nothing"


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
        running = running_revision.get()
        self.revision: str | None = running.name if running else None
        super().__init__(f"{in_revision(operation)}: {found}; {remedy}; {what_is_kept(operation)}")


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
            in_revision(f"{table}.{column}, which this step would drop, is used by ")
            + f"{', '.join(users)}; drop that first and make it again afterwards; "
            + what_is_kept("drop_column")
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
        running = running_revision.get()
        kept = "what was changed before stays; " if running and running.has_changes() else ""
        super().__init__(
            in_revision(f"backfill: the backfill of {table} would never end: {found}; ")
            + "disable a trigger that undoes it, or correct the revision, so that the condition "
            "is false for a row that was written (or let a trigger fill in what clients write "
            f"meanwhile); {kept}{AGAIN}"
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

    What is raised last is often a clean-up that could not be done any more. Each is given once:
    Python allows an error that was raised from itself.
    """
    given: dict[int, BaseException] = {}
    while error is not None and id(error) not in given:
        given[id(error)] = error
        yield error
        error = error.__cause__ or error.__context__


#: The `sqlstate` of a name of a column that is not there.
UNDEFINED_COLUMN: Final = "42703"
#: The `sqlstate` of a lock that was not obtained in time.
LOCK_TIMEOUT: Final = "55P03"


def sqlstate(error: DBAPIError) -> str | None:
    """Give the five characters by which PostgreSQL tells errors apart."""
    return getattr(error.orig, "sqlstate", None)


#: The `sqlstate` of a row that is equal to another one in the columns of a unique index.
UNIQUE_VIOLATION: Final = "23505"
# The columns, of which the first is a name, and the values; in every language of the server.
_KEY = re.compile(r"\((\w+name(?:, \w+)*)\)=\((.*)\)", re.DOTALL)


def name_taken(error: DBAPIError) -> str | None:
    """
    Give the name for something new that another session took while a statement waited for it.

    The server says that rows of a catalog, such as ``pg_class`` or ``pg_type``, would be equal.
    """
    said: Any = getattr(error.orig, "diag", None)
    if sqlstate(error) != UNIQUE_VIOLATION or said.schema_name != "pg_catalog":
        return None
    found = _KEY.search(said.message_detail or "")
    # A name may have commas in it; the values after it have none.
    return found[2].rsplit(", ", found[1].count(", "))[0] if found else None


def message_of(error: DBAPIError) -> str:
    """Give what the database said, on one line and without the details, which may quote rows."""
    taken = name_taken(error)
    if taken is not None:
        return f"another session took the name {taken} meanwhile"
    said = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    return " ".join(str(said or error.orig).split())


def policies_bind(error: DBAPIError) -> bool:
    """Tell whether PostgreSQL refused to read or write a table whose policies bind the role."""
    said: Any = getattr(error.orig, "diag", None)
    # The source of the server, in every language that it speaks.
    return sqlstate(error) == "42501" and said.source_function == "check_enable_rls"


# In every language of the server; a block of a script is no function of anybody's.
_IN_FUNCTION = re.compile(r"PL/pgSQL[^\n]*?([^\s(]+\([^)\n]*\))")


def function_of(error: DBAPIError) -> str | None:
    """Name the function of PL/pgSQL in which the database refused something, if it was in one."""
    context = getattr(getattr(error.orig, "diag", None), "context", None) or ""
    found = _IN_FUNCTION.search(context)
    return found[1] if found else None
