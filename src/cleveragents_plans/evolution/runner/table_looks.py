"""
What the tables look like, of which the revisions of a chain can tell.

``is_applied()`` of a revision tells, from the catalog, whether they look as if it had been run:
True, False, or None if that does not show. ``missing()`` of one that was run names the tables
and columns of its own that are not there; ``lacking()`` does so also where another application's
chain has made them, and left some out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.util import to_tuple
from sqlalchemy import inspect

from cleveragents_plans.evolution.runner.alembic_internals import applied

_MAX_SHOWN = 5


class TableLooks:
    """
    The tables of a database, as the revisions of its chain see them.

    Args:
        migration: The context of the run, on line.
        tables: The names of the tables of the models.
        schema: The schema that they are in; None for that of the connection.
    """

    def __init__(
        self, migration: MigrationContext, tables: Collection[str], schema: str | None
    ) -> None:
        assert migration.script is not None  # noqa: S101  # on line it has both
        assert migration.connection is not None  # noqa: S101
        self._migration = migration
        self._script = migration.script
        self._connection = migration.connection
        self._tables = tables
        self._schema = schema
        #: The revisions of the chain, the newest first.
        self.chain = [each.revision for each in self._script.walk_revisions()]
        #: Those that can tell.
        self.telling = [each for each in self.chain if self._hook(each, "is_applied")]

    def like(self) -> str | None:
        """Name the last revision that they look like, "base" for none; None if none can tell."""
        if not self.telling:
            return None
        return next((each for each in self.telling if True in self.are_applied([each])), "base")

    def are_applied(self, revisions: Iterable[str]) -> list[bool | None]:
        """Ask those of the *revisions* that can tell whether the tables look like it."""
        with Operations.context(self._migration):
            return [hook() for each in revisions if (hook := self._hook(each, "is_applied"))]

    def told_of(self, head: str) -> set[str]:
        """Give the revisions up to *head* that can tell from the tables that they were run."""
        return applied(self._script, [head]).intersection(self.telling)

    def heads_like(self, looks: str, stored: Iterable[str]) -> list[str]:
        """
        Name the heads of a database whose tables look like the revision *looks*, or "base".

        What is *stored* of other branches stays, as far as it needs no revision after *looks*.
        """
        done = set() if looks == "base" else applied(self._script, [looks])
        others = sorted({*self._beside(stored, done)})
        if others and (looks == "base" or looks in applied(self._script, others)):
            return others
        return [looks, *others]

    def _beside(self, stored: Iterable[str], done: set[str]) -> Iterator[str]:
        for head in stored:
            if head in done:
                continue
            if self.told_of(head) <= done:
                yield head
            else:
                below = to_tuple(self._script.get_revision(head).down_revision, ())
                yield from self._beside(below, done)

    def missing(self, heads: Iterable[str], hook_name: str = "missing") -> list[str]:
        """Name what the revisions up to *heads* have made, and what is not there."""
        done = applied(self._script, heads)
        with Operations.context(self._migration):
            return [
                each
                for revision in reversed(self.chain)
                if revision in done
                and (hook := self._hook(revision, hook_name) or self._hook(revision, "missing"))
                for each in hook()
            ]

    def any_is_there(self) -> bool:
        """Whether there is a table of the models."""
        inspector = inspect(self._connection)
        return any(inspector.has_table(name, schema=self._schema) for name in self._tables)

    def _hook(self, revision: str, name: str) -> Callable[[], Any] | None:
        hook: Callable[[], Any] | None = getattr(
            self._script.get_revision(revision).module, name, None
        )
        return hook


def shortened(names: Sequence[str]) -> str:
    """Write the first five *names*, and how many more there are."""
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"{', '.join(names[:_MAX_SHOWN])}{more}"
