"""
The root of each row of a parent tree, found while SQLite copies the table.

Keys are compared by SQLite alone, and rows are passed to Python by number. So neither the
encoding of the file, nor keys that are not valid text, or no text, nor the collation that makes
two keys equal, can make a difference.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from cleveragents_plans.evolution.foreseen import foresee
from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.recipes.parent_trees import (
    MAX_LISTED,
    CycleFound,
    ParentTree,
    warn_of_missing_parents,
)
from cleveragents_plans.evolution.sqlite.callbacks import MakeFunction
from cleveragents_plans.evolution.sqlite.table import rowid_name

#: Roots that are kept in memory; some 5 MB.
_CACHE_SIZE = 50_000


def root_in_copy(op: Op, tree: ParentTree) -> tuple[str, dict[str, MakeFunction]]:
    """
    Give the value of the root for `rebuild_table` on SQLite, and the function in it.

    A row that has a root keeps it. Another one gets the root of its parent, or the key of its
    highest ancestor, as that is stored. The function raises `CycleFound` for rows that are
    their own ancestors, and logs a warning for parents that do not exist.

    Args:
        op: Alembic's ``op``.
        tree: The table and its columns.
    """
    foresee(tree)
    numbers = _Numbers(rowid_name(op.get_bind(), tree.table), tree.key)
    table, key, parent, root = tree.table, tree.key, tree.parent, tree.root
    row_and_parent = f"{numbers.of('old')}, {numbers.of('p')}"
    is_root = numbers.equal("r", f"tree_root({row_and_parent})")
    noted = f"tree_root({row_and_parent}, {numbers.of('p')})"
    # A parent that is the root is known here; the function notes it for the children of the row.
    # The + leaves it to the column of the key what is equal, as foreign keys do.
    value = f"""\
