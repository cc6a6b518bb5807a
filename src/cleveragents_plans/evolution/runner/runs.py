"""
The table ``evolution_runs``: who migrated what and when, and how far the run under way is.

It stands in the schema of the version table and belongs to its owner. It is the runner's, not a
revision's: it is there before the first revision, and while a downgrade goes to ``base``. On
PostgreSQL it is UNLOGGED: no subscriber and no standby gets its rows, and a heartbeat costs no
write-ahead log (https://www.postgresql.org/docs/current/sql-createtable.html).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import LOCK_TIMEOUT, EvolutionError, sqlstate
from cleveragents_plans.evolution.postgresql.connection import as_table_owner, run, transaction
from cleveragents_plans.evolution.postgresql.privileges import revoke_writing
from cleveragents_plans.evolution.printable import shortened
from cleveragents_plans.evolution.runner.migration_lock import LOCK_IS_HELD, lock_key
from cleveragents_plans.evolution.runner.runs_check import fault_on_postgresql, fault_on_sqlite

#: The name of the table.
RUNS: Final = "evolution_runs"
#: The time of the server as the table has it, in SQL.
NOW: Final = """\
to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"+00:00"')"""


class RunsNotUsable(EvolutionError):
    """
    The table of runs cannot be read, or is not as a run creates it.

    Attributes:
        table: The table, with its schema.
        found: Why it cannot be used, and what to do.
    """

    def __init__(self, table: str, found: str) -> None:
        super().__init__(f"{table} {found}")
        self.table = table
        self.found = found


@dataclass(frozen=True, slots=True)
class Run:
    """One run of ``upgrade`` or ``downgrade`` that ran at least one revision."""

    run_id: str
    #: Whose chain it was: chains that share a schema share the table.
    version_table: str
    #: ``upgrade`` or ``downgrade``.
    command: str
    #: What the version table held before and afterwards, with commas; None is nothing.
    revision_before: str | None
    revision_after: str | None
    #: ISO 8601, in UTC.
    began_at: str
    ended_at: str | None
    #: ``running``, ``done``, ``failed`` or ``interrupted``: a run that was killed is, too.
    outcome: str
    #: Why it failed, in a line.
    error: str | None
    #: The role of the database, and the process that migrated.
    role: str | None
    host: str
    pid: int
    #: The session of PostgreSQL.
    backend_pid: int | None
    package_version: str
    #: What was under way at `updated_at`.
    revision: str | None
    what: str | None
    done: int | None
    total: int | None
    #: Rows per second, and the seconds that are left.
    rate: float | None
    eta_s: float | None
    waiting_for: str | None
    updated_at: str | None
    #: What ``throttle`` chose: None is what the run was started with.
    rows_per_second: float | None
    paused: bool


_TYPES: Final[Mapping[str, str]] = {
    "pid": "bigint",
    "backend_pid": "bigint",
    "done": "bigint",
    "total": "bigint",
    "rate": "double precision",
    "eta_s": "double precision",
    "rows_per_second": "double precision",
    "paused": "boolean",
}
_NAMES: Final = [field.name for field in fields(Run)]
_REQUIRED: Final = {
    field.name for field in fields(Run) if field.type in ("str", "int", "bool")
}  # annotations are texts here


_SHOWN: Final = 60
_WORDS: Final = {"str": "text", "int": "a whole number", "float": "a number", "bool": "0 or 1"}


def _is_a(wanted: str, value: object) -> bool:
    """Tell whether *value* is of the type that an annotation of `Run` names."""
    if wanted == "str":  # bytes that are no text are surrogates
        return isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)
    return type(value).__name__ in (("float", "int") if wanted == "float" else (wanted,))


