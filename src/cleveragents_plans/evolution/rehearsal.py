"""What is known of a revision that is rehearsed: what it has written, and which types it leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import StringIO

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import (
    UNDEFINED_COLUMN,
    OperationRefused,
    message_of,
    sqlstate,
)
from cleveragents_plans.evolution.misspellings import column_in
from cleveragents_plans.evolution.op import Op

_SYNTAX_ERROR = "42601"
# Datatype mismatch, no such operator or cast, a constant that its type cannot have.
_OF_TYPES = ("42804", "42883", "42846", "22P02", "22007", "22003")
# What a revision may do that lets other types fit.
_CHANGES_TYPES = r"\bCREATE\b[^;(]*\b(FUNCTION|OPERATOR|CAST|DOMAIN|TYPE)\b|\b(RENAME|TYPE)\b"


class Rehearsal:
    """
    A run of a revision whose SQL goes nowhere, so that its operations look names up first.

    What was written so far tells which names the revision itself may have created, dropped
    or changed: of these nothing is known.
    """

    #: The key of `MigrationContext.opts`.
    OPTION = "evolution_rehearsal"

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.written = StringIO()
        self._added: dict[tuple[str, str], tuple[str, int]] = {}

    def add_column(self, table: str, column: str, definition: str) -> None:
        """Note that what was written last adds *column* to *table*, the quoted name."""
        self._added[table, column] = definition, self.written.tell()

    def columns_added(self, table: str) -> dict[str, str]:
        """Give the definitions of the columns that the revision adds to *table*, by their names."""
        return {
            column: definition
            for (to, column), (definition, _) in self._added.items()
            if to == table
        }

    def knows_types(self, table: str, columns: Iterable[str]) -> bool:
        """Tell whether *columns* of *table*, the quoted name, have the types that are known now."""
        text = self.written.getvalue()
        if re.search(_CHANGES_TYPES, text, re.IGNORECASE):
            return False
        return not any(
            re.search(
                rf"\b(ADD|ALTER|DROP)\b[^;]*(?<!\w){re.escape(column)}(?!\w)",
                text[self._added.get((table, column), ("", 0))[1] :],
                re.IGNORECASE,
            )
            for column in columns
        )

    def dropped_triggers(self, table: str) -> tuple[str, ...]:
        """Give the triggers of *table*, the quoted name, that were dropped for good."""
        found: dict[str, None] = {}
        for dropped, created in re.findall(
            rf"\bDROP TRIGGER (?:IF EXISTS )?(\w+) ON {re.escape(table)}(?!\w)"
            rf"|\bCREATE (?:OR REPLACE )?TRIGGER (\w+)[^;]*? ON {re.escape(table)}(?!\w)",
            self.written.getvalue(),
        ):
            if dropped:
                found[dropped] = None
            else:
                found.pop(created, None)
        return tuple(found)

    def knows(self, *names: str) -> bool:
        """Tell whether no statement so far mentions any of *names*."""
        text = self.written.getvalue()
        return not any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)

    @classmethod
    def of(cls, op: Op) -> Rehearsal | None:
        """Give the rehearsal that *op* runs in, if it is one."""
        found: Rehearsal | None = op.get_context().opts.get(cls.OPTION)
        return found

    @contextmanager
    def trial(self, *, types_known: bool = False) -> Iterator[Connection]:
        """
        Try something out on the database; all of it is rolled back.

        What the database refuses is passed over where the revision itself may have made it right
        by then. If *types_known*, it cannot have done so for types that do not fit.

        Raises:
            OperationRefused: It is a mistake of the revision, whatever it did before.
        """
        savepoint = self.connection.begin_nested()
        try:
            yield self.connection
        except OperationRefused as error:
            if not self._is_certain(error.__cause__, types_known):
                return
            raise
        finally:
            savepoint.rollback()

    def _is_certain(self, cause: BaseException | None, types_known: bool) -> bool:
        if not isinstance(cause, DBAPIError):
            return True
        if sqlstate(cause) == UNDEFINED_COLUMN:
            column = column_in(message_of(cause))
            return column is not None and self.knows(column)
        return sqlstate(cause) == _SYNTAX_ERROR or (types_known and sqlstate(cause) in _OF_TYPES)
