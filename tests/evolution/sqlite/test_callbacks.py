"""What is raised while SQLite calls Python is raised by the statement, a signal's handler too."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from types import FrameType
from typing import Any

import pytest

from cleveragents_plans.evolution.sqlite.callbacks import functions, interruptible

ENDLESS = """\
WITH RECURSIVE n (i) AS (SELECT begun() UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"""


class OwnHandler(BaseException):
    """What the handler of a signal raises."""


def raise_own(_number: int, _frame: FrameType | None) -> None:
    raise OwnHandler


@pytest.fixture
def begun() -> threading.Event:
    """Set when the endless statement has begun."""
    return threading.Event()


@pytest.fixture
def connection(begun: threading.Event) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.create_function("begun", 0, lambda: begun.set() or 1)
        yield connection


@contextmanager
def signal_when(begun: threading.Event, number: int, handler: Any) -> Iterator[None]:
    """Send the signal *number* a moment after an event, which comes within the block."""

    def send() -> None:
        if begun.wait(60):
            time.sleep(0.1)
            os.kill(os.getpid(), number)

    former = signal.signal(number, handler)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(number, former)


@pytest.mark.parametrize(
    ("handler", "error"),
    [(signal.default_int_handler, KeyboardInterrupt), (raise_own, OwnHandler)],
)
def test_signal_ends_a_statement_and_its_handler_is_what_raises(
    connection: sqlite3.Connection,
    begun: threading.Event,
    handler: Any,
    error: type[BaseException],
):
    with (
        signal_when(begun, signal.SIGINT, handler),
        pytest.raises(error),
        interruptible(connection),
    ):
        connection.execute(ENDLESS)

    assert connection.execute("SELECT 1").fetchone() == (1,)


class OwnTimeout(Exception):
    """An error, which the handler of a signal raises."""


def raise_timeout(_number: int, _frame: FrameType | None) -> None:
    raise OwnTimeout


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def fail_in_a_clean_up(connection: sqlite3.Connection) -> None:
    try:
        copy_rows(connection)
    except OwnTimeout as error:
        raise ValueError("the clean-up could not be done") from error


def copy_rows(connection: sqlite3.Connection) -> None:
    with functions(connection, {}, "old"):
        connection.execute(ENDLESS)


@pytest.mark.parametrize("act", [copy_rows, fail_in_a_clean_up])
def test_error_of_a_handler_is_not_raised_from_itself(
    connection: sqlite3.Connection,
    begun: threading.Event,
    act: Callable[[sqlite3.Connection], None],
):
    """Both note it, and raise it."""
    with (
        signal_when(begun, signal.SIGALRM, raise_timeout),
        pytest.raises(OwnTimeout) as raised,
        interruptible(connection),
    ):
        act(connection)

    assert len([*islice(chain(raised.value), 10)]) == 2


def suppressed(connection: sqlite3.Connection) -> None:
    with interruptible(connection):
        with suppress(sqlite3.Error):
            connection.execute(ENDLESS)
        # What is rolled back then is not interrupted again.
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_signal_is_raised_when_the_error_of_the_statement_was_suppressed(
    connection: sqlite3.Connection, begun: threading.Event
):
    handler = signal.default_int_handler
    with signal_when(begun, signal.SIGINT, handler), pytest.raises(KeyboardInterrupt):
        suppressed(connection)


def test_other_errors_pass(connection: sqlite3.Connection):
    with pytest.raises(sqlite3.OperationalError, match="syntax"), interruptible(connection):
        connection.execute("SELEC")


class Function:
    """A function of a copy that does what it is told."""

    def __init__(self, act: Callable[[int], int]) -> None:
        self.act = act
        self.closed = False

    def __call__(self, *arguments: Any) -> int:
        return self.act(arguments[0])

    def close(self) -> None:
        self.closed = True


def test_function_is_called_and_closed_and_gone(connection: sqlite3.Connection):
    function = Function(lambda number: number + 1)
    with functions(connection, {"act": lambda driver, old: function}, "old"):
        assert connection.execute("SELECT act(1)").fetchone() == (2,)
        assert not function.closed

    assert function.closed
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("SELECT act(1)")


def test_error_of_a_function_is_raised_and_it_is_not_closed(connection: sqlite3.Connection):
    function = Function(lambda number: 1 // number)
    with (
        pytest.raises(ZeroDivisionError),
        functions(connection, {"act": lambda driver, old: function}, "old"),
    ):
        connection.execute("SELECT act(0)")

    assert not function.closed


def test_handler_that_closes_the_connection_is_what_raises(connection: sqlite3.Connection):
    def close(_number: int) -> int:
        connection.close()
        raise OwnHandler

    function = Function(lambda number: number)
    with (
        pytest.raises(OwnHandler),
        interruptible(connection),
        functions(connection, {"act": lambda driver, old: function}, "old"),
    ):
        close(1)


@pytest.mark.parametrize(
    ("handler", "error"),
    [(signal.default_int_handler, KeyboardInterrupt), (raise_own, OwnHandler)],
)
def test_signal_ends_a_statement_that_calls_a_function(
    connection: sqlite3.Connection,
    begun: threading.Event,
    handler: Any,
    error: type[BaseException],
):
    calls = f"SELECT act(i) FROM ({ENDLESS.replace('count(*)', 'i')}) ORDER BY 1"
    function = Function(lambda number: number)
    with (
        signal_when(begun, signal.SIGINT, handler),
        # Python may call the handler on the way into the function, out of its reach.
        pytest.raises(error),
        interruptible(connection),
        functions(connection, {"act": lambda driver, old: function}, "old"),
    ):
        connection.execute(calls)

    assert not function.closed
