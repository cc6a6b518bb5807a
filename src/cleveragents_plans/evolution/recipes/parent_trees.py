"""A look at a tree that is kept as parent links, before anything is made of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Self

from sqlalchemy import inspect, text

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.postgresql.connection import session
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")

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
    #: The type of these columns on PostgreSQL, without a length.
    type: str = "text"


class CycleFound(EvolutionError):
    """
    Rows are their own ancestors, so they have no root.

    Attributes:
        table: The table.
        cycles: The keys of each cycle, from one row up through its parents.
    """

    def __init__(self, table: str, parent: str, cycles: Sequence[Sequence[str]]) -> None:
        shown = "; ".join(" -> ".join([*cycle, cycle[0]]) for cycle in cycles[:MAX_LISTED])
        more = f" and {len(cycles) - MAX_LISTED} more" if len(cycles) > MAX_LISTED else ""
        super().__init__(
            f"rows of {table} are their own ancestors and have no root: {shown}{more}; "
            f"set {parent} of one row in each cycle to its true parent or to NULL, then run "
            "the upgrade again; nothing was changed"
        )
        self.table = table
        self.cycles = cycles

    @classmethod
    def among(
        cls, tree: ParentTree, members: Iterable[str], parent_of: Callable[[str], str]
    ) -> Self:
        """Name the whole cycles that the rows *members* belong to."""
        cycles: list[list[str]] = []
        seen: set[str] = set()
        for current in members:
            cycle = []
            while current not in seen:
                seen.add(current)
                cycle.append(current)
                current = parent_of(current)
            if cycle:
                cycles.append(cycle)
        return cls(tree.table, tree.parent, cycles)


def check_parent_tree(op: Op, tree: ParentTree) -> None:
    """
    Walk up the parent links of every row of *tree* that has no root.

    Rows whose walk ends at a row with a root, at a row without parent, or at a
    parent that does not exist, are fine; the last kind is reported by a warning.

    Reads only: ACCESS SHARE for the length of two scans. Offline it becomes a block of
    the script that raises. On SQLite it does nothing: the copy meets all this anyway
    (see `root_in_copy`), and its transaction is rolled back.

    Raises:
        CycleFound: A row without root is its own ancestor.
    """
    names = asdict(tree)
    if op.get_context().as_sql:
        op.execute(_OFFLINE.format(**names, members=members_of_cycles(tree)))
        return
    connection = op.get_bind()
    # A step before this one may be to create the table.
    if connection.dialect.name == "sqlite" or not inspect(connection).has_table(tree.table):
        return
    every = Settings.of(op.get_context().environment_context).report_every
    # A hash or merge join would read the whole table again for every level of the walk.
    with (
        heartbeat(f"looking for cycles in {tree.table}", every),
        session(connection, enable_hashjoin="off", enable_mergejoin="off"),
    ):
        members = connection.execute(text(members_of_cycles(tree))).scalars().all()
    if members:
        parent_of = text("SELECT {parent} FROM {table} WHERE {key} = :key".format(**names))
        raise CycleFound.among(
            tree, members, lambda key: connection.execute(parent_of, {"key": key}).scalar_one()
        )
    with heartbeat(f"looking for missing parents in {tree.table}", every):
        dangling = connection.execute(text(_DANGLING.format(**names))).all()
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


def members_of_cycles(tree: ParentTree, table: str | None = None) -> str:
    """Give the query for rows of each cycle, in *table* if the tree is kept elsewhere just now."""
    names = asdict(tree)
    return _MEMBERS.format(**{**names, "table": table or tree.table})


# The walk that starts at the smallest key of a cycle meets larger keys only, until it is
# back. So only rows with a parent that is not smaller start one, and most of these end at
# once: most rows are younger than their parents, and their ULIDs larger.
# UNION, not UNION ALL: a walk that runs into a cycle which does not hold its start ends.
_MEMBERS = """\
WITH RECURSIVE walk (start, at) AS (
  SELECT {key}, {parent} FROM {table} WHERE {root} IS NULL AND {parent} >= {key}
  UNION
  SELECT walk.start, p.{parent} FROM walk JOIN {table} p ON p.{key} = walk.at
   WHERE walk.at > walk.start AND p.{root} IS NULL AND p.{parent} >= walk.start
)
SELECT start FROM walk WHERE at = start ORDER BY start"""

_DANGLING = f"""\
SELECT {{key}} AS key, {{parent}} AS parent, count(*) OVER () AS total FROM {{table}} t
 WHERE {{root}} IS NULL AND {{parent}} IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM {{table}} p WHERE p.{{key}} = t.{{parent}})
 ORDER BY {{key}} LIMIT {MAX_LISTED}"""

_OFFLINE = """\
DO $look$
DECLARE found text;
BEGIN
  SELECT string_agg(start, ', ') INTO found FROM ({members}) AS members;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'rows of {table} are their own ancestors and have no root, among them: %', found
      USING HINT = 'set {parent} of one row in each cycle to its true parent or to NULL';
  END IF;
END $look$"""
