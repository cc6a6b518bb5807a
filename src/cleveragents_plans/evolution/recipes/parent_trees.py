"""Trees that are stored as parent links: what is checked before roots are written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.connection import run, session
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")

# What is remembered of a connection for each table: the keys for `rows_to_fill_first`.
_ORDERED = "evolution.ancestors_first"
#: So many of many rows are named.
MAX_LISTED = 10


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
    """
    context = op.get_context()
    if context.dialect.name == "sqlite" or context.as_sql:
        return
    connection = op.get_bind()
    settings = Settings.of(context.environment_context)
    name = qualified(context, tree.table)
    # A step before this one may be to create the table.
    if not run(connection, "SELECT to_regclass(%(name)s) IS NOT NULL", {"name": name}).scalar_one():
        return
    with heartbeat(f"looking for cycles in {name}", settings.report_every):
        ordered, cycles = ancestors_first(_links_out_of_order(connection, tree, name))
    if cycles:
        raise CycleFound(tree.table, tree.parent, cycles)
    connection.info[_ORDERED, name] = ordered
    with heartbeat(f"looking for missing parents in {name}", settings.report_every):
        dangling = run(connection, _DANGLING.format(**asdict(tree), name=name)).all()
    if dangling:
        warn_of_missing_parents(tree, dangling[0].total, [row[:2] for row in dangling])


def warn_of_missing_parents(tree: ParentTree, total: int, first: Sequence[Sequence[str]]) -> None:
    """Log that *total* rows of *tree* name a parent that does not exist; the *first* by key."""
    log.warning(
        "%d rows of %s name a parent that does not exist, %s; "
        "the highest ancestor that exists is taken as the root",
        total,
        tree.table,
        ", ".join(f"{key} (parent {parent})" for key, parent in first),
    )


def rows_to_fill_first(connection: Connection, tree: ParentTree, name: str) -> list[Any]:
    """
    Give the keys of rows that get their root before all others, each after its ancestors.

    They are those that `check_parent_tree` found in this run, so that the table is not read
    again; where it was not called, they are looked for. Roots are found without them, too, but
    below many ancestors that are younger the time is no longer linear in the rows.

    Args:
        connection: The connection that migrates.
        tree: The table and its columns.
        name: The table as in SQL, with its schema.
    """
    found: list[Any] | None = connection.info.pop((_ORDERED, name), None)
    if found is None:
        found, _ = ancestors_first(_links_out_of_order(connection, tree, name))
    return found


def _links_out_of_order(connection: Connection, tree: ParentTree, name: str) -> dict[Any, Any]:
    """
    Give, on PostgreSQL, the ancestors without a root of rows that are older than their parent.

    Rows are gone through in the order of their keys, so that most parents, which are older,
    have their root by then. What is given is left: by its key, each such ancestor with a
    parent that has no root either, and the key of that parent. Every cycle is among them.
    One scan, and one look-up for each of them, whatever the planner knows of the table.

    Args:
        connection: The connection that migrates.
        tree: The table and its columns.
        name: The table as in SQL, with its schema.
    """
    query = _LINKS.format(**asdict(tree), name=name)
    with session(connection, jit="off", max_parallel_workers_per_gather="0"):
        return {row[0]: row[1] for row in run(connection, query)}


def ancestors_first(parent_of: Mapping[Any, Any]) -> tuple[list[Any], list[list[Any]]]:
    """
    Order the keys of *parent_of* so that each comes after its ancestors.

    Returns:
        The keys, and the cycles among them, each from its smallest key up through the parents.
    """
    ordered: dict[Any, None] = {}
    cycles = []
    for start in parent_of:
        path: dict[Any, None] = {}
        at = start
        while at in parent_of and at not in ordered and at not in path:
            path[at] = None
            at = parent_of[at]
        if at in path:
            keys = list(path)[list(path).index(at) :]
            first = keys.index(min(keys))
            cycles.append(keys[first:] + keys[:first])
        ordered.update(dict.fromkeys(reversed(path)))
    return list(ordered), sorted(cycles)


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
)
SELECT key, above FROM link"""

_DANGLING = f"""\
SELECT {{key}} AS key, {{parent}} AS parent, count(*) OVER () AS total FROM {{name}} t
 WHERE {{root}} IS NULL AND {{parent}} IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM {{name}} p WHERE p.{{key}} = t.{{parent}})
 ORDER BY {{key}} LIMIT {MAX_LISTED}"""
