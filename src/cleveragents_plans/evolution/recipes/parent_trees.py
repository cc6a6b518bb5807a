"""Trees that are stored as parent links: what is checked before roots are written."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.alterations import TableUnfit
from cleveragents_plans.evolution.postgresql.connection import (
    in_autocommit,
    run,
    session,
    transaction,
)
from cleveragents_plans.evolution.postgresql.ranges import base_type_of_others
from cleveragents_plans.evolution.postgresql.read_locks import lock_known
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")

# What is remembered of a connection for each table: the keys for `rows_to_fill_first`.
_FIRST = "evolution.rows_to_fill_first"
#: So many of many rows are named.
MAX_LISTED = 10
# Links that are fetched at a time: the driver keeps all that it fetches in memory.
_FETCHED = 10_000
# So many rows a walk up to a root goes through at most; a step takes some 3 µs.
_WALK = 16


@dataclass(frozen=True, slots=True)
class ParentTree:
    """A table whose rows name their parent and, once it is known, the root of their tree."""

    table: str
    #: Its primary key, and the columns that hold the keys of parent and root.
    key: str
    parent: str
    root: str


class CycleFound(EvolutionError):
    """
    Rows are their own ancestors, so they have no root.

    Attributes:
        table: The table.
        cycles: The keys of each cycle, from one row up through its parents.
    """

    def __init__(self, table: str, parent: str, cycles: Sequence[Sequence[str]]) -> None:
        shown = "; ".join(
            " -> ".join(map(str, [*cycle, cycle[0]])) for cycle in cycles[:MAX_LISTED]
        )
        more = f" and {len(cycles) - MAX_LISTED} more" if len(cycles) > MAX_LISTED else ""
        super().__init__(
            f"rows of {table} are their own ancestors and have no root: {shown}{more}; "
            f"set {parent} of one row in each cycle to its true parent or to NULL, then run "
            "the upgrade again; nothing was changed"
        )
        self.table = table
        self.cycles = cycles


@checks("cycles and parents")
def check_parent_tree(op: Op, tree: ParentTree) -> None:
    """
    Walk up the parent links of every row of *tree* that has no root.

    Rows whose walk ends at a row with a root, at a row without parent, or at a
    parent that does not exist, are fine; the last kind is reported by a warning.

    Reads only: ACCESS SHARE for the length of two scans. Offline it does nothing: the
    script of `fill_roots` raises. On SQLite it does nothing: the copy finds all this (see
    `root_in_copy`), and its transaction is rolled back.

    Raises:
        CycleFound: A row without root is its own ancestor.
        TableUnfit: One of the columns has a type with an equality of its own, such as citext.
    """
    context = op.get_context()
    if context.dialect.name == "sqlite" or context.as_sql:
        return
    connection = op.get_bind()
    settings = Settings.of(context.environment_context)
    name = qualified(context, tree.table)
    # A step before this one may be to create the table.
    if not lock_known(connection, name):
        return
    for column in (tree.key, tree.parent, tree.root):
        if wanted := base_type_of_others(connection, name, column):
            raise TableUnfit(
                tree.table,
                f"has {column} of the type {wanted}, whose equality a run does not look up, so "
                "that parents would be missed",
                "change its type to text, and run the same command again",
            )
    with heartbeat(f"looking for cycles in {name}", settings.report_every):
        first, cycles = _out_of_order(connection, tree, name)
    if cycles:
        raise CycleFound(tree.table, tree.parent, cycles)
    connection.info[_FIRST, name] = first
    with heartbeat(f"looking for missing parents in {name}", settings.report_every):
        dangling = run(connection, _DANGLING.format(**asdict(tree), name=name)).all()
    if dangling:
        warn_of_missing_parents(tree, dangling[0].total, [row[:2] for row in dangling])


def warn_of_missing_parents(tree: ParentTree, total: int, first: Sequence[Sequence[str]]) -> None:
    """
    Log that *total* rows of *tree* without a root name a parent that does not exist.

    The *first* are named by their keys. Rows that have a root keep it, whatever parent they name.
    """
    log.warning(
        "%s of %s without a root %s a parent that does not exist, %s; the highest ancestor that "
        "exists becomes the root (rows that have a root keep it, and are not counted here)",
        "1 row" if total == 1 else f"{total:,} rows",
        tree.table,
        "names" if total == 1 else "name",
        ", ".join(f"{key} (parent {parent})" for key, parent in first),
    )


def rows_to_fill_first(connection: Connection, tree: ParentTree, name: str) -> list[Any]:
    """
    Give the keys of rows that get their root before all others, each after its ancestors.

    They are those that `check_parent_tree` found in this run, so that the table is not read
    again; where it was not called, they are looked for. Roots are found without them, too, but
    below many ancestors that are younger the time is no longer linear in the rows: so they are
    some of these ancestors, one in each walk of `_WALK` rows.

    Args:
        connection: The connection that migrates.
        tree: The table and its columns.
        name: The table as in SQL, with its schema.
    """
    found: list[Any] | None = connection.info.pop((_FIRST, name), None)
    if found is None:
        found, _ = _out_of_order(connection, tree, name)
    return found


def _out_of_order(
    connection: Connection, tree: ParentTree, name: str
) -> tuple[list[Any], list[list[Any]]]:
    """
    Look, on PostgreSQL, at the ancestors without a root of rows that are older than their parent.

    Rows are gone through in the order of their keys, so that most parents, which are older,
    have their root by then. What is looked at is left: each such ancestor with a parent that has
    no root either. Every cycle is among them. One scan, and one look-up for each of them,
    whatever the planner knows of the table. The server numbers them and keeps their keys, so
    that 25 bytes of this process are enough for each.

    Args:
        connection: The connection that migrates.
        tree: The table and its columns.
        name: The table as in SQL, with its schema.

    Returns:
        The keys for `rows_to_fill_first`, and the cycles, each from its smallest key up.
    """
    query = _LINKS.format(**asdict(tree), name=name)
    own = transaction(connection) if in_autocommit(connection) else nullcontext()
    with session(connection, **_LINKS_SESSION), own:
        run(connection, f"DECLARE evolution_links SCROLL CURSOR FOR {query}")
        above = array("q", (row[1] for row in _fetched(connection)))
        order, cycles = ancestors_first(above)
        first = _far_down(order, above)
        wanted = {*first, *(number for cycle in cycles for number in cycle)}
        keys = {}
        if wanted:
            run(connection, "MOVE ABSOLUTE 0 IN evolution_links")
            rows = enumerate(_fetched(connection))
            keys = {number: row[0] for number, row in rows if number in wanted}
        run(connection, "CLOSE evolution_links")
    return [keys[number] for number in first], by_key(cycles, keys)


def _fetched(connection: Connection) -> Iterator[Any]:
    while rows := run(connection, f"FETCH {_FETCHED} FROM evolution_links").all():
        yield from rows


def _far_down(order: Sequence[int], above: Sequence[int]) -> list[int]:
    """Choose rows, each after its ancestors, so that a walk up meets one within `_WALK` steps."""
    chosen = []
    steps = bytearray(len(above))
    for number in order:
        if above[number] >= 0:
            steps[number] = (steps[above[number]] + 1) % _WALK
            if not steps[number]:
                chosen.append(number)
    return chosen


def ancestors_first(above: Sequence[int]) -> tuple[array[int], list[list[int]]]:
    """
    Order numbered rows so that each comes after its ancestors.

    It takes 17 bytes for each of them, and 8 more for each row of the longest walk.

    Args:
        above: The number of the parent of each row; -1 for none.

    Returns:
        The numbers, and the cycles among them, each up through the parents.
    """
    order = array("q")
    cycles: list[list[int]] = []
    state = bytearray(len(above))
    for start in range(len(above)):
        path = array("q")
        at = start
        while at >= 0 and state[at] == _NEW:
            state[at] = _ON_PATH
            path.append(at)
            at = above[at]
        if at >= 0 and state[at] == _ON_PATH:
            cycles.append(path[path.index(at) :].tolist())
        for number in path:
            state[number] = _ORDERED
        path.reverse()
        order.extend(path)
    return order, cycles


def by_key(
    cycles: Iterable[Sequence[int]], keys: Sequence[Any] | Mapping[int, Any]
) -> list[list[Any]]:
    """Name the rows of *cycles* by their *keys*, each cycle from its smallest one up."""
    named = [[keys[number] for number in cycle] for cycle in cycles]
    first = [cycle.index(min(cycle)) for cycle in named]
    turned = (cycle[at:] + cycle[:at] for cycle, at in zip(named, first, strict=True))
    return sorted(turned)


# What `ancestors_first` knows of a row.
_NEW, _ON_PATH, _ORDERED = range(3)

# A nested loop would go through all links for each of them; only what is LATERAL has no other
# plan. All rows are fetched, so a plan for the first of them is none.
_LINKS_SESSION: Final = {
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "enable_nestloop": "off",
    "cursor_tuple_fraction": "1",
}
# LATERAL with OFFSET 0 is a look-up by the key for each row, whatever the statistics say; a
# join could become a scan for each level of the walk. UNION, not UNION ALL: each link is
# followed once, and a cycle ends the walk. Keys are compared by the server only.
_PARENT = """\
SELECT up.{{key}} AS key, up.{{parent}} AS parent FROM {{name}} up
     WHERE up.{{key}} = {of} AND up.{{root}} IS NULL OFFSET 0"""
_LINKS = f"""\
WITH RECURSIVE link (key, above, next) AS (
  SELECT p.key, q.key, q.parent
    FROM {{name}} t CROSS JOIN LATERAL (
    {_PARENT.format(of="t.{parent}")}) p CROSS JOIN LATERAL (
    {_PARENT.format(of="p.parent")}) q
   WHERE t.{{root}} IS NULL AND t.{{parent}} >= t.{{key}}
  UNION
  SELECT link.above, p.key, p.parent
    FROM link CROSS JOIN LATERAL (
    {_PARENT.format(of="link.next")}) p
), numbered AS MATERIALIZED (
  SELECT key, above, row_number() OVER () - 1 AS number FROM link
)
SELECT n.key, coalesce(p.number, -1) FROM numbered n LEFT JOIN numbered p ON p.key = n.above
 ORDER BY n.number"""

_DANGLING = f"""\
SELECT {{key}} AS key, {{parent}} AS parent, count(*) OVER () AS total FROM {{name}} t
 WHERE {{root}} IS NULL AND {{parent}} IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM {{name}} p WHERE p.{{key}} = t.{{parent}})
 ORDER BY {{key}} LIMIT {MAX_LISTED}"""