@dataclass(frozen=True, slots=True)
class RunsTable:
    """
    Where the runs of a chain are noted.

    Attributes:
        version_table: The table in which Alembic keeps the version.
        schema: Its schema; None on SQLite.
    """

    version_table: str
    schema: str | None

    def quoted(self, connection: Connection, name: str = RUNS) -> str:
        """Write the name of the table, or of another one beside it, for SQL."""
        quote = connection.dialect.identifier_preparer.quote
        return f"{quote(self.schema or 'main')}.{quote(name)}".replace("%%", "%")

    def usable(self, connection: Connection, right: str = "SELECT") -> bool:
        """
        Tell whether the table is there, and keep it so until the transaction ends.

        Locks on PostgreSQL: ACCESS SHARE on the table, or ROW EXCLUSIVE; none in autocommit.

        Args:
            connection: The connection that uses it.
            right: What is to be done with it: ``SELECT`` or ``UPDATE``.

        Raises:
            RunsNotUsable: It belongs to another role than the version table, is no ordinary
                table, has other columns, or runs anything when it is read or written; or it
                cannot be used with the rights of the role, or on a standby.
        """
        found = self._check(connection, right)
        if found and connection.dialect.name == "postgresql" and _in_transaction(connection):
            self.lock(connection, right)
        return found

    def lock(self, connection: Connection, right: str) -> None:
        """
        Lock the table of PostgreSQL, so that nothing takes its place until the transaction ends.

        A lock of the mode that reading or writing takes conflicts with what would give the table
        triggers, rules, another owner or another name, too.

        Args:
            connection: The connection that uses it, in a transaction.
            right: What is to be done with it: ``SELECT`` or ``UPDATE``.

        Raises:
            RunsNotUsable: See `usable`: it is looked at again under the lock.
        """
        mode = "ROW EXCLUSIVE" if right == "UPDATE" else "ACCESS SHARE"
        run(connection, f"LOCK TABLE {self.quoted(connection)} IN {mode} MODE")
        self._check(connection, right)

    def _check(self, connection: Connection, right: str) -> bool:
        name = self.quoted(connection)
        if self.schema is None:
            found, wrong = fault_on_sqlite(connection, RUNS, _NAMES)
        else:
            versions = self.quoted(connection, self.version_table)
            columns = [f"{each} {_TYPES.get(each, 'text')}" for each in _NAMES]
            about = (name, self.schema, versions, columns, right)
            found, wrong = fault_on_postgresql(connection, *about)
        if wrong:
            raise RunsNotUsable(name, wrong)
        return found

    def create(self, connection: Connection, path: list[str]) -> None:
        """
        Create the table, if it is not there.

        On PostgreSQL the *connection* is in autocommit; the transaction is one of its own. It
        takes no lock on any other table. *path* are the statements that serve event triggers.

        Raises:
            RunsNotUsable: Something of that name cannot be used.
            DBAPIError: The role may not create it.
        """
        if self.usable(connection, "UPDATE"):
            return
        columns = ", ".join(
            f"{name} {_TYPES.get(name, 'text')}"
            + (" PRIMARY KEY" if name == "run_id" else " NOT NULL" if name in _REQUIRED else "")
            for name in _NAMES
        )
        if connection.dialect.name != "postgresql":
            run(connection, f"CREATE TABLE {self.quoted(connection)} ({columns})")
            return
        versions = self.quoted(connection, self.version_table).replace("'", "''")
        statement = f"CREATE UNLOGGED TABLE {self.quoted(connection)} ({columns})"
        with transaction(connection):
            # UPDATE on it throttles a run: it is granted to whom it is meant for, afterwards.
            closed = revoke_writing(self.quoted(connection))
            # An event trigger may have forced row-level security on the owner.
            seen = f"ALTER TABLE {self.quoted(connection)} NO FORCE ROW LEVEL SECURITY"
            for each in (*path, as_table_owner(versions), statement, closed, seen):
                run(connection, each)

    def read(self, connection: Connection, most: int | None = None) -> list[Run]:
        """
        Read the runs of the chain, newest first, *most* at most; none where none was noted.

        Locks: see `usable`.

        Raises:
            RunsNotUsable: See `usable`; or a row has a value of another type.
        """
        if not self.usable(connection):
            return []
        listed = ", ".join(_NAMES)
        values: dict[str, Any] = {"versions": self.version_table, "most": most}
        if connection.dialect.name == "postgresql":
            # A run that was killed could not say so.
            alive = (
                f"EXISTS (SELECT FROM pg_locks l WHERE {LOCK_IS_HELD} AND l.pid = r.backend_pid)"
            )
            state = f"CASE WHEN outcome <> 'running' OR {alive} THEN outcome ELSE 'interrupted' END"
            query = (
                f"SELECT {listed.replace(' outcome,', f' {state} AS outcome,')} "
                f"FROM {self.quoted(connection).replace('%', '%%')} r "
                # The run under way is the newest, though the clock of the server went back.
                "WHERE version_table = %(versions)s "
                f"ORDER BY outcome = 'running' AND {alive} DESC, began_at DESC LIMIT %(most)s"
            )
            rows = run(connection, query, values | lock_key())
        else:
            rows = run(
                connection,
                f"SELECT {listed} FROM {self.quoted(connection)} "
                # In the order in which they were written: the clock may have gone back since.
                "WHERE version_table = :versions ORDER BY rowid DESC LIMIT coalesce(:most, -1)",
                values,
            )
        return [self._run(connection, dict(row._mapping)) for row in rows]

    def _run(self, connection: Connection, row: dict[str, Any]) -> Run:
        # SQLite stores values of any type in any column, and has 0 and 1 for booleans.
        row["paused"] = bool(row["paused"]) if row["paused"] in (0, 1) else row["paused"]
        for field in fields(Run):
            value = row[field.name]
            wanted, _, optional = str(field.type).partition(" | ")
            if (value is None and optional) or _is_a(wanted, value):
                # A role with UPDATE, as throttling needs, can write megabytes.
                row[field.name] = shortened(value) if isinstance(value, str) else value
                continue
            raise RunsNotUsable(
                self.quoted(connection),
                f"has {ascii(value)[:_SHOWN]} for {field.name} in the row of the run "
                f"{ascii(row['run_id'])[:_SHOWN]}; expected {_WORDS[wanted]}"
                f"{' or NULL' if optional else ''}: correct or delete that row",
            )
        return Run(**row)

    def under_way(self, connection: Connection) -> Run | None:
        """
        Give the run that is under way in the database, if its row can be read.

        Raises:
            RunsNotUsable: See `usable`.
        """
        newest = self.read(connection, most=1)
        return newest[0] if newest and newest[0].outcome == "running" else None

    def insert(self, connection: Connection, **values: Any) -> str:
        """Insert the row of a run; give its id."""
        row = dict.fromkeys(_NAMES) | {"paused": False} | values
        row |= {"run_id": str(uuid.uuid4()), "version_table": self.version_table}
        form = "%({})s" if connection.dialect.name == "postgresql" else ":{}"
        given = ", ".join(form.format(name) for name in _NAMES)
        table = self.quoted(connection).replace("%", "%%")
        run(connection, f"INSERT INTO {table} ({', '.join(_NAMES)}) VALUES ({given})", row)
        return str(row["run_id"])


