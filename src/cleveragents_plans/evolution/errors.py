"""What a migration can refuse, in one line each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from cleveragents_plans.evolution.waiting import Blocker

AGAIN = "run the same command again: what is done stays done"


class EvolutionError(CommandError):
    """A migration was refused or given up; Alembic's command line prints its one line."""


class Interrupted(EvolutionError):
    """Somebody pressed Ctrl-C."""

    def __init__(self) -> None:
        super().__init__(f"interrupted; to go on, {AGAIN}")


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


class TransactionNotOurs(EvolutionError):
    """Somebody else's transaction is open, so that short ones of our own are impossible."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found}; Alembic must own the transactions: hand context.configure() a connection "
            "that is in none, with transaction_per_migration=True"
        )


class BadSetting(EvolutionError):
    """
    A setting has a value that cannot be used.

    Attributes:
        name: The setting.
        found: Its value.
    """

    def __init__(self, name: str, found: object, expected: str) -> None:
        super().__init__(f"the setting {name} is {found!r}; expected {expected}")
        self.name = name
        self.found = found


class LockNotObtained(EvolutionError):
    """
    Others were in the way of a lock for too long.

    Attributes:
        table: The table to be locked.
        waited: For how many seconds.
        blockers: Who was in the way when last looked.
    """

    def __init__(self, table: str, waited: float, blockers: Sequence[Blocker]) -> None:
        super().__init__(
            f"no lock on {table} in {waited:.0f} s; in the way: {listed(blockers)}; end what is "
            f"in the way or give a longer -x lock-wait=SECONDS, and {AGAIN}"
        )
        self.table = table
        self.waited = waited
        self.blockers = tuple(blockers)


class MigrationLockNotObtained(EvolutionError):
    """
    Another process went on migrating for too long.

    Attributes:
        lock: What was waited for.
        waited: For how many seconds.
        holders: Who has it.
    """

    def __init__(self, lock: str, waited: float, holders: Sequence[object] = ()) -> None:
        super().__init__(
            f"{lock} is still taken after {waited:.0f} s, by {listed(holders)}; wait until that "
            "process is done (or give a longer -x migration-lock-wait=SECONDS) and run the same "
            "command again"
        )
        self.lock = lock
        self.waited = waited
        self.holders = tuple(holders)


class SessionNotOurs(EvolutionError):
    """
    Transactions on one connection are in different sessions of the server.

    Attributes:
        lock: What was taken in a session and is not held in the next one.
    """

    def __init__(self, lock: str) -> None:
        super().__init__(
            f"{lock} was obtained, and the next transaction did not have it: a pooler gives each "
            "transaction another session (pgbouncer in transaction mode?); expected one session "
            "for the whole run: connect to the server directly; nothing was changed"
        )
        self.lock = lock


class BackfillStuck(EvolutionError):
    """
    Rows still need to be written, and none could be for too long.

    Attributes:
        table: The table.
        left: How many rows need it.
        keys: Some of them.
        waited: For how many seconds none was written.
        blockers: Who holds locks on the table.
    """

    def __init__(
        self,
        table: str,
        left: int,
        keys: Sequence[object],
        waited: float,
        blockers: Sequence[Blocker],
    ) -> None:
        shown = ", ".join(str(key) for key in keys)
        super().__init__(
            f"{left} rows of {table} still have to be written, and for {waited:.0f} s none could "
            f"be, such as {shown}; perhaps in the way: {listed(blockers)}; end what locks the "
            f"rows, and {AGAIN}"
        )
        self.table = table
        self.left = left
        self.keys = tuple(keys)
        self.waited = waited
        self.blockers = tuple(blockers)


class NullsRemain(EvolutionError):
    """
    A column cannot become NOT NULL yet.

    Attributes:
        table: The table.
        column: The column in which a NULL was found.
    """

    def __init__(self, table: str, column: str) -> None:
        super().__init__(
            f"{table}.{column} has a NULL that was written after the rows were filled in (is the "
            f"trigger that fills them disabled?); {AGAIN}"
        )
        self.table = table
        self.column = column


class InterruptedRun(EvolutionError):
    """
    A revision was interrupted, and the command does not complete it or take it back.

    Attributes:
        revision: The revision that is half done.
        direction: The direction it was going in.
    """

    def __init__(self, revision: str, down_revision: str | None, direction: str) -> None:
        ways = [f"upgrade {revision}", f"downgrade {down_revision or 'base'}"]
        onward, back = ways if direction == "upgrade" else reversed(ways)
        super().__init__(
            f"the {direction} of {revision} was interrupted: the database is between two versions, "
            f"and this command leaves it there; run `alembic {onward}` to complete it or "
            f"`alembic {back}` to take it back"
        )
        self.revision = revision
        self.direction = direction


class NoConnection(EvolutionError):
    """
    The database cannot be reached, or was lost on the way.

    Attributes:
        target: What the database is called.
        reason: What the driver said, on one line and without passwords.
    """

    def __init__(self, target: str, reason: str, *, lost: bool) -> None:
        super().__init__(
            f"the connection to {target} was lost ({reason}); when it is back, {AGAIN}"
            if lost
            else f"{target} cannot be opened ({reason}); nothing was changed"
        )
        self.target = target
        self.reason = reason

    @classmethod
    def of(cls, target: str, error: DBAPIError, *, lost: bool) -> Self:
        """Take the reason from what the driver said."""
        return cls(target, _one_line(error), lost=lost)


@contextmanager
def clear_opening(target: str) -> Iterator[None]:
    """
    Turn a connection that cannot be made into one line.

    *target* is what to call the database, without a password.

    Raises:
        NoConnection: The connection cannot be made.
    """
    try:
        yield
    except DBAPIError as error:
        raise NoConnection.of(target, error, lost=False) from error


@contextmanager
def clear_errors(target: str = "the database") -> Iterator[None]:
    """
    Turn a connection that is lost into one line; other errors pass.

    *target* is what to call the database, without a password.

    Raises:
        NoConnection: The connection was lost.
    """
    try:
        yield
    except Exception as error:
        # What is raised last may only be a clean-up that failed on the dead connection.
        for cause in _chain(error):
            if isinstance(cause, EvolutionError):
                break
            if isinstance(cause, DBAPIError) and cause.connection_invalidated:
                raise NoConnection.of(target, cause, lost=True) from error
        raise


def listed(found: Sequence[object]) -> str:
    """Name those that were *found*, or say that nobody was."""
    return "; ".join(str(one) for one in found) or "nobody that can be seen now"


def sqlstate(error: DBAPIError) -> str | None:
    """Give the five characters by which PostgreSQL tells errors apart."""
    return getattr(error.orig, "sqlstate", None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(error: DBAPIError) -> str:
    text = " ".join(str(error.orig).split())
    text = re.sub(r"(?i)(password\s*=\s*)('[^']*'|\S+)", r"\1***", text)
    text = re.sub(r"://([^:/@\s]*):[^\s]*@", r"://\1:***@", text)
    return text[:300] or type(error.orig).__name__
