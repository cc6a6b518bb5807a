"""The half of the repository that reads: plans that are found, walked, listed and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Unpack, overload

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cleveragents_plans.domain import Phase, Plan, ProcessingState
from cleveragents_plans.domain.errors import InvalidType, InvalidValue, shown
from cleveragents_plans.persistence import parameters, queries, summaries
from cleveragents_plans.persistence.errors import NotARoot
from cleveragents_plans.persistence.filters import PlanFilters, conditions, documents_filters
from cleveragents_plans.persistence.pages import Order, Page, check_listing, cursor_of
from cleveragents_plans.persistence.queries import OnCorrupt
from cleveragents_plans.persistence.scans import any_query, page_query
from cleveragents_plans.persistence.sessions import PLANS, on_postgresql, session_of
from cleveragents_plans.persistence.summaries import (
    COUNT_FIELDS,
    CountField,
    CountTextField,
    TreeSummary,
)

#: How many plans `stream` reads at once.
BATCH = 1000


class PlanReader:
    """
    What `PlanRepository` finds and counts in the plans behind one session.

    *on_corrupt* says what to do with a row that cannot be read: ``"raise"`` its `CorruptPlanRow`,
    ``"skip"`` the row, ``"log"`` the error and skip the row, or call a function with the error.
    """

    def __init__(self, session: Session) -> None:
        self._session = session_of(session)

    def get(self, plan_id: str) -> Plan:
        """
        Read one plan.

        Raises:
            PlanNotFound: There is none with this id.
            CorruptPlanRow: Its row cannot be read.
        """
        return queries.one(self._session, parameters.plan_id_of("plan_id", plan_id))

    def get_many(
        self, plan_ids: Iterable[str], *, on_corrupt: OnCorrupt = "raise"
    ) -> dict[str, Plan]:
        """
        Read several plans by their ids, in one statement; those that are not stored are left out.

        Returns:
            The plans by their ids (in upper case), in the order of the ids.

        Raises:
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        if isinstance(plan_ids, str | bytes) or not isinstance(plan_ids, Iterable):
            raise InvalidType("plan_ids", shown(plan_ids), "several ids of plans")
        parameters.check_on_corrupt(on_corrupt)
        wanted = [parameters.plan_id_of("plan_ids", each) for each in plan_ids]
        rows = queries.rows_among(self._session, wanted)
        found = {plan.plan_id: plan for plan in queries.plans(rows, on_corrupt)}
        return {plan_id: found[plan_id] for plan_id in wanted if plan_id in found}

    @documents_filters(PlanFilters)
    def exists(self, plan_id: str | None = None, **filters: Unpack[PlanFilters]) -> bool:
        """
        Say whether there is a plan with this id, or any plan, that passes the filters.

        Args:
            plan_id: The plan; None: any. So ``exists(None)`` says whether there are plans.
            filters: See below.

        Raises:
            InvalidType, InvalidValue, UnknownFilter: A filter cannot be used.
        """
        wanted = conditions(on_postgresql(self._session), filters)
        if plan_id is None:
            query = any_query(self._session, filters)
        else:
            this = PLANS.c.plan_id == parameters.plan_id_of("plan_id", plan_id)
            query = select(PLANS.c.plan_id).where(this, *wanted)
        return bool(queries.rows_of(self._session, query))

    def children(self, plan_id: str, *, on_corrupt: OnCorrupt = "raise") -> tuple[Plan, ...]:
        """
        List the plans in the plan's own tree whose parent it is, by their ids.

        Raises:
            PlanNotFound: There is no such plan.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        wanted = parameters.plan_id_of("plan_id", plan_id)
        parameters.check_on_corrupt(on_corrupt)
        above = PLANS.alias("above")
        root = select(above.c.root_plan_id).where(above.c.plan_id == wanted).scalar_subquery()
        query = queries.plans_query(self._session).where(
            PLANS.c.root_plan_id == root, PLANS.c.parent_plan_id == wanted
        )
        rows = queries.rows_of(self._session, query.order_by(PLANS.c.plan_id))
        if not rows:
            queries.root_of(self._session, wanted)
        return tuple(queries.plans(rows, on_corrupt))

    def tree(self, root_plan_id: str, *, on_corrupt: OnCorrupt = "raise") -> tuple[Plan, ...]:
        """
        List every plan that names *root_plan_id* as its root, itself included, by their ids.

        It is one SELECT, with the child rows, and reads the whole tree: there is no limit of
        depth. `children` gives one level, `tree_summary` reads no plan. Parents play no part, so
        that cycles and missing parents, which only foreign SQL can write, neither hide a plan nor
        repeat one. A branch is refused: its plans do not name it, and a second SELECT finds the
        root for the message.

        Raises:
            PlanNotFound: There is no such plan.
            NotARoot: The plan belongs to the tree of another root.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        wanted = parameters.plan_id_of("root_plan_id", root_plan_id)
        parameters.check_on_corrupt(on_corrupt)
        query = queries.plans_query(self._session).where(PLANS.c.root_plan_id == wanted)
        rows = queries.rows_of(self._session, query.order_by(PLANS.c.plan_id))
        if not any(row.plan_id == wanted for row in rows):
            raise NotARoot(wanted, queries.root_of(self._session, wanted))
        return tuple(queries.plans(rows, on_corrupt))

    def tree_summary(self, root_plan_id: str) -> TreeSummary:
        """
        Sum up a tree without reading its plans: how many, how deep, their states, what they cost.

        Plans of a cycle, and below one, are counted, but not in the depth.

        Raises:
            PlanNotFound: There is no such plan.
            NotARoot: The plan belongs to the tree of another root.
        """
        wanted = parameters.plan_id_of("root_plan_id", root_plan_id)
        return summaries.summarize_tree(self._session, wanted)

    def ancestors(self, plan_id: str, *, on_corrupt: OnCorrupt = "raise") -> tuple[Plan, ...]:
        """
        List the plan's parent, the parent's parent, and so on up to the top.

        It ends where a parent is not stored, and in a cycle before a plan would come twice.

        Raises:
            PlanNotFound: There is no such plan.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        wanted = parameters.plan_id_of("plan_id", plan_id)
        parameters.check_on_corrupt(on_corrupt)
        rows = queries.rows_above(self._session, wanted, queries.plans_query(self._session))
        return tuple(queries.plans(rows, on_corrupt))

    def depth(self, plan_id: str) -> int:
        """
        Count the plan's ancestors, as `ancestors` lists them: 0 for a root.

        Raises:
            PlanNotFound: There is no such plan.
        """
        wanted = parameters.plan_id_of("plan_id", plan_id)
        links = select(PLANS.c.plan_id, PLANS.c.parent_plan_id)
        return len(queries.rows_above(self._session, wanted, links))

    @documents_filters(PlanFilters)
    def list(
        self,
        *,
        order: Order = "oldest",
        after: str | None = None,
        limit: int = 100,
        on_corrupt: OnCorrupt = "raise",
        **filters: Unpack[PlanFilters],
    ) -> Page:
        """
        List plans in the order of their ids, a page at a time.

        That is the order in which the ids were made: by the millisecond, if their plans were
        created with new ones (`new_ulid`), whatever `created_at` says. Within a millisecond it is
        arbitrary, and the same on every page. Plans that are added or deleted between two pages
        neither repeat nor hide others; one that is committed later than its id was made may stand
        before the cursor, where no page after that shows it.

        Args:
            order: ``"oldest"`` or ``"newest"`` first.
            after: The ``next_cursor`` of the page before.
            limit: How many plans at most, from 1.
            on_corrupt: What to do with a row that cannot be read: ``"raise"`` its `CorruptPlanRow`,
                ``"skip"`` it, ``"log"`` the error and skip it, or call a function with the error.
            filters: See below.

        Raises:
            InvalidType, InvalidValue, UnknownFilter: An argument or a filter cannot be used.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``.
        """
        check_listing(self._session, order, on_corrupt, filters)
        most = parameters.number_of("limit", limit)
        query = page_query(self._session, filters, order, after, most + 1)
        rows = queries.rows_of(self._session, query)
        cursor = cursor_of(rows[most - 1].plan_id, order) if len(rows) > most else None
        return Page(queries.plans(rows[:most], on_corrupt), cursor)

    @documents_filters(PlanFilters)
    def stream(
        self,
        *,
        order: Order = "oldest",
        on_corrupt: OnCorrupt = "raise",
        **filters: Unpack[PlanFilters],
    ) -> Iterator[Plan]:
        """
        Go through plans as `list` does, a thousand at a time, in constant memory.

        Args:
            order: ``"oldest"`` or ``"newest"`` first.
            on_corrupt: What to do with a row that cannot be read, as `list` says.
            filters: See below.

        Raises:
            InvalidType, InvalidValue, UnknownFilter: An argument or a filter cannot be used; at
                once.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``; on the way.
        """
        check_listing(self._session, order, on_corrupt, filters)
        return self._stream(order, on_corrupt, filters)

    def _stream(self, order: Order, on_corrupt: OnCorrupt, filters: PlanFilters) -> Iterator[Plan]:
        after = None
        while True:
            page = self.list(
                order=order, after=after, limit=BATCH, on_corrupt=on_corrupt, **filters
            )
            yield from page
            after = page.next_cursor
            if after is None:
                return

    @documents_filters(PlanFilters)
    def count(self, **filters: Unpack[PlanFilters]) -> int:
        """
        Count plans, those included whose rows cannot be read: it reads none of them.

        The cost is that of `count_by`.

        Args:
            filters: See below.

        Raises:
            InvalidType, InvalidValue, UnknownFilter: A filter cannot be used.
        """
        query = select(func.count()).select_from(PLANS)
        query = query.where(*conditions(on_postgresql(self._session), filters))
        ((number,),) = queries.rows_of(self._session, query)
        return int(number)

    @overload
    def count_by(
        self, field: Literal["phase"], /, **filters: Unpack[PlanFilters]
    ) -> dict[Phase, int]: ...
    @overload
    def count_by(
        self, field: Literal["processing_state"], /, **filters: Unpack[PlanFilters]
    ) -> dict[ProcessingState, int]: ...
    @overload
    def count_by(
        self, field: CountTextField, /, **filters: Unpack[PlanFilters]
    ) -> dict[str | None, int]: ...
    @overload
    def count_by(
        self,
        field: Literal["phase"],
        other: Literal["processing_state"],
        /,
        **filters: Unpack[PlanFilters],
    ) -> dict[tuple[Phase, ProcessingState], int]: ...
    @overload
    def count_by(
        self, field: CountField, other: CountField, /, **filters: Unpack[PlanFilters]
    ) -> dict[tuple[str | None, str | None], int]: ...
    @overload
    def count_by(self, *fields: CountField, **filters: Unpack[PlanFilters]) -> dict[Any, int]: ...

    @documents_filters(PlanFilters)
    def count_by(self, *fields: CountField, **filters: Unpack[PlanFilters]) -> dict[Any, int]:
        """
        Count plans for each combination of values that occurs, in one statement.

        Without a filter that an index serves (``is_final=False``, ``namespace``, a
        ``processing_state`` that is not final) it reads every plan, for a second or more where
        there are a million. There is no approximate count: keep what you know of final plans.

        Args:
            fields: One or several of phase, processing_state, namespace, action, created_by,
                parent, root.
            filters: See below.

        Returns:
            The numbers; by the value of a single field, or by a tuple of the values of several.

        Raises:
            InvalidType, InvalidValue, UnknownFilter: A field or a filter cannot be used.
        """
        if not fields:
            raise InvalidValue("fields", "nothing", f"some of {', '.join(COUNT_FIELDS)}")
        for field in fields:
            parameters.choice_of("fields", field, COUNT_FIELDS)
        wanted = conditions(on_postgresql(self._session), filters)
        return summaries.count_by(self._session, fields, wanted)
