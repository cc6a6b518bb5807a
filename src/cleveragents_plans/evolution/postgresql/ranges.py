"""Parts of a table, by its key, and those of them that have to be gone over again."""

from __future__ import annotations

from typing import Any, NamedTuple

_MAX_RANGES = 1000


class KeyRange(NamedTuple):
    """Keys between two ends, of which None is no end; the upper one belongs to it."""

    low: Any = None
    high: Any = None
    #: Whether the lower end belongs to it, too.
    with_low: bool = False

    def condition(self, key: str) -> str:
        """Write it over the SQL *key*, with `parameters`."""
        comparison = ">=" if self.with_low else ">"
        above = "TRUE" if self.low is None else f"{key} {comparison} %(after)s"
        return above if self.high is None else f"{above} AND {key} <= %(to)s"

    @property
    def parameters(self) -> dict[str, Any]:
        """What `condition` needs."""
        return {"after": self.low, "to": self.high}


class SkippedRanges:
    """
    Ranges, in the order of their keys, in which rows could not be done.

    There are at most a thousand: when there would be more, neighbours are joined.

    Attributes:
        ranges: The ranges.
        rows: How many rows in them could not be done.
    """

    def __init__(self) -> None:
        self.ranges: list[KeyRange] = []
        self.rows: int = 0

    def add(self, keys: list[Any], rows: int) -> None:
        """Add the range of *keys*, which are in order, of which so many *rows* were not done."""
        self.rows += rows
        self.ranges.append(KeyRange(keys[0], keys[-1], with_low=True))
        if len(self.ranges) > _MAX_RANGES:
            pairs = (self.ranges[i : i + 2] for i in range(0, len(self.ranges), 2))
            self.ranges = [pair[0]._replace(high=pair[-1].high) for pair in pairs]
