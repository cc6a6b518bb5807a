"""
CHECKs and foreign keys of a table in use: first NOT VALID, then validated beside clients.

Added in one statement, they would scan the table under the lock that adds them
(https://www.postgresql.org/docs/current/sql-altertable.html).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import OperationRefused, sqlstate
from cleveragents_plans.evolution.lookups import names_of
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.connection import (
    online,
    require_postgresql,
    run,
    write_sql,
)
from cleveragents_plans.evolution.postgresql.empty_copy import empty_copy, refusing
from cleveragents_plans.evolution.postgresql.locks import run_under_lock, run_with_retries
from cleveragents_plans.evolution.rehearsal import Rehearsal
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")

_BROKEN = ("23514", "23503")
_DROPPABLE = ("c", "f", "u", "x")


class Wanted(NamedTuple):
    """A constraint that is to be added."""

    operation: str
    table: str
    schema: str | None
    name: str
    #: As CREATE TABLE has it, from the word CONSTRAINT on.
    text: str
    #: Raises if rows that are there already break it.
    refuse_rows: Callable[[], None]
    #: The quoted name of the table that a foreign key refers to.
    referred: str | None = None
    #: The text of a foreign key if it referred to ``pg_temp.evolution_referred``.
    try_out: str | None = None


class _Found(NamedTuple):
    kind: str
    #: Without the name of the table that is referred to.
    definition: str
    valid: bool
    #: The quoted name of that table.
    referred: str | None


def add(op: Op, wanted: Wanted) -> None:
    """
    Add a constraint, unless it is there, and validate it.

    Raises:
        OperationRefused: The server refuses its text, or another constraint has the name.
        LockNotObtained: Other sessions held locks for too long.
    """
    context = op.get_context()
    table = qualified(context, wanted.table, wanted.schema)
    statement = f"ALTER TABLE {table} ADD {wanted.text}"
    known = names_of(op, "column", wanted.table, wanted.schema)
    if context.as_sql:
        rehearsal = Rehearsal.of(op)
        if rehearsal and rehearsal.knows(wanted.name):
            with rehearsal.trial() as connection:
                _find_equal(connection, table, wanted, known)
        write_sql(context, statement)
        return
    settings = Settings.of(context.environment_context)
    with online(op) as connection:
        found = _find_equal(connection, table, wanted, known)
        if found is None:
            wanted.refuse_rows()
            also, mode = [], "ACCESS EXCLUSIVE"
            if wanted.referred:
                also, mode = [wanted.referred], "SHARE ROW EXCLUSIVE"
            with refusing(wanted.operation):
                added = [f"{statement} NOT VALID"]
                run_under_lock(connection, table, added, settings, also=also, mode=mode)
        elif found.valid:
            log.info("%s has the constraint %s already", table, wanted.name)
            return
        try:
            _validate(connection, table, wanted.name, settings)
        except DBAPIError as error:
            if sqlstate(error) not in _BROKEN:
                raise
            # NOT VALID, it would refuse every write to the rows that break it.
            drop(op, wanted.table, wanted.name, wanted.schema)
            wanted.refuse_rows()
            raise


def _find_equal(
    connection: Connection, table: str, wanted: Wanted, known: Sequence[str]
) -> _Found | None:
    """Find the constraint that is wanted; refuse another one that has its name."""
    definitions = _try_out(connection, table, wanted, known)
    found = _find(connection, table, wanted.name)
    if found is None or (
        found.definition in definitions and _same(connection, found.referred, wanted.referred)
    ):
        return found
    refers = f" (to {found.referred})" if found.referred else ""
    raise OperationRefused(
        wanted.operation,
        f"{table} has another constraint {wanted.name}: {found.definition}{refers}",
        "drop it first, or give this one another name",
    )


def drop(op: Op, table: str, name: str, schema: str | None) -> None:
    """
    Drop the constraint *name*, if it is there.

    Raises:
        OperationRefused: It is a primary key or a NOT NULL, or a foreign key needs it.
        LockNotObtained: Other sessions held locks for too long.
    """
    context = op.get_context()
    quoted = qualified(context, table, schema)
    constraint = context.dialect.identifier_preparer.quote(name)
    statement = f"ALTER TABLE {quoted} DROP CONSTRAINT IF EXISTS {constraint}"
    if context.as_sql:
        write_sql(context, statement)
        return
    with online(op) as connection:
        found = _find(connection, quoted, name)
        if found is None:
            return
        if found.kind not in _DROPPABLE:
            raise OperationRefused(
                "drop_constraint",
                f"the constraint {name} of {table} is {found.definition}",
                "use drop_not_null for a NOT NULL; a primary key stays",
            )
        settings = Settings.of(context.environment_context)
        also = [found.referred] if found.referred else []
        with refusing("drop_constraint"):
            run_under_lock(connection, quoted, [statement], settings, also=also)


def validate_constraint(op: Op, table: str, constraint: str, *, schema: str | None = None) -> None:
    """
    Let PostgreSQL check that all rows of *table* satisfy a *constraint* that is NOT VALID.

    SHARE UPDATE EXCLUSIVE on *table* for one scan, beside readers and writers.

    Raises:
        LockNotObtained: Other sessions held locks for too long.
    """
    context = require_postgresql(op, "validate_constraint")
    name = qualified(context, table, schema)
    if context.as_sql:
        quoted = context.dialect.identifier_preparer.quote(constraint)
        write_sql(context, f"ALTER TABLE {name} VALIDATE CONSTRAINT {quoted}")
        return
    with online(op) as connection:
        _validate(connection, name, constraint, Settings.of(context.environment_context))


def _validate(connection: Connection, table: str, constraint: str, settings: Settings) -> None:
    quoted = connection.dialect.identifier_preparer.quote(constraint)
    with (
        run_with_retries(connection, settings) as run_patiently,
        heartbeat(f"checking the rows of {table}", settings.report_every),
    ):
        run_patiently(table, f"ALTER TABLE {table} VALIDATE CONSTRAINT {quoted}")


def _try_out(connection: Connection, table: str, wanted: Wanted, known: Sequence[str]) -> list[str]:
    """Give the forms that the server writes: of the constraint, and after a dump was restored."""
    definitions: list[str] = []
    with empty_copy(connection, wanted.operation, table, known) as copy:
        if wanted.referred:
            like = f"(LIKE {wanted.referred} INCLUDING INDEXES)"
            run(connection, f"CREATE TEMPORARY TABLE evolution_referred {like}")
        constraint = connection.dialect.identifier_preparer.quote(wanted.name)
        text = wanted.try_out or wanted.text
        while True:
            run(connection, f"ALTER TABLE {copy} ADD {text}")
            found = _find(connection, copy, wanted.name)
            assert found is not None  # noqa: S101  # it was added just now
            if found.definition in definitions:
                return definitions
            definitions.append(found.definition)
            if found.referred:  # a foreign key has no expression
                return definitions
            # What the server wrote is read by itself, as from a dump: it may add other casts.
            run(connection, f"ALTER TABLE {copy} DROP CONSTRAINT {constraint}")
            text = f"CONSTRAINT {constraint} {found.definition}"


def _find(connection: Connection, table: str, name: str) -> _Found | None:
    row = run(connection, _CONSTRAINT, {"table": table, "name": name}).first()
    if row is None:
        return None
    kind, definition, valid, referred = row
    if referred is not None:
        definition = re.sub(r"REFERENCES .*?\(", "REFERENCES (", definition)
    return _Found(kind, definition.removesuffix(" NOT VALID"), valid, referred)


def _same(connection: Connection, one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one == other
    query = "SELECT to_regclass(%(one)s) = to_regclass(%(other)s)"
    return bool(run(connection, query, {"one": one, "other": other}).scalar_one())


_CONSTRAINT = """\
SELECT c.contype::text, pg_get_constraintdef(c.oid), c.convalidated,
       quote_ident(n.nspname) || '.' || quote_ident(r.relname)
  FROM pg_constraint c
  LEFT JOIN pg_class r ON r.oid = c.confrelid
  LEFT JOIN pg_namespace n ON n.oid = r.relnamespace
 WHERE c.conrelid = to_regclass(%(table)s) AND c.conname = %(name)s"""
