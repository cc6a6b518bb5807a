"""``tree``: the plans of a tree, each under its parent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import click
from pydantic import Field
from rich.text import Text
from rich.tree import Tree
from sqlalchemy import ColumnElement, RowMapping, select
from sqlalchemy.orm import Session

from cleveragents_plans.cli.options import PLAN_COUNT, config_of, database_options, json_option
from cleveragents_plans.cli.output import counted, show, show_json, styled
from cleveragents_plans.cli.plans import PlanLine, listed_rows, require_plans
from cleveragents_plans.cli.reports import DatabaseFacts, Report
from cleveragents_plans.persistence import PlanNotFound
from cleveragents_plans.persistence.pages import stored_id
from cleveragents_plans.persistence.sessions import PLANS
from cleveragents_plans.schema.database import Database, read_database
from cleveragents_plans.verification.findings import exact_text

# Plans that are read at once.
_BATCH = 500


class TreeReport(Report):
    """What ``tree`` found."""

    command: Literal["tree"] = Field(default="tree", description="The command.")
    top: str = Field(description="The plan at the top: the root, or the highest ancestor.")
    total: int = Field(description="How many plans there are in the tree.")
    plans: tuple[PlanLine, ...] = Field(
        description="The plans from the top down; at most as many as were asked for."
    )


@click.command("tree")
@click.argument("plan_id", metavar="ID")
@click.option(
    "--limit", type=PLAN_COUNT, default=1000, show_default=True, metavar="N",
    help="Number of plans that are shown at most.",
)  # fmt: skip
@json_option
@database_options
def tree_command(plan_id: str, limit: int, json: bool, **given: Any) -> None:
    """
    Show the tree in which the plan ID stands, at any revision.

    Plans that were detached from it, because their parent was deleted, stand at its end, and so do
    plans that are their own ancestors, with what is below them.
    """
    with read_database(config_of(given), "tree") as database:
        require_plans(database)
        top, asked = _top(database, plan_id)
        parents = _members(database, top)
        order = _order(parents, top)
        plans = [
            PlanLine.of(row)
            for start in range(0, min(limit, len(order)), _BATCH)
            for row in _listed(database, order[start : min(limit, start + _BATCH)])
        ]
        about = DatabaseFacts.of(database)
    report = TreeReport(database=about, top=exact_text(top), total=len(order), plans=tuple(plans))
    show_json(report) if json else _show(report, exact_text(asked))


def _top(database: Database, plan_id: str) -> tuple[str, str]:
    """Walk up to the root, or to the highest ancestor; give it, and the plan as it is stored."""
    here = _links(database, plan_id, plan_id.upper())
    if here is None:
        raise PlanNotFound(plan_id)
    asked, met = here.plan_id, {here.plan_id}
    while True:
        above = here.parent_plan_id or here.root_plan_id
        if above is None or above in met:  # a root, or a cycle
            return here.plan_id, asked
        higher = _links(database, above)
        if higher is None:
            return here.plan_id, asked
        met.add(above)
        here = higher


def _links(database: Database, *plan_ids: str) -> Any:
    query = select(PLANS.c.plan_id, PLANS.c.parent_plan_id, PLANS.c.root_plan_id)
    return database.connection.execute(query.where(_is_among(database, plan_ids))).first()


def _listed(database: Database, plan_ids: Sequence[str]) -> Sequence[RowMapping]:
    return listed_rows(database, [_is_among(database, plan_ids)], len(plan_ids))


def _is_among(database: Database, plan_ids: Iterable[str]) -> ColumnElement[bool]:
    session = Session(database.connection)
    return PLANS.c.plan_id.in_([stored_id(session, each) for each in plan_ids])


def _members(database: Database, top: str) -> dict[str, str | None]:
    """Read the plans under *top*, and those that name it as their root, each with its parent."""
    plans, below = PLANS.c, PLANS.alias("below")
    stored = stored_id(Session(database.connection), top)
    named = select(plans.plan_id).where((plans.plan_id == stored) | (plans.root_plan_id == stored))
    tree = named.cte("tree", recursive=True)
    # UNION drops what it has seen: a cycle ends.
    tree = tree.union(select(below.c.plan_id).where(below.c.parent_plan_id == tree.c.plan_id))
    query = select(plans.plan_id, plans.parent_plan_id).where(plans.plan_id.in_(select(tree)))
    rows = database.connection.execute(query.order_by(plans.plan_id))
    return {row.plan_id: row.parent_plan_id for row in rows}


def _order(parents: dict[str, str | None], top: str) -> list[str]:
    """Put plans in the order in which they are drawn: a parent, and then each child's branch."""
    children = _by_parent(parents, top)
    return [*_below(children, children[None])]


def _below(children: dict[str | None, list[str]], tops: list[str]) -> dict[str, None]:
    """Give *tops* and all plans below them, each once: a parent, and then each child's branch."""
    order: dict[str, None] = {}
    waiting = [*reversed(tops)]
    while waiting:
        plan = waiting.pop()
        if plan not in order:
            order[plan] = None
            waiting += reversed(children[plan])
    return order


def _by_parent(parents: dict[str, str | None], top: str) -> dict[str | None, list[str]]:
    """List plans by their parent; under None those that begin a tree, *top* first."""
    children: dict[str | None, list[str]] = defaultdict(list)
    children[None].append(top)
    for plan, parent in parents.items():
        if plan != top:
            children[parent if parent in parents else None].append(plan)
    reached = _below(children, children[None])
    for plan in parents:
        if plan not in reached:  # one of its cycle begins a tree
            first, met = plan, set[str]()
            while first not in met:
                met.add(first)
                first = parents[first] or ""
            children[None].append(first)
            reached |= _below(children, [first])
    return children


def _show(report: TreeReport, asked: str) -> None:
    lines = {plan.plan_id: plan for plan in report.plans}
    children = _by_parent({each: line.parent_plan_id for each, line in lines.items()}, report.top)
    drawn: set[str] = set()
    for top in children[None]:
        label = _label(lines[top], asked, report.top)
        if lines[top].parent_plan_id in lines:
            label.append("  its own ancestor", "red")
        tree = Tree(label, guide_style="dim")
        waiting = [(top, tree)]
        while waiting:
            plan, branch = waiting.pop()
            drawn.add(plan)
            for child in children[plan]:
                if child not in drawn:
                    waiting.append((child, branch.add(_label(lines[child], asked, report.top))))
        show(tree)
    left = report.total - len(report.plans)
    more = f"; {left:,} more are not shown, see --limit" if left else ""
    show("", f"{counted(report.total, 'plan')}{more}")


def _label(plan: PlanLine, asked: str, top: str) -> Text:
    label = Text(no_wrap=True, overflow="ellipsis")
    label.append_text(styled(plan.plan_id, "bold reverse" if plan.plan_id == asked else "bold"))
    label.append_text(styled(f"  {plan.called}  "))
    label.append_text(styled(f"{plan.phase}/{plan.processing_state}", plan.style))
    if plan.parent_plan_id is None and plan.plan_id != top:
        label.append("  detached", "yellow")
    return label
