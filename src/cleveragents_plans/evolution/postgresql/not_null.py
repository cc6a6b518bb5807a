"""NOT NULL on a table in use: the scan that validates it blocks no other session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import AGAIN, EvolutionError, sqlstate
from cleveragents_plans.evolution.foreseen import ExclusiveLock, Scan, foresee
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.connection import online, run, write_sql
from cleveragents_plans.evolution.postgresql.locks import (
    run_under_lock,
    run_with_retries,
    with_exclusive_lock,
)
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")


class NullsRemain(EvolutionError):
    """
    A column cannot become NOT NULL yet.

    Attributes:
        table: The table.
        column: The column in which a NULL was found.
    """

    def __init__(self, table: str, column: str) -> None:
        super().__init__(
            f"{table}.{column} has a NULL: a row was not filled in, or was written since (is the "
            f"trigger that fills rows in disabled?); fill it in, then {AGAIN}"
        )
        self.table = table
        self.column = column


#: A pattern, as in SQL, for the names of the CHECKs that a run has until a column is NOT NULL.
BECOMING_NOT_NULL: Final = "'^becoming_not_null_[0-9]+$'"
# The first version in which NOT NULL is a constraint that can be NOT VALID for a while.
_NOT_VALID_SINCE = 18
_NULL_FOUND = ("23502", "23514")
_REFILLS = 5


def set_not_null(
    op: Op,
    table: str,
    columns: Sequence[str],
    refill: Callable[[], Any] | None,
    schema: str | None,
) -> None:
    """
    Make *columns* of *table* NOT NULL, from whatever an interrupted run left.

    Raises:
        NullsRemain: There is a NULL, and *refill* did not help.
        LockNotObtained: Other sessions held locks for too long.
    """
    context = op.get_context()
    quote = context.dialect.identifier_preparer.quote
    name = qualified(context, table, schema)
    if context.as_sql:
        foresee(ExclusiveLock(name))
        foresee(Scan(name))
        # One scan under the lock that the script holds anyway, on every version.
        write_sql(
            context, _in_one(name, [f"ALTER COLUMN {quote(c)} SET NOT NULL" for c in columns])
        )
        return
    settings = Settings.of(context.environment_context)
    with online(op) as connection:
        version = _major(connection)
        while True:
            states = [_state(connection, name, column) for column in columns]
            statements = [
                statement
                for column, state in zip(columns, states, strict=True)
                for statement in _statements(state, name, quote(column), version)
            ]
            if statements:
                run_under_lock(connection, name, statements, settings)
                continue
            names = {state.to_validate: c for state, c in zip(states, columns, strict=True)}
            names.pop(None, None)
            if not names:
                return
            _validate(connection, name, names, refill, settings)


def drop_not_null(op: Op, table: str, columns: Sequence[str], schema: str | None) -> None:
    """
    Let *columns* of *table* be NULL, and drop what an interrupted `set_not_null` left.

    Raises:
        LockNotObtained: Other sessions held locks for too long.
    """
    context = op.get_context()
    name = qualified(context, table, schema)
    quoted = [context.dialect.identifier_preparer.quote(column) for column in columns]
    with_exclusive_lock(op, table, *drop_not_null_sql(name, *quoted), schema=schema)


def _in_one(table: str, changes: Iterable[str]) -> str:
    """Make the *changes* in one statement, so that the rows are gone through once."""
    return f"ALTER TABLE {table} {', '.join(changes)}"


def drop_not_null_sql(table: str, *columns: str) -> tuple[str, ...]:
    """
    Give the statements after which *columns* of *table* accept NULL again.

    The last one takes away what an interrupted `set_not_null` may have left. Each of them
    changes the catalogue only.
    """
    return (
        *(f"ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL" for column in columns),
        _DROP_STAND_INS.format(table=table, pattern=BECOMING_NOT_NULL),
    )


_DROP_STAND_INS = """\
DO $$ DECLARE stand_in name; BEGIN
  FOR stand_in IN SELECT conname FROM pg_constraint
     WHERE conrelid = '{table}'::regclass AND contype = 'c'
       AND conname ~ {pattern}
  LOOP
    EXECUTE format('ALTER TABLE {table} DROP CONSTRAINT %I', stand_in);
  END LOOP;
