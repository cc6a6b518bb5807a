"""Python functions that SQLite calls, and what becomes of an exception in them."""

from __future__ import annotations

import re
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import causes

#: Virtual machine instructions between two calls of the progress handler; some milliseconds.
_INSTRUCTIONS = 50_000
_NO_COLLATION = re.compile(r"no such collation sequence: (.+)$")

# The connections in `interruptible`, of all threads.
_interruptible: list[Any] = []


class CopyFunction(Protocol):
    """
    A function that statements can call for the length of one copy.

    It takes numbers: text that is not valid in its encoding would never reach it.
    """

    def __call__(self, *arguments: Any) -> Any:
        """Compute its value."""

    def close(self) -> None:
        """Report what it met, once all rows are copied."""


#: Creates a function from the connection of the driver and the name of the old table.
MakeFunction = Callable[[Any, str], CopyFunction]


@contextmanager
def functions(driver: Any, makers: Mapping[str, MakeFunction], old: str) -> Iterator[None]:
    """
    Let statements on the connection *driver* call functions that read the rows of *old*.

    Raises:
        BaseException: What a function raised; SQLite reports only that it did.
    """
    made = {name: make(driver, old) for name, make in makers.items()}
    raised: list[BaseException] = []
    for name, function in made.items():
        driver.create_function(name, -1, _recording(function, raised))
    try:
        with _handlers_recorded(raised):
            yield
    except (DBAPIError, sqlite3.Error) as error:
        if raised:
            raise _raised_from(error, raised[0]) from error
        raise
    finally:
        # A statement that was left is in the way, or the connection was closed.
        with suppress(sqlite3.Error):
            for name in made:
                driver.create_function(name, -1, None)
    for function in made.values():
        function.close()


def with_lent_collations(driver: Any, alter: Callable[[], object]) -> None:
    """
    Call *alter*, which renames a table, where other tables have collations of the application.

    To rename a table SQLite reads the definitions of all of them, and refuses an index whose
    collation the connection does not have, though it compares nothing. So it is lent one, until the
    table is renamed.
    """
    lent: list[str] = []
    try:
        while True:
            try:
                alter()
                return
            except DBAPIError as error:
                found = _NO_COLLATION.search(str(error.orig))
                if found is None or found[1] in lent:
                    raise
                driver.create_collation(found[1], lambda a, b: (a > b) - (a < b))
                lent.append(found[1])
    finally:
        for name in lent:
            driver.create_collation(name, None)


@contextmanager
def interruptible(driver: Any) -> Iterator[None]:
    """
    Let a signal end a statement that runs on the connection *driver*.

    Python calls the handler of a signal between two of its own instructions, and there is
    none while a statement runs, however long. So SQLite calls Python every few milliseconds
    (https://www.sqlite.org/c3ref/progress_handler.html), and ends the statement when it is told to.
    Where SQLite calls nothing, another thread has to call `interrupt_statements`.

    Raises:
        BaseException: What the handler of a signal raised; SQLite reports only that the statement
            was interrupted.
    """
    raised: list[BaseException] = []
    watch = _watch(raised)
    next(watch)  # into its `try`
    try:
        driver.set_progress_handler(watch.__next__, _INSTRUCTIONS)
        _interruptible.append(driver)
        yield
    except Exception as error:
        if raised and error is not raised[0]:
            raise _raised_from(error, raised[0]) from error
        raise
    finally:
        try:
            _leave_alone(driver)
        except BaseException:  # of a signal's handler
            _leave_alone(driver)  # a progress handler that stays ends all statements
            raise
    if raised:  # the error of the statement was suppressed
        raise raised[0]


def _leave_alone(driver: Any) -> None:
    with unless_closed():
        driver.set_progress_handler(None, 0)
    if driver in _interruptible:
        _interruptible.remove(driver)


def _raised_from(error: BaseException, raised: BaseException) -> BaseException:
    """
    Give what was *raised* in a callback, which is not behind *error* any more.

    `functions` may have raised it already, and a clean-up have failed since.
    """
    for each in causes(error):
        if each.__cause__ is raised:
            each.__cause__ = None
        if each.__context__ is raised:
            each.__context__ = None
    return raised


def unless_closed() -> AbstractContextManager[None]:
    """
    Set a connection of the driver back, unless it was closed meanwhile.

    What the handler of a signal raised may have closed it, and no other error is to hide that.
    """
    return suppress(sqlite3.ProgrammingError)


@contextmanager
def _handlers_recorded(raised: list[BaseException]) -> Iterator[None]:
    """
    Note in *raised* what the handlers of signals raise.

    Python may call a handler on the way into a function that SQLite calls, where nothing of the
    function can catch it, and SQLite reports only that an error was raised.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread, and nowhere else
        return
    former: list[tuple[signal.Signals, Callable[..., Any], Callable[..., Any]]] = []
    try:
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler) and not isinstance(handler, signal.Handlers):
                recorded = _recording(handler, raised)
                former.append((number, handler, recorded))
                signal.signal(number, recorded)
        yield
    finally:
        for each, before, recorded in former:
            if signal.getsignal(each) is recorded:  # the application has not set another
                signal.signal(each, before)


def interrupt_statements() -> None:
    """
    End the statements that run in `interruptible`, in whatever thread; they raise an error.

    SQLite 3.40 calls no progress handler in ``PRAGMA quick_check`` and in ``SELECT count(*)``, for
    as long as it takes to read the file, but looks there whether it was interrupted
    (https://www.sqlite.org/c3ref/interrupt.html). Where no statement runs nothing happens.
    """
    for driver in [*_interruptible]:
        with suppress(sqlite3.Error):  # closed meanwhile
            driver.interrupt()


def _watch(raised: list[BaseException]) -> Iterator[int]:
    # A generator is called within its `try`, a function before it.
    while True:
        try:
            while True:
                # What suppresses the error of a statement is stopped at its next one.
                yield 1 if raised else 0
        except GeneratorExit:
            return
        except BaseException as error:
            raised.append(error)
            yield 1


def _recording(function: Callable[..., Any], raised: list[BaseException]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            raised.append(error)
            raise

    return call
