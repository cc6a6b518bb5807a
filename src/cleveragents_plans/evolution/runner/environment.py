"""
Run a chain against one database, one process at a time.

An ``env.py`` calls `run_online` or `run_offline` and has nothing else to do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationInfo
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError, naming_revisions
from cleveragents_plans.evolution.postgresql.poolers import refuse_pooler
from cleveragents_plans.evolution.postgresql.server import (
    configure_session,
    refuse_old_server,
    warn_of_replicas,
)
from cleveragents_plans.evolution.reporting import console_logging, tell
from cleveragents_plans.evolution.runner.alembic_internals import Command, running_command
from cleveragents_plans.evolution.runner.connection_errors import (
    ConnectionFailed,
    report_connection_failed,
    report_connection_lost,
)
from cleveragents_plans.evolution.runner.interruption import interruptible
from cleveragents_plans.evolution.runner.migration_lock import migration_lock
from cleveragents_plans.evolution.runner.standard_streams import standard_output
from cleveragents_plans.evolution.runner.statement_errors import StatementFailed
from cleveragents_plans.evolution.runner.steps import (
    check_ahead,
    set_start,
    starting_point,
    with_checks,
)
from cleveragents_plans.evolution.runner.unfinished import UnfinishedNote
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite.soundness import require_sound_file
from cleveragents_plans.evolution.sqlite.transaction import write_transaction

log = logging.getLogger("alembic.evolution")

VERSION_TABLE = "alembic_version"


def run_online(engine: Engine, metadata: MetaData, *, target: str) -> None:
    """
    Run the wanted Alembic command on the database behind *engine*.

    On SQLite everything happens in one `write_transaction`, begun before the version is read:
    a run that is killed leaves the file as it was. Foreign keys must be
    off on the connections of *engine*.

    On PostgreSQL the advisory migration lock is held from before the version is read to
    the end, and every revision has transactions of its own; a run that is killed is run
    again.

    Args:
        engine: The database, without a connection pool.
        metadata: The models that ``alembic check`` compares with.
        target: What to call the database in messages; no password in it.

    Raises:
        EvolutionError: With one line that says what was found and what to do.
    """
    settings = Settings.of(context)
    command = running_command()
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        _refuse_unfit_file(engine.url, target, command)
    told = ""
    # Alembic's script leaves its command in the options.
    command_line = hasattr(context.config.cmd_opts, "cmd")
    with (
        console_logging(),
        interruptible(target, command_line=command_line),
        _in_one_line(target),
        connected(engine, target) as connection,
    ):
        refuse_old_server(connection, target)
        if command.only_reads:
            connection.execution_options(read_only=True)
            with standard_output():
                _read(connection, metadata, command)
        elif sqlite:
            with write_transaction(connection, settings):
                told = _write(connection, metadata, command)
        else:
            refuse_pooler(connection, target)
            configure_session(connection)
            with migration_lock(connection, settings):
                told = _write(connection, metadata, command)
                connection.commit()
    if told:
        tell(f"{target}: {told}")


def run_offline(url: URL, metadata: MetaData) -> None:
    """
    Write the SQL of the wanted revisions to standard output, in one transaction.

    Raises:
        EvolutionError: For SQLite, whose tables are rebuilt from what the file holds.
    """
    if url.get_backend_name() == "sqlite":
        raise EvolutionError(
            "--sql cannot be written for SQLite: its tables are rebuilt from what the file "
            "holds; run the same command without --sql, on a copy of the file if it is to be tried"
        )
    context.configure(
        url=url,
        target_metadata=metadata,
        literal_binds=True,
        # Without this every % in the script would be doubled.
        dialect_opts={"paramstyle": "named"},
        transaction_per_migration=False,
        fn=with_checks(running_command()),
    )
    with standard_output():
        context.get_context().impl.static_output(
            "-- One transaction, set-based: what it changes is locked until it commits, so stop\n"
            "-- the application first. Run it with: psql -v ON_ERROR_STOP=1 -f <this file>"
        )
        with context.begin_transaction():
            context.run_migrations()


def _refuse_unfit_file(url: URL, target: str, command: Command) -> None:
    if url.database in (None, "", ":memory:") or url.database.startswith("file:"):
        return
    file = Path(url.database)
    if not file.exists():
        # Opening it would create an empty one, which is an upgrade's business only.
        if command.name != "upgrade":
            raise EvolutionError(
                f"there is no file at {target}; check the path, or run the upgrade to create it"
            )
    elif not command.only_reads and file.is_file() and not file.stat().st_mode & 0o222:
        # The mode is looked at because the superuser could write all the same.
        raise EvolutionError(
            f"{target} is read-only; if it is to be migrated, allow writing with "
            f"`chmod u+w {file}` and run the same command again; nothing was changed"
        )


def _read(connection: Connection, metadata: MetaData, command: Command) -> None:
    note = _configure(connection, metadata, command)
    _known_heads()
    starting_point(command, context.get_context(), note)
    with context.begin_transaction():
        context.run_migrations()


def _write(connection: Connection, metadata: MetaData, command: Command) -> str:
    note = _configure(connection, metadata, command)
    migration = context.get_context()
    before = _known_heads()
    start, over = starting_point(command, migration, note)
    steps = check_ahead(command, migration, start)
    if connection.dialect.name == "sqlite":
        if steps and command.runs_revisions:
            require_sound_file(connection, Settings.of(context).report_every)
    else:
        if steps and command.runs_revisions:
            warn_of_replicas(connection)
        connection.rollback()  # Alembic must own every transaction from here on.
    if over:
        set_start(migration, over)
    with naming_revisions(), note.watched(), context.begin_transaction():
        context.run_migrations()
    after = _known_heads()
    if not steps:
        return f"already at {_named(after)}, nothing to do"
    return f"{_named(before)} -> {_named(after)}"


def _configure(connection: Connection, metadata: MetaData, command: Command) -> UnfinishedNote:
    ours = set(metadata.tables)
    note = UnfinishedNote(connection, VERSION_TABLE)

    def version_applied(ctx: Any, step: MigrationInfo, heads: Any, run_args: Any) -> None:
        if step.is_migration:
            note.clear()

    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_server_default=True,
        transactional_ddl=True,
        transaction_per_migration=True,
        # Other packages keep tables in the same database; they are not ours to compare.
        include_name=lambda name, kind, _parents: kind != "table" or name in ours,
        on_version_apply=version_applied,
        version_table=VERSION_TABLE,
        fn=with_checks(command, note),
    )
    return note


def _known_heads() -> tuple[str, ...]:
    heads = context.get_context().get_current_heads()
    for head in heads:
        try:
            context.script.get_revision(head)
        except CommandError:
            raise EvolutionError(
                f"the database is at revision {head!r}, which this release does not know; "
                "install the release that migrated it, or restore a backup; nothing was changed"
            ) from None
    return heads


@contextmanager
def connected(engine: Engine, target: str) -> Iterator[Connection]:
    """
    Connect to *engine*, which is called *target* in messages.

    Raises:
        ConnectionFailed: That is not possible.
    """
    with report_connection_failed(target):
        connection = engine.connect()
    with connection:
        yield connection


@contextmanager
def _in_one_line(target: str) -> Iterator[None]:
    with report_connection_lost(target):
        try:
            yield
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            if "not a database" in str(error.orig):  # SQLite looks into the file late
                raise ConnectionFailed(
                    target, f"{error.orig}; check the path", lost=False
                ) from error
            raise StatementFailed(target, error) from error
        except CommandError as error:
            if not isinstance(error.__cause__, ResolutionError):
                raise
            known = ", ".join(each.revision for each in context.script.walk_revisions())
            raise EvolutionError(f"{error}; known: {known}, head and base") from None


def _named(heads: tuple[str, ...]) -> str:
    return ", ".join(heads) or "empty"
