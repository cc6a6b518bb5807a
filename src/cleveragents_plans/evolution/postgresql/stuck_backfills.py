"""A backfill that makes no progress: when it is given up, and what is said then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import (
    AGAIN,
    BackfillNeverEnds,
    EvolutionError,
    listed,
)
from cleveragents_plans.evolution.postgresql.blockers import Blocker
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.search_path import SETTINGS

# Clients may write rows that need it; each pass finds fewer, as it takes less time.
_MAX_PASSES = 5
_MIN_SECONDS = 5.0


class BackfillStuck(EvolutionError):
    """
    Rows still need to be written, and none could be for too long.

    Attributes:
        table: The table.
        left: How many rows need it.
        keys: Some of them.
        waited: For how many seconds none was written.
        blockers: Sessions that hold locks on the table.
        triggers: Triggers that fire for an UPDATE of the table, one of which may suppress it;
            those that a revision created are not among them.
        is_lock: Whether sessions that lock rows are the reason, so that it can be tried again.
    """

    def __init__(
        self,
        table: str,
        left: int,
        keys: Sequence[object],
        waited: float,
        blockers: Sequence[Blocker],
        triggers: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        shown = ", ".join(str(key) for key in keys)
        fire = f"; triggers that fire for an UPDATE: {', '.join(triggers)}" if triggers else ""
        remedies = ["end the sessions that lock the rows"]
        if triggers:
            remedies.append("disable a trigger that suppresses the UPDATE")
        if reason:
            remedies.append("correct what is refused")
        super().__init__(
            f"{left} rows of {table} still have to be written, and for {waited:.0f} s none could "
            f"be, such as {shown}; sessions that lock the table: {listed(blockers)}{fire}; "
            + (f"the last batch was refused ({reason}); " if reason else "")
            + f"{', or '.join(remedies)}, and {AGAIN}"
        )
        self.table = table
        self.left = left
        self.keys: tuple[object, ...] = tuple(keys)
        self.waited = waited
        self.blockers: Final = tuple(blockers)
        self.triggers: Final = tuple(triggers)
        self.is_lock: Final = bool(blockers) and not reason


class Convergence:
    """Gives up when pass after pass leaves as many rows as the one before."""

    def __init__(self, connection: Connection, table: str, left: int) -> None:
        self._connection, self._table, self._least = connection, table, left
        self._passes, self._since = 0, time.monotonic()

    def observe(self, left: int) -> None:
        """
        Learn that a pass has *left* so many rows.

        Raises:
            BackfillNeverEnds: Several passes, and some seconds, brought the number no lower.
        """
        if left < self._least:
            self._least, self._passes, self._since = left, 0, time.monotonic()
            return
        self._passes += 1
        if self._passes >= _MAX_PASSES and time.monotonic() - self._since > _MIN_SECONDS:
            raise never_ends(
                self._connection,
                self._table,
                f"after {self._passes} more passes {left} rows still need it",
            )


def never_ends(connection: Connection, table: str, found: str) -> BackfillNeverEnds:
    """Give the error that says what was *found*, and names the triggers of *table*."""
    triggers = update_triggers(connection, table)
    fire = f"; triggers that fire for them: {', '.join(triggers)}" if triggers else ""
    return BackfillNeverEnds(table, found + fire)


def update_triggers(connection: Connection, table: str) -> list[str]:
    """
    Name the triggers that fire for an UPDATE of *table* and may suppress or undo it.

    Those that a revision created do not: they are left out, and known by what `Trigger` gives them.

    Args:
        connection: The connection that migrates.
        table: The table as in SQL, with its schema.
    """
    return list(run(connection, _UPDATE_TRIGGERS, {"table": table}).scalars())


_UPDATE_TRIGGERS = f"""\
SELECT quote_ident(t.tgname)
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE c.oid = to_regclass(%(table)s) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
   AND t.tgtype & 16 <> 0
   AND NOT (t.tgenabled = 'A' AND p.proname = t.tgname AND p.pronamespace = c.relnamespace
            AND p.proowner = c.relowner AND p.proconfig IS NOT NULL
            AND p.proconfig && CAST(ARRAY{[*SETTINGS]} AS text[]))
 ORDER BY t.tgname"""
