"""
An exclusive lock on a table in use, for a moment, without blocking other sessions.

How it is requested stands in `lock_requests`.
"""

from __future__ import annotations

import logging
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
from cleveragents_plans.evolution.postgresql.lock_requests import (
    LOCK_CONFLICTS,
    gate_timeout,
    pause,
    set_lock_timeout,
    take_lock,
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


_GATE_CONFLICTS = ("ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock",
                   "ExclusiveLock", "AccessExclusiveLock")  # fmt: skip
#: What a statement conflicts with that only reads.
READ_CONFLICTS = ("AccessExclusiveLock",)
#: Every lock that can be held on a table.
ANY_LOCK = ("AccessShareLock", "RowShareLock", "RowExclusiveLock", *_GATE_CONFLICTS)
_WRITING = ("RowExclusiveLock", *_GATE_CONFLICTS)

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
            take_lock(connection, ", ".join([table, *also]), mode, deadline)
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
            set_lock_timeout(connection, gate_timeout(connection, deadline), local=True)
            run(connection, f"LOCK TABLE {versions} IN EXCLUSIVE MODE")
            set_parameters(connection, under_lock, local=True)
            run(connection, as_table_owner(table))
            take_lock(connection, table, "ACCESS EXCLUSIVE", deadline)
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
            pause(0.1, 0.3)


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
            set_lock_timeout(connection, gate_timeout(connection, deadline), local=False)
            if not path:
                run(connection, statement)
                return
            with transaction(connection):
                run_in_pipeline(connection, [*path, statement])

        retry(connection, [table], attempt, deadline, _GATE_CONFLICTS)

    with session(connection, lock_timeout="0", statement_timeout="0", transaction_timeout="0"):
        yield run_patiently
