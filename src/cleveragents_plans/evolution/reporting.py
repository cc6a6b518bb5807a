"""What an operator sees of a run: a bar on a terminal, lines in a log elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from types import TracebackType
from typing import Final, Self

from cleveragents_plans.evolution import under_way
from cleveragents_plans.evolution.console import Console, Stream
from cleveragents_plans.evolution.log_format import EventFormatter, formatted, is_plain
from cleveragents_plans.evolution.printable import printable
from cleveragents_plans.evolution.threads import start
from cleveragents_plans.evolution.under_way import Figures

log: Final = logging.getLogger("alembic.evolution")
#: The levels at which more is written than warnings.
DETAILED: Final = (logging.INFO, logging.DEBUG)

_BAR = range(10, 31)
_REDRAW_EVERY = 0.1
_LOG_EVERY = 5.0
# Seconds over which the rate is measured: batches differ, and servers change.
_WINDOW = 15.0
# What the end of something waits for a message about it, in seconds.
_PATIENCE = 0.5

# The console of the run that is under way in this process.
_console: Console | None = None
# What is known about the statement that is running, such as for whom it waits.
_reason: Callable[[], str] | None = None


@contextmanager
def heartbeat(what: str, every: float) -> Iterator[None]:
    """
    Log, every so many seconds, that *what* is under way: something that may take long.

    What is quick is not mentioned. Of heartbeats within another the innermost speaks.
    """
    over = threading.Event()
    begun = time.monotonic()

    def beat() -> None:
        while not over.wait(every):
            if under_way.uncounted() == what:
                report_under_way(what, begun)

    thread = threading.Thread(target=beat, daemon=True)
    with under_way.entered(what):
        start(thread)
        try:
            yield
        finally:
            over.set()
            thread.join(_PATIENCE)  # it may be asking for the reason


def report_pause(reason: str, seconds: float, *, first: bool, lag: float | None = None) -> None:
    """
    Show that the run has paused for *seconds*, and why: in the bar, and in the log.

    On a terminal only the *first* report is a line of its own. *lag* is that of a replica that is
    waited for, in seconds.
    """
    terminal = _console is not None and _console.is_terminal
    if first or not terminal:
        clear_line()
        log.info(
            "PAUSED: %s%s",
            reason,
            "" if first else f" ({_clock(seconds)} elapsed)",
            extra={"event": "paused", "seconds": seconds, "lag_s": lag},
        )
    if terminal and _console is not None and not _console.behind:
        line = f"PAUSED {_clock(seconds)}: {reason}"[: _console.columns - 1]
        _console.write(f"\r\x1b[K{line}")


def report_rest(reason: str, seconds: float, left: float) -> None:
    """Log that the run has rested for *seconds* between two batches, why, and what is *left*."""
    clear_line()
    log.info(
        "%s: the next one is due in %s (%s elapsed)",
        reason,
        _clock(left),
        _clock(seconds),
        extra={"event": "paused", "seconds": seconds},
    )


def report_under_way(what: str, begun: float) -> None:
    """Log that *what* is under way since *begun* (of `time.monotonic`), and why it takes long."""
    reason = _reason() if _reason else ""
    elapsed = time.monotonic() - begun
    clear_line()
    log.info(
        "%s (%s elapsed)%s",
        what,
        _clock(elapsed),
        reason and f"; {reason}",
        extra={"event": "heartbeat", "seconds": elapsed},
    )


@contextmanager
def reasons(reason: Callable[[], str]) -> Iterator[None]:
    """Let heartbeats say the *reason* why something takes long; an empty one is not known."""
    global _reason
    former, _reason = _reason, reason
    try:
        yield
    finally:
        _reason = former


class Progress:
    """
    Rows done, of how many, how fast, and the time left.

    On a terminal one line is drawn again and again, as wide as the terminal; elsewhere a line
    is logged every few seconds, and one at the end. The rate is that of the last 15 seconds.

    Args:
        label: What is done.
        total: How many rows are to be done.
        rows: How many rows are looked at for that; `passed` counts those that need nothing.
        stream: Where to draw; standard error, unless it is given.
        every: Seconds between two lines of the log.
        limit: Gives the rows per second that it is held back to now; 0 is no limit.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        rows: int = 0,
        stream: Stream | None = None,
        every: float = _LOG_EVERY,
        limit: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.label = label
        self.total = total
        self.rows = rows
        self.done: int = 0
        self._passed = 0
        #: Of the run, unless there is none; then it is made here, and closed at the end.
        self._run = None if stream else _console
        self._console = self._run or Console(stream)
        self._bar = self._console.is_terminal and is_plain()
        self._every = _REDRAW_EVERY if self._bar else every
        self._limit = limit
        self._begun = self._shown = time.monotonic()
        self._samples = deque([(self._begun, 0, 0)])
        self._entry = under_way.entered(label, self.figures)

    def __enter__(self) -> Self:
        self._entry.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entry.__exit__(kind, error, trace)
        self._show(last=True, whole=error is None)
        if self._run is None:
            self._console.close()

    def tick(self, rows: int) -> None:
        """Count *rows* more, and show how far it is when it is time to."""
        self.done += rows
        self._show_when_due()

    def passed(self, rows: int) -> None:
        """Count *rows* that were looked at and need nothing, and show likewise."""
        self._passed += rows
        self._show_when_due()

    def figures(self) -> Figures:
        """Tell how far it is; other threads ask, too."""
        total = max(self.total, self.done)
        return Figures(self.done, total, *self._rate_and_left(total, time.monotonic()))

    def say(self, message: str) -> None:
        """Log *message* as a warning, on a line of its own."""
        clear_line(self._console)
        log.warning("%s", message)

    def _show_when_due(self) -> None:
        now = time.monotonic()
        if now - self._samples[-1][0] >= _REDRAW_EVERY:
            self._samples.append((now, self.done, self.done + self._passed))
            while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW:
                self._samples.popleft()
        if now - self._shown >= self._every:
            self._show()

    def _show(self, *, last: bool = False, whole: bool = False) -> None:
        self._shown = time.monotonic()
        seconds = max(self._shown - self._begun, 1e-9)
        # Rows come in while others are counted, so there may be more than there were.
        total = max(self.total, self.done)
        share = 100 if whole else min(99, 100 * self.done // max(total, 1))
        rate, left = self._rate_and_left(total, self._shown)
        if last:
            rate, left = self.done / seconds, 0.0
        figures = [
            f"{self.done:,} of {total:,} rows ({share} %)",
            f"{self._passed:,} others need nothing" if self._passed else "",
            f"{rate:,.0f} rows/s" if rate >= 1 or not rate else f"{rate:.2g} rows/s",
            f"{_clock(seconds)} elapsed",
            "" if last else self._left(left),
        ]
        if self._bar:
            end = "\n" if last else ""
            if last or not self._console.behind:
                line = _drawn(self.label, share, figures, self._console.columns - 1)
                self._console.write(f"\r\x1b[K{line}{end}")
        else:
            event = {"done": self.done, "total": total, "rate": rate, "eta_s": left}
            log.info(
                "%s: %s",
                self.label,
                ", ".join(filter(None, figures)),
                extra={"event": "progress", **event},
            )

    def _left(self, seconds: float | None) -> str:
        if seconds is not None:
            return f"{_clock(seconds)} left"
        return "unknown left" if self.done < self.total else ""

    def _rate_and_left(self, total: int, now: float) -> tuple[float, float | None]:
        """Give the rows per second of late, and the seconds that are left if that is known."""
        begun, done, looked_at = self._samples[0]
        seconds = max(now - begun, 1e-9)
        rate = (self.done - done) / seconds
        if limit := self._limit():  # what was quicker was so before it held
            rate = min(rate, limit)
        if self.done < total and (rate or limit):
            return rate, (total - self.done) / (rate or limit)
        # What is left is to look at the others.
        looks = (self.done + self._passed - looked_at) / seconds
        others = self.rows - self.done - self._passed
        return rate, others / looks if others > 0 and looks else None


def _drawn(label: str, share: int, figures: list[str], columns: int) -> str:
    """Fit a bar and as many of the *figures* as possible into so many *columns*."""
    rows, others, rate, elapsed, left = figures
    for told in ([rows, others, rate, elapsed, left], [rows, rate, left], [f"{share} %", left]):
        text = ", ".join(filter(None, told))
        room = columns - len(f"{label} [] {text}")
        if room >= _BAR[0]:
            width = min(room, _BAR[-1])
            filled = width * share // 100
            return f"{label} [{'#' * filled}{'.' * (width - filled)}] {text}"
    return f"{share} %, {left or elapsed}: {label}"[:columns]


def clear_line(console: Console | None = None) -> None:
    """Clear the line of the terminal on which a bar may be drawn."""
    console = console or _console
    if console is not None and console.is_terminal and is_plain():
        console.write("\r\x1b[K")


def tell(line: str, *, level: str = "info", event: str = "message") -> None:
    """Write one *line* to standard error, without control characters; a closed one is no error."""
    line = formatted(printable(line), level, event)
    if _console is not None:
        _console.write(f"{line}\n")
        return
    with Console() as console:
        console.write(f"{line}\n")


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def console_logging(level: int | None = logging.INFO) -> Iterator[None]:
    """
    Send what is logged to standard error, unless the application has its own logging.

    Nothing that happens to standard error changes what the run does.

    Args:
        level: What is sent there; above ``INFO``, no bar is drawn; ``DEBUG`` has what Alembic
            itself logs, too. None is nothing: what is
            logged goes where logging sends it.
    """
    global _console
    logger = logging.getLogger("alembic")
    handlers = (*logger.handlers, *logging.root.handlers)
    own = level is not None and all(isinstance(each, logging.NullHandler) for each in handlers)
    former_level = logger.level
    with Console() as console, Console(StringIO()) as nowhere:
        former, _console = _console, console if level in DETAILED else nowhere
        handler = logging.StreamHandler(console)
        handler.setFormatter(_OneLine("%(message)s"))
        if level != logging.DEBUG:
            handler.addFilter(_worth_telling)
        if own and level is not None:
            logger.addHandler(handler)
            logger.setLevel(level)
        try:
            yield
        finally:
            _console = former
            if own:
                logger.removeHandler(handler)
                logger.setLevel(former_level)


class _OneLine(EventFormatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # its name there
        return printable(super().formatMessage(record))


def _worth_telling(record: logging.LogRecord) -> bool:
    # Of what Alembic itself logs, only the steps mean something to an operator.
    return record.name == log.name or record.getMessage().startswith("Running ")