def _in_transaction(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    return bool(driver.info.transaction_status.name != "IDLE")


def now(connection: Connection) -> str:
    """Give the time as the table has it: ISO 8601 in UTC; on PostgreSQL that of the server."""
    if connection.dialect.name == "postgresql":
        return str(run(connection, f"SELECT {NOW}").scalar_one())
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def how_far(each: Run) -> str:
    """Say what *each* run is at, as ``m8_001: filling v3_plans, 62 % (…), 0:09 left``."""
    figures = []
    if each.done is not None and each.total:
        share = min(99, 100 * each.done // each.total)
        figures.append(f"{each.done:,} of {each.total:,} rows ({share} %)")
    # A role with UPDATE on the table, as throttling needs, can write Infinity or NaN.
    if each.rate and isfinite(each.rate):
        figures.append(f"{each.rate:,.0f} rows/s")
    running = each.outcome == "running"
    if each.eta_s is not None and isfinite(each.eta_s) and running:
        minutes, seconds = divmod(round(each.eta_s), 60)
        figures.append(f"{minutes}:{seconds:02} left")
    told = ", ".join([each.what or "begins", *figures])
    if each.rows_per_second:
        told += f", throttled to {each.rows_per_second:,g} rows/s"
    if each.waiting_for and running:
        told += f"; {each.waiting_for}"
    return (f"{each.revision}: " if each.revision else "") + told


def told_under_way(connection: Connection, table: RunsTable) -> str:
    """Say how far the run under way is, for those who wait for it; empty where it is not known."""
    try:
        found = table.under_way(connection)
    except RunsNotUsable:
        return ""
    except DBAPIError as error:
        if sqlstate(error) != LOCK_TIMEOUT:
            raise
        return f"{RUNS} is locked, so that it is not known how far"
    if found is None:
        return ""
    return f"the {found.command} that began at {found.began_at} is at {how_far(found)}"
