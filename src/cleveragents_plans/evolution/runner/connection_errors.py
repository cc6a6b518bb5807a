"""A connection that cannot be made, or is lost, as one line without a password."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError, again, causes
from cleveragents_plans.evolution.postgresql.products import refuse_other_server
from cleveragents_plans.evolution.runner.libpq_environment import shown_and_hidden


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
            f"the connection to {target} was lost ({reason}); when it is back, {again()}"
            if lost
            else f"{target} cannot be opened ({reason}); nothing was changed"
        )
        self.target = target
        self.reason = reason
        self.lost = lost

    @classmethod
    def of(cls, target: str, error: DBAPIError, *, lost: bool, url: URL | None = None) -> Self:
        """
        Take the reason from what the driver said, without what *target* hides of *url*.

        It is also without what libpq takes from the environment, but for what tells which
        database that means.
        """
        reason = _one_line(error, _hidden(url, target))
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


def _hidden(url: URL | None, shown: str) -> list[str]:
    """
    List what is hidden of *url* and of the environment, and words of it; the longest first.

    Of the *url* that is what *shown* has not.
    """
    try:
        visible = set(_values(make_url(shown))) if url is not None else set()
    except ArgumentError:  # an application may call it by another name, which shows nothing
        visible = set()
    hidden = {each for each in _values(url) if each not in visible} if url is not None else set()
    of_environment = shown_and_hidden()
    visible |= of_environment[0]
    hidden |= of_environment[1]
    words = {word for each in hidden for word in re.split(r"[\s:;,=|]+", each)}
    return sorted((hidden | words) - visible - {"", "-c"}, key=len, reverse=True)


def _values(url: URL) -> Iterator[str]:
    for value in (url.username, url.password, url.host, url.database, *url.query.values()):
        if isinstance(value, tuple):
            yield from value
        elif value:
            yield value
