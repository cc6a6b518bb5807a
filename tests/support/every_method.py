"""
Call every method of the repository on a database that is there, whichever release made it.

It takes the library alone, so that the library of another release can run it: old code on a newer
schema, as in a rolling deployment, or new code on an older one. The database is left as it was.

    python tests/support/every_method.py --url sqlite:///plans.db
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

from sqlalchemy import NullPool
from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanRepository, open_engine

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def call_every_method(url: str) -> None:
    """
    Store a tree of three plans, take, change, read and delete it, in two transactions.

    Raises:
        AssertionError: A method gives something else than what was stored.
    """
    engine = open_engine(url, poolclass=NullPool)
    with Session(engine) as session, session.begin():
        root, *parts = _write(PlanRepository(session))
    with Session(engine) as session, session.begin():
        plans = PlanRepository(session)
        _read(plans, root, parts)
        plans.delete(parts[0])
        assert plans.delete_trees(completed_before=_LONG_AGO, referenced="skip") == 0
        assert plans.delete_tree(root.plan_id) == 2
    engine.dispose()


def _write(plans: PlanRepository) -> list[Plan]:
    root = plans.add(Plan.create("local/every-method", arguments={"a": [None]}, invariants=["dry"]))
    parts = [root.spawn(text, project_links=["p"]) for text in ("one", "two")]
    assert plans.add_all(parts) == len(parts)
    (taken,) = plans.claim(root=root.plan_id, phase="action")
    released = plans.release(plans.touch(taken))
    assert (released.processing_state, released.attempt) == ("queued", 1)
    begun = plans.claim(root=root.plan_id, limit=3)
    queued = plans.requeue_stalled(not_touched_for=timedelta(0), root=root.plan_id)
    assert {each.plan_id for each in queued} == {each.plan_id for each in begun}
    assert {each.attempt for each in queued} == {2}
    one, two = (plans.get(each.plan_id) for each in parts)
    saved = plans.save(one.begin().edit(tags=["a"], project_links=["q"]))
    return [plans.get(root.plan_id), saved, plans.change(two.plan_id, Plan.cancel)]


def _read(plans: PlanRepository, root: Plan, parts: list[Plan]) -> None:
    tree = {each.plan_id: each for each in (root, *parts)}
    assert {each.plan_id: each for each in plans.tree(root.plan_id)} == tree
    assert plans.get_many(tree) == tree
    assert {*plans.children(root.plan_id)} == {*parts}
    assert plans.ancestors(parts[0].plan_id) == (root,)
    assert plans.depth(parts[0].plan_id) == 1
    assert plans.tree_summary(root.plan_id).depth == 1
    assert (
        {*plans.list(root=root.plan_id)} == {*plans.stream(root=root.plan_id)} == {*tree.values()}
    )
    assert plans.count(root=root.plan_id) == len(tree)
    assert plans.count_by("phase", root=root.plan_id) == {root.phase: len(tree)}
    assert plans.exists(root.plan_id)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--url", required=True)
    call_every_method(parser.parse_args().url)
