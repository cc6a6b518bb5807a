"""
Stop a run at a signal: Ctrl-C, ``docker stop``, a terminal that is closed.

Python turns SIGINT into `KeyboardInterrupt`. SIGTERM and SIGHUP end a process on the spot, or
are ignored where it is process 1 of a container. Here all three end the run in the same way:
the statement that is running is cancelled, its transaction rolled back, the locks released.
"""

from __future__ import annotations

import atexit
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from cleveragents_plans.evolution.errors import AGAIN, causes
from cleveragents_plans.evolution.sqlite.callbacks import interrupt_statements
from cleveragents_plans.evolution.threads import ThreadNotStarted, start

log: Final = logging.getLogger("alembic.evolution")

# Windows has no SIGHUP.
_SIGNALS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in dir(signal)]
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
# Seconds after which a signal that Python has not handled met a statement that calls nothing.
_UNHANDLED = 0.1

# What has arrived since the handlers were installed. Signals belong to the process, so this
# does, too. It is needed beside the exception, which SQLite swallows in a callback, as Python
# does in a destructor.
_received: list[signal.Signals] = []


@contextmanager
def interruptible(target: str, *, command_line: bool) -> Iterator[None]:
    """
    End what is done here at SIGINT, SIGTERM or SIGHUP, and log one line how to go on.

    The handlers raise `KeyboardInterrupt`, at which psycopg cancels the statement that it waits
    for. They are installed in the main thread only, for signals that have Python's default
    handler: a handler of the application, and a signal that is ignored (``nohup``), stay as
    they are. The former handlers are restored at the end.

    Args:
        target: What to call the database in the message; no password in it.
        command_line: This process does nothing else: end it without a traceback, and at once.

    Raises:
        SystemExit: A signal arrived; the code is 128 + its number, as shells have it.
        KeyboardInterrupt: SIGINT arrived, in a program that is more than a command line.
    """
    if command_line:
        end_soon()
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread, and nowhere else
        return
    error = None
    try:
        with _interrupting_statements(), handling_signals(_stop):
            yield
    except BaseException as raised:
        error = raised
    arrived = _received[0] if _received else _signal_behind(error)
    _received.clear()
    if arrived is not None:
        log.error("%s: interrupted by %s; to go on, %s", target, arrived.name, AGAIN)
        if arrived == signal.SIGINT and not command_line:
            raise KeyboardInterrupt from error
        raise SystemExit(128 + arrived) from error
    if error is not None:
        raise error


def signal_arrived() -> bool:
    """Tell whether a signal ends the run that is under way."""
    return bool(_received)


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """
    Let *handler* handle SIGINT, SIGTERM and SIGHUP for a while, where Python's default does.

    Outside of the main thread nothing is changed: Python handles signals there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {
        number: signal.signal(number, handler)
        for number in _SIGNALS
        if signal.getsignal(number) in _DEFAULTS
    }
    try:
        yield
    finally:
        for number, handler_before in former.items():
            signal.signal(number, handler_before)


@contextmanager
def _interrupting_statements() -> Iterator[None]:
    """
    Let a signal end a statement of SQLite that returns to Python only at its end.

    Python calls a handler between two of its own instructions, but writes the number of the signal
    to a socket at once (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd). A
    thread reads it, and interrupts the statement if the handler is not called soon. Where an event
    loop already has a socket for that, nothing is done: its statements run in other threads.
    """
    numbers, written = socket.socketpair()
    with numbers, written:
        numbers.settimeout(None)  # whatever `socket.setdefaulttimeout` says
        written.setblocking(False)
        former = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        if former != -1:
            signal.set_wakeup_fd(former)
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=_interrupt, args=(numbers, over), daemon=True)
        try:
            start(thread)
        except ThreadNotStarted:
            signal.set_wakeup_fd(-1)
            raise
        try:
            yield
        finally:
            over.set()
            signal.set_wakeup_fd(-1)
            written.shutdown(socket.SHUT_WR)
            thread.join()


def _interrupt(numbers: socket.socket, over: threading.Event) -> None:
    """Interrupt statements while a signal that `_stop` is to handle has not been handled."""
    while number := numbers.recv(1):
        while signal.getsignal(number[0]) is _stop and not _received:
            if over.wait(_UNHANDLED):
                return
            if not _received:
                interrupt_statements()


def end_soon() -> None:
    """
    Let the process end without a last look for garbage among the objects of all modules.

    That takes most of a second, and longer on a busy machine, after everything has been said and
    done (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    atexit.unregister(gc.freeze)  # once is enough
    atexit.register(gc.freeze)


def _stop(number: int, _frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
    raise KeyboardInterrupt


def _signal_behind(error: BaseException | None) -> signal.Signals | None:
    if isinstance(error, SystemExit):
        return None  # the process ends already
    found = any(isinstance(cause, KeyboardInterrupt) for cause in causes(error))
    return signal.SIGINT if found else None