coalesce(old.{root}, CASE WHEN old.{parent} IS NULL THEN old.{key} END, (
  SELECT coalesce(
    (SELECT r.{key} FROM {table} r WHERE r.{key} = +p.{root}),
    CASE WHEN p.{parent} IS NULL THEN CASE WHEN {noted} IS NOT NULL THEN p.{key} END END,
    (SELECT r.{key} FROM {table} r WHERE {is_root}))
  FROM {table} p WHERE p.{key} = +old.{parent}
), tree_root(NULL, NULL), old.{key})"""
    return value, {"tree_root": lambda driver, old: RootFinder(tree, numbers, driver, old)}


class _Numbers:
    """The numbers of rows in SQL: their rowids, or where there are none, a temporary table."""

    def __init__(self, rowid: str | None, key: str) -> None:
        self.rowid = rowid
        self.key = key

    def of(self, row: str) -> str:
        """Give the expression for the number of *row*, an alias."""
        if self.rowid:
            return f"{row}.{self.rowid}"
        return f"(SELECT n.number FROM temp.tree_number n WHERE n.key = +{row}.{self.key})"

    def equal(self, row: str, number: str) -> str:
        """Give the condition that *row* has the number that the expression *number* gives."""
        if self.rowid:
            return f"{row}.{self.rowid} = {number}"
        return (
            f"{row}.{self.key} = (SELECT n.key FROM temp.tree_number n WHERE n.number = {number})"
        )


class RootFinder:
    """
    The function of SQLite that finds the root of a row, for one copy of its table.

    The root of a row that is copied already is read from the new table. Rows further on, which
    were passed on the way up, are noted in a temporary table with their root. So no row is
    passed twice, whatever their order, and memory is bounded: `_CACHE_SIZE` roots, and 8 bytes
    for each row of the longest walk.
    """

    def __init__(self, tree: ParentTree, numbers: _Numbers, driver: Any, old: str) -> None:
        self._tree = tree
        self._driver = driver
        self._run = driver.cursor().execute
        self._insert = driver.cursor().executemany
        self._known: dict[int, int] = {}
        self._cycles: list[list[str]] = []
        self._parent_missing = False
        names = {"old": f"main.{old}", "new": f"main.{tree.table}", **asdict(tree)}
        names |= {f"number_of_{row}": numbers.of(row) for row in "cpr"}
        names |= {f"{row}_is_given": numbers.equal(row, "?") for row in "cp"}
        names |= {"c_is_up": numbers.equal("c", "up.row"), "limit": str(MAX_LISTED)}
        names["root_of_p"] = _ROOT_OF_P.format(**names)
        self._walk, self._step, self._orphans = (
            query.format(**names) for query in (_WALK, _STEP, _ORPHANS)
        )
        for statement in (() if numbers.rowid else _NUMBER_ROWS) + _NOTE_ROOTS:
            self._run(statement.format(**names))

    def __call__(self, *arguments: Any) -> int | None:
        """
        Give the number of the root of a row, by its own number and that of its parent.

        A third argument is the number of the root, where that is known. Without a number of the
        parent, which then does not exist, it is None.
        """
        row, parent = arguments[:2]
        if parent is None:
            self._parent_missing = True
            return None
        if len(self._known) >= _CACHE_SIZE:
            self._known.clear()
        root = arguments[2] if len(arguments) > 2 else self._known.get(parent)
        if root is None:
            root = self._known[parent] = self._find(parent)
        self._known[row] = root
        return root

    def _find(self, row: int) -> int:
        """Walk up from *row* to its root, and note the root of all rows on the way."""
        passed = array("q")
        root: int | None = None
        for number, found in self._run(self._walk, (row,)):
            passed.append(number)
            root = found
        if root is None:
            root = self._note_cycle(passed[-1])
        if len(passed) > 1:
            noted = ((number, root) for number in passed)
            self._insert("INSERT OR IGNORE INTO temp.tree_noted VALUES (?, ?)", noted)
        return root

    def _note_cycle(self, row: int) -> int:
        """Note the keys of the cycle that *row* is in; the copy goes on, to find them all."""
        cycle: list[str] = []
        at = row
        with self._any_text():
            while at != row or not cycle:
                key, at = self._run(self._step, (at,)).fetchone()
                cycle.append(key)
        first = cycle.index(min(cycle))
        self._cycles.append(cycle[first:] + cycle[:first])
        return row

    def close(self) -> None:
        """
        Report what has no root, or no parent, once all rows are copied.

        Raises:
            CycleFound: Rows are their own ancestors.
        """
        if self._cycles:
            raise CycleFound(self._tree.table, self._tree.parent, self._cycles)
        if self._parent_missing:
            with self._any_text():
                first = self._run(self._orphans).fetchall()
            warn_of_missing_parents(self._tree, first[0][2], [row[:2] for row in first])
        self._run("DROP TABLE temp.tree_noted")
        self._run("DROP TABLE IF EXISTS temp.tree_number")

    @contextmanager
    def _any_text(self) -> Iterator[None]:
        """Read text that is not valid in its encoding as well as may be: it is only shown."""
        former = self._driver.text_factory
        self._driver.text_factory = lambda raw: raw.decode(errors="replace")
        try:
            yield
        finally:
            self._driver.text_factory = former


_NUMBER_ROWS = (
    "CREATE TEMP TABLE tree_number (number INTEGER PRIMARY KEY, key)",
    "INSERT INTO temp.tree_number (key) SELECT {key} FROM {old}",
    "CREATE UNIQUE INDEX temp.tree_number_key ON tree_number (key)",
)
_NOTE_ROOTS = ("CREATE TEMP TABLE tree_noted (row INTEGER PRIMARY KEY, root INTEGER NOT NULL)",)

_ROOT_OF_P = """coalesce(
  (SELECT t.root FROM temp.tree_noted t WHERE t.row = {number_of_p}),
  (SELECT {number_of_r} FROM {new} n CROSS JOIN {old} r ON r.{key} = +n.{root}
    WHERE n.{key} = +p.{key}),
  (SELECT {number_of_r} FROM {old} r WHERE r.{key} = +p.{root}),
  CASE WHEN p.{parent} IS NULL OR NOT EXISTS (SELECT 1 FROM {old} q WHERE q.{key} = +p.{parent})
       THEN {number_of_p} END)"""

# UNION, not UNION ALL: a cycle ends the walk.
_WALK = """WITH RECURSIVE up (row, root) AS (
  SELECT {number_of_p}, {root_of_p} FROM {old} p WHERE {p_is_given}
  UNION
  SELECT {number_of_p}, {root_of_p}
    FROM up CROSS JOIN {old} c ON {c_is_up} CROSS JOIN {old} p ON p.{key} = +c.{parent}
   WHERE up.root IS NULL
)
SELECT row, root FROM up"""

_SHOWN = "CASE typeof({0}) WHEN 'blob' THEN quote({0}) ELSE CAST({0} AS TEXT) END"

_STEP = f"""SELECT {_SHOWN.format("c.{key}")}, {{number_of_p}}
  FROM {{old}} c CROSS JOIN {{old}} p ON p.{{key}} = +c.{{parent}} WHERE {{c_is_given}}"""

_ORPHANS = f"""SELECT {_SHOWN.format("c.{key}")}, {_SHOWN.format("c.{parent}")}, count(*) OVER ()
  FROM {{old}} c
 WHERE c.{{root}} IS NULL AND c.{{parent}} IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM {{old}} p WHERE p.{{key}} = +c.{{parent}})
 ORDER BY c.{{key}} LIMIT {{limit}}"""
