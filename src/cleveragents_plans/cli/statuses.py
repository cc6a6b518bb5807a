"""Exit statuses: what a script, a Job or a service can tell by them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from enum import IntEnum

from sqlalchemy.exc import DBAPIError

from cleveragents_plans.domain.errors import InvalidArgument
from cleveragents_plans.evolution.errors import causes, sqlstate
from cleveragents_plans.evolution.postgresql.conflicts import BackfillRefused
from cleveragents_plans.evolution.postgresql.lock_requests import LOCK_CONFLICTS
from cleveragents_plans.evolution.postgresql.locks import LockNotObtained
from cleveragents_plans.evolution.postgresql.stuck_backfills import BackfillStuck
from cleveragents_plans.evolution.runner.connection_errors import (
    ConnectionFailed,
    LoginRefused,
    NotADatabase,
)
from cleveragents_plans.evolution.runner.migration_lock import MigrationLockNotObtained
from cleveragents_plans.evolution.sqlite.transaction import FileLocked
from cleveragents_plans.persistence import UnknownFilter


class ExitStatus(IntEnum):
    """
    What an exit status means.

    Those of sysexits.h are kept where one fits: 69 is EX_UNAVAILABLE, 75 is EX_TEMPFAIL. A run that
    a signal ended has 128 + its number, as in a shell: 129, 130 or 143.
    """

    #: It is done, or all is well.
    DONE = 0
    #: It was refused, and would be again: a person must act.
    REFUSED = 1
    #: The command cannot be used like that.
    USAGE = 2
    #: The database is behind the newest revision, or something was found.
    FOUND = 3
    #: A revision was interrupted: the database is between two versions.
    UNFINISHED = 4
    #: The database cannot be reached.
    UNREACHABLE = 69
    #: A lock was not obtained in time, or the connection was lost: run it again.
    AGAIN = 75
    #: SIGINT arrived.
    INTERRUPTED = 130


_REFUSED = (LoginRefused, NotADatabase)
_AGAIN = (LockNotObtained, MigrationLockNotObtained, FileLocked)
_USAGE = (InvalidArgument, UnknownFilter)


def status_of(error: Exception) -> ExitStatus:
    """Tell with which status a command ends that raises *error*."""
    if isinstance(error, ConnectionFailed) and not isinstance(error, _REFUSED):
        return ExitStatus.AGAIN if error.lost else ExitStatus.UNREACHABLE
    if isinstance(error, BackfillRefused):  # also where a trigger raises the code of a lock itself
        return ExitStatus.REFUSED
    rows_locked = isinstance(error, BackfillStuck) and error.is_lock
    if rows_locked or isinstance(error, _AGAIN) or _lock_conflict(error):
        return ExitStatus.AGAIN
    return ExitStatus.USAGE if isinstance(error, _USAGE) else ExitStatus.REFUSED


def _lock_conflict(error: Exception) -> bool:
    """Tell whether the database refused a statement because of another session."""
    found = next((each for each in causes(error) if isinstance(each, DBAPIError)), None)
    busy = getattr(found and found.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    return busy or (found is not None and sqlstate(found) in LOCK_CONFLICTS)


# The worst first: what needs a person, what the database is in, what another run may do.
_WORST = (
    ExitStatus.USAGE,
    ExitStatus.REFUSED,
    ExitStatus.UNFINISHED,
    ExitStatus.FOUND,
    ExitStatus.UNREACHABLE,
    ExitStatus.AGAIN,
    ExitStatus.DONE,
)


def worst(statuses: Iterable[int]) -> int:
    """
    Give the exit status of a run on many databases, each of which has one.

    That of a signal is before all others; then 2, 1, 4, 3, 69, 75 and 0.
    """
    found = {*statuses}
    signals = [each for each in found if each not in _WORST]
    return max(signals) if signals else next(each for each in _WORST if each in found)
