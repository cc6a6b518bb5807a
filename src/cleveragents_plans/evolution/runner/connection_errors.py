"""A connection that cannot be made, or is lost, as one line without a password."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

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
    def of(cls, target: str, error: DBAPIError, *, lost: bool, url: URL | None = None) -> Self:
        """Take the reason from what the driver said, without what *target* hides of *url*."""
        reason = _one_line(error, _hidden(url, target) if url is not None else [])
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


_SHORT = 3
# What the driver says of these says little.
_EXPLAINED = {
    "statement pooling mode": "it is a pooler in statement mode: connect to the server itself",
}


@contextmanager
def report_connection_failed(target: str, url: URL | None = None) -> Iterator[None]:
    """
    Turn a connection that cannot be made into one line.

    *target* is what to call the database, without a password. The driver quotes parts of the
    *url* that it cannot use: those that *target* hides are hidden there, too.

    Raises:
        ConnectionFailed: The connection cannot be made.
        ServerNotSupported: It is one to a server that SQLAlchemy does not know.
    """
    try:
        yield
    except DBAPIError as error:
        raise ConnectionFailed.of(target, error, lost=False, url=url) from error
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


def _one_line(error: DBAPIError, hidden: Sequence[str]) -> str:
    text = " ".join(str(error.orig).split())
    text = re.sub(r"(?i)(password\s*=\s*)('[^']*'|\S+)", r"\1***", text)
    text = re.sub(r"://([^:/@\s]*):[^\s]*@", r"://\1:***@", text)
    for value in hidden:
        # Of a short one only what is quoted: it may be a part of other words.
        around = r"(?<!\w){}(?!\w)" if len(value) > _SHORT else r"""(?<=["'`]){}(?=["'`])"""
        text = re.sub(around.format(re.escape(value)), "***", text)
    return text[:300] or type(error.orig).__name__


def _hidden(url: URL, shown: str) -> list[str]:
    """List values of *url*, and words of them, that *shown* has not; the longest first."""
    try:
        visible = set(_values(make_url(shown)))
    except ArgumentError:  # an application may call it by another name, which shows nothing
        visible = set()
    hidden = {each for each in _values(url) if each not in visible}
    words = {word for each in hidden for word in re.split(r"[\s:;,=|]+", each)}
    return sorted((hidden | words) - visible - {""}, key=len, reverse=True)


def _values(url: URL) -> Iterator[str]:
    for value in (url.username, url.password, url.host, url.database, *url.query.values()):
        if isinstance(value, tuple):
            yield from value
        elif value:
            yield value
