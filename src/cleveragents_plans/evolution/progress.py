"""How far a long step has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self, TextIO

log = logging.getLogger("alembic.evolution")

_BAR = 30
_REDRAW_EVERY = 0.1
_LOG_EVERY = 5.0


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
        if time.monotonic() - self._shown >= self._every:
            self._show()

    def say(self, message: str) -> None:
        """Log *message* as a warning, on a line of its own."""
        if self._bar:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
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
        return (
            f"{self.done:,} of {total:,} rows ({share:.0f} %), {rate:,.0f} rows/s, "
            f"{_clock(seconds)} gone, {left} left"
        )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
