"""Plans that are counted by the database, not read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Double, Integer, case, func, literal_column, select
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Phase, ProcessingState
from cleveragents_plans.domain.types import MAX_INTEGER, full_name
from cleveragents_plans.persistence.errors import NotARoot
from cleveragents_plans.persistence.queries import root_of, rows_of
from cleveragents_plans.persistence.sessions import PLANS

#: What plans can be counted by.
CountField = Literal[
    "phase", "processing_state", "namespace", "action", "created_by", "parent", "root"
]

#: Of these the values are text, or None.
CountTextField = Literal["namespace", "action", "created_by", "parent", "root"]

#: The column of each, and how its value is given.
_FIELDS: Final[dict[str, tuple[ColumnElement[Any], Callable[[Any], Any]]]] = {
    "phase": (PLANS.c.phase, Phase),
    "processing_state": (PLANS.c.processing_state, ProcessingState),
    "namespace": (PLANS.c.namespace, str),
    "action": (PLANS.c.action_name, full_name),
    "created_by": (PLANS.c.created_by, str),
    "parent": (PLANS.c.parent_plan_id, str),
    "root": (PLANS.c.root_plan_id, str),
}
COUNT_FIELDS: Final = tuple(_FIELDS)


# The largest numbers that a plan can have.
_LARGEST_COST: Final = literal_column("1.7976931348623157e308", Double)
_LARGEST_COUNT: Final = literal_column(str(MAX_INTEGER), Integer)


@dataclass(frozen=True)
class TreeSummary:
    """What the plans of one tree come to, the root included."""

    root_plan_id: str
    #: How many plans there are.
    plans: int
    #: How many ancestors the deepest plan has: 0 for a root alone.
    depth: int
    #: US dollars, of the plans that record them.
    cost_actual_usd: float
    token_count_input: int
    token_count_output: int
    #: How many plans are in each state, for those that occur.
    processing_states: dict[ProcessingState, int]


def count_by(
    session: Session, fields: Sequence[str], wanted: Sequence[ColumnElement[bool]]
) -> dict[Any, int]:
    """Count plans for each combination of the values of *fields*; for one field, for each value."""
    columns = [_FIELDS[name][0] for name in fields]
    query = select(*columns, func.count()).where(*wanted).group_by(*columns).order_by(*columns)
    counts: dict[Any, int] = {}
    for row in rows_of(session, query):
        values: Sequence[Any] = row[:-1]
        key = tuple(_value(name, value) for name, value in zip(fields, values, strict=True))
        held = key if len(key) > 1 else key[0]
        # An action that the former release stored without a namespace is one of ``local``.
        counts[held] = counts.get(held, 0) + row[-1]
    return counts


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        return _FIELDS[name][1](value)
    except (TypeError, ValueError):
        return value  # of a row that cannot be read


def summarize_tree(session: Session, root_plan_id: str) -> TreeSummary:
    """
    Sum up the tree of a root, in two statements.

    Raises:
        PlanNotFound: There is no such plan.
        NotARoot: The plan belongs to the tree of another root.
    """
    named = PLANS.c.root_plan_id == root_plan_id
    amounts = {
        PLANS.c.cost_actual_usd: _LARGEST_COST,
        PLANS.c.token_count_input: _LARGEST_COUNT,
        PLANS.c.token_count_output: _LARGEST_COUNT,
    }
    # SQLite holds infinity, too, and numbers whose sum is none: what no plan can have is left out.
    within = (case((amount.between(0, most), amount)) for amount, most in amounts.items())
    sums = (func.coalesce(func.sum(each), 0) for each in within)
    state = PLANS.c.processing_state
    query = select(state, func.count(), *sums).where(named).group_by(state).order_by(state)
    rows: list[Any] = [*rows_of(session, query)]
    if not rows:
        raise NotARoot(root_plan_id, root_of(session, root_plan_id))
    cost, tokens_in, tokens_out = (sum(row[at] for row in rows) for at in (2, 3, 4))
    return TreeSummary(
        root_plan_id=root_plan_id,
        plans=sum(row[1] for row in rows),
        depth=_depth(session, root_plan_id),
        cost_actual_usd=float(cost),
        token_count_input=int(tokens_in),
        token_count_output=int(tokens_out),
        processing_states={_value("processing_state", row[0]): row[1] for row in rows},
    )


def _depth(session: Session, root_plan_id: str) -> int:
    # From plans without a parent downwards: rows that are their own ancestors are never reached.
    # Plans below that name another root end a walk: they are sorted out after they were found by
    # their parents, as SQLite would else fill a Bloom filter from the whole table for each tree.
    named, top = PLANS.c.root_plan_id == root_plan_id, PLANS.c.parent_plan_id.is_(None)
    zero = literal_column("0", Integer).label("depth")
    level = select(PLANS.c.plan_id, PLANS.c.root_plan_id, zero).where(named, top)
    down = level.cte("down", recursive=True)
    within = down.c.root_plan_id == root_plan_id
    below = PLANS.alias("below")
    down = down.union_all(
        select(below.c.plan_id, below.c.root_plan_id, down.c.depth + 1).where(
            below.c.parent_plan_id == down.c.plan_id, within
        )
    )
    deepest = select(func.coalesce(func.max(down.c.depth), 0))
    ((depth,),) = rows_of(session, deepest.where(down.c.root_plan_id == root_plan_id))
    return int(depth)
