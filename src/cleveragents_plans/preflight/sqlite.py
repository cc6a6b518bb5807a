"""
The rows that a run writes in a SQLite file, and its trees, read a little at a time.

Each slice is a transaction of some milliseconds, so that a writer is not kept waiting where the
journal is a rollback journal (https://www.sqlite.org/lockingv3.html): rows that change between two
slices can be counted wrong.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cleveragents_plans.evolution.foreseen import Foreseen, Rebuild
from cleveragents_plans.evolution.recipes.parent_trees import (
    MAX_LISTED,
    CycleFound,
    ParentTree,
    ancestors_first,
    by_key,
    warn_of_missing_parents,
)
from cleveragents_plans.evolution.sqlite.pragmas import journal_mode
from cleveragents_plans.evolution.sqlite.soundness import require_sound_file
from cleveragents_plans.evolution.sqlite.table import rowid_name
from cleveragents_plans.evolution.sqlite.tokens import quote
from cleveragents_plans.persistence import Base
from cleveragents_plans.preflight.findings import Disk, Estimate, Write
from cleveragents_plans.preflight.sample import SampleRun
from cleveragents_plans.schema.database import Database

_SLICE = 5_000
_SAMPLED = 2_000
_MAX_DEPTH = 1_000
# Bytes that are read in some 50 ms.
_MAX_READ = 20_000_000
# Measured (docs/preflight.md): seconds that a run takes besides; bytes that it looks through for
# damaged pages in a second; by how much a row takes longer in a table ten times as large as the
# sample, whose indexes do not fit into the cache; the error.
_FIXED = 0.2
_CHECKED = 3e8
_SLOWER = 0.4
_ERROR = 0.5


@dataclass(slots=True)
class TreeScan:
    """What was found in the parent links of a table."""

    missing: int = 0
    first_missing: list[tuple[str, str]] = field(default_factory=list)
    cycles: list[list[Any]] = field(default_factory=list)
    depth: int = 0


class SlicedTable:
    """
    A table of a file that others use, read in slices.

    Args:
        database: The file; it is left in no transaction.
        table: The table.
    """

    def __init__(self, database: Database, table: str) -> None:
        database.connection.rollback()
        self.name = quote(table)
        self._rowid = rowid_name(database.connection, table)
        database.connection.rollback()
        driver: Any = database.connection.connection.driver_connection
        self.run = driver.execute

    def slices(self, alias: str = "t") -> Iterator[str]:
        """Give conditions over the *alias* that each hold for some thousand rows at most."""
        if self._rowid is None:
            yield "TRUE"
            return
        column = f"{alias}.{self._rowid}"
        # To count the rows of each slice would be to read the table once more; what is not there
        # of a range of rowids is passed over.
        query = f"SELECT min({self._rowid}) FROM {self.name} WHERE {self._rowid} > ?"
        last = -(2**63)
        while (first := self.run(query, (last,)).fetchone()[0]) is not None:
            last = min(first + _SLICE - 1, 2**63 - 1)
            yield f"{column} >= {first} AND {column} <= {last}"

    def sums(self, *expressions: str) -> list[int]:
        """Add up *expressions* over the alias ``old`` of all rows."""
        totals = [0] * len(expressions)
        columns = ", ".join(f"total({each})" for each in expressions)
        for among in self.slices("old"):
            row = self.run(f"SELECT {columns} FROM {self.name} old WHERE {among}").fetchone()
            totals = [total + int(part) for total, part in zip(totals, row, strict=True)]
        return totals


def count_writes(database: Database, rebuild: Rebuild) -> Write:
    """Count the rows of a table that *rebuild* copies, and those that it changes, by column."""
    present = [name for name in rebuild.values if name in database.columns(rebuild.table)]
    conditions = [_changes(rebuild, name) for name in present]
    sliced = SlicedTable(database, rebuild.table)
    rows, changed, *each = sliced.sums("1", " OR ".join(conditions) or "0", *conditions)
    return Write(
        table=rebuild.table,
        label="copied and changed",
        rows=changed,
        of=rows,
        columns=dict(zip(present, each, strict=True)),
    )


def count_rows(database: Database, table: str) -> int:
    """Count the rows of *table*."""
    [rows] = SlicedTable(database, table).sums("1")
    return rows


def _changes(rebuild: Rebuild, column: str) -> str:
    value = rebuild.values[column]
    if any(f"{name}(" in value for name in rebuild.functions):
        return f"(old.{column} IS NULL)"  # what only the copy can compute is filled in
    return f"(old.{column} IS NOT ({value}))"


def scan_tree(database: Database, tree: ParentTree) -> TreeScan:
    """
    Look for cycles and missing parents among the rows without a root, and for the depth.
    """
    sliced = SlicedTable(database, tree.table)
    names = asdict(tree)
    found = TreeScan()
    parent_of: dict[Any, Any] = {}
    for among in sliced.slices():
        where = {**names, "among": among}
        for key, parent, number in sliced.run(_MISSING.format(**where)):
            found.missing += number if key is not None else 0
            found.first_missing.append((str(key), str(parent)))
        found.first_missing = sorted(found.first_missing)[:MAX_LISTED]
        for (start,) in sliced.run(_CYCLES.format(**where)).fetchall():
            _add_cycle(sliced, names, start, parent_of)
        if found.depth < _MAX_DEPTH:
            depth = sliced.run(_DEPTH.format(**where)).fetchone()[0] or 0
            found.depth = max(found.depth, depth)
    numbers = {key: number for number, key in enumerate(parent_of)}
    _, cycles = ancestors_first([numbers.get(parent, -1) for parent in parent_of.values()])
    found.cycles = by_key(cycles, list(parent_of))
    return found


def _add_cycle(
    sliced: SlicedTable, names: Mapping[str, str], start: Any, parent_of: dict[Any, Any]
) -> None:
    at = start
    while at not in parent_of:
        query = "SELECT {parent} FROM {table} WHERE {key} = ?".format(**names)
        row = sliced.run(query, (at,)).fetchone()
        if row is None:  # deleted since
            return
        parent_of[at] = row[0]
        at = row[0]


def report_tree(tree: ParentTree, found: TreeScan) -> None:
    """
    Refuse and warn of what was *found*, as the run does.

    Raises:
        CycleFound: Rows are their own ancestors.
    """
    if found.cycles:
        raise CycleFound(tree.table, tree.parent, found.cycles)
    if found.missing:
        warn_of_missing_parents(tree, found.missing, found.first_missing)


def check_file(database: Database, file: Path, found: Foreseen) -> None:
    """
    Look for damaged pages, unless a writer would be kept waiting by it.

    With a rollback journal no writer can commit while the file is read, so that a large one is
    left to the run itself.
    """
    connection = database.connection
    if journal_mode(connection) == "wal" or file.stat().st_size <= _MAX_READ:
        with found.looking("damaged pages"):
            require_sound_file(connection, database.report_every, Base.metadata.tables)
    else:
        found.unchecked.append("damaged pages: writers would have to wait; the run checks them")


def costs(
    file: Path, sample: SampleRun, rows: int, needed: int, unused: int
) -> tuple[Estimate, Disk]:
    """
    Project a run on a *sample* to all *rows* of the table.

    Args:
        file: The file.
        sample: The run.
        rows: How many rows there are.
        needed: Bytes that are needed for the copies of tables.
        unused: Bytes that are free in the file, which are used first.
    """
    share = max(1.0, rows / max(sample.rows, 1))
    size = file.stat().st_size
    slower = 1 + _SLOWER * math.log10(share)
    seconds = _FIXED + sample.seconds * share * slower + size / _CHECKED
    grown = max(0, round(sample.grown * share) - unused)
    return (
        Estimate(seconds=seconds, least=seconds / (1 + _ERROR), most=seconds * (1 + _ERROR)),
        Disk(
            least=grown, most=max(needed, grown), wal=None, free=shutil.disk_usage(file.parent).free
        ),
    )


_MISSING = """\
SELECT CAST(t.{key} AS TEXT), CAST(t.{parent} AS TEXT), 1 FROM {table} t
 WHERE {among} AND t.{root} IS NULL AND t.{parent} IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM {table} p WHERE p.{key} = +t.{parent})"""

# The walk that starts at the smallest key of a cycle meets larger ones only, until it is back.
_CYCLES = """\
WITH RECURSIVE walk (start, at) AS (
  SELECT t.{key}, t.{parent} FROM {table} t
   WHERE {among} AND t.{root} IS NULL AND t.{parent} >= t.{key}
  UNION
  SELECT walk.start, p.{parent} FROM walk JOIN {table} p ON p.{key} = walk.at
   WHERE walk.at > walk.start AND p.{parent} >= walk.start AND p.{root} IS NULL
)
SELECT start FROM walk WHERE at = start ORDER BY start"""

# Some rows of each slice.
_DEPTH = f"""\
WITH RECURSIVE up (parent, depth) AS (
  SELECT * FROM (SELECT t.{{parent}}, 1 FROM {{table}} t WHERE {{among}} LIMIT 100)
  UNION ALL
  SELECT p.{{parent}}, up.depth + 1 FROM up JOIN {{table}} p ON p.{{key}} = up.parent
   WHERE up.depth < {_MAX_DEPTH}
)
SELECT max(depth) FROM up"""
