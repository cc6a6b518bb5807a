"""A connection that cannot be made, or is lost, as one line without a password."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import AGAIN, EvolutionError, causes
from cleveragents_plans.evolution.postgresql.products import refuse_other_server


class ConnectionFailed(EvolutionError):
    """
    The database cannot be reached, or was lost on the way.

    Attributes:
        target: What the database is called.
        reason: What the driver said, on one line and without passwords.
        lost: Whether it was lost on the way.
    """

    def __init__(self, target: str, reason: str, *, lost: bool) -> None:
        super().__init__(
            f"the connection to {target} was lost ({reason}); when it is back, {AGAIN}"
            if lost
            else f"{target} cannot be opened ({reason}); nothing was changed"
        )
        self.target = target
        self.reason = reason
        self.lost = lost

    @classmethod
    def of(cls, target: str, error: DBAPIError, *, lost: bool) -> Self:
        """Take the reason from what the driver said."""
        reason = _one_line(error)
        explained = [text for words, text in _EXPLAINED.items() if words in reason]
        return cls(target, "; ".join((reason, *explained)), lost=lost)


class NotADatabase(ConnectionFailed):
    """The file is there, and SQLite did not write it."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, f"{reason}; check the path", lost=False)


class LoginRefused(ConnectionFailed):
    """The server answers, and refuses the role, its password or the database."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, reason, lost=False)


# What the driver says of these says little.
_EXPLAINED = {
    "statement pooling mode": "it is a pooler in statement mode: connect to the server itself",
}


@contextmanager
def report_connection_failed(target: str) -> Iterator[None]:
    """
    Turn a connection that cannot be made into one line.

    *target* is what to call the database, without a password.

    Raises:
        ConnectionFailed: The connection cannot be made.
        ServerNotSupported: It is one to a server that SQLAlchemy does not know.
    """
    try:
        yield
    except DBAPIError as error:
        raise ConnectionFailed.of(target, error, lost=False) from error
    except AssertionError as error:  # SQLAlchemy's
        if version := re.search(r"Could not determine version from string '(.*)'", str(error)):
            refuse_other_server(version[1], target)
        raise


@contextmanager
def report_connection_lost(target: str = "the database") -> Iterator[None]:
    """
    Turn a connection that is lost into one line; other errors pass.

    *target* is what to call the database, without a password.

    Raises:
        ConnectionFailed: The connection was lost.
    """
    try:
        yield
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, EvolutionError):
                break
            if isinstance(cause, DBAPIError) and cause.connection_invalidated:
                raise ConnectionFailed.of(target, cause, lost=True) from error
        raise


def _one_line(error: DBAPIError) -> str:
    text = " ".join(str(error.orig).split())
    text = re.sub(r"(?i)(password\s*=\s*)('[^']*'|\S+)", r"\1***", text)
    text = re.sub(r"://([^:/@\s]*):[^\s]*@", r"://\1:***@", text)
    return text[:300] or type(error.orig).__name__
