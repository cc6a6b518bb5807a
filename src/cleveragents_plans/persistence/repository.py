"""The repository: where plans are put, found, taken and changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal, Unpack

from cleveragents_plans.domain import Plan
from cleveragents_plans.domain.errors import InvalidType, shown
from cleveragents_plans.persistence import claims, deletes, parameters, updates
from cleveragents_plans.persistence.filters import QueueFilters, documents_filters
from cleveragents_plans.persistence.inserts import Existing, insert_plans
from cleveragents_plans.persistence.queries import OnCorrupt
from cleveragents_plans.persistence.reader import PlanReader


class PlanRepository(PlanReader):
    """
    The plans behind one session.

    It never commits and never rolls back: what a method did becomes lasting when the
    caller commits the session, and a method that raises leaves nothing behind. The same session may
    write rows of the application: objects of it that are pending are flushed before a method
    writes. What the methods return are values that are bound to no session. A SQLite
    connection must enforce foreign keys, as those of `open_engine` do: the methods that add and
    delete plans refuse one that does not (`ForeignKeysOff`).

    `AsyncPlanRepository` is the same for an ``AsyncSession``.

    Args:
        session: A session, on an engine that `open_engine` opened.

    Raises:
        InvalidType: It is an engine, an ``AsyncSession`` or another thing.
    """

    def add(self, plan: Plan) -> Plan:
        """
        Store a new plan; return it as it was stored.

        A plan that has no snapshot (``'{}'``) is given that of its built-in profile.

        Raises:
            PlanAlreadyStored: Its id is stored already.
            RelatedPlanMissing: Its parent or its root is not stored.
            UnknownProfile: It has no snapshot, and its profile is not a built-in one.
            SnapshotUnreadable: It has a snapshot that describes no profile.
            InvalidFields: It was built without validation, and is not valid.
            InvalidType: It is of a class with fields that no column keeps.
        """
        checked = parameters.plan_of(plan)
        insert_plans(self._session, [checked])
        return self.get(checked.plan_id)

    def add_all(self, plans: Iterable[Plan], *, existing: Existing = "raise") -> int:
        """
        Store many new plans, a thousand at a time; return how many.

        They may come in any order: a child that comes before its parent waits for it, in memory.
        All are stored or, when it raises, none. What was built without validation
        (`model_construct`) is not checked here: that would take as long as storing it.

        Args:
            plans: The plans; an iterator is read as they are stored.
            existing: What to do with a plan whose id is stored already: ``"raise"``, or
                ``"skip"`` it, so that an import can be repeated. What is stored stays as it is,
                and is not compared.

        Raises:
            PlanCycle: Some are under one another.
            InvalidType, InvalidValue: Something is no plan, or has fields that no column keeps, or
                *existing* is another word.

        And what `add` raises, but for InvalidFields.
        """
        if isinstance(plans, Plan | str | bytes) or not isinstance(plans, Iterable):
            raise InvalidType("plans", shown(plans), "several Plans")
        parameters.choice_of("existing", existing, ("raise", "skip"))
        return insert_plans(self._session, plans, existing)

    def save(self, plan: Plan, *, unchecked: bool = False) -> Plan:
        """
        Store what became of a plan that was read or added before; return it as stored.

        The stored plan is later than the one that was read by at least a microsecond. Several
        verbs and edits may lie between the two.

        Args:
            plan: The plan.
            unchecked: Store it even if no verbs and edits lead to it from what is stored, as
                when an operator undoes a cancellation. The version is compared all the same.

        Raises:
            PlanConflict: Another writer changed or deleted it since it was read.
                Nothing of this write is kept.
            PlanNotStored: It never was stored, or was deleted.
            ChangeNotAllowed: No verbs and edits lead to it from what is stored.
            NoLaterVersion: Its `updated_at` is the last time that there is.
            SnapshotIsFrozen: Its snapshot is another than the stored one.
            CorruptPlanRow: Its row cannot be read any more.
            InvalidFields: It was built without validation, and is not valid.
            InvalidType: It is of a class with fields that no column keeps.
        """
        parameters.flag_of("unchecked", unchecked)
        checked = parameters.plan_of(plan)
        return updates.save_plan(self._session, checked, unchecked=unchecked)

    def change(self, plan_id: str, step: Callable[[Plan], Plan], *, attempts: int = 10) -> Plan:
        """
        Read a plan, store what *step* makes of it, and return it as stored.

        When another writer changed the plan in between, it is read again, locked (on PostgreSQL),
        and *step* is called again: it should do nothing besides.

        Args:
            plan_id: The plan.
            step: A function from plan to plan, as ``Plan.begin``.
            attempts: How often it is tried, from 1.

        Raises:
            PlanNotFound: There is no such plan.
            PlanConflict: Another writer was faster at each attempt.
            InvalidType, InvalidValue: *step* gives something else than this plan.

        And what `save` raises, and *step*.
        """
        wanted = parameters.plan_id_of("plan_id", plan_id)
        tries = parameters.number_of("attempts", attempts)
        if not callable(step):
            raise InvalidType("step", shown(step), "a function from plan to plan")
        return updates.change_plan(self._session, wanted, step, attempts=tries)

    def touch(self, plan: Plan) -> Plan:
        """
        Move `updated_at` of a plan on, as a heartbeat of its worker; return it as stored.

        Nothing else is stored. It sends one statement.

        Raises:
            PlanConflict: Another writer changed or deleted it since it was read: the worker is to
                stop, as the plan may be another worker's.
            PlanNotStored: It never was stored, or was deleted.
            NoLaterVersion: Its `updated_at` is the last time that there is.
            InvalidFields: It was built without validation, and is not valid.
        """
        return updates.touch_plan(self._session, parameters.plan_of(plan))

    def release(self, plan: Plan) -> Plan:
        """
        Give a claimed plan back, as when its worker is told to end; return it as stored.

        It is queued again in the same attempt, and the next `claim` may take it. What was edited
        since it was claimed is stored.

        Raises:
            StepNotAllowed: It is not processing.
            PlanConflict: Another writer changed or deleted it since it was read: it was given up.

        And what `save` raises.
        """
        return updates.release_plan(self._session, parameters.plan_of(plan))

    @documents_filters(QueueFilters)
    def claim(
        self,
        *,
        limit: int = 1,
        on_corrupt: OnCorrupt = "log",
        **filters: Unpack[QueueFilters],
    ) -> tuple[Plan, ...]:
        """
        Take queued plans, the oldest first, that no other worker takes: begin them and return them.

        Until the caller commits, the plans are locked; a worker that ends before leaves them
        queued. Other workers pass over what is locked (PostgreSQL), or wait for their turn to
        write (SQLite). A row that cannot be read, or has no later version (`NoLaterVersion`), stays
        as it is, and the next one is taken.

        Args:
            limit: How many plans at most, from 1.
            on_corrupt: What to do with a row that cannot be read, as `list` says.
            filters: See below.

        Returns:
            The plans as they are stored, in the state processing; empty if none is queued.

        Raises:
            InvalidType, InvalidValue, UnknownFilter: An argument or a filter cannot be used.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``; nothing changed.
            QueueConflict: In REPEATABLE READ or SERIALIZABLE: another transaction was faster.
        """
        parameters.check_on_corrupt(on_corrupt)
        most = parameters.number_of("limit", limit)
        return tuple(claims.claim_plans(self._session, most, on_corrupt, filters))

    @documents_filters(QueueFilters)
    def requeue_stalled(
        self,
        *,
        not_touched_for: timedelta,
        limit: int = 100,
        max_attempts: int | None = None,
        on_corrupt: OnCorrupt = "log",
        **filters: Unpack[QueueFilters],
    ) -> tuple[Plan, ...]:
        """
        Give plans of lost workers one more attempt: queue them again and return them.

        A plan's `error_message` says that its worker was lost, and when it was heard of last,
        until it is queued in the next phase. Should the worker come back, it loses its next `save`
        or `touch`.

        Args:
            not_touched_for: For how long the plans have not been written; some heartbeats, and
                more than the clocks of the workers differ.
            limit: How many plans at most, from 1.
            max_attempts: A plan that had so many fails instead (errored), so that a plan that
                kills its workers does not go on for ever; None: 2147483647, the last there is.
            on_corrupt: What to do with a row that cannot be read, as `list` says.
            filters: See below.

        Returns:
            The plans as they are stored, queued or errored; empty if none is stalled.

        Raises:
            InvalidType, InvalidValue, UnknownFilter: An argument or a filter cannot be used.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``; nothing changed.
            QueueConflict: In REPEATABLE READ or SERIALIZABLE: another transaction was faster.
        """
        parameters.check_on_corrupt(on_corrupt)
        before = parameters.time_ago_of("not_touched_for", not_touched_for)
        most = parameters.number_of("limit", limit)
        if max_attempts is not None:
            parameters.number_of("max_attempts", max_attempts)
        return tuple(
            claims.requeue_plans(self._session, before, most, max_attempts, on_corrupt, filters)
        )

    def delete(self, plan: Plan) -> None:
        """
        Delete one plan that was read before; its children are detached and keep their root.

        Raises:
            RootInUse: Other plans name it as their root.
            PlanReferenced: A row of another table refers to it.
            PlanConflict: Another writer changed or deleted it since it was read.
            PlanNotStored: It never was stored, or was deleted.
            InvalidFields: It was built without validation, and is not valid.
        """
        deletes.delete_plan(self._session, parameters.plan_of(plan))

    def delete_tree(self, root_plan_id: str) -> int:
        """
        Delete a root and every plan that names it as its root; return how many.

        Raises:
            PlanNotFound: There is no such plan.
            NotARoot: The plan belongs to the tree of another root.
            RootInUse: A plan was added to the tree meanwhile.
            PlanReferenced: A row of another table refers to a plan of the tree.
            sqlalchemy.exc.OperationalError: In REPEATABLE READ or SERIALIZABLE: another transaction
                wrote a plan of the tree.
        """
        wanted = parameters.plan_id_of("root_plan_id", root_plan_id)
        return deletes.delete_tree(self._session, wanted)

    def delete_trees(
        self,
        *,
        completed_before: datetime,
        limit: int = 100,
        referenced: Literal["raise", "skip"] = "raise",
    ) -> int:
        """
        Delete trees that ended long ago; return how many plans, 0 if there are no more.

        A tree is deleted as a whole, and only if every plan in it was applied or cancelled before
        *completed_before*. Call it again, and commit each time, until it returns 0.

        Args:
            completed_before: A time with a zone.
            limit: How many trees at most, from 1.
            referenced: What to do with a tree to which a row of the application refers by a
                foreign key without ON DELETE CASCADE or SET NULL: ``"raise"``, or ``"skip"`` it:
                the other trees are deleted. To look for such rows takes the right to read their
                table, and an index on the foreign key where that table is large.

        Raises:
            PlanReferenced: A row of another table refers to a plan of a tree; nothing is deleted.
            InvalidType, InvalidValue: An argument cannot be used.
            sqlalchemy.exc.OperationalError: In REPEATABLE READ or SERIALIZABLE: another transaction
                wrote a plan of a tree.
        """
        before = parameters.time_of("completed_before", completed_before)
        most = parameters.number_of("limit", limit)
        parameters.choice_of("referenced", referenced, ("raise", "skip"))
        return deletes.delete_trees(
            self._session, before, most, skip_referenced=referenced == "skip"
        )
