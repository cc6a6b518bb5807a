"""The repository: where plans are put, found and listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Unpack

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, aliased

from cleveragents_plans.domain import Plan
from cleveragents_plans.domain.errors import shown
from cleveragents_plans.persistence import parameters, queries, updates
from cleveragents_plans.persistence.errors import NotARoot, PlanNotFound
from cleveragents_plans.persistence.inserts import insert_plans
from cleveragents_plans.persistence.queries import Filters, OnCorrupt
from cleveragents_plans.persistence.sessions import PLANS, check_foreign_keys

_BATCH = 1000


class Page(NamedTuple):
    """A part of a listing, and where the next one begins."""

    plans: tuple[Plan, ...]
    #: What to give as *after* for the next page; None after the last one. It is the id of the
    #: last row, which SQLite may hold as bytes if it cannot be read.
    next: str | bytes | None


class PlanRepository:
    """
    The plans behind one session.

    It never commits and never rolls back: what a method did becomes lasting when the
    caller commits the session, and a method that raises leaves nothing behind. A SQLite
    connection must keep foreign keys, as those of `open_engine` do: the methods that add and
    delete plans refuse one that does not (`ForeignKeysOff`).

    With an ``AsyncSession`` on `open_async_engine` each call goes through ``run_sync``, as in
    ``await session.run_sync(lambda session: PlanRepository(session).get(plan_id))``. What
    `stream` returns asks the database while it is gone through, which is not allowed outside
    of ``run_sync``: there, page with `list` instead.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, plan: Plan) -> Plan:
        """
        Store a new plan; return it as it was stored.

        A plan that has no snapshot (``'{}'``) is given that of its built-in profile.

        Raises:
            PlanAlreadyStored: Its id is taken.
            RelatedPlanMissing: Its parent or its root is not stored.
            UnknownProfile: It has no snapshot, and its profile is not a built-in one.
            SnapshotUnreadable: It has a snapshot that describes no profile.
            pydantic.ValidationError: It was built without validation, and is not valid.
        """
        checked = parameters.plan_of(plan)
        self.add_all([checked])
        return self.get(checked.plan_id)

    def add_all(self, plans: Iterable[Plan]) -> int:
        """
        Store many new plans, a thousand at a time; return how many.

        Parents come before their children; within a thousand the order does not matter.
        All are stored or, when it raises, none. What was built without validation
        (`model_construct`) is not checked here: that would take as long as storing it.

        Raises:
            PlanCycle: Some are under one another.
            As `add`, but for the ValidationError.
        """
        if isinstance(plans, Plan) or not isinstance(plans, Iterable):
            raise TypeError(f"plans is {shown(plans)}; expected several Plans")
        check_foreign_keys(self._session)
        added = 0
        remaining = iter(plans)
        with self._session.begin_nested():
            while batch := list(islice(remaining, _BATCH)):
                insert_plans(self._session, batch)
                added += len(batch)
        return added

    def get(self, plan_id: str) -> Plan:
        """
        Read one plan.

        Raises:
            PlanNotFound: There is none with this id.
            CorruptPlanRow: Its row cannot be read.
        """
        return queries.one(self._session, parameters.plan_id_of("plan_id", plan_id))

    def save(self, plan: Plan) -> Plan:
        """
        Store what became of a plan that was read or added before; return it as stored.

        The stored plan is later than the one that was read by at least a microsecond.

        Raises:
            PlanConflict: Somebody else wrote or deleted it since it was read.
                Nothing of this write is kept.
            PlanNotStored: It never was stored, or somebody deleted it.
            NoLaterVersion: Its `updated_at` is the last time that there is.
            SnapshotIsFrozen: Its snapshot is another than the stored one.
            CorruptPlanRow: Its row cannot be read any more.
            pydantic.ValidationError: It was built without validation, and is not valid.
        """
        return updates.save_plan(self._session, parameters.plan_of(plan))

    def delete(self, plan: Plan) -> None:
        """
        Delete one plan that was read before; its children are detached and keep their root.

        The database looks for its children through the whole table, as `parent_plan_id` has no
        index. Where that takes too long, an operator may create one.

        Raises:
            RootInUse: Other plans name it as their root.
            PlanConflict: Somebody else wrote or deleted it since it was read.
            PlanNotStored: It never was stored, or somebody deleted it.
        """
        updates.delete_plan(self._session, parameters.plan_of(plan))

    def delete_tree(self, root_plan_id: str) -> int:
        """
        Delete a root and every plan that names it as its root; return how many.

        The database looks for the children of each of them as `delete` says: the time grows
        with the plans of the tree times all plans of the table.

        Raises:
            PlanNotFound: There is no such plan.
            NotARoot: The plan belongs to the tree of another root.
            RootInUse: Somebody added a plan to the tree meanwhile.
        """
        wanted = parameters.plan_id_of("root_plan_id", root_plan_id)
        return updates.delete_tree(self._session, wanted)

    def children(self, plan_id: str, *, on_corrupt: OnCorrupt = "raise") -> tuple[Plan, ...]:
        """
        List the plans in the plan's own tree whose parent it is, by their ids.

        Raises:
            PlanNotFound: There is no such plan.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        wanted = parameters.plan_id_of("plan_id", plan_id)
        parameters.check_on_corrupt(on_corrupt)
        root = select(PLANS.c.root_plan_id).where(PLANS.c.plan_id == wanted).scalar_subquery()
        query = select(PLANS).where(PLANS.c.root_plan_id == root, PLANS.c.parent_plan_id == wanted)
        query = query.order_by(PLANS.c.plan_id)
        rows = queries.rows_of(self._session, query)
        if not rows:
            queries.root_of(self._session, wanted)
        return tuple(queries.plans(self._session, query, rows, on_corrupt))

    def tree(self, root_plan_id: str, *, on_corrupt: OnCorrupt = "raise") -> tuple[Plan, ...]:
        """
        List every plan that names *root_plan_id* as its root, itself included, by their ids.

        Raises:
            PlanNotFound: There is no such plan.
            NotARoot: The plan belongs to the tree of another root.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        wanted = parameters.plan_id_of("root_plan_id", root_plan_id)
        parameters.check_on_corrupt(on_corrupt)
        query = select(PLANS).where(PLANS.c.root_plan_id == wanted).order_by(PLANS.c.plan_id)
        rows = queries.rows_of(self._session, query)
        if not any(row.plan_id == wanted for row in rows):
            raise NotARoot(wanted, queries.root_of(self._session, wanted))
        return tuple(queries.plans(self._session, query, rows, on_corrupt))

    def ancestors(self, plan_id: str, *, on_corrupt: OnCorrupt = "raise") -> tuple[Plan, ...]:
        """
        List the plan's parent, the parent's parent, and so on up to the top.

        Raises:
            PlanNotFound: There is no such plan.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        parameters.check_on_corrupt(on_corrupt)
        query, rows = self._above(plan_id, PLANS)
        return tuple(queries.plans(self._session, query, rows, on_corrupt))

    def depth(self, plan_id: str) -> int:
        """
        Count the plan's ancestors: 0 for a root.

        Raises:
            PlanNotFound: There is no such plan.
        """
        return len(self._above(plan_id, PLANS.c.plan_id, PLANS.c.parent_plan_id)[1])

    def list(
        self,
        *,
        after: str | bytes | None = None,
        limit: int = 100,
        on_corrupt: OnCorrupt = "raise",
        **filters: Unpack[Filters],
    ) -> Page:
        """
        List plans in the order of their ids.

        That is the order in which the ids were made: by the millisecond, if their plans were
        created with new ones (`new_ulid`), whatever `created_at` says.

        Args:
            after: Where the last page ended (its ``next``).
            limit: How many plans at most, from 1.
            on_corrupt: What to do with a row that cannot be read: ``"raise"``, ``"skip"``,
                or a function that is called with the `CorruptPlanRow`.
            filters: See `Filters`; a plan is listed if it passes all that are given.

        Raises:
            TypeError: There is no such filter, or an argument has another type.
            ValueError: An argument is out of range, or a time has no zone.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        parameters.check_on_corrupt(on_corrupt)
        most = parameters.limit_of(limit)
        query = select(PLANS).where(*queries.conditions(filters)).order_by(PLANS.c.plan_id)
        if after is not None:
            query = query.where(queries.come_after(self._session, after))
        rows = queries.rows_of(self._session, query.limit(most + 1))
        page = rows[:most]
        return Page(
            tuple(queries.plans(self._session, query, page, on_corrupt)),
            page[-1].plan_id if len(rows) > most else None,
        )

    def stream(
        self, *, on_corrupt: OnCorrupt = "raise", **filters: Unpack[Filters]
    ) -> Iterator[Plan]:
        """
        Go through plans as `list` does, a thousand at a time, in constant memory.

        Raises:
            As `list`; what is wrong with the arguments at once.
        """
        parameters.check_on_corrupt(on_corrupt)
        tuple(queries.conditions(filters))
        return self._pages(on_corrupt, filters)

    def _pages(self, on_corrupt: OnCorrupt, filters: Filters) -> Iterator[Plan]:
        after = None
        while True:
            page = self.list(after=after, limit=_BATCH, on_corrupt=on_corrupt, **filters)
            yield from page.plans
            after = page.next
            if after is None:
                return

    def _above(self, plan_id: str, *columns: Any) -> tuple[Select[Any], Sequence[Any]]:
        wanted = parameters.plan_id_of("plan_id", plan_id)
        up = (
            select(PLANS.c.plan_id, PLANS.c.parent_plan_id)
            .where(PLANS.c.plan_id == wanted)
            .cte("up", recursive=True)
        )
        above = aliased(PLANS, name="above")
        # UNION drops what it has seen: rows that are their own ancestors, which only foreign
        # SQL can write, end here, and are listed once below.
        up = up.union(
            select(above.c.plan_id, above.c.parent_plan_id).where(
                above.c.plan_id == up.c.parent_plan_id
            )
        )
        query = select(*columns).join(up, PLANS.c.plan_id == up.c.plan_id)
        found = {row.plan_id: row for row in queries.rows_of(self._session, query)}
        at = found.pop(wanted, None)
        if at is None:
            raise PlanNotFound(wanted)
        rows = []
        while at := found.pop(at.parent_plan_id, None):
            rows.append(at)
        return query, rows
