"""What an operator sees of a run: a bar on a terminal, lines in a log elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO

log = logging.getLogger("alembic.evolution")

_BAR = 30
_REDRAW_EVERY = 0.1
_LOG_EVERY = 5.0


@contextmanager
def heartbeat(what: str, every: float) -> Iterator[None]:
    """
    Log, every so many seconds, that *what* is under way: one statement that may be long.

    What is quick is not mentioned.
    """
    over = threading.Event()
    begun = time.monotonic()

    def speak() -> None:
        while not over.wait(every):
            _clear_line(sys.stderr)
            log.info("%s (%s gone)", what, _clock(time.monotonic() - begun))

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        over.set()
        speaker.join()


class Progress:
    """
    Rows done, of how many, how fast, and the time left.

    On a terminal one line is drawn again and again; elsewhere a line is logged every few
    seconds, and one at the end.
    """

    def __init__(
        self, label: str, total: int, *, stream: TextIO | None = None, every: float = _LOG_EVERY
    ) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self._passed = 0
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._every = _REDRAW_EVERY if self._bar else every
        self._begun = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show(last=True)

    def tick(self, rows: int) -> None:
        """Count *rows* more, and show how far it is when it is time to."""
        self.done += rows
        self._show_when_due()

    def passed(self, rows: int) -> None:
        """Count *rows* that were looked at and need nothing, and show likewise."""
        self._passed += rows
        self._show_when_due()

    def _show_when_due(self) -> None:
        if time.monotonic() - self._shown >= self._every:
            self._show()

    def say(self, message: str) -> None:
        """Log *message* as a warning, on a line of its own."""
        _clear_line(self._stream)
        log.warning("%s", message)

    def _show(self, *, last: bool = False) -> None:
        self._shown = time.monotonic()
        if self._bar:
            filled = _BAR * min(self.done, self.total) // self.total if self.total else _BAR
            bar = "#" * filled + "." * (_BAR - filled)
            end = "\n" if last else ""
            self._stream.write(f"\r\x1b[K{self.label} [{bar}] {self._figures()}{end}")
            self._stream.flush()
        else:
            log.info("%s: %s", self.label, self._figures())

    def _figures(self) -> str:
        seconds = max(self._shown - self._begun, 1e-9)
        rate = self.done / seconds
        # Rows come in while we count, so there may be more than there were.
        total = max(self.total, self.done)
        share = 100 * self.done / total if total else 100.0
        left = _clock((total - self.done) / rate) if rate else "unknown"
        passed = f"{self._passed:,} others need nothing, " if self._passed else ""
        return (
            f"{self.done:,} of {total:,} rows ({share:.0f} %), {passed}{rate:,.0f} rows/s, "
            f"{_clock(seconds)} gone, {left} left"
        )


def _clear_line(stream: TextIO) -> None:
    if stream.isatty():
        stream.write("\r\x1b[K")
        stream.flush()


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def console_logging() -> Iterator[None]:
    """Send what is logged to standard error, unless the application has its own logging."""
    logger = logging.getLogger("alembic")
    handlers = (*logger.handlers, *logging.root.handlers)
    if not all(isinstance(handler, logging.NullHandler) for handler in handlers):
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_worth_telling)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _worth_telling(record: logging.LogRecord) -> bool:
    # Of what Alembic itself logs, only the steps mean something to an operator.
    return record.name == log.name or record.getMessage().startswith("Running ")
