"""Try a statement on an empty copy of a table, before a lock on the table itself is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import (
    UNDEFINED_COLUMN,
    OperationRefused,
    message_of,
    running_revision,
    sqlstate,
)
from cleveragents_plans.evolution.lookups import names_of
from cleveragents_plans.evolution.misspellings import column_in, suggestion
from cleveragents_plans.evolution.op import Op, in_schema, qualified
from cleveragents_plans.evolution.postgresql.connection import in_autocommit, run
from cleveragents_plans.evolution.postgresql.read_locks import lock_known
from cleveragents_plans.evolution.rehearsal import Rehearsal

_MAY_NOT = "42501"
# Syntax error, feature not supported, data that a constant cannot have, and the like: what
# the revision says is wrong, whatever the rows are.
_OF_THE_REVISION = ("42", "0A", "22", "2B", "3F")


@contextmanager
def empty_copy(
    connection: Connection, operation: str, table: str, known: Sequence[str] = ()
) -> Iterator[str]:
    """
    Give the name of an empty temporary table with the columns of *table*, the quoted name.

    PostgreSQL refuses there what it would refuse on the table itself. It takes ACCESS SHARE
    on *table* for some milliseconds; all of it is rolled back. The *known* columns are suggested
    for one that does not exist.

    Raises:
        OperationRefused: A statement was refused because of what it says, or the role may
            not create temporary tables.
    """
    savepoint = None if in_autocommit(connection) else connection.begin_nested()
    if savepoint is None:
        run(connection, "BEGIN")
    try:
        with refusing(operation, known):
            run(connection, f"CREATE TEMPORARY TABLE evolution_copy (LIKE {table})")
            yield "pg_temp.evolution_copy"
    finally:
        if savepoint is not None:
            savepoint.rollback()
        elif not connection.invalidated:
            run(connection, "ROLLBACK")


@contextmanager
def refusing(operation: str, known: Sequence[str] = ()) -> Iterator[None]:
    """
    Turn what PostgreSQL finds wrong with the text of a statement into one line.

    The *known* columns are suggested for one that does not exist.

    Raises:
        OperationRefused: Such an error came up; others pass.
    """
    try:
        yield
    except DBAPIError as error:
        state = sqlstate(error) or ""
        if not state.startswith(_OF_THE_REVISION):
            raise
        said, remedy = message_of(error), "correct the revision"
        if state == _MAY_NOT:
            remedy = "grant the role what it lacks"
        elif state == UNDEFINED_COLUMN:
            remedy = suggestion(column_in(said) or "", known, remedy)
        raise OperationRefused(operation, f"PostgreSQL refuses it ({said})", remedy) from error


def rehearse_expressions(
    op: Op,
    operation: str,
    table: str,
    expressions: Iterable[str],
    *,
    setup: Sequence[str] = (),
    schema: str | None = None,
) -> None:
    """
    Let PostgreSQL parse *expressions* over a row ``t`` of *table*, if *op* is that of a rehearsal.

    The statements *setup* come first. A revision that an interrupted run began may have dropped a
    column that it had read, so it is not rehearsed. It takes ACCESS SHARE on *table* for a moment.

    Raises:
        OperationRefused: One does not parse, or names a column that neither *table* has nor the
            revision has mentioned before.
    """
    rehearsal, running = Rehearsal.of(op), running_revision.get()
    if rehearsal is None or (running and running.resumed):
        return
    name, known = qualified(op.get_context(), table, schema), names_of(op, "column", table, schema)
    if not lock_known(rehearsal.connection, name):
        return
    for expression in expressions:
        query = f"EXPLAIN SELECT ({in_schema(op.get_context(), expression, schema)}) FROM {name} t"
        with rehearsal.trial() as connection, refusing(operation, known):
            for statement in (*setup, query):
                run(connection, statement)


def rehearse_update(
    op: Op,
    operation: str,
    table: str,
    values: Mapping[str, str],
    condition: str,
    *,
    setup: Sequence[str] = (),
    schema: str | None = None,
) -> None:
    """
    Let PostgreSQL plan an UPDATE of *table*, if *op* is that of a rehearsal, so that types fit.

    It is planned over an empty copy, which has the columns that the revision has added by then;
    the statements *setup* come first. It takes ACCESS SHARE on *table* for a moment.

    Raises:
        OperationRefused: An expression has a type that its column does not take, or compares
            types that cannot be compared.
    """
    rehearsal, running = Rehearsal.of(op), running_revision.get()
    if rehearsal is None or (running and running.resumed):
        return
    context = op.get_context()
    name, known = qualified(context, table, schema), names_of(op, "column", table, schema)
    added, quote = rehearsal.columns_added(name), context.dialect.identifier_preparer.quote
    words = set(re.findall(r"\w+", " ".join([*values, *values.values(), condition])))
    types_known = rehearsal.knows_types(name, words.intersection([*known, *added]))
    with (
        rehearsal.trial(types_known=types_known) as connection,
        empty_copy(connection, operation, name, known) as copy,
    ):
        for column, definition in added.items():
            run(connection, f"ALTER TABLE {copy} DROP COLUMN IF EXISTS {quote(column)}")
            run(connection, f"ALTER TABLE {copy} ADD COLUMN {definition}")
        for statement in setup:
            run(connection, statement)
        sets = [f"SET {quote(column)} = ({value})" for column, value in values.items()]
        for change in [*sets, f"{sets[0]} WHERE {condition}"]:
            run(connection, f"EXPLAIN UPDATE {copy} t {in_schema(context, change, schema)}")
