"""
Writing many rows of a table in use, a few at a time.

Each batch is a transaction of some milliseconds that waits for no lock, so that clients
hardly notice it; rows that other sessions lock are left for a later pass.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import listed, sqlstate
from cleveragents_plans.evolution.postgresql.batch_queue import (
    BatchQueue,
    batch_statement,
    literally,
)
from cleveragents_plans.evolution.postgresql.blockers import Deadline, blockers
from cleveragents_plans.evolution.postgresql.conflicts import (
    FOREIGN_KEY_BROKEN,
    BackfillRefused,
    is_conflict,
)
from cleveragents_plans.evolution.postgresql.connection import run, transaction
from cleveragents_plans.evolution.postgresql.lock_requests import LOCK_CONFLICTS
from cleveragents_plans.evolution.postgresql.locks import ANY_LOCK, READ_CONFLICTS, retry
from cleveragents_plans.evolution.postgresql.ownership import NameTaken
from cleveragents_plans.evolution.postgresql.ranges import KeyRange, SkippedRanges, base_type
from cleveragents_plans.evolution.postgresql.search_path import after_triggers
from cleveragents_plans.evolution.postgresql.second_session import SecondSession
from cleveragents_plans.evolution.postgresql.stuck_backfills import (
    BackfillStuck,
    Convergence,
    never_ends,
    update_triggers,
)
from cleveragents_plans.evolution.postgresql.throttle import BatchSize, Throttle
from cleveragents_plans.evolution.reporting import Progress, heartbeat
from cleveragents_plans.evolution.run_figures import record_rows
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.under_way import waits

# A parent that another session deletes meanwhile is a conflict, too. Where it is not in the same
# table, some tries tell that from a value that is in no other table.
_TRY_AGAIN = LOCK_CONFLICTS | {FOREIGN_KEY_BROKEN}
_TRIES = 3
# So many waits in which no other session locked the table, and still no row was written.
_MAX_UNLOCKED = 6

# How long one query for rows may take; it locks nothing.
_LOOK_MS = 20.0
# Every batch has a cost of its own, so batches are longer while no client can wait for one. A
# client that comes meanwhile waits for one of them at most.
_ALONE = 4
# So many rows repay the handing over to a second session.
_WORTH_A_SESSION = 1_000
# Without the exclusive lock that truncating empty pages takes, and without workers, which
# would take the processors from clients.
_VACUUM = "TRUNCATE OFF, INDEX_CLEANUP ON, SKIP_LOCKED, PARALLEL 0"
_VACUUM_SHARE = 10
_VACUUM_AT_LEAST = 5000


@dataclass(frozen=True, slots=True)
class Batches:
    """What `run_in_batches` was asked for."""

    table: str
    key: str
    needs: str
    update: str
    first: Sequence[Any]
    label: str
    vacuum: str
    #: Whether two sessions may run batches at the same time.
    by_two: bool


class BatchRun:
    """One run over a table, from its first batch to the last."""

    def __init__(self, connection: Connection, wanted: Batches, settings: Settings) -> None:
        self.connection = connection
        self.wanted = wanted
        self.settings = settings
        self.table: str = wanted.table
        self.table_in_query: str = literally(wanted.table)
        self.written_to: str = wanted.vacuum
        self.key: str = f"t.{connection.dialect.identifier_preparer.quote(wanted.key)}"
        self.throttle: Final = Throttle(connection, settings)
        self.batch: Final = BatchSize(settings.batch_ms, first=100, least=10, most=10_000)
        self.look: Final = BatchSize(_LOOK_MS, first=2_000, least=100, most=50_000)
        self.written: int = 0
        self.rows: int = 0
        self.vacuum_after: int = 0
        self.next_vacuum: int = 0
        self.refused: str = ""
        self.error: DBAPIError | None = None
        self.unlocked: int = 0
        self.second: Final = SecondSession(connection)
        self.conflict: bool = False

    def to_the_end(self) -> int:
        """
        Run batches until no row needs it; give how many rows were done.

        Raises:
            BackfillStuck: Rows that need it could not be done for too long.
            BackfillNeverEnds: Rows need it however often they are done.
            BackfillRefused: The database refuses rows, and no other session is why.
            NameTaken: Another table has the name since it began.
        """
        found = self._oid()
        left = self._left()
        if not left:
            return 0
        self.next_vacuum = self.vacuum_after
        deadline = Deadline.for_locks(self.settings)
        convergence = Convergence(self.connection, self.table, left)
        shown = Progress(
            self.wanted.label, left, rows=self.rows, limit=lambda: self.throttle.rows_per_second
        )
        with closing(self.second), shown as progress:
            self._do_first(progress)
            while left:
                missed = self._pass([KeyRange()], progress)
                deadline.restart()
                while missed.ranges:
                    before = self.written, self.throttle.paused
                    missed = self._pass(missed.ranges, progress)
                    if (self.written, self.throttle.paused) != before:
                        deadline.restart()
                        self.unlocked = 0
                    elif missed.ranges:
                        self._wait(missed, deadline, progress)
                # Rows may have come in behind the pass.
                left = self._left()
                convergence.observe(left)
        # What the revision made of the table before is not on one that took its place.
        if self._oid() != found:
            raise NameTaken(
                self.table,
                "was replaced by another table while its rows were written, as by RENAME",
                "run the same command again, which completes the revision on that one",
            )
        record_rows(self.written)
        return self.written

    def _oid(self) -> int | None:
        query = "SELECT CAST(to_regclass(%(table)s) AS oid)"
        oid: int | None = run(self.connection, query, {"table": self.table}).scalar_one()
        return oid

    def _do_first(self, progress: Progress) -> None:
        keys = self.wanted.first
        if keys:
            # In its own type, or no index would help.
            type_of_key = base_type(self.connection, self.table, self.wanted.key)
            condition = f"{self.key} = ANY(CAST(%(keys)s AS {type_of_key}[]))"
        at = 0
        while at < len(keys):
            size = self.throttle.fitting(self.batch.size)
            # What is locked is left for the pass.
            done = self._batch(condition, {"keys": list(keys[at : at + size])})
            self.written += done
            progress.tick(done)
            at += size
            self._vacuum_when_due()

    def _pass(self, ranges: list[KeyRange], progress: Progress) -> SkippedRanges:
        missed = SkippedRanges()
        for among in ranges:
            for rest, keys in self._looks(among, progress):
                if keys and rest.low is None:
                    # Of a range with one end, a plan without its values expects too much.
                    rest = rest._replace(low=keys[0], with_low=True)
                queue = BatchQueue(rest, keys)
                with self._second_session_on(queue, len(keys)):
                    while batch := queue.take(self.throttle.fitting(self.batch.size)):
                        condition = batch.among.condition(self.key)
                        queue.done(batch, self._batch(condition, batch.among.parameters))
                        self._count(queue, progress)
                        self._vacuum_when_due()
                self._count(queue, progress)
                queue.add_missed(missed)
        return missed

    def _count(self, queue: BatchQueue, progress: Progress) -> None:
        rows = queue.newly_written()
        self.written += rows
        progress.tick(rows)

    def _second_session_on(self, queue: BatchQueue, rows: int) -> AbstractContextManager[None]:
        # The first batch has shown its effect before there are two at once.
        by_two = self.wanted.by_two and self.written and self.throttle.unhindered
        if not by_two or rows < _WORTH_A_SESSION:
            return nullcontext()
        return self.second.beside(queue, self._write_beside)

    def _write_beside(self, connection: Connection, queue: BatchQueue) -> None:
        while not self.conflict and self.throttle.unhindered:
            batch = queue.take(self.batch.size)
            if batch is None:
                return
            among, update = batch.among, self.wanted.update
            condition = among.condition(self.key)
            sql, values = batch_statement(self.connection, update, condition, among.parameters)
            done = self._try(sql, values, connection)
            # A trigger may write a row that both sessions need: then one of them is quicker.
            self.conflict = done is None
            queue.done(batch, done or 0)

    def _looks(self, among: KeyRange, progress: Progress) -> Iterator[tuple[KeyRange, list[Any]]]:
        # Each look goes on where the last one ended, over a bounded number of rows: the
        # cost is one walk over the index, whether all rows need to be done or none.
        while True:
            size = self.look.size
            query = f"""\
