"""Roots, parents and the plans that rows belong to, found by the database itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.printable import equals, identifier
from cleveragents_plans.evolution.runner.command_line import typed_for_program
from cleveragents_plans.schema.database import Database
from cleveragents_plans.verification.findings import (
    PLANS,
    Finding,
    Kind,
    RowFindings,
    literal_of,
    text_of,
)
from cleveragents_plans.verification.rows import CHILD_TABLES

_ROOT = f"{PLANS}.root_plan_id"
_PARENT = f"{PLANS}.parent_plan_id"

#: Of each root that is wrong, what is; ``verify --repair roots`` mends it.
ROOTS: Mapping[Kind, str] = {
    Kind.ROOT_NULL: "the root is NULL",
    Kind.ROOT_OWN: "a plan with a parent names itself as the root of its tree",
    Kind.ROOT_OF_ANOTHER_TREE: "the root is not that of the parent",
    Kind.ROOT_IS_NO_ROOT: "a detached plan names a root that belongs to the tree of another one",
    Kind.ROOT_NOT_STORED: "the root is not stored",
}


def check_trees(database: Database, listed: int) -> Iterator[Finding]:
    """
    Find plans whose root or parent cannot be right, cycles, and rows of plans that are not stored.

    The root of a plan is that of its parent. A plan without parent names itself, or, if it was
    detached (its parent was deleted), a plan that is a root. Before the revision that fills in
    roots a missing one is right.

    It takes a few scans and joins of the tables; only what is found leaves the database.

    Args:
        database: What is looked at.
        listed: How many plans are named for each kind.
    """
    found, without_root = RowFindings(listed), 0
    is_, plans = equals(on_postgresql=database.on_postgresql), _named(database, PLANS)
    detach = f"UPDATE {plans} SET parent_plan_id = NULL WHERE"
    repair = f"run {typed_for_program(database.config, 'verify --repair roots')}"
    for plan_id, parent, root, kind, lacks_parent in wrong_roots(database):
        if kind is not None:
            stored = "NULL" if root is None else text_of(root)
            what = f"{ROOTS[Kind(kind)]} (it is {stored})"
            found.add(Kind(kind), _ROOT, plan_id, what, repair)
        if lacks_parent:
            without_root += root is None
            found.add(
                Kind.PARENT_NOT_STORED,
                _PARENT,
                plan_id,
                f"the parent is not stored (it is {text_of(parent)})",
                f"{detach} plan_id {is_} {literal_of(plan_id)} detaches the plan",
            )
    for cycle in _cycles(database):
        found.add(
            Kind.CYCLE,
            _PARENT,
            cycle[0],
            f"plans are their own ancestors: {' -> '.join(map(text_of, [*cycle, cycle[0]]))}",
            f"{detach} plan_id {is_} {literal_of(cycle[0])}, or its true parent",
        )
    for table in CHILD_TABLES:
        if table not in database.position.tables:
            continue
        for (plan_id,) in _query(database, _ORPHANS, child=database.table_in_text(table)):
            found.add(
                Kind.PLAN_NOT_STORED,
                table,
                plan_id,
                "a row belongs to a plan that is not stored",
                f"DELETE FROM {_named(database, table)} WHERE plan_id {is_} {literal_of(plan_id)}",
            )
    for finding in found:
        if finding.kind is Kind.PARENT_NOT_STORED:
            what, remedy = finding.found, finding.remedy
            if not database.position.is_complete:
                # An upgrade warns of those alone whose root it has to find.
                what += f"; {without_root:,} of these plans have no root, and preflight counts "
                what += "only those"
            if finding.total > 1:
                remedy += f"; {detach} {_LACKS_PARENT.format(plans, is_)} detaches all of them"
            yield finding.model_copy(update={"found": what, "remedy": remedy})
        else:
            yield finding


def _named(database: Database, table: str) -> str:
    """Name a table in SQL that is typed."""
    return table if database.schema is None else f"{identifier(database.schema)}.{table}"


def wrong_roots(
    database: Database, condition: str = "", **values: object
) -> Iterator[tuple[Any, ...]]:
    """
    Find plans whose root or parent cannot be right: id, parent, root, kind, lacks a parent.

    *condition* is added to the query, such as an order and a limit, with its *values*.
    """
    root_null = f"'{Kind.ROOT_NULL}'" if database.position.is_complete else "NULL"
    return _query(database, _WRONG, values, null=root_null, condition=condition)


def _query(
    database: Database, query: str, values: Mapping[str, object] | None = None, **names: str
) -> Iterator[tuple[Any, ...]]:
    """Run *query* in a stream."""
    sql = text(query.format(plans=database.table_in_text(PLANS), **names))
    options = {"yield_per": 1000}
    with database.connection.execute(sql, values or {}, execution_options=options) as found:
        yield from found


def _cycles(database: Database) -> Iterator[list[Any]]:
    connection = database.connection
    # A hash or merge join would read the whole table for each level of the walk.
    joins = ("enable_hashjoin", "enable_mergejoin") if database.on_postgresql else ()
    for name in joins:
        run(connection, f"SET LOCAL {name} TO off")
    starts = [start for (start,) in _query(database, _CYCLES)]
    for name in joins:
        run(connection, f"SET LOCAL {name} TO on")
    seen: set[Any] = set()
    for start in starts:
        cycle, at = [], start
        while at not in seen:
            seen.add(at)
            cycle.append(at)
            at = _parent_of(connection, database.table_in_text(PLANS), at)
        if cycle:
            yield cycle


def _parent_of(connection: Connection, plans: str, plan_id: Any) -> Any:
    query = text(f"SELECT parent_plan_id FROM {plans} WHERE plan_id = :plan_id")
    return connection.execute(query, {"plan_id": plan_id}).scalar_one()


# By NOT IN, PostgreSQL would go through all ids for each plan where they do not fit into work_mem.
_LACKS_PARENT = (
    "parent_plan_id IS NOT NULL AND NOT EXISTS "
    f"(SELECT 1 FROM {{0}} AS p WHERE p.plan_id {{1}} {PLANS}.parent_plan_id)"
)

# Before roots are filled in, the root of a plan without parent may be NULL, and means itself.
_WRONG = """\
SELECT * FROM (
  SELECT p.plan_id, p.parent_plan_id, p.root_plan_id,
         CASE
           WHEN p.root_plan_id IS NULL THEN {null}
           WHEN r.plan_id IS NULL THEN 'root-not-stored'
           WHEN a.plan_id IS NULL THEN
             CASE WHEN p.root_plan_id <> p.plan_id
                   AND (r.root_plan_id <> r.plan_id
                        OR r.root_plan_id IS NULL AND r.parent_plan_id IS NOT NULL)
                  THEN 'root-is-no-root' END
           WHEN p.root_plan_id = p.plan_id THEN 'root-own'
           WHEN p.root_plan_id <> coalesce(a.root_plan_id,
                CASE WHEN a.parent_plan_id IS NULL THEN a.plan_id ELSE p.root_plan_id END)
           THEN 'root-of-another-tree'
         END AS kind,
         p.parent_plan_id IS NOT NULL AND a.plan_id IS NULL AS lacks_parent
    FROM {plans} p
    LEFT JOIN {plans} a ON a.plan_id = p.parent_plan_id
    LEFT JOIN {plans} r ON r.plan_id = p.root_plan_id
) AS checked
 WHERE (kind IS NOT NULL OR lacks_parent) {condition}"""

# The walk that starts at the smallest id of a cycle meets larger ids only, until it is back. So
# only plans with a parent that is not smaller start one, and most of these end at once: most
# plans are younger than their parents, and their ULIDs larger.
_CYCLES = """\
WITH RECURSIVE walk (start, at) AS (
  SELECT plan_id, parent_plan_id FROM {plans} WHERE parent_plan_id >= plan_id
  UNION
  SELECT walk.start, p.parent_plan_id FROM walk JOIN {plans} p ON p.plan_id = walk.at
   WHERE walk.at > walk.start AND p.parent_plan_id >= walk.start
)
SELECT start FROM walk WHERE at = start ORDER BY start"""

_ORPHANS = """\
SELECT c.plan_id FROM {child} c
 WHERE NOT EXISTS (SELECT 1 FROM {plans} p WHERE p.plan_id = c.plan_id)"""
