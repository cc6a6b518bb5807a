"""
Stop a run at a signal: Ctrl-C, ``docker stop``, a terminal that is closed.

Python turns SIGINT into `KeyboardInterrupt`. SIGTERM and SIGHUP end a process on the spot, or
are ignored where it is process 1 of a container. Here all three end the run in the same way:
the statement that is running is cancelled, its transaction rolled back, the locks released.
"""

from __future__ import annotations

import _thread
import atexit
import gc
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Final

from cleveragents_plans.evolution.errors import again, causes
from cleveragents_plans.evolution.sqlite.callbacks import interrupt_statements
from cleveragents_plans.evolution.threads import ThreadNotStarted

log: Final = logging.getLogger("alembic.evolution")

# Windows has no SIGHUP.
_SIGNALS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in dir(signal)]
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
# Seconds after which a signal that Python has not handled met a statement that calls nothing.
_UNHANDLED = 0.1
# Seconds to wait for a thread that ends within `_UNHANDLED`, unless it was never started.
_PATIENCE = 1.0

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
    error: BaseException | None = None
    former: dict[signal.Signals, Any] = {}
    interrupter = _Interrupter()
    try:
        interrupter.start()
        _set_handlers(_stop, former)
        yield
    except BaseException as raised:
        error = raised
    # A handler of the application may raise wherever Python calls a function, here too.
    try:
        arrived = _end(interrupter, former, error)
    except BaseException as raised:
        error = raised
        arrived = _end(interrupter, former, error)
    try:
        if arrived is not None:
            log.error("%s: interrupted by %s; to go on, %s", target, arrived.name, again())
            if arrived == signal.SIGINT and not command_line:
                raise KeyboardInterrupt from error
            raise SystemExit(128 + arrived) from error
        if error is not None:
            raise error
    finally:
        del error  # it knows this frame, and so would live until the next collection of garbage


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
    former: dict[signal.Signals, Any] = {}
    try:
        _set_handlers(handler, former)
        yield
    finally:
        _restore_handlers(former)


def _set_handlers(
    handler: Callable[[int, FrameType | None], None], former: dict[signal.Signals, Any]
) -> None:
    """Set *handler* for the signals that have Python's default, which goes to *former* before."""
    for number in _SIGNALS:
        before = signal.getsignal(number)
        if before in _DEFAULTS:
            former[number] = before
            signal.signal(number, handler)


def _restore_handlers(former: Mapping[signal.Signals, Any]) -> None:
    for number, before in former.items():
        signal.signal(number, before)


class _Interrupter:
    """
    Lets a signal end a statement of SQLite that returns to Python only at its end.

    Python calls a handler between two of its own instructions, but writes the number of the signal
    to a socket at once (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd). A
    thread reads it, and interrupts the statement if the handler is not called soon. Where an event
    loop already has a socket for that, nothing is done: its statements run in other threads.

    What it does can be done again, if an error of a handler came between.
    """

    def __init__(self) -> None:
        self._numbers, self._written = socket.socketpair()
        self._numbers.settimeout(None)  # whatever `socket.setdefaulttimeout` says
        self._written.setblocking(False)
        self._former: list[int] = []
        self._running = threading.Lock()

    def start(self) -> None:
        set_wakeup_fd = partial(signal.set_wakeup_fd, warn_on_full_buffer=False)
        # One call, so that no handler is called before the result is kept.
        self._former.extend(map(set_wakeup_fd, [self._written.fileno()]))
        if self._former == [-1]:
            self._running.acquire()
            self._start_thread()
        else:
            self._restore_wakeup_fd()
            self._numbers.close()

    def end(self) -> None:
        self._restore_wakeup_fd()
        with suppress(OSError):  # done already
            # A process that was forked meanwhile has the socket, too.
            self._written.shutdown(socket.SHUT_WR)
        self._written.close()
        # Once the thread has begun, which it may not have. It closes its own end.
        if self._running.acquire(timeout=_PATIENCE):
            self._running.release()

    def _start_thread(self) -> None:
        # One call: `threading.Thread.start` has locks, which an error of a handler would leave
        # locked for ever.
        try:
            _thread.start_new_thread(_interrupt, (self._numbers, self._running))
        except RuntimeError as error:
            self._numbers.close()
            self._running.release()
            raise ThreadNotStarted from error

    def _restore_wakeup_fd(self) -> None:
        for former in self._former:
            signal.set_wakeup_fd(former)
        self._former.clear()


def _end(
    interrupter: _Interrupter, former: Mapping[signal.Signals, Any], error: BaseException | None
) -> signal.Signals | None:
    """End what `interruptible` began, and tell which signal ends the run."""
    _restore_handlers(former)
    interrupter.end()
    arrived = _received[0] if _received else _signal_behind(error)
    _received.clear()
    return arrived


def _interrupt(numbers: socket.socket, running: threading.Lock) -> None:
    """Interrupt statements while a signal that `_stop` is to handle has not been handled."""
    with numbers:
        while number := numbers.recv(1):
            while _is_unhandled(number[0]):
                time.sleep(_UNHANDLED)
                if _is_unhandled(number[0]):
                    interrupt_statements()
    running.release()


def _is_unhandled(number: int) -> bool:
    return signal.getsignal(number) is _stop and not _received


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
