"""
The command ``alembic``, which counts what it sends to the database and dies where it is told.

    python -m support.victim [--count FILE] [--die-at POINT] [--die-after SECONDS]
                             [--pause-at WORDS FILE] [--pages NUMBER] [--cache PAGES]
                             [--large BYTES] -- <arguments of alembic>

A point is the number of a statement, or words in it, or a kind of statement and how
often it has come: this is the same step in every run, however fast the machine is. The
process dies by SIGKILL, before the statement is sent. Before the first statement with certain
words it can say that it pauses, and wait until a file is there. A file of SQLite is large from
--large BYTES on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic.config import main as alembic
from sqlalchemy import Connection, Engine, event

from cleveragents_plans.evolution.sqlite import journal


class Victim:
    """Counts statements and commits, and ends the process at one of them."""

    def __init__(
        self, die_at: str | None, die_after: float | None, pause: list[str] | None
    ) -> None:
        self.seen: Counter[str] = Counter()
        self._pause = pause
        self._die_at = die_at
        self._die_after = die_after
        self._last = ""

    def statement(self, _connection: object, _cursor: object, sql: str, *_: object) -> None:
        """Count a statement that is about to be sent."""
        self._last = re.sub(r"\d+", "N", " ".join(sql.split()))
        if self._pause and self._pause[0] in sql:
            words, file = self._pause
            self._pause = None
            print(f"pausing at {words}", flush=True)
            while not Path(file).exists():
                time.sleep(0.02)
        self._count(self._last)

    def commit(self, _connection: Connection) -> None:
        """Count a commit that is about to be made."""
        self._count("commit after " + self._last)

    def _count(self, text: str) -> None:
        if self._die_after is not None:
            timer = threading.Timer(self._die_after, _die)
            timer.daemon = True
            timer.start()
            self._die_after = None
        kind = f"{zlib.crc32(text.encode()):08x}"
        self.seen[kind] += 1
        if self._die_at is None:
            return
        # There are no digits in the text, so that a number or a kind is never part of it.
        here = (f"{kind}:{self.seen[kind]}", str(self.seen.total()))
        if self._die_at in here or self._die_at in text:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _setting(pragma: str) -> Callable[[Any, object], None]:
    return lambda driver_connection, _record: driver_connection.execute(pragma)


def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=Path)
    parser.add_argument("--die-at")
    parser.add_argument("--die-after", type=float)
    parser.add_argument("--pause-at", nargs=2)
    parser.add_argument("--pages", type=int)
    parser.add_argument("--cache", type=int)
    parser.add_argument("--large", type=int)
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    victim = Victim(options.die_at, options.die_after, options.pause_at)
    event.listen(Engine, "before_cursor_execute", victim.statement)
    event.listen(Engine, "commit", victim.commit)
    # What a disk that has no more room answers, without filling one.
    for pragma, number in (("max_page_count", options.pages), ("cache_size", options.cache)):
        if number is not None:
            event.listen(Engine, "connect", _setting(f"PRAGMA {pragma} = {number}"))
    if options.large is not None:
        journal._LARGE = options.large
    try:
        alembic(argv=options.arguments, prog="alembic")
    finally:
        if options.count is not None:
            options.count.write_text(json.dumps(victim.seen))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
