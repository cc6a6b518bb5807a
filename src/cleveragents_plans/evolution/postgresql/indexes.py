"""
An index on a table in use, built and dropped concurrently; never left INVALID unsaid.

``CREATE INDEX CONCURRENTLY`` that fails, or is killed, leaves an index behind that every
write keeps up to date and no query uses, and that ``IF NOT EXISTS`` takes for the real one
(https://www.postgresql.org/docs/current/sql-createindex.html).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import (
    AGAIN,
    UNIQUE_VIOLATION,
    EvolutionError,
    OperationRefused,
    listed,
    name_taken,
    sqlstate,
)
from cleveragents_plans.evolution.foreseen import IndexBuild, foresee
from cleveragents_plans.evolution.postgresql.blockers import Blocker, Deadline
from cleveragents_plans.evolution.postgresql.connection import run, session
from cleveragents_plans.evolution.postgresql.empty_copy import empty_copy
from cleveragents_plans.evolution.postgresql.index_names import (
    Definition,
    FoundIndex,
    comparable,
    described,
    find_index,
)
from cleveragents_plans.evolution.postgresql.index_progress import IndexProgress
from cleveragents_plans.evolution.postgresql.index_rows import refuse_wide_rows
from cleveragents_plans.evolution.postgresql.lock_requests import LOCK_CONFLICTS
from cleveragents_plans.evolution.postgresql.locks import run_with_retries
from cleveragents_plans.evolution.postgresql.search_path import path_for_ddl
from cleveragents_plans.evolution.rehearsal import Rehearsal
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")

#: A relation of the name is there.
_DUPLICATE_TABLE = "42P07"
#: An entry would be too wide.
TOO_WIDE: Final = "54000"


class IndexNotBuilt(EvolutionError):
    """
    An index could not be built, or dropped, because others did not end in time.

    Attributes:
        index: The index.
        waited: For how many seconds.
        blockers: The sessions and prepared transactions that were waited for last.
    """

    def __init__(
        self, index: str, done: str, waited: float, found: Sequence[Blocker], left: str
    ) -> None:
        super().__init__(
            f"the index {index} was not {done} in {waited:.0f} s; waited for: {listed(found)}; "
            f"{left}; end these or give a longer -x lock-wait=SECONDS, and {AGAIN}"
        )
        self.index = index
        self.waited = waited
        self.blockers: Final = tuple(found)


class DuplicateRows(EvolutionError):
    """
    A unique index cannot be built, because rows are equal in its columns.

    Attributes:
        index: The index.
        table: Its table.
    """

    def __init__(self, index: str, table: str, left: str) -> None:
        super().__init__(
            f"rows of {table} are equal in the columns of the unique index {index}; {left}; "
            "change or delete all but one of them, and run the same command again"
        )
        self.index = index
        self.table = table


class Statements(NamedTuple):
    """How one index is made: the same in three forms."""

    name: str
    #: The quoted name of its table.
    table: str
    #: The columns of that table.
    columns: tuple[str, ...]
    #: Those of them that the index has, expressions left out.
    indexed: tuple[str, ...]
    #: CREATE INDEX CONCURRENTLY on the table.
    build: str
    #: CREATE INDEX, likewise named, on ``pg_temp.evolution_copy``.
    try_out: str


def build(
    connection: Connection, wanted: Statements, settings: Settings, *, use_equal: bool
) -> None:
    """
    Build the index on a *connection* in autocommit, unless it is there and valid.

    Raises:
        OperationRefused: The definition is wrong, or the name is taken by something else.
        IndexNotBuilt: Others did not end within lock-wait.
        DuplicateRows: The index is unique and the rows are not.
        RowsTooWide: A row that was written after the check has a value that no entry can hold.
    """
    definitions = _definitions_of(connection, wanted)
    if use_equal:
        equal = _equal(connection, wanted, definitions)
        if equal:
            log.info("%s has the index %s, which does what %s is to do", wanted.table, *equal)
            return
    deadline = Deadline.for_locks(settings)
    while True:
        found = find_index(connection, wanted.table, wanted.name)
        if found is None:
            if _try_to_build(connection, wanted, settings, deadline):
                return
        elif not is_equal(found, definitions):
            raise _taken(wanted, found)
        elif found.valid:
            log.info("%s has the index %s already", wanted.table, wanted.name)
            return
        else:
            _drop_invalid(connection, wanted, found, settings, deadline)


def rehearse_build(rehearsal: Rehearsal, wanted: Statements, *, use_equal: bool) -> None:
    """
    Refuse, before the first change of a revision, what `build` would refuse.

    Raises:
        OperationRefused: The name is taken by something else, or a column does not exist.
    """
    with rehearsal.trial() as connection:
        found = None
        if rehearsal.knows(wanted.name):
            found = find_index(connection, wanted.table, wanted.name)
        if found is not None and (found.kind != "index" or not found.of_table):
            raise _taken(wanted, found)
        definitions = _definitions_of(connection, wanted)
        if found is not None and not is_equal(found, definitions):
            raise _taken(wanted, found)
        done = found is not None and found.valid
        if not done and not (use_equal and _equal(connection, wanted, definitions)):
            foresee(IndexBuild(wanted.table, wanted.name, wanted.try_out))


def is_equal(found: FoundIndex, definitions: Sequence[Definition]) -> bool:
    """Tell whether what was *found* is an index of the table with one of these *definitions*."""
    return found.kind == "index" and found.of_table and found.definition in definitions


def _taken(wanted: Statements, found: FoundIndex) -> OperationRefused:
    return OperationRefused(
        "create_index",
        f"{wanted.name} is the name of {described(found)}",
        "give the index another name, or drop or rename what has it",
    )


def find_droppable(connection: Connection, table: str, name: str) -> FoundIndex | None:
    """
    Find the index *name* of *table*, the quoted name; None, nothing has the name.

    Raises:
        OperationRefused: Something else has this name, or a constraint needs the index.
    """
    found = find_index(connection, table, name)
    if found is None:
        return None
    if found.kind != "index" or not found.of_table:
        raise OperationRefused(
            "drop_index", f"{name} is {described(found)}", f"name an index of {table}"
        )
    if found.constraint is not None:
        raise OperationRefused(
            "drop_index",
            f"{name} belongs to the constraint {found.constraint}",
            "drop the constraint, and the index goes with it",
        )
    return found


def drop(
    connection: Connection, table: str, name: str, settings: Settings, wanted: Statements | None
) -> None:
    """
    Drop the index *name* of *table*, the quoted name, on a *connection* in autocommit.

    If *wanted* is given, one that is defined otherwise is kept.

    Raises:
        OperationRefused: Something else has this name, or a constraint needs the index.
        IndexNotBuilt: Others did not end within lock-wait.
    """
    found = find_droppable(connection, table, name)
    if found is None:
        return
    if wanted is not None and found.definition not in _definitions_of(connection, wanted):
        log.warning("%s is kept: it is %s, not the one to be dropped", name, described(found))
        return
    drop_concurrently(connection, found.qualified, table, settings, Deadline.for_locks(settings))


def drop_concurrently(
    connection: Connection, index: str, table: str, settings: Settings, deadline: Deadline
) -> None:
    """Send DROP INDEX CONCURRENTLY for *index*, until it is done or the *deadline* is over."""
    while True:
        progress = IndexProgress(connection, f"dropping the index {index}", table, settings)
        try:
            with _session(connection, deadline), progress:
                run(connection, f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
            return
        except DBAPIError as error:
            if sqlstate(error) not in LOCK_CONFLICTS:
                raise
            if deadline.left <= 0:
                waited_for = progress.waited_for(connection)
                left = "no query uses it any more, but it is there until it is dropped"
                raise IndexNotBuilt(index, "dropped", deadline.waited, waited_for, left) from error


def _try_to_build(
    connection: Connection, wanted: Statements, settings: Settings, deadline: Deadline
) -> bool:
    what = f"building the index {wanted.name}"
    progress = IndexProgress(connection, what, wanted.table, settings)
    try:
        with _session(connection, deadline), progress:
            run(connection, wanted.build)
        return True
    except BaseException as error:
        waited = deadline.waited
        left = _clean_up(connection, wanted)
        if not isinstance(error, DBAPIError):  # Ctrl-C
            log.warning("the build of %s was interrupted: %s", wanted.name, left)
            raise
        taken = sqlstate(error) == _DUPLICATE_TABLE or name_taken(error) is not None
        if taken and find_index(connection, wanted.table, wanted.name) is not None:
            return False  # `build` looks at it
        if sqlstate(error) == UNIQUE_VIOLATION:
            raise DuplicateRows(wanted.name, wanted.table, left) from error
        if sqlstate(error) == TOO_WIDE:
            refuse_wide_rows(connection, wanted.table, {wanted.name: wanted.indexed}, left)
        if sqlstate(error) not in LOCK_CONFLICTS:
            raise
        if deadline.left > 0:  # a deadlock
            return False
        waited_for = progress.waited_for(connection)
        raise IndexNotBuilt(wanted.name, "built", waited, waited_for, left) from error


def _clean_up(connection: Connection, wanted: Statements) -> str:
    """Drop what a failed build left, without waiting for long; tell what is left of it."""
    if connection.invalidated:
        return "an INVALID index may be left, which the next run drops"
    found = find_index(connection, wanted.table, wanted.name)
    if found is None or not found.of_table or found.valid:
        return "no INVALID index is left"
    try:
        with session(connection, lock_timeout="2s"):
            run(connection, f"DROP INDEX CONCURRENTLY {found.qualified}")
    except DBAPIError as error:
        if sqlstate(error) not in LOCK_CONFLICTS:
            raise
        left = f"the INVALID index {found.qualified} is left, which the next run drops first"
        log.warning("%s", left)
        return left
    return "the INVALID index was dropped"


def _session(connection: Connection, deadline: Deadline) -> AbstractContextManager[None]:
    # Each wait of the statement, for a lock or for an old snapshot, ends with the deadline;
    # the build itself may take as long as it takes.
    return session(
        connection,
        lock_timeout=f"{1000 * max(deadline.left, 0.05):.0f}ms",
        statement_timeout="0",
        transaction_timeout="0",
        search_path=path_for_ddl(connection),
    )


def _drop_invalid(
    connection: Connection,
    wanted: Statements,
    found: FoundIndex,
    settings: Settings,
    deadline: Deadline,
) -> None:
    # Another session may be building it: its lock is waited for, and then it may be valid.
    with run_with_retries(connection, settings) as run_patiently:
        lock = f"LOCK TABLE {wanted.table} IN SHARE UPDATE EXCLUSIVE MODE"
        run_patiently(wanted.table, f"DO $$ BEGIN {lock}; END $$")
    if found == find_index(connection, wanted.table, wanted.name):
        log.warning("%s is INVALID, left by an interrupted build; it is dropped first", wanted.name)
        drop_concurrently(connection, found.qualified, wanted.table, settings, deadline)


def _definitions_of(connection: Connection, wanted: Statements) -> list[Definition]:
    """Give the forms that the server writes: of the index itself, and after a dump was restored."""
    found: list[Definition] = []
    with empty_copy(connection, "create_index", wanted.table, wanted.columns) as copy:
        run(connection, wanted.try_out)
        while True:
            index, text, unique = run(connection, _DEFINITION, {"copy": copy}).one()
            definition = comparable(text, unique)
            if definition in found:
                return found
            found.append(definition)
            # What the server wrote is read by itself, as from a dump: it may add other casts.
            run(connection, f"DROP INDEX {index}")
            create = "CREATE UNIQUE INDEX" if unique else "CREATE INDEX"
            run(connection, f"{create} evolution_index ON {copy} USING {definition[0]}")


def _equal(
    connection: Connection, wanted: Statements, definitions: Sequence[Definition]
) -> tuple[str, str] | None:
    for name, text, unique in run(connection, _VALID_INDEXES, {"table": wanted.table}):
        if name != wanted.name and comparable(text, unique) in definitions:
            return name, wanted.name
    return None


_DEFINITION = """\
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisunique FROM pg_index
 WHERE indrelid = to_regclass(%(copy)s)"""

_VALID_INDEXES = """\
SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisunique
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = to_regclass(%(table)s) AND i.indisvalid ORDER BY c.relname"""
