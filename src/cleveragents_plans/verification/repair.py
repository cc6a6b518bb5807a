"""Roots that are wrong, set to those of the trees that the plans stand in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from alembic.config import Config
from sqlalchemy import bindparam, select, update

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.persistence.columns import has_surrogates
from cleveragents_plans.persistence.sessions import PLANS
from cleveragents_plans.schema.database import Database, write_database
from cleveragents_plans.verification.trees import wrong_roots

# Plans that one transaction writes.
_BATCH = 200
_NEXT = "AND kind IS NOT NULL {after} ORDER BY plan_id LIMIT :batch"

_Link = tuple[str | None, str | None]


class CannotRepair(EvolutionError):
    """The version of the database says that it is no time for repairs."""


def repair_roots(config: Config) -> Iterator[int]:
    """
    Set each root that `wrong_roots` finds to that of the tree that the plan stands in.

    That is the root of its highest ancestor: the ancestor itself, or the plan that it names, if it
    was detached from a tree that is still there. Nothing else is written: ``updated_at`` stays,
    as in a migration. A plan of a cycle has no root, and stays as it is.

    Each batch is a transaction of its own, so it can be interrupted and repeated. Locks: the rows
    of a batch, for milliseconds; on SQLite the file.

    Yields:
        How many plans were written, after each batch.

    Raises:
        CannotRepair: A revision is unfinished, or the version does not fit the tables.
        CommandError: See `write_database`.
    """
    while True:
        written = 0
        after: str | None = None
        while True:
            with write_database(config, "verify --repair roots") as database:
                found = _next_batch(database, after)
                done = _repair(database, found)
            written += done
            yield done
            names = [plan_id for plan_id, _, _ in found]
            if len(found) < _BATCH or names[-1:] == [after]:
                break
            after = names[-1]
        # Where a parent is younger than its child, the child is found wrong after the parent.
        if not written:
            return


def _next_batch(database: Database, after: str | None) -> list[tuple[str, str | None, str | None]]:
    position = database.position
    if position.unfinished is not None or position.misfit is not None or not position.applied:
        raise CannotRepair(
            "the tables are not at a revision of the chain; run `cleveragents-plans verify`, and "
            "mend what it finds in the version first; nothing was changed"
        )
    database.lock_tables()
    if database.on_postgresql:
        # In the order of the primary key a batch is found without reading the whole table.
        for name in ("enable_hashjoin", "enable_sort"):
            run(database.connection, f"SET LOCAL {name} TO off")
    condition = _NEXT.format(after="" if after is None else "AND plan_id > :after")
    values = {"batch": _BATCH} if after is None else {"batch": _BATCH, "after": after}
    rows = wrong_roots(database, condition, **values)
    return [(plan_id, parent, root) for plan_id, parent, root, *_ in rows if _is_text(plan_id)]


def _is_text(plan_id: Any) -> bool:
    # SQLite stores anything; what is no text names no plan of ours.
    return isinstance(plan_id, str) and not has_surrogates(plan_id)


def _repair(database: Database, found: list[tuple[str, str | None, str | None]]) -> int:
    links = _Links(database)
    roots = links.roots_of(plan_id for plan_id, _, _ in found)
    changes = [
        {"of": plan_id, "former": root, "parent": parent, "new": roots[plan_id]}
        for plan_id, parent, root in found
        if roots[plan_id] not in (None, root)
    ]
    # What another session wrote meanwhile is looked at again.
    statement = (
        update(PLANS)
        .where(
            PLANS.c.plan_id == bindparam("of"),
            PLANS.c.root_plan_id.is_not_distinct_from(bindparam("former")),
            PLANS.c.parent_plan_id.is_not_distinct_from(bindparam("parent")),
        )
        # Or else SQLAlchemy would move it on, as for a write of a client.
        .values(root_plan_id=bindparam("new"), updated_at=PLANS.c.updated_at)
    )
    if not changes:
        return 0
    return int(database.connection.execute(statement, changes).rowcount)


class _Links:
    """Parents and roots, read as far up as they are asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: By plan; None for one that is not stored.
        self._known: dict[str, _Link | None] = {}

    def roots_of(self, plan_ids: Iterable[str]) -> dict[str, str | None]:
        """Find the root of each plan; None for one that has none, because of a cycle."""
        roots: dict[str, str | None] = {}
        # Each plan, where its walk is by now, and what it met on the way.
        walks = {plan_id: (plan_id, {plan_id}) for plan_id in plan_ids}
        while walks:
            self._read({at for at, _ in walks.values()} | self._named(walks.values()))
            for plan_id, (at, met) in [*walks.items()]:
                above = self._above(at)
                if above is None:
                    roots[plan_id] = at
                elif above in met:
                    roots[plan_id] = None
                else:
                    met.add(above)
                    walks[plan_id] = above, met
                    continue
                del walks[plan_id]
        return roots

    def _above(self, plan_id: str) -> str | None:
        """Give the parent, or the root that a plan without parent names; None for a root."""
        link = self._known[plan_id]
        for above in link or ():
            if above is not None and above != plan_id and self._known.get(above) is not None:
                return above
        return None

    def _named(self, walks: Iterable[tuple[str, set[str]]]) -> set[str]:
        self._read({at for at, _ in walks})
        links = (self._known[at] for at, _ in walks)
        return {name for link in links for name in link or () if name is not None}

    def _read(self, plan_ids: set[str]) -> None:
        wanted = sorted(plan_ids - self._known.keys())
        for start in range(0, len(wanted), _BATCH):
            some = wanted[start : start + _BATCH]
            self._known.update(dict.fromkeys(some))
            query = select(PLANS.c.plan_id, PLANS.c.parent_plan_id, PLANS.c.root_plan_id)
            for row in self._database.connection.execute(query.where(PLANS.c.plan_id.in_(some))):
                self._known[row.plan_id] = row.parent_plan_id, row.root_plan_id
