"""
Run a chain against one database, one run at a time.

An ``env.py`` calls `run_environment` and has nothing else to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationInfo
from sqlalchemy import Connection, MetaData

from cleveragents_plans.evolution import autogenerate
from cleveragents_plans.evolution.errors import naming_revisions
from cleveragents_plans.evolution.postgresql.lock_timeouts import blockers_named
from cleveragents_plans.evolution.postgresql.new_tables import created_patiently
from cleveragents_plans.evolution.postgresql.poolers import refuse_pooler
from cleveragents_plans.evolution.postgresql.products import (
    refuse_distributed_tables,
    refuse_unfit_server,
)
from cleveragents_plans.evolution.postgresql.read_locks import remember_tables
from cleveragents_plans.evolution.postgresql.replication import check_replication
from cleveragents_plans.evolution.postgresql.search_path import (
    event_triggers_served,
    named_in,
    search_path_restored,
)
from cleveragents_plans.evolution.postgresql.server import refuse_read_only
from cleveragents_plans.evolution.postgresql.session_rights import (
    OF_EACH_COMMAND,
    OF_EACH_RUN,
    refuse_uncallable,
)
from cleveragents_plans.evolution.postgresql.statement_watch import StatementWatch
from cleveragents_plans.evolution.reporting import DETAILED, console_logging, heartbeat, tell
from cleveragents_plans.evolution.run_figures import RunFigures, measured
from cleveragents_plans.evolution.runner.alembic_internals import (
    NOT_CREATING_VERSION_TABLE,
    run_alone,
    running_command,
)
from cleveragents_plans.evolution.runner.command_line import typed
from cleveragents_plans.evolution.runner.error_lines import in_one_line
from cleveragents_plans.evolution.runner.heartbeat import noted
from cleveragents_plans.evolution.runner.interruption import interruptible
from cleveragents_plans.evolution.runner.migration_lock import migration_lock
from cleveragents_plans.evolution.runner.offline import print_script
from cleveragents_plans.evolution.runner.postgresql_session import postgresql_session
from cleveragents_plans.evolution.runner.run_tables import RunTables
from cleveragents_plans.evolution.runner.sqlite_transaction import (
    call_in_driver_thread,
    in_sqlite_transaction,
    prepare_file,
    statements_interruptible,
)
from cleveragents_plans.evolution.runner.standard_streams import (
    alembic_output,
    have_standard_streams,
    log_level,
)
from cleveragents_plans.evolution.runner.steps import (
    check_ahead,
    refuse_external_transaction,
    set_start,
    starting_point,
    wait_for_locks,
    with_checks,
)
from cleveragents_plans.evolution.runner.target import Application, Target, find_target
from cleveragents_plans.evolution.runner.unfinished import UnfinishedNote
from cleveragents_plans.evolution.runner.version_lock import CheckedVersionTable
from cleveragents_plans.evolution.runner.version_state import VersionState
from cleveragents_plans.evolution.settings import BadSetting, Options, Settings


def run_environment(metadata: MetaData | Sequence[MetaData], application: Application) -> None:
    """
    Run the Alembic command that runs the calling ``env.py``, on the database that is named.

    On SQLite everything happens in one ``BEGIN IMMEDIATE`` transaction, begun before the
    version is read: a run that is killed leaves the file as it was.

    On PostgreSQL the advisory migration lock is held from before the version is read to
    the end, and every revision has transactions of its own; a run that is killed is run
    again.

    In a transaction of the caller's (see `find_target`) everything happens in that
    transaction, or is refused where that cannot be.

    Args:
        metadata: The models that ``alembic check`` compares with.
        application: How the application names its databases.

    Raises:
        EvolutionError: With one line that says what was found and what to do.
    """
    run_alone()
    have_standard_streams(context.config)
    confirmed_by = {
        name
        for revision in context.script.walk_revisions()
        for name in getattr(revision.module, "confirm_options", ())
    }
    options = Options.of(context.config, confirmed_by=confirmed_by)
    Settings.of(context)  # refuses what cannot be used
    all_metadata = [metadata] if isinstance(metadata, MetaData) else list(metadata)
    tables = {name for each in all_metadata for name in each.tables}
    if options.version_table in tables:
        raise BadSetting("version-table", options.version_table, "a table that only Alembic uses")
    target = find_target(context.config, application)
    _Run(target, options, all_metadata, tables, application.version_table).start()


class _Run:
    def __init__(
        self,
        target: Target,
        options: Options,
        metadata: list[MetaData],
        tables: set[str],
        own_version_table: str,
    ) -> None:
        self.target = target
        self.options = options
        self.metadata = metadata
        self.own_version_table = own_version_table
        self.command = running_command()
        self.tables = RunTables(tables, options, self.command, context.config, context.script)
        self.level = log_level(context.config)
        self.figures = RunFigures(target=target.shown)
        self.blockers_seen: Callable[[], AbstractContextManager[None]] = nullcontext

    def start(self) -> None:
        self._say(f"database: {self.target.shown}{self.target.note}")
        if context.is_offline_mode():
            print_script(self.target, self.options, self.metadata, self.command)
            return
        if self.target.is_sqlite and self.options.schema:
            raise BadSetting("schema", self.options.schema, "PostgreSQL: SQLite has no schemas")
        # Alembic's script leaves its command in the options.
        command_line = hasattr(context.config.cmd_opts, "cmd") or context.config.attributes.get(
            "command_line", False
        )
        shown = self.target.shown
        settings = Settings.of(context)
        with (
            console_logging(self.level),
            interruptible(shown, command_line=command_line),
            in_one_line(shown),
            measured(self.figures),
            ExitStack() as stack,
        ):
            with heartbeat(f"connecting to {shown}", settings.report_every):
                connection = stack.enter_context(
                    self.target.connected(
                        settings, creates=self._creates, writes=not self.command.only_reads
                    )
                )
            act = self._on_sqlite if self.target.is_sqlite else self._on_postgresql
            told = act(connection)
        self._say(f"{shown}: {told}" if told else "")
        context.config.attributes["figures"] = self.figures
        if self.figures.ran:
            self._say(f"{self.figures}{self._next_step(command_line)}")

    @property
    def _creates(self) -> bool:
        """Whether a file is created that is not there: a program that types it is to say so."""
        wanted = context.config.attributes.get("create", True) or self.target.is_default
        return self.command.name == "upgrade" and wanted

    def _next_step(self, command_line: bool) -> str:
        # Where the program is there that does it.
        known = command_line and self.figures.after and "program" in context.config.attributes
        return f"; to check the result, run {typed(context.config, 'verify')}" if known else ""

    def _say(self, line: str) -> None:
        if line and self.level in DETAILED:
            tell(line)

    def _on_sqlite(self, connection: Connection) -> str:
        external = connection.in_transaction()
        if self.command.only_reads:
            if self.target.given is None:
                connection.execution_options(read_only=True)
            with statements_interruptible(connection):
                told = self._run(connection, external)
                if not external:
                    connection.rollback()
            return told

        def write(here: Connection) -> str:
            run = partial(self._run, here, external)
            return in_sqlite_transaction(here, Settings.of(context), run)

        return call_in_driver_thread(connection, write)

    def _on_postgresql(self, connection: Connection) -> str:
        external = connection.in_transaction()
        refuse_unfit_server(connection, self.target.shown)
        early = OF_EACH_COMMAND if self.command.only_reads else OF_EACH_RUN
        refuse_uncallable(connection, early, self.target.shown)
        if external:
            with search_path_restored(connection):
                self.tables.choose_schema(connection, local=True)
                return self._run(connection, external)
        connection.rollback()  # in a transaction a pooler would not show
        with ExitStack() as stack:
            refuse_pooler(connection, self.target.shown)
            # Before it is watched: what it sends before a statement is not the one to be named.
            stack.enter_context(event_triggers_served(connection))
            watch = StatementWatch(connection, Settings.of(context).report_every)
            stack.enter_context(watch)
            self.blockers_seen = watch.blockers_named
            restore = isinstance(self.target.given, Connection)
            stack.enter_context(postgresql_session(connection, restore=restore))
            self.tables.choose_schema(connection)
            connection.commit()
            stack.enter_context(created_patiently(connection, Settings.of(context)))
            schema = self.tables.schema
            if schema and not self.command.compares_tables:
                stack.enter_context(named_in(connection, schema))
            if not self.command.only_reads:
                refuse_read_only(connection, self.target.shown)
                self.tables.refuse_missing_rights(connection, self.target.shown)
                connection.rollback()
                how_far = partial(self.tables.told_under_way, connection)
                locked = (schema, self.tables.schema_of_versions), Settings.of(context)
                stack.enter_context(migration_lock(connection, *locked, how_far))
            with blockers_named(connection, self.tables.all):
                told = self._run(connection, external)
            connection.commit()
            return told

    def _run(self, connection: Connection, external: bool) -> str:
        tables = self.tables
        note = self._configure(connection)
        migration = context.get_context()
        if not external:
            wait_for_locks(migration)
        if not self.target.is_sqlite:
            refuse_distributed_tables(connection, tables.names, tables.schema, self.target.shown)
        # Under the migration lock, and before the version table is read.
        versions = CheckedVersionTable(
            migration, partial(tables.refuse_unfit, connection, self.target.shown)
        )
        remember_tables(connection, tables.names, tables.schema)
        with versions.enforced():
            return self._run_checked(connection, external, note, versions)

    def _run_checked(
        self,
        connection: Connection,
        external: bool,
        note: UnfinishedNote,
        versions: CheckedVersionTable,
    ) -> str:
        command, migration, tables = self.command, context.get_context(), self.tables
        state = VersionState(migration, self.options, tables.names, self.own_version_table)
        state.check(command, unfinished=note.read() is not None)
        self.figures.before = before = migration.get_current_heads()
        start, over = starting_point(command, migration, note.found)
        steps = check_ahead(command, migration, start, note)
        changes = bool(steps) and command.runs_revisions
        if external and changes:
            refuse_external_transaction(connection)
        if self.target.is_sqlite:
            if changes:
                prepare_file(connection, Settings.of(context), tables.names, external=external)
        elif not external:
            if changes:
                check_replication(connection, tables.names, tables.schema)
            connection.rollback()  # Alembic must own every transaction from here on.
        if over:
            set_start(migration, over)
        told = in_one_line(self.target.shown)
        noting = noted(migration, tables.runs, versions, command.name) if changes else nullcontext()
        named = nullcontext() if external else blockers_named(connection, tables.all)
        run_all = context.begin_transaction()
        result = alembic_output(context.config) if command.only_reads else nullcontext()
        seen = self.blockers_seen()
        with noting, told, named, seen, naming_revisions(), note.watched(), run_all, result:
            context.run_migrations()
        if not command.plans_ahead:
            return "" if command.only_reads else f"{self.options.version_table} is there"
        after = migration.get_current_heads()
        self.figures.ended(tables.schema, after, ran=changes)
        was, now = (", ".join(map(str, each)) or "empty" for each in (before, after))
        return f"{was} -> {now}" if steps else f"already at {now}, nothing to do"

    def _configure(self, connection: Connection) -> UnfinishedNote:
        tables = self.tables
        note = UnfinishedNote(connection, tables.version_table, tables.schema_of_versions)

        def version_applied(ctx: Any, step: MigrationInfo, heads: Any, run_args: Any) -> None:
            if step.is_migration or ctx.purge:
                note.clear()

        context.configure(
            connection=connection,
            target_metadata=self.metadata,
            compare_server_default=True,
            transactional_ddl=True,
            transaction_per_migration=True,
            # Other packages keep tables in the same database; they are not ours to compare.
            include_name=lambda name, kind, _: kind != "table" or name in tables.names,
            on_version_apply=version_applied,
            version_table=self.options.version_table,
            version_table_schema=tables.schema_of_versions,
            table_schema=tables.schema,
            fn=with_checks(self.command, note, lambda: self._check_version_table(connection)),
            **(autogenerate.configuration(tables.names) if self.command.writes_revision else {}),
            **(NOT_CREATING_VERSION_TABLE if self.command.only_reads else {}),
        )
        return note

    def _check_version_table(self, connection: Connection) -> None:
        # Where there was none, another role may have created it an instant before Alembic.
        external = connection.in_transaction()
        self.tables.refuse_taken_names(connection)
        if not external:
            connection.rollback()