WITH w AS MATERIALIZED (
  SELECT {self.key} AS k, ({literally(self.wanted.needs)}) AS n FROM {self.table_in_query} t
   WHERE {among.condition(self.key)} ORDER BY {self.key} LIMIT {size})
(SELECT k, NULL FROM w WHERE n ORDER BY k)
UNION ALL
(SELECT k, (SELECT count(*) FROM w) FROM w ORDER BY k DESC LIMIT 1)"""
            begun = time.monotonic()
            rows = self._read(query, among.parameters)
            seconds = time.monotonic() - begun
            self.look.observe(size, seconds)
            self.throttle.rest(seconds, 0)
            if not rows:
                return
            *needy, (last, looked_at) = rows
            # What is gone over again was counted the first time.
            progress.passed(looked_at - len(needy) if among.high is None else 0)
            yield among._replace(high=last), [row[0] for row in needy]
            among = KeyRange(last, among.high)

    def _batch(self, condition: str, parameters: Mapping[str, Any]) -> int:
        update = self.wanted.update
        sql, values = batch_statement(self.connection, update, condition, parameters)
        for _ in range(_TRIES):
            self.error = None
            begun = time.monotonic()
            if self.written:
                done = self._try(sql, values)
            else:
                done = self._try_first(condition, sql, values)
            seconds = time.monotonic() - begun
            self.throttle.rest(seconds, done or 0)
            if done is not None:
                if done:
                    self.batch.observe(done, seconds / (_ALONE if self.throttle.alone else 1))
                return done
            time.sleep(random.uniform(0.005, 0.05))  # noqa: S311  # jitter, not a secret
        if self.error is not None:
            raise BackfillRefused(self.table, self.error) from self.error
        return 0  # a later pass takes it

    def _try(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        connection: Connection | None = None,
    ) -> int | None:
        try:
            return run(connection or self.connection, sql, parameters).rowcount
        except DBAPIError as error:
            self._refused(error, beside=connection is not None)
            return None

    def _refused(self, error: DBAPIError, *, beside: bool = False) -> None:
        """Let a conflict pass, and remember a row that refers to none: perhaps it never will."""
        if sqlstate(error) not in _TRY_AGAIN:
            raise error
        if beside:  # this session tries it, too
            return
        if not is_conflict(self.connection, error):
            self.error = error
        elif sqlstate(error) == FOREIGN_KEY_BROKEN:
            self.refused = str(getattr(getattr(error.orig, "diag", None), "message_primary", ""))

    def _try_first(self, condition: str, sql: str, parameters: Mapping[str, Any]) -> int | None:
        """Run a batch that must show that rows which are done need it no more."""
        needs = literally(self.wanted.needs)
        query = f"SELECT count(*) FROM {self.table_in_query} t WHERE ({condition}) AND ({needs})"
        try:
            # What others write meanwhile is not seen, and cannot be mistaken.
            with transaction(self.connection, "BEGIN ISOLATION LEVEL REPEATABLE READ"):
                before = run(self.connection, query, parameters).scalar_one()
                done = run(self.connection, sql, parameters).rowcount
                with after_triggers(self.connection):
                    after = run(self.connection, query, parameters).scalar_one()
                    if done and after >= before:
                        what = "the rows of the first batch need it once they are done"
                        raise never_ends(self.connection, self.table, what)
                return done
        except DBAPIError as error:
            self._refused(error)
            return None

    def _read(self, query: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        # Another session may hold ACCESS EXCLUSIVE: LOCK TABLE, VACUUM FULL, a truncation.
        return retry(
            self.connection,
            [self.table],
            lambda: run(self.connection, query, parameters).all(),
            Deadline.for_locks(self.settings),
            READ_CONFLICTS,
        )

    def _left(self) -> int:
        query = f"SELECT count(*), count(*) FILTER (WHERE {self.wanted.needs}) FROM {self.table} t"
        what = f"{self.wanted.label}: counting the rows of {self.table} that need it"
        with heartbeat(what, self.settings.report_every):
            [(rows, left)] = self._read(query)
        self.rows = int(rows)
        self.vacuum_after = max(rows // _VACUUM_SHARE, _VACUUM_AT_LEAST)
        return int(left)

    def _vacuum_when_due(self) -> None:
        if self.written >= self.next_vacuum:
            self.next_vacuum = self.written + self.vacuum_after
            # Not done, if an index is locked just now; the next one does it.
            with heartbeat(f"vacuuming {self.written_to}", self.settings.report_every):
                self._try(f"VACUUM ({_VACUUM}) {self.written_to}")

    def _wait(self, missed: SkippedRanges, deadline: Deadline, progress: Progress) -> None:
        found = blockers(self.connection, [self.table, self.written_to], ANY_LOCK)
        # Rows that are locked are rows of a session that holds a lock on the table.
        self.unlocked = 0 if found or self.refused else self.unlocked + 1
        triggers = update_triggers(self.connection, self.table)
        if deadline.left <= 0 or (self.unlocked >= _MAX_UNLOCKED and triggers):
            keys = self._some_keys(missed, progress)
            raise BackfillStuck(
                self.table, missed.rows, keys, deadline.waited, found, triggers, self.refused
            )
        with waits() as say:
            say(f"waits for rows of {self.table}; sessions that lock the table: {listed(found)}")
            if deadline.report_due():
                fire = f"; triggers that fire for them: {', '.join(triggers)}" if triggers else ""
                progress.say(
                    f"{missed.rows} rows of {self.table} could not be written for "
                    f"{deadline.waited:.0f} s; sessions that lock the table: {listed(found)}{fire}"
                )
            time.sleep(min(0.5, max(deadline.left, 0)))

    def _some_keys(self, missed: SkippedRanges, progress: Progress) -> list[Any]:
        looks = (look for among in missed.ranges for look in self._looks(among, progress))
        return list(itertools.islice((key for _, keys in looks for key in keys), 3))
