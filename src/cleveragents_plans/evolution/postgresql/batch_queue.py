"""The batches of a backfill, for one session that writes them or two, and what each one sends."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.ranges import KeyRange, SkippedRanges
from cleveragents_plans.evolution.postgresql.search_path import as_triggers_expect


class Batch(NamedTuple):
    """Rows for one statement: all that need it among a range of keys."""

    number: int
    among: KeyRange
    keys: list[Any]


class BatchQueue:
    """
    What is left of the rows that were looked at, for one session or two.

    The batches that two sessions write at the same time are neighbours, so that the roots of
    the rows before them are known: a walk up from them goes through one batch more at most.
    """

    def __init__(self, among: KeyRange, keys: list[Any]) -> None:
        self._lock = threading.Lock()
        self._rest, self._keys, self._number = among, keys, 0
        self._done: list[tuple[Batch, int]] = []
        self._new = 0

    def take(self, size: int) -> Batch | None:
        """Take the next *size* rows; None when there are no more."""
        with self._lock:
            keys, rest = self._keys[:size], self._rest
            if not keys:
                return None
            self._keys = self._keys[size:]
            # The end of what was looked at is as good as the last row in it, and
            # leaves no gap that is read twice.
            high = keys[-1] if self._keys else rest.high
            self._rest = KeyRange(high, rest.high)
            self._number += 1
            return Batch(self._number, rest._replace(high=high), keys)

    def done(self, batch: Batch, rows: int) -> None:
        """Note that so many *rows* of *batch* were written."""
        with self._lock:
            self._done.append((batch, rows))
            self._new += rows

    def newly_written(self) -> int:
        """Give how many rows were written since this was asked last."""
        with self._lock:
            rows, self._new = self._new, 0
            return rows

    def stop(self) -> None:
        """Leave the rows that no session has taken yet."""
        with self._lock:
            self._keys = []

    def add_missed(self, missed: SkippedRanges) -> None:
        """Add to *missed* what was taken and not written, in the order of the keys."""
        for batch, rows in sorted(self._done, key=lambda each: each[0].number):
            if rows < len(batch.keys):
                missed.add(batch.keys, len(batch.keys) - rows)


def batch_statement(
    connection: Connection, update: str, condition: str, parameters: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Give the statement of one batch of *update*, with *condition*, and its parameters."""
    expected, path = as_triggers_expect(connection)
    sql = literally(update).replace("{batch}", f"({condition} AND {expected})")
    return sql, {**parameters, **path}


def literally(sql: str) -> str:
    """Double each % of *sql*, which is not a format; only what is put into it has parameters."""
    return sql.replace("%", "%%")
