"""A database that is open for reading: one state of it, and what its version says."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import to_tuple
from sqlalchemy import Connection, inspect

from cleveragents_plans.evolution.errors import only_reading
from cleveragents_plans.evolution.lookups import columns_found
from cleveragents_plans.evolution.op import qualified
from cleveragents_plans.evolution.operations.names import require_tables
from cleveragents_plans.evolution.postgresql.lock_timeouts import blockers_named
from cleveragents_plans.evolution.postgresql.read_locks import lock_to_read, remember_tables
from cleveragents_plans.evolution.postgresql.schema_choice import searched_schemas
from cleveragents_plans.evolution.postgresql.server import refuse_read_only
from cleveragents_plans.evolution.postgresql.table_rights import refuse_unreadable_tables
from cleveragents_plans.evolution.reporting import console_logging, heartbeat, tell
from cleveragents_plans.evolution.runner.alembic_internals import applied
from cleveragents_plans.evolution.runner.error_lines import in_one_line
from cleveragents_plans.evolution.runner.interruption import interruptible
from cleveragents_plans.evolution.runner.runs import RUNS, RunsTable
from cleveragents_plans.evolution.runner.sqlite_transaction import statements_interruptible
from cleveragents_plans.evolution.runner.target import find_target
from cleveragents_plans.evolution.runner.unfinished import Unfinished, UnfinishedNote
from cleveragents_plans.evolution.runner.untrusted_owners import (
    looking_context,
    refuse_untrusted_owners,
)
from cleveragents_plans.evolution.runner.version_state import (
    VersionRefused,
    VersionState,
)
from cleveragents_plans.evolution.runner.version_tables import require_version_table
from cleveragents_plans.evolution.settings import BadSetting, Options, Settings
from cleveragents_plans.evolution.sqlite.transaction import wait_until_readable
from cleveragents_plans.persistence import Base
from cleveragents_plans.schema.chain import APPLICATION
from cleveragents_plans.schema.sessions import (
    begin_postgresql,
    configure_postgresql,
    configure_sqlite,
)

#: The revision from which on every plan has a root and a profile.
_COMPLETE_FROM = "m8_001_align_plans_schema"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a database is on the chain."""

    #: What the version table holds.
    stored: tuple[str, ...]
    #: Of these, the revisions that the chain does not have.
    unknown: tuple[str, ...]
    #: The revisions that were run, and those that were not, in the order of the chain. Beside an
    #: unknown revision none is said to be pending: it may come after all of them.
    applied: tuple[str, ...]
    pending: tuple[str, ...]
    #: What each revision of the chain says of itself in its first line.
    titles: Mapping[str, str]
    #: The revision below each; ``base`` below the first.
    below: Mapping[str, str]
    #: A revision that was interrupted.
    unfinished: Unfinished | None
    #: Why the version says nothing true of the tables, if so.
    misfit: VersionRefused | None
    #: Which of the tables of this package are there.
    tables: frozenset[str]

    @property
    def is_complete(self) -> bool:
        """Whether every plan has a root and a profile, and the tables keep it so."""
        return _COMPLETE_FROM in self.applied and self.unfinished is None


@dataclass(frozen=True, slots=True)
class Database:
    """
    A database in one transaction, which sees one state of it and only reads.

    On PostgreSQL the search path has ``pg_catalog`` only, so that no function or operator of
    another schema is called; the tables are named with their schema.
    """

    connection: Connection
    config: Config
    options: Options
    #: What to call it; no password in it.
    shown: str
    #: The schema of its tables; None on SQLite.
    schema: str | None
    #: The schemas in which clients of this role find tables by their names; none on SQLite.
    search_path: tuple[str, ...]
    position: Position
    #: Alembic's context of it, which runs nothing.
    migration: MigrationContext
    #: The note that a revision is unfinished, as it was read.
    note: UnfinishedNote
    _columns: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def on_postgresql(self) -> bool:
        """Whether it is PostgreSQL, and not SQLite."""
        return self.schema is not None

    @property
    def runs(self) -> RunsTable:
        """Where the runs of the chain are noted."""
        return RunsTable(self.options.version_table, self.migration.version_table_schema)

    @property
    def report_every(self) -> float:
        """The seconds between two messages about something that takes long."""
        return Settings.of(SimpleNamespace(config=self.config)).report_every

    def heartbeat(self, what: str) -> AbstractContextManager[None]:
        """Log now and then that *what* is under way, unless it is over before."""
        return heartbeat(what, self.report_every)

    def lock_tables(self) -> None:
        """
        Lock the tables of this package, before their rows are read; nothing is done on SQLite.

        Locks: ACCESS SHARE on each, until the transaction ends.

        Raises:
            NameTaken: Something else has such a name since a moment ago.
            EvolutionError: A lock was not obtained in time.
        """
        lock_to_read(self.connection, self.position.tables, self.schema)

    def table(self, name: str) -> str:
        """Write the name of a table for SQL, as the database reads it."""
        return qualified(self.migration, name)

    def table_in_text(self, name: str) -> str:
        """Write the name of a table for `sqlalchemy.text`, to which a colon means a parameter."""
        return self.table(name).replace(":", "\\:")

    def columns(self, table: str) -> frozenset[str]:
        """Name the columns that *table* has; none if it is not there."""
        if table not in self._columns:
            found = (
                columns_found(inspect(self.connection), table, self.schema)
                if table in self.position.tables
                else ()
            )
            self._columns[table] = frozenset(column["name"] for column in found)
        return self._columns[table]


