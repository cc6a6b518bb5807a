"""
How events are written to standard error: as plain lines, with time and level, or as JSON.

An operator at a terminal reads plain lines; of a log file one wants to know when, and how bad.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

LogFormat = Literal["plain", "lines", "json"]
LOG_FORMATS: Final[tuple[str, ...]] = get_args(LogFormat)

#: What an event may hold besides, as attributes of its log record; what it lacks is left out.
FIELDS: Final = (
    "revision",
    "done",
    "total",
    "rate",
    "eta_s",
    "lag_s",
    "seconds",
    "blockers",
    "database",
    "status",
)
_STEP = re.compile(r"Running (?P<direction>upgrade|downgrade) (?P<below>\S*) -> (?P<above>\S*?),? ")

_format: LogFormat = "plain"
# The revision that runs, by the last line of Alembic's that named one: events come from
# threads, too.
_revision: str | None = None


def use_log_format(name: LogFormat | None) -> None:
    """Write events as *name* says from now on; None is plain on a terminal, lines elsewhere."""
    global _format, _revision
    terminal = name is None and getattr(sys.stderr, "isatty", lambda: False)()
    _format, _revision = name or ("plain" if terminal else "lines"), None


@contextmanager
def log_format_restored() -> Iterator[None]:
    """Write events as before after this block."""
    former = _format
    try:
        yield
    finally:
        use_log_format(former)


def is_plain() -> bool:
    """Tell whether events are plain lines, among which a bar can be drawn."""
    return _format == "plain"


class EventFormatter(logging.Formatter):
    """Writes a log record as an event, in the format that was chosen."""

    def format(self, record: logging.LogRecord) -> str:
        """Write *record*, without the end of the line."""
        message = super().format(record)
        facts = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        return formatted(message, record.levelname, getattr(record, "event", "message"), facts)


def formatted(message: str, level: str, event: str, facts: dict[str, Any] | None = None) -> str:
    """
    Write an event, without the end of the line.

    Args:
        message: What is said to people.
        level: ``info``, ``warning`` or ``error``.
        event: Which kind of event it is.
        facts: Those of `FIELDS` that it has.
    """
    global _revision
    if step := _STEP.match(f"{message} "):
        down = step["direction"] == "downgrade"
        event, _revision = "step", step["below"] if down else step["above"]
    if _format == "plain":
        return message
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if _format == "lines":
        return f"{now} {level.lower():7} {message}"
    said: dict[str, Any] = {"ts": now, "level": level.lower(), "event": event, "message": message}
    facts = {"revision": _revision, **(facts or {})}
    for name, value in facts.items():
        if value is not None:
            said[name] = round(value, 3) if isinstance(value, float) else value
    return json.dumps(said)
