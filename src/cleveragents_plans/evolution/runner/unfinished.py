"""
A note in the database that a revision is unfinished.

On PostgreSQL a revision takes many transactions, and Alembic changes the version in the
last one. Without the note, an interrupted downgrade followed by ``upgrade head`` would
find nothing to do on a schema that is half downgraded.

The note is a line in the comment of the version table. A comment is in the catalog only:
it survives a crash, stands in a dump, goes to a physical replica, and logical replication
does not know of it. Only the owner of the table can write one, so that no other role can
put something of the same name in its place.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Connection, MetaData, String, Table, event
from sqlalchemy.schema import DropTableComment, SetTableComment

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import (
    in_autocommit,
    run,
    transaction,
)

log: Final = logging.getLogger("alembic.evolution")


class InterruptedRun(EvolutionError):
    """
    A revision was interrupted, and the command neither completes nor undoes it.

    Attributes:
        revision: The revision that is unfinished.
        direction: The direction it was going in.
    """

    def __init__(self, revision: str, direction: str, upgrade: str, downgrade: str) -> None:
        onward, back = (upgrade, downgrade) if direction == "upgrade" else (downgrade, upgrade)
        super().__init__(
            f"the {direction} of {revision} was interrupted: the database is between two versions, "
            f"and this command leaves it there; run {onward} to complete it or {back} to undo it"
        )
        self.revision = revision
        self.direction = direction


class UnknownInterruptedRun(EvolutionError):
    """
    A revision was interrupted that this release does not have.

    Attributes:
        revision: The revision that is unfinished.
        direction: The direction it was going in.
    """

    def __init__(self, revision: str, direction: str) -> None:
        super().__init__(
            f"the {direction} of {revision} was interrupted, which this release does not know; "
            "install the release that has it, and run its upgrade or downgrade; nothing was changed"
        )
        self.revision = revision
        self.direction = direction


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A revision that was begun and has not ended."""

    revision: str
    #: ``upgrade`` or ``downgrade``.
    direction: str

    def __str__(self) -> str:
        return f"[unfinished {self.direction} of {self.revision}]"


_NOTE = re.compile(
    r"\n?\[unfinished (?P<direction>upgrade|downgrade) of (?P<revision>[^\]\n]+)\]\s*$"
)
# Outside of a transaction, these leave nothing behind that another run would have to know of.
_CHANGES_NOTHING = re.compile(
    r"\s*\(?((SELECT|SHOW|SET|RESET|EXPLAIN|LOCK|SAVEPOINT|RELEASE|ROLLBACK|VACUUM|ANALYZE)\b"
    r"|WITH\b(?!.*\b(INSERT|UPDATE|DELETE|MERGE)\b))",
    re.IGNORECASE | re.DOTALL,
)


class UnfinishedNote:
    """
    The note, as one run reads and writes it.

    It is written with the first change of a revision that is committed, in the same
    transaction where there is one: what changed nothing leaves no note. Statements that a
    revision sends are watched for that, however it sends them. It is cleared in the
    transaction in which Alembic changes the version.

    Locks: SHARE UPDATE EXCLUSIVE on the version table, until that transaction ends; the
    version can be read and written meanwhile.
    """

    def __init__(self, connection: Connection, table: str, schema: str | None = None) -> None:
        self._connection = connection
        self._table = Table(table, MetaData(), Column("version_num", String), schema=schema)
        self._quoted = connection.dialect.identifier_preparer.format_table(self._table)
        self._postgresql = connection.dialect.name == "postgresql"
        self.found: Unfinished | None = None
        self._pending: Unfinished | None = None
        self._in_block = self._written_in_block = self._ours = False

    def read(self) -> Unfinished | None:
        """Find the revision that was interrupted, if one was; on SQLite none can be."""
        match = _NOTE.search(self._comment()) if self._postgresql else None
        self.found = Unfinished(match["revision"], match["direction"]) if match else None
        return self.found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the connection for the first change of each revision."""
        if not self._postgresql:
            yield
            return
        listeners: dict[str, Callable[..., None]] = {
            "before_cursor_execute": self._before_statement,
            "after_cursor_execute": self._after_statement,
            "commit": self._before_commit,
        }
        for name, listener in listeners.items():
            event.listen(self._connection, name, listener)
        try:
            yield
        finally:
            self._pending = None
            for name, listener in listeners.items():
                event.remove(self._connection, name, listener)

    def begin(self, revision: str, direction: str) -> None:
        """Let the first change from now on note that *revision* goes in *direction*."""
        note = Unfinished(revision, direction)
        self._pending = None if note == self.found else note
        self._in_block = self._written_in_block = False

    def clear(self) -> None:
        """Clear the note, in the transaction in which the version changes."""
        self._pending = None
        if self.found:
            self._write(None)
            self.found = None

    # As it was given: an application may have each statement commented on its way to the driver.
    def _before_statement(
        self,
        _connection: object,
        _cursor: object,
        _sent: str,
        _values: object,
        execution: Any,
        _: bool,
    ) -> None:
        if not self._pending or self._ours or not in_autocommit(self._connection):
            return
        statement = execution.statement
        if statement == "BEGIN":
            self._in_block, self._written_in_block = True, False
        elif self._in_block:
            if not self._written_in_block and statement not in ("COMMIT", "ROLLBACK"):
                self._write(self._pending)
                self._written_in_block = True
        elif not _CHANGES_NOTHING.match(statement):
            with self._unwatched(), transaction(self._connection):
                run(self._connection, "SET LOCAL lock_timeout = '10s'")  # whatever a step set
                self._write(self._pending)
            self._noted()

    def _after_statement(
        self,
        _connection: object,
        _cursor: object,
        _sent: str,
        _values: object,
        execution: Any,
        _: bool,
    ) -> None:
        if self._ours or execution.statement not in ("COMMIT", "ROLLBACK"):
            return
        if execution.statement == "COMMIT" and self._in_block and self._written_in_block:
            self._noted()
        self._in_block = False

    def _before_commit(self, connection: Connection) -> None:
        # Alembic commits its own transaction before `autocommit_block()`.
        if not self._pending or self._ours or in_autocommit(connection):
            return
        with self._unwatched():
            query = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
            changed = run(connection, query).scalar_one()
        if changed:
            self._write(self._pending)
            self._noted()

    def _noted(self) -> None:
        self.found, self._pending = self._pending, None

    def _write(self, note: Unfinished | None) -> None:
        with self._unwatched():
            former = _NOTE.sub("", self._comment())
            comment = "\n".join(filter(None, (former, str(note or ""))))
            role = run(self._connection, _AS_OWNER, {"table": self._quoted}).scalar()
            self._table.comment = comment
            change = SetTableComment if comment else DropTableComment
            self._connection.execute(change(self._table))
            if role:
                run(self._connection, _AS_ROLE, {"role": role})

    def _comment(self) -> str:
        query = "SELECT obj_description(to_regclass(%(table)s), 'pg_class')"
        return run(self._connection, query, {"table": self._quoted}).scalar_one() or ""

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        former, self._ours = self._ours, True
        try:
            yield
        finally:
            self._ours = former


# A role that only is a member of the owner must become it; the former role is given back.
_AS_OWNER = """\
SELECT current_setting('role'), set_config('role', pg_get_userbyid(relowner), true)
  FROM pg_class WHERE oid = to_regclass(%(table)s) AND NOT pg_has_role(relowner, 'USAGE')"""
_AS_ROLE = "SELECT set_config('role', %(role)s, true)"