END $$"""


class _State(NamedTuple):
    is_not_null: bool
    #: The constraint that PostgreSQL 18 has for it, by the name that is in the catalog.
    constraint: str | None
    constraint_valid: bool
    #: The CHECK that stands in for it on the way there, before PostgreSQL 18.
    check: str
    check_there: bool
    check_valid: bool

    @property
    def done(self) -> bool:
        # A constraint that is NOT VALID makes the column look NOT NULL already.
        return self.is_not_null and (self.constraint is None or self.constraint_valid)

    @property
    def to_validate(self) -> str | None:
        if self.done:
            return None
        if self.constraint is not None:
            return self.constraint
        return self.check if self.check_there and not self.check_valid else None


def _statements(state: _State, table: str, column: str, version: int) -> list[str]:
    """Say what changes the catalogue only, and is to be done before the next look at it."""
    drop = f"ALTER TABLE {table} DROP CONSTRAINT {state.check}"
    if state.done:
        return [drop] if state.check_there else []
    if state.to_validate:
        return []
    if state.check_there:
        # Two statements: in one, PostgreSQL would scan, for the CHECK that spares the
        # scan would be gone by then.
        return [f"ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL", drop]
    if version >= _NOT_VALID_SINCE:
        # Without a name it gets the one that CREATE TABLE gives.
        return [f"ALTER TABLE {table} ADD NOT NULL {column} NOT VALID"]
    return [
        f"ALTER TABLE {table} ADD CONSTRAINT {state.check} CHECK ({column} IS NOT NULL) NOT VALID"
    ]


def _validate(
    connection: Connection,
    table: str,
    names: Mapping[str | None, str],
    refill: Callable[[], Any] | None,
    settings: Settings,
) -> None:
    quote = connection.dialect.identifier_preparer.quote
    statement = _in_one(table, [f"VALIDATE CONSTRAINT {quote(str(name))}" for name in names])
    refills = _REFILLS if refill else 0
    log.info("checking that %s has no NULL in %s", table, " and ".join(names.values()))
    while True:
        try:
            with (
                run_with_retries(connection, settings) as run_patiently,
                heartbeat(f"checking the rows of {table}", settings.report_every),
            ):
                return run_patiently(table, statement)
        except DBAPIError as error:
            if sqlstate(error) not in _NULL_FOUND:
                raise
            said: Any = getattr(error.orig, "diag", None)
            column = said.column_name or names.get(said.constraint_name, "?")
            if not refill or not refills:
                raise NullsRemain(table, column) from error
        refills -= 1
        log.warning("%s.%s has a NULL; filling in again", table, column)
        refill()


def _state(connection: Connection, table: str, column: str) -> _State:
    return _State(*run(connection, _STATE, {"table": table, "column": column}).one())


def _major(connection: Connection) -> int:
    version = connection.dialect.server_version_info
    assert version is not None  # noqa: S101  # known since the first connection
    return int(version[0])


# The stand-in is known by its name, which must not depend on how long others are.
_STATE = """SELECT a.attnotnull, n.conname, coalesce(n.convalidated, false),
       'becoming_not_null_' || a.attnum, c.oid IS NOT NULL, coalesce(c.convalidated, false)
  FROM pg_attribute a
  LEFT JOIN pg_constraint n
    ON n.conrelid = a.attrelid AND n.contype = 'n' AND n.conkey = ARRAY[a.attnum]
  LEFT JOIN pg_constraint c
    ON c.conrelid = a.attrelid AND c.contype = 'c'
   AND c.conname = 'becoming_not_null_' || a.attnum
 WHERE a.attrelid = %(table)s::regclass AND a.attname = %(column)s AND NOT a.attisdropped"""
