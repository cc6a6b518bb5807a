"""The repository for asyncio: the same methods, with ``await``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, Unpack

from sqlalchemy.orm import Session

from cleveragents_plans.domain import InvalidType, Plan
from cleveragents_plans.domain.errors import shown
from cleveragents_plans.persistence.filters import PlanFilters, documents_filters
from cleveragents_plans.persistence.pages import Order, check_listing
from cleveragents_plans.persistence.queries import OnCorrupt
from cleveragents_plans.persistence.reader import BATCH
from cleveragents_plans.persistence.repository import PlanRepository

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def _awaited(
    method: Callable[Concatenate[PlanRepository, _Given], _Result],
) -> Callable[Concatenate[AsyncPlanRepository, _Given], Coroutine[Any, Any, _Result]]:
    """Make the method of the other repository one to be awaited; it has its documentation."""

    @wraps(method)
    async def call(
        self: AsyncPlanRepository, /, *args: _Given.args, **kwargs: _Given.kwargs
    ) -> _Result:
        def work(session: Session) -> _Result:
            return method(PlanRepository(session), *args, **kwargs)

        return await self._session.run_sync(work)

    return call


class AsyncPlanRepository:
    """
    The plans behind one ``AsyncSession``: each method of `PlanRepository`, with ``await``.

    `stream` is gone through by ``async for``. What is said of `PlanRepository` holds here too.

    The plans that the methods return can be read after the commit. ``MissingGreenlet`` comes from
    a `LifecyclePlanModel` of a SELECT of the application: its attributes expire with the commit,
    and reading one would send a statement. Call `to_domain` before, or give the session
    ``expire_on_commit=False``.

    Args:
        session: An ``AsyncSession``, on an engine that `open_async_engine` opened.

    Raises:
        InvalidType: It is a ``Session``, an engine or another thing.
    """

    def __init__(self, session: AsyncSession) -> None:
        if not callable(getattr(session, "run_sync", None)) or not hasattr(session, "sync_session"):
            expected = "an AsyncSession (PlanRepository takes a Session)"
            raise InvalidType("session", shown(session), expected)
        self._session = session

    add: Final = _awaited(PlanRepository.add)
    add_all: Final = _awaited(PlanRepository.add_all)
    save: Final = _awaited(PlanRepository.save)
    change: Final = _awaited(PlanRepository.change)
    touch: Final = _awaited(PlanRepository.touch)
    release: Final = _awaited(PlanRepository.release)
    claim: Final = _awaited(PlanRepository.claim)
    requeue_stalled: Final = _awaited(PlanRepository.requeue_stalled)
    delete: Final = _awaited(PlanRepository.delete)
    delete_tree: Final = _awaited(PlanRepository.delete_tree)
    delete_trees: Final = _awaited(PlanRepository.delete_trees)
    get: Final = _awaited(PlanRepository.get)
    get_many: Final = _awaited(PlanRepository.get_many)
    exists: Final = _awaited(PlanRepository.exists)
    children: Final = _awaited(PlanRepository.children)
    tree: Final = _awaited(PlanRepository.tree)
    tree_summary: Final = _awaited(PlanRepository.tree_summary)
    ancestors: Final = _awaited(PlanRepository.ancestors)
    depth: Final = _awaited(PlanRepository.depth)
    list: Final = _awaited(PlanRepository.list)
    count: Final = _awaited(PlanRepository.count)
    count_by: Final = _awaited(PlanRepository.count_by)

    @documents_filters(PlanFilters)
    def stream(
        self,
        *,
        order: Order = "oldest",
        on_corrupt: OnCorrupt = "raise",
        **filters: Unpack[PlanFilters],
    ) -> AsyncIterator[Plan]:
        """
        Go through plans by ``async for``, as `PlanRepository.stream` does: in constant memory.

        Args:
            order: ``"oldest"`` or ``"newest"`` first.
            on_corrupt: What to do with a row that cannot be read, as `list` says.
            filters: See below.

        Raises:
            InvalidType, InvalidValue, UnknownFilter: An argument or a filter cannot be used; at
                once.
            CorruptPlanRow: A row cannot be read, and *on_corrupt* is ``"raise"``; on the way.
        """
        check_listing(self._session.sync_session, order, on_corrupt, filters)
        return self._stream(order, on_corrupt, filters)

    async def _stream(
        self, order: Order, on_corrupt: OnCorrupt, filters: PlanFilters
    ) -> AsyncIterator[Plan]:
        after = None
        while True:
            page = await self.list(
                order=order, after=after, limit=BATCH, on_corrupt=on_corrupt, **filters
            )
            for plan in page:
                yield plan
            after = page.next_cursor
            if after is None:
                return
