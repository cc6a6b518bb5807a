"""Parts of a table, by its key, and those of them that have to be gone over again."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run

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


def base_type(connection: Connection, table: str, column: str) -> str:
    """
    Name the type of *column* as in SQL, without a length; of a domain, the type below it.

    *table* is named as in SQL, with its schema.
    """
    wanted = {"table": table, "column": column}
    return str(run(connection, _BASE_TYPE, wanted).scalar_one())


def base_type_of_others(connection: Connection, table: str, column: str) -> str | None:
    """Give the `base_type` of *column* if an extension or a user has created it; None if not."""
    wanted = {"table": table, "column": column}
    of_others = f"{_BASE_TYPE} AND t.typtype = 'b' AND n.nspname <> 'pg_catalog'"
    found: str | None = run(connection, of_others, wanted).scalar()
    return found


_BASE_TYPE = """\
WITH RECURSIVE base (oid) AS (
  SELECT atttypid FROM pg_attribute
   WHERE attrelid = to_regclass(%(table)s) AND attname = %(column)s
  UNION ALL
  SELECT t.typbasetype FROM base JOIN pg_type t ON t.oid = base.oid WHERE t.typtype = 'd'
)
SELECT quote_ident(n.nspname) || '.' || quote_ident(t.typname)
  FROM base JOIN pg_type t ON t.oid = base.oid JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typtype <> 'd'"""
