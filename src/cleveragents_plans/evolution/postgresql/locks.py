"""
An exclusive lock on a table in use, for a moment, without blocking other sessions.

A session that waits for ACCESS EXCLUSIVE blocks every later one, so it is requested with short
timeouts, and never for longer than clients can wait.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import AGAIN, EvolutionError, listed, sqlstate
from cleveragents_plans.evolution.foreseen import ExclusiveLock, foresee
from cleveragents_plans.evolution.op import Op, in_schema, qualified
from cleveragents_plans.evolution.postgresql.blockers import Blocker, Deadline, blockers
from cleveragents_plans.evolution.postgresql.connection import (
    as_table_owner,
    online,
    parameters,
    require_postgresql,
    run,
    session,
    set_parameters,
    transaction,
    write_sql,
)
from cleveragents_plans.evolution.postgresql.pipeline import run_in_pipeline
from cleveragents_plans.evolution.postgresql.search_path import path_statement
from cleveragents_plans.evolution.postgresql.statement_waits import StatementWaits
from cleveragents_plans.evolution.run_figures import record_lock
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.under_way import waits

log: Final = logging.getLogger("alembic.evolution")

_Result = TypeVar("_Result")


class LockNotObtained(EvolutionError):
    """
    Other sessions held conflicting locks for too long.

    Attributes:
        table: The table to be locked.
        waited: For how many seconds.
        blockers: The sessions that held them when last looked.
    """

    def __init__(self, table: str, waited: float, blockers: Sequence[Blocker]) -> None:
        super().__init__(
            f"no lock on {table} in {waited:.0f} s; blocked by: {listed(blockers)}; end these "
            f"sessions or give a longer -x lock-wait=SECONDS, and {AGAIN}"
        )
        self.table = table
        self.waited = waited
        self.blockers: Final = tuple(blockers)


#: Lock timeout, deadlock, serialization failure: a conflict with another session.
LOCK_CONFLICTS = frozenset({"55P03", "40P01", "40001"})

_GATE_CONFLICTS = ("ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock",
                   "ExclusiveLock", "AccessExclusiveLock")  # fmt: skip
#: What a statement conflicts with that only reads.
READ_CONFLICTS = ("AccessExclusiveLock",)
#: Every lock that can be held on a table.
ANY_LOCK = ("AccessShareLock", "RowShareLock", "RowExclusiveLock", *_GATE_CONFLICTS)
_WRITING = ("RowExclusiveLock", *_GATE_CONFLICTS)

# No session queues behind NOWAIT, so it is tried first; among overlapping transactions it
# starves, and only a request that queues is granted. The length of that queue is how long
# clients wait. After a minute of starving, one longer request per round is worth it.
_POLL_SECONDS = 0.5
_POLL_PAUSE = 0.005
_RUNGS_MS = (10, 10, 20, 20)
_LONG_RUNG_MS, _LONG_RUNG_AFTER = 50, 60.0
_WAITING = "waiting for a lock on %s for %.0f s; blocked by: %s"


def with_exclusive_lock(
    op: Op,
    table: str,
    *statements: str,
    schema: str | None = None,
    in_version_transaction: bool = False,
) -> None:
    """
    Run *statements* in one short transaction that holds ACCESS EXCLUSIVE on *table*.

    No client waits for longer than 20 ms (50 ms once a minute has passed) and the
    statements themselves, however long it takes to get the lock; an ordinary autovacuum
    gives way. The statements are sent as they are written: ``%`` and ``:name`` mean
    nothing; only ``{schema}`` is replaced by the schema of *table*, quoted. Names are
    looked up in system schemas only, so that every other one needs its schema. The
    statements run as the owner of *table*, to whom what they create belongs. Offline they
    are written without the lock.

    Args:
        op: Alembic's ``op``.
        table: The table.
        statements: What to run.
        schema: The schema of *table*, if it is not that of the chain's tables.
        in_version_transaction: Run them in the transaction in which Alembic changes the
            version, so that a run cannot end between the two. They must be the last that
            the revision does; the lock is held for two statements more.

    Raises:
        LockNotObtained: Other sessions held locks for too long. Nothing was changed.
    """
    context = require_postgresql(op, "with_exclusive_lock")
    name = qualified(context, table, schema)
    texts = [in_schema(context, statement, schema) for statement in statements]
    if context.as_sql:
        foresee(ExclusiveLock(name))
        write_sql(context, _REMEMBER_ROLE, as_table_owner(name), *texts, _RESTORE_ROLE)
        return
    settings = Settings.of(context.environment_context)
    if in_version_transaction:
        versions = qualified(context, context.version_table, context.version_table_schema)
        _run_with_version(op.get_bind(), name, texts, settings, versions)
        return
    with online(op) as connection:
        run_under_lock(connection, name, texts, settings)


_REMEMBER_ROLE = "SELECT set_config('evolution.role', current_setting('role'), true)"
_RESTORE_ROLE = "SELECT set_config('role', current_setting('evolution.role'), true)"

# A lock is released when its commit is on disk, unless that is not waited for; later commits,
# at the end of the run, wait for all of it. Should this process freeze while it has the lock,
# the server ends it.
_UNDER_LOCK = {
    "synchronous_commit": "off",
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "5s",
}


def run_under_lock(
    connection: Connection,
    table: str,
    statements: Sequence[str],
    settings: Settings,
    *,
    also: Sequence[str] = (),
    mode: str = "ACCESS EXCLUSIVE",
) -> None:
    """
    Run *statements* under a lock on *table*, which is the quoted name.

    The *connection* is in autocommit. Tables that are locked *also* are locked in the same
    *mode*.
    """
    deadline = Deadline.for_locks(settings)
    texts = [*path_statement(connection), *statements]
    waiting = StatementWaits(connection)

    def attempt() -> None:
        with waiting.attempt(), transaction(connection):
            run(connection, as_table_owner(table))
            _take(connection, ", ".join([table, *also]), mode, deadline)
            since = time.monotonic()
            # In one round trip: clients wait until the last statement is done.
            with waiting.statements():
                run_in_pipeline(connection, texts)
        if mode == "ACCESS EXCLUSIVE":
            record_lock(since)

    with session(connection, **_UNDER_LOCK):
        modes = ANY_LOCK if mode == "ACCESS EXCLUSIVE" else _WRITING
        retry(connection, [table, *also], attempt, deadline, modes, waiting)


def _run_with_version(
    connection: Connection,
    table: str,
    statements: Sequence[str],
    settings: Settings,
    versions: str,
) -> None:
    """
    Run *statements* under ACCESS EXCLUSIVE on *table* in the transaction of the version.

    The table of *versions* is locked first, so that Alembic does not wait for it while it
    has the lock on *table*. What is set for the time of that lock stays until the end of the
    transaction.
    """
    deadline = Deadline.for_locks(settings)
    texts = [*path_statement(connection), *statements]
    under_lock = {name: _UNDER_LOCK[name] for name in parameters(connection, _UNDER_LOCK)}
    restored = parameters(connection, ("search_path", "lock_timeout"))
    restored["role"] = run(connection, "SELECT current_setting('role')").scalar_one()

    def attempt() -> None:
        with connection.begin_nested():
            _set_lock_timeout(connection, _gate_timeout(connection, deadline), local=True)
            run(connection, f"LOCK TABLE {versions} IN EXCLUSIVE MODE")
            set_parameters(connection, under_lock, local=True)
            run(connection, as_table_owner(table))
            _take(connection, table, "ACCESS EXCLUSIVE", deadline)
            since = time.monotonic()
            event.listen(connection, "commit", lambda _: record_lock(since), once=True)
            run_in_pipeline(connection, texts)
            set_parameters(connection, restored, local=True)

    retry(connection, [table, versions], attempt, deadline, ANY_LOCK)


def retry(
    connection: Connection,
    tables: Sequence[str],
    attempt: Callable[[], _Result],
    deadline: Deadline,
    modes: Sequence[str],
    waiting: StatementWaits | None = None,
) -> _Result:
    """
    Call *attempt* until no lock conflicts, and name the sessions that hold one of *modes*; those
    are innocent where a statement under the lock failed, and *waiting* knows the others.

    Raises:
        LockNotObtained: The *deadline* is over.
    """
    seen: list[Blocker] = []
    names = " and ".join(tables)
    with waits() as say:
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                if sqlstate(error) not in LOCK_CONFLICTS:
                    raise
            held = None if waiting and waiting.failed else blockers(connection, tables, modes)
            seen = waiting.found if waiting and held is None else held or seen
            say(f"waits for a lock on {names}; blocked by: {listed(seen)}")
            if deadline.left <= 0:
                raise LockNotObtained(names, deadline.waited, seen)
            if deadline.report_due():
                facts = {"event": "waiting", "blockers": [*map(str, seen)]}
                log.warning(_WAITING, names, deadline.waited, listed(seen), extra=facts)
            _pause(0.1, 0.3)


@contextmanager
def run_with_retries(
    connection: Connection, settings: Settings
) -> Iterator[Callable[[str, str], None]]:
    """
    Give a function (table, statement) for statements that take SHARE UPDATE EXCLUSIVE.

    Such a request stops no reader and no writer, so it may wait: an ordinary autovacuum
    is cancelled by it, any other VACUUM is waited for and named.
    """

    def run_patiently(table: str, statement: str) -> None:
        deadline = Deadline.for_locks(settings)
        path = path_statement(connection)

        def attempt() -> None:
            _set_lock_timeout(connection, _gate_timeout(connection, deadline), local=False)
            if not path:
                run(connection, statement)
                return
            with transaction(connection):
                run_in_pipeline(connection, [*path, statement])

        retry(connection, [table], attempt, deadline, _GATE_CONFLICTS)

    with session(connection, lock_timeout="0", statement_timeout="0", transaction_timeout="0"):
        yield run_patiently


def _take(connection: Connection, tables: str, mode: str, deadline: Deadline) -> None:
    _set_lock_timeout(connection, _gate_timeout(connection, deadline), local=True)
    run(connection, f"LOCK TABLE {tables} IN SHARE UPDATE EXCLUSIVE MODE")

    # From here on other sessions cannot VACUUM the table, and the snapshot of this transaction
    # holds their VACUUMs back elsewhere: so a round is about a second, and then it is rolled back.
    _set_lock_timeout(connection, _RUNGS_MS[-1], local=True)
    until = time.monotonic() + _POLL_SECONDS
    while time.monotonic() < until:
        if _try(connection, f"LOCK TABLE {tables} IN {mode} MODE NOWAIT"):
            return
        _pause(_POLL_PAUSE / 2, _POLL_PAUSE * 3 / 2)
    long = (_LONG_RUNG_MS,) if deadline.waited > _LONG_RUNG_AFTER else ()
    for milliseconds in (*_RUNGS_MS, *long):
        _pause(milliseconds / 200, milliseconds / 66)
        _set_lock_timeout(connection, milliseconds, local=True)
        if _try(connection, f"LOCK TABLE {tables} IN {mode} MODE"):
            return
    run(connection, f"LOCK TABLE {tables} IN {mode} MODE NOWAIT")


def _try(connection: Connection, statement: str) -> bool:
    run(connection, "SAVEPOINT rung")
    try:
        run(connection, statement)
    except DBAPIError as error:
        if sqlstate(error) not in LOCK_CONFLICTS:
            raise
        run(connection, "ROLLBACK TO SAVEPOINT rung")
        run(connection, "RELEASE SAVEPOINT rung")
        return False
    return True


def _gate_timeout(connection: Connection, deadline: Deadline) -> float:
    # An autovacuum is cancelled when a session has waited for it as long as deadlock_timeout,
    # so a wait must be longer than that to be of use.
    deadlock = run(
        connection,
        "SELECT extract(epoch FROM current_setting('deadlock_timeout')::interval)::float8",
    ).scalar_one()
    return 1000 * max(0.05, min(deadline.report_every + float(deadlock), deadline.left))


def _set_lock_timeout(connection: Connection, milliseconds: float, *, local: bool) -> None:
    run(connection, f"SET {'LOCAL' if local else 'SESSION'} lock_timeout = '{milliseconds:.0f}ms'")


def _pause(minimum: float, maximum: float) -> None:
    time.sleep(random.uniform(minimum, maximum))  # noqa: S311  # jitter, not a secret
