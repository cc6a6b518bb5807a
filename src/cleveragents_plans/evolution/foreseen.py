"""
What a run would refuse and would do, gathered without running it.

The checks and operations of a revision tell it themselves, while they are called within
`gathering`: a check that refuses is passed over, so that the next one is called, too, and an
operation that is rehearsed says what it would send.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import ParamSpec

from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError, causes, sqlstate

P = ParamSpec("P")

# Nothing can be created in a transaction that only reads, nor on a standby.
_READ_ONLY = "25006"


@dataclass(frozen=True, slots=True)
class Backfill:
    """Rows that are written in batches, on PostgreSQL."""

    #: As in SQL, with its schema, as all tables here.
    table: str
    #: The column in whose order the batches go.
    key: str
    label: str
    #: A condition over the alias ``t``: the rows that are written.
    needs: str
    #: One batch; ``{batch}`` stands for a condition over ``t``.
    update: str
    #: Which rows are written for the sake of which column, if the operation knows; *needs* is that
    #: one of these holds.
    columns: Mapping[str, str]
    #: A condition over ``t``: rows that cost as much when tried out as they will.
    typical: str = "TRUE"
    #: Triggers of *table* that the run has dropped by then.
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """An index that is built beside readers and writers, on PostgreSQL."""

    table: str
    name: str
    #: CREATE INDEX on ``pg_temp.evolution_copy``.
    try_out: str


@dataclass(frozen=True, slots=True)
class Scan:
    """A table that is read once, to validate a constraint."""

    table: str


@dataclass(frozen=True, slots=True)
class ExclusiveLock:
    """ACCESS EXCLUSIVE on a table of PostgreSQL, for some milliseconds."""

    table: str


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A table of SQLite that is copied."""

    table: str
    #: What the copy writes into columns, over the alias ``old``.
    values: Mapping[str, str]
    #: Functions in these values that exist for the length of the copy only.
    functions: frozenset[str]


@dataclass(slots=True)
class Foreseen:
    """What was gathered."""

    refusals: list[EvolutionError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: What was looked at, and what of it was not in order.
    topics: list[str] = field(default_factory=list)
    troubled: set[str] = field(default_factory=set)
    #: What cannot be looked at in a transaction that only reads.
    unchecked: list[str] = field(default_factory=list)
    #: Those above, and what recipes tell.
    operations: list[object] = field(default_factory=list)

    @property
    def passed(self) -> list[str]:
        """What was looked at, and found to be in order."""
        return [topic for topic in self.topics if topic not in self.troubled]

    @contextmanager
    def looking(self, topic: str) -> Iterator[None]:
        """Gather what is refused or warned of, while *topic* is looked at."""
        warned = len(self.warnings)
        if topic not in self.topics:
            self.topics.append(topic)
        try:
            yield
        except EvolutionError as error:
            self.troubled.add(topic)
            if any(isinstance(e, DBAPIError) and sqlstate(e) == _READ_ONLY for e in causes(error)):
                self.unchecked.append(topic)
            else:
                self.refusals.append(error)
        if len(self.warnings) > warned:
            self.troubled.add(topic)


_gathered: ContextVar[Foreseen | None] = ContextVar("gathered", default=None)


@contextmanager
def gathering() -> Iterator[Foreseen]:
    """
    Gather what checks, operations and warnings tell.

    Nothing is raised that was gathered, and no warning is logged.
    """
    found = Foreseen()
    logger = logging.getLogger("alembic.evolution")

    def is_not_gathered(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or _gathered.get() is not found:
            return True
        found.warnings.append(record.getMessage())
        return False

    token = _gathered.set(found)
    logger.addFilter(is_not_gathered)
    try:
        yield found
    finally:
        logger.removeFilter(is_not_gathered)
        _gathered.reset(token)


def foresee(operation: object) -> None:
    """Tell what is going to be done, if that is being gathered."""
    found = _gathered.get()
    if found is not None:
        found.operations.append(operation)


def checks(topic: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Let a function that refuses be passed over while refusals are gathered."""

    def decorate(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def check(*args: P.args, **kwargs: P.kwargs) -> None:
            found = _gathered.get()
            if found is None:
                function(*args, **kwargs)
                return
            with found.looking(topic):
                function(*args, **kwargs)

        return check

    return decorate
