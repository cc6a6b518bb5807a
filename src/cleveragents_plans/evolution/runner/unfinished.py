"""
A note in the database that a revision is under way.

On PostgreSQL a revision takes many transactions, and Alembic changes the version in the
last one. Without the note, an interrupted downgrade followed by ``upgrade head`` would
find nothing to do on a schema that is half taken back.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, String, column
from sqlalchemy import table as sql_table
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError, ExternalTransaction, sqlstate
from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.postgresql.connection import (
    as_table_owner,
    in_autocommit,
    online,
    qualified,
    require_postgresql,
    run,
    session,
    transaction,
)

log = logging.getLogger("alembic.evolution")


class InterruptedRun(EvolutionError):
    """
    A revision was interrupted, and the command does not complete it or take it back.

    Attributes:
        revision: The revision that is half done.
        direction: The direction it was going in.
    """

    def __init__(self, revision: str, down_revision: str | None, direction: str) -> None:
        ways = [f"upgrade {revision}", f"downgrade {down_revision or 'base'}"]
        onward, back = ways if direction == "upgrade" else reversed(ways)
        super().__init__(
            f"the {direction} of {revision} was interrupted: the database is between two versions, "
            f"and this command leaves it there; run `alembic {onward}` to complete it or "
            f"`alembic {back}` to take it back"
        )
        self.revision = revision
        self.direction = direction


Direction = Literal["upgrade", "downgrade"]

TABLE = "evolution_marker"


@dataclass(frozen=True, slots=True)
class Marker:
    """A revision that was begun and has not ended."""

    revision: str
    down_revision: str | None
    direction: str


def mark_begin(op: Op, revision: str, down_revision: str | None, direction: Direction) -> None:
    """
    Note that *revision* is under way in *direction*, in a transaction of its own.

    It may be noted already, by a run that was interrupted, in either direction.
    Offline nothing is written: that script is one transaction.
    """
    context = require_postgresql(op, "mark_begin")
    if context.as_sql:
        return
    with (
        online(op) as connection,
        session(connection, client_min_messages="warning"),
        transaction(connection),
    ):
        name = _name(context)
        # Whoever goes on with the revision, or takes it back, may be another role.
        versions = (context.version_table, context.version_table_schema)
        run(connection, as_table_owner(qualified(context.dialect, *versions)))
        run(
            connection,
            f"CREATE TABLE IF NOT EXISTS {name} (revision text PRIMARY KEY, down_revision text, "
            "direction text NOT NULL, started_at timestamptz NOT NULL)",
        )
        run(
            connection,
            f"INSERT INTO {name} VALUES (%(revision)s, %(down)s, %(direction)s, now()) "
            "ON CONFLICT (revision) DO UPDATE SET direction = excluded.direction",
            {"revision": revision, "down": down_revision, "direction": direction},
        )


def mark_end(op: Op, revision: str) -> None:
    """
    Delete the note, in the transaction in which Alembic changes the version.

    The table goes with its last row.

    Raises:
        ExternalTransaction: It is called within ``online``, where the version would
            change in another transaction.
    """
    context = require_postgresql(op, "mark_end")
    if context.as_sql:
        return
    connection = op.get_bind()
    if in_autocommit(connection):
        raise ExternalTransaction("mark_end was called within online()")
    name = _name(context)
    if not _there(connection, name):
        return
    run(connection, f"DELETE FROM {name} WHERE revision = %(revision)s", {"revision": revision})
    if run(connection, f"SELECT EXISTS (SELECT FROM {name})").scalar_one():
        return
    try:
        with connection.begin_nested():
            run(connection, "SET LOCAL lock_timeout = '1s'")
            run(connection, f"DROP TABLE {name}")
    except DBAPIError as error:
        # Somebody is looking at it, in a dump perhaps. Empty, it says nothing.
        if sqlstate(error) != "55P03":
            raise
        log.warning("the empty table %s is left behind: somebody is reading it", name)


def read_marker(connection: Connection, schema: str | None = None) -> Marker | None:
    """
    Find the revision that was interrupted, if one was.

    *schema* is that of the version table, if it is not found by the search path.
    """
    name = qualified(connection.dialect, TABLE, schema)
    if not _there(connection, name):
        return None
    row = run(
        connection,
        f"SELECT revision, down_revision, direction FROM {name} ORDER BY started_at DESC LIMIT 1",
    ).first()
    return Marker(*row) if row else None


def starting_point(context: MigrationContext) -> tuple[str, ...]:
    """
    Tell from which version the command that is about to run goes on; change nothing.

    Called after ``configure()``, under the migration lock if the command changes anything.
    That is the version that is stored, unless a revision was interrupted which the command
    would touch from the other end of it only: then it is that end, where `go_from` sets
    the version before the first step.

    Raises:
        InterruptedRun: The command goes elsewhere, or asks whether the database is at a
            head (``current --check-heads``): between two versions it is at none.
    """
    heads = context.get_current_heads()
    connection = context.connection
    if context.as_sql or context.dialect.name != "postgresql" or connection is None:
        return heads
    marker = read_marker(connection, context.version_table_schema)
    connection.rollback()
    if marker is None:
        return heads

    interrupted = InterruptedRun(marker.revision, marker.down_revision, marker.direction)
    command = getattr(context._migrations_fn, "__name__", "")
    if command not in ("upgrade", "downgrade"):
        if _asks_for_the_head(context):
            raise interrupted
        log.warning(
            "the %s of %s was interrupted: the database is between two versions until "
            "`alembic upgrade` or `alembic downgrade` has been run",
            marker.direction,
            marker.revision,
        )
        return heads
    if _would_run(context, heads, marker):
        log.info("going on with %s, whose %s was interrupted", marker.revision, marker.direction)
        return heads
    other = _other_end(heads, marker)
    if other is None or not _would_run(context, other, marker):
        raise interrupted
    log.info(
        "the %s of %s was interrupted, and this command takes it the other way",
        marker.direction,
        marker.revision,
    )
    return other


def go_from(context: MigrationContext, start: tuple[str, ...]) -> None:
    """
    Set the version to what `starting_point` gave, in a transaction of its own.

    Called when nothing can refuse the command any more, before ``run_migrations()``.
    """
    heads = context.get_current_heads()
    connection = context.connection
    if context.as_sql or connection is None or set(start) == set(heads):
        return
    connection.rollback()
    log.info("the version is set from %s to %s first", *map(_shown, (heads, start)))
    _set_version(context, connection, set(heads) - set(start), set(start) - set(heads))


def _asks_for_the_head(context: MigrationContext) -> bool:
    # Alembic (from 1.17.1) compares the heads in the function that it hands to env.py, and
    # says nowhere else that it will.
    asked = inspect.getclosurevars(context._migrations_fn).nonlocals  # type: ignore[arg-type]
    return bool(asked.get("check_heads"))


def _shown(heads: tuple[str, ...]) -> str:
    return ", ".join(heads) or "base"


def _would_run(context: MigrationContext, heads: tuple[str, ...], marker: Marker) -> bool:
    find_steps: Any = context._migrations_fn
    try:
        steps: Iterable[Any] = list(find_steps(heads, context))
    except CommandError:  # not to be reached from there
        return False
    return any(step.revision.revision == marker.revision for step in steps)


def _other_end(heads: tuple[str, ...], marker: Marker) -> tuple[str, ...] | None:
    down = (marker.down_revision,) if marker.down_revision else ()
    if marker.revision in heads:
        return (*(head for head in heads if head != marker.revision), *down)
    if marker.down_revision in heads or not (heads or down):
        return (*(head for head in heads if head != marker.down_revision), marker.revision)
    return None


def _set_version(
    context: MigrationContext, connection: Connection, old: set[str], new: set[str]
) -> None:
    version = column("version_num", String())
    versions = sql_table(context.version_table, version, schema=context.version_table_schema)
    with connection.begin():
        connection.execute(versions.delete().where(version.in_(old)))
        for head in new:
            connection.execute(versions.insert().values(version_num=head))


def _there(connection: Connection, name: str) -> bool:
    found = run(connection, "SELECT to_regclass(%(name)s) IS NOT NULL", {"name": name})
    return bool(found.scalar_one())


def _name(context: MigrationContext) -> str:
    return qualified(context.dialect, TABLE, context.version_table_schema)
