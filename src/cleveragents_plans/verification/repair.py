"""Roots that are wrong, set to those of the trees that the plans stand in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from alembic.config import Config
from sqlalchemy import bindparam, select, update

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.stuck_backfills import update_triggers
from cleveragents_plans.persistence.columns import has_surrogates
from cleveragents_plans.persistence.sessions import PLANS
from cleveragents_plans.schema.database import Database, read_database, write_database
from cleveragents_plans.verification.findings import text_of
from cleveragents_plans.verification.trees import wrong_roots

# Plans that one transaction writes.
_BATCH = 200
# Passes over the table without progress; a client may write a wrong root now and then.
_MAX_PASSES = 3
_SHOWN = 5
# No revision makes a trigger there.
_SQLITE_TRIGGERS = (
    f"SELECT name FROM sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = '{PLANS.name}' "
    "ORDER BY 1"
)
_NEXT = "AND kind IS NOT NULL {after} ORDER BY plan_id LIMIT :batch"

_Link = tuple[str | None, str | None]


class CannotRepair(EvolutionError):
    """The version of the database says that it is no time for repairs."""


class RepairNeverEnds(EvolutionError):
    """
    Roots are wrong however often they are set.

    Attributes:
        plans: Some of the plans.
        triggers: Triggers that fire for an UPDATE of the table, one of which may undo it; those
            that a revision created are not among them.
    """

    def __init__(self, left: int, plans: Sequence[str], triggers: Sequence[str]) -> None:
        fire = ", ".join(triggers) or "none"
        wrong = "1 root is" if left == 1 else f"{left:,} roots are"
        remedies = ["end the client that writes them"]
        if triggers:
            remedies.insert(0, "disable a trigger that undoes it")
        super().__init__(
            f"the repair of roots would never end: {wrong} wrong again after each pass, such as of "
            f"{', '.join(map(text_of, plans))}; triggers that fire for an UPDATE of {PLANS.name}: "
            f"{fire}; {', or '.join(remedies)}, and run the same command again; what was repaired "
            "stays"
        )
        self.plans: tuple[str, ...] = tuple(plans)
        self.triggers: tuple[str, ...] = tuple(triggers)


def repair_roots(config: Config) -> Iterator[int]:
    """
    Set each root that `wrong_roots` finds to that of the tree that the plan stands in.

    That is the root of its highest ancestor: the ancestor itself, or the plan that it names, if it
    was detached from a tree that is still there. Nothing else is written: ``updated_at`` stays,
    as in a migration. A plan of a cycle has no root, and stays as it is.

    Each batch is a transaction of its own, so it can be interrupted and repeated. Locks: the rows
    of a batch, for milliseconds; on SQLite the file. Memory: the ids of the plans that are written.

    Yields:
        How many plans were given their root for the first time, after each batch.

    Raises:
        CannotRepair: A revision is unfinished, or the version does not fit the tables.
        CommandError: See `write_database`.
        RepairNeverEnds: A trigger or a client undoes what is written; the rest stays repaired.
    """
    repaired: set[str] = set()
    in_vain = 0
    while True:
        first, progress = not repaired, False
        wrong: list[str] = []
        after: str | None = None
        while True:
            with write_database(config, "verify --repair roots") as database:
                found = _next_batch(database, after)
                written, undone = _repair(database, found)
            # Where a parent is younger than its child, the child is found wrong after the parent.
            # Whatever else is found wrong by a later pass became so meanwhile.
            progress = progress or any(
                first or not repaired.isdisjoint((parent, root))
                for plan_id, parent, root in found
                if plan_id in written and plan_id not in repaired
            )
            wrong += sorted(undone if first else undone | written)
            yield len(written - repaired)
            repaired |= written
            names = [plan_id for plan_id, _, _ in found]
            if len(found) < _BATCH or names[-1:] == [after]:
                break
            after = names[-1]
        if not progress and not wrong:
            return
        in_vain = 0 if progress else in_vain + 1
        if in_vain == _MAX_PASSES:
            raise RepairNeverEnds(len(wrong), wrong[:_SHOWN], _update_triggers(config))


def _update_triggers(config: Config) -> list[str]:
    with read_database(config, "verify --repair roots") as database:
        if database.on_postgresql:
            return update_triggers(database.connection, database.table(PLANS.name))
        return list(run(database.connection, _SQLITE_TRIGGERS).scalars())


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


def _repair(
    database: Database, found: list[tuple[str, str | None, str | None]]
) -> tuple[set[str], set[str]]:
    """Give the plans that have the root of their tree now, and those that a trigger kept off it."""
    links = _Links(database)
    roots = links.roots_of(plan_id for plan_id, _, _ in found)
    changes = [
        {"of": plan_id, "former": root, "parent": parent, "new": roots[plan_id]}
        for plan_id, parent, root in found
        if roots[plan_id] not in (None, root)
    ]
    if not changes:
        return set(), set()
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
    database.connection.execute(statement, changes)
    # The number of rows says nothing: a trigger may keep the root, or set it back.
    stored = _Links(database).of(str(each["of"]) for each in changes)
    written: set[str] = set()
    undone: set[str] = set()
    for each in changes:
        parent, root = stored[str(each["of"])] or (None, None)
        if root == each["new"]:
            written.add(str(each["of"]))
        elif parent == each["parent"]:
            undone.add(str(each["of"]))
    return written, undone


class _Links:
    """Parents and roots, read as far up as they are asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: By plan; None for one that is not stored.
        self._known: dict[str, _Link | None] = {}

    def of(self, plan_ids: Iterable[str]) -> dict[str, _Link | None]:
        """Give parent and root of each plan, as they are stored now; None if it is not stored."""
        self._read({*plan_ids})
        return self._known

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
