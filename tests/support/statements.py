"""Statements on their way to the database, whichever engine sends them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, event


class Died(Exception):
    """What a run that is killed at a statement ends with here."""


@contextmanager
def recorded() -> Iterator[list[str]]:
    """List the statements that are sent within the block."""
    statements: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


@contextmanager
def dying_at(words: str) -> Iterator[None]:
    """
    End the block with `Died` before a statement with *words* in it is sent.

    Raises:
        AssertionError: No such statement came.
    """
    died = False

    def die(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal died
        if words in statement and not died:
            died = True
            raise Died(words)

    event.listen(Engine, "before_cursor_execute", die)
    try:
        yield
    except Died:
        pass
    finally:
        event.remove(Engine, "before_cursor_execute", die)
    assert died, f"no statement with {words!r} was sent"