@contextmanager
def read_database(config: Config, purpose: str) -> Iterator[Database]:
    """
    Open the database that *config* names, in a transaction that reads one state of it.

    Locks: ACCESS SHARE on what is read, until the end, and a snapshot, as pg_dump has them. On
    SQLite a write-ahead log cannot be emptied meanwhile; with a rollback journal writers wait,
    and a migration under way is waited for.

    Args:
        config: See `cleveragents_plans.schema.chain_config`.
        purpose: What it is opened for, for ``pg_stat_activity``.

    Raises:
        CommandError: There is no such database, it cannot be reached, or the connection is lost.
        SystemExit: A signal arrived; see `interruptible`.
    """
    with _opened(config, purpose, writes=False) as database:
        yield database
        database.connection.rollback()


@contextmanager
def write_database(config: Config, purpose: str) -> Iterator[Database]:
    """
    Open the database that *config* names, in a short transaction that is committed at the end.

    On PostgreSQL it is READ COMMITTED; on SQLite it is begun with ``BEGIN IMMEDIATE``.

    Raises:
        CommandError: As `read_database`; or it is a standby, or a file that is read-only.
        SystemExit: A signal arrived; see `interruptible`.
    """
    with _opened(config, purpose, writes=True) as database:
        if database.on_postgresql:
            refuse_read_only(database.connection, database.shown)
        yield database
        database.connection.commit()


@contextmanager
def try_database(config: Config, purpose: str) -> Iterator[Database]:
    """
    Open the database that *config* names, in a transaction in which something can be tried out.

    On PostgreSQL it is READ COMMITTED, and rolled back in the end. On SQLite it only reads.

    Raises:
        CommandError: As `read_database`; a standby has no such transactions.
    """
    with _opened(config, purpose, writes=False, tries=True) as database:
        yield database
        database.connection.rollback()


@contextmanager
def _opened(
    config: Config, purpose: str, *, writes: bool, tries: bool = False
) -> Iterator[Database]:
    script = ScriptDirectory.from_config(config)
    confirmed_by = {
        name
        for revision in script.walk_revisions()
        for name in getattr(revision.module, "confirm_options", ())
    }
    options = Options.of(config, confirmed_by=confirmed_by)
    settings = Settings.of(SimpleNamespace(config=config))
    target = find_target(config, APPLICATION)
    if target.is_sqlite and options.schema:
        raise BadSetting("schema", options.schema, "PostgreSQL: SQLite has no schemas")
    if target.note and not writes and config.attributes.get("level") == logging.INFO:
        # Once for a command that looks at it again and again.
        if not config.attributes.get("database_told"):
            tell(f"database: {target.shown}{target.note}")
        config.attributes["database_told"] = True
    with (
        console_logging(config.attributes.get("level", logging.INFO)),
        nullcontext() if writes else only_reading(),
        interruptible(target.shown, command_line=True),
        in_one_line(target.shown, script),
        target.connected(settings, writes=writes) as connection,
    ):
        if target.is_sqlite:
            configure_sqlite(connection, writes)
            schema, version_schema = None, None
        else:
            configure_postgresql(connection, writes or tries)
            schema, version_schema = begin_postgresql(connection, options, target.shown, purpose)
        ours = {(schema, each) for each in Base.metadata.tables}
        ours |= {(version_schema, options.version_table), (version_schema, RUNS)}
        with statements_interruptible(connection), blockers_named(connection, ours):
            if target.is_sqlite and not writes:
                wait_until_readable(connection, settings.report_every)
            versions = (options.version_table, schema, version_schema)
            migration = looking_context(connection, config, script, *versions)
            note = UnfinishedNote(connection, options.version_table, version_schema)
            _refuse_tables(migration, schema, target.shown)
            position = _position(migration, note, options, schema)
            path = searched_schemas(connection) if schema else ()
            yield Database(
                connection, config, options, target.shown, schema, path, position, migration, note
            )


def _refuse_tables(migration: MigrationContext, schema: str | None, shown: str) -> None:
    """Refuse, from the catalogs alone, tables of which none must be named in a statement."""
    connection, tables = migration.connection, [*Base.metadata.tables]
    assert connection is not None  # noqa: S101  # it was configured with one
    version_table, version_schema = migration.version_table, migration.version_table_schema
    if version_schema is not None:
        remember_tables(connection, tables, schema, (version_table, version_schema))
    require_tables(connection, tables, schema)
    require_version_table(connection, version_table, version_schema)
    refuse_untrusted_owners(migration, tables, schema, only_reads=True)
    if schema is not None and version_schema is not None:
        read = [*((schema, each) for each in tables), (version_schema, version_table)]
        refuse_unreadable_tables(connection, read, shown)


def _position(
    migration: MigrationContext, note: UnfinishedNote, options: Options, schema: str | None
) -> Position:
    connection, script = migration.connection, migration.script
    assert connection is not None  # noqa: S101  # it was configured with both
    assert script is not None  # noqa: S101
    tables = frozenset(inspect(connection).get_table_names(schema)) & Base.metadata.tables.keys()
    lock_to_read(connection, [options.version_table], migration.version_table_schema)
    state = VersionState(migration, options, Base.metadata.tables, APPLICATION.version_table)
    unfinished = note.read()
    misfit = None
    try:
        state.require_fit(unfinished=unfinished is not None)
    except VersionRefused as refused:
        misfit = refused
    done = applied(script, state.known)
    revisions = [*script.walk_revisions()][::-1]
    chain = [each.revision for each in revisions]
    return Position(
        stored=tuple(map(str, migration.get_current_heads())),
        unknown=tuple(state.unknown),
        applied=tuple(each for each in chain if each in done),
        pending=tuple(each for each in chain if each not in done and not state.unknown),
        titles={each.revision: each.doc for each in revisions},
        below={each.revision: to_tuple(each.down_revision, ("base",))[0] for each in revisions},
        unfinished=unfinished,
        misfit=misfit,
        tables=tables,
    )
