"""
One run of Alembic at a time in this process, because its state is global.

While ``env.py`` runs, ``alembic.context`` and ``alembic.op`` belong to that run. A second
run in another thread would overwrite them, and the first one would go on with the second
one's database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cleveragents_plans.evolution.errors import EvolutionError

log: Final = logging.getLogger("alembic.evolution")

_Owner = tuple[int, asyncio.Task[object] | None]


class ConcurrentRuns(EvolutionError):
    """Two runs of Alembic in one process cannot be told apart, or would wait for each other."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}; nothing was changed")
        self.found = found


class ProcessLock:
    """
    A lock that a run of Alembic holds from before its first global is set until all are gone.

    A run may start another one, which has the lock already.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._owner: _Owner | None = None
        self._depth = 0

    @property
    def is_ours(self) -> bool:
        """Whether the calling thread, or the calling task of asyncio, holds it."""
        return self._owner == _current()

    def acquire(self) -> None:
        """
        Wait until no other run is under way.

        Raises:
            ConcurrentRuns: The other run is another task of this thread, which could not
                go on while this one waits.
        """
        current = _current()
        with self._free:
            if self._owner not in (None, current) and self._owner[0] == current[0]:
                raise ConcurrentRuns(
                    "another run of Alembic is under way in a task of this event loop",
                    "await it first, or use cleveragents_plans.schema.upgrade, which waits",
                )
            if self._owner not in (None, current):
                log.info("another thread of this process runs Alembic; waiting for it")
                self._free.wait_for(lambda: self._owner is None)
            self._owner = current
            self._depth += 1

    def try_acquire(self) -> bool:
        """Acquire it if it is free; tell whether it was."""
        with self._free:
            if self._owner is not None:
                return False
            self._owner, self._depth = _current(), 1
            return True

    def release(self) -> None:
        """Let the next run go on."""
        with self._free:
            self._depth = max(self._depth - 1, 0)  # a child process has begun anew
            if not self._depth:
                self._owner = None
                self._free.notify()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for a while."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


def _current() -> _Owner:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs
        task = None
    return threading.get_ident(), task


process_lock: Final = ProcessLock()
# A child process has none of the threads of its parent, one of which may hold it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process_lock.__init__)  # type: ignore[misc]
