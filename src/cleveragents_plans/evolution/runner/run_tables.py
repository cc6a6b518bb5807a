"""The tables that a run uses: the schemas that they are in, and what refuses them."""

from __future__ import annotations

from collections.abc import Collection

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from cleveragents_plans.evolution.operations.names import refuse_taken_names, require_tables
from cleveragents_plans.evolution.postgresql.schema_choice import (
    find_schema,
    search_schema,
    use_schema,
)
from cleveragents_plans.evolution.postgresql.server import RightsMissing
from cleveragents_plans.evolution.postgresql.session_rights import refuse_missing_session_rights
from cleveragents_plans.evolution.postgresql.table_owners import ForeignTable
from cleveragents_plans.evolution.postgresql.table_rights import (
    refuse_missing_rights,
    refuse_unreadable_tables,
)
from cleveragents_plans.evolution.runner.alembic_internals import Command
from cleveragents_plans.evolution.runner.runs import RUNS, RunsTable, told_under_way
from cleveragents_plans.evolution.runner.untrusted_owners import (
    looking_context,
    refuse_untrusted_owners,
)
from cleveragents_plans.evolution.runner.version_tables import require_version_table
from cleveragents_plans.evolution.settings import Options


class RunTables:
    """
    The tables of the models, of the version and of the runs, in one database.

    Args:
        names: The names of the tables of the models.
        options: The schema that was named, and the name of the version table.
        command: What is to be done with them.
        config: The configuration of the run.
        script: The chain.
    """

    def __init__(
        self,
        names: Collection[str],
        options: Options,
        command: Command,
        config: Config,
        script: ScriptDirectory,
    ) -> None:
        self.names = names
        self.version_table = options.version_table
        #: Of the tables of the models; None on SQLite, and until `choose_schema`.
        self.schema: str | None = None
        #: Of the version table, and of the runs.
        self.schema_of_versions: str | None = None
        self._wanted_schema = options.schema
        self._command = command
        self._config = config
        self._script = script

    @property
    def runs(self) -> RunsTable:
        """The table of runs."""
        return RunsTable(self.version_table, self.schema_of_versions)

    @property
    def all(self) -> set[tuple[str | None, str]]:
        """Each with its schema."""
        versions = self.schema_of_versions
        beside = {(versions, self.version_table), (versions, RUNS)}
        return {(self.schema, each) for each in self.names} | beside

    def choose_schema(self, connection: Connection, *, local: bool = False) -> None:
        """
        Find the schemas on PostgreSQL, where names are then not looked up by the search path.

        Args:
            connection: The connection of the run.
            local: Set the search path for the transaction only.

        Raises:
            EvolutionError: There is no such schema, or none that can be used.
        """
        wanted = self._wanted_schema
        if self._command.compares_tables:
            # What SQLAlchemy reflects without a schema is found by the search path.
            self.schema = search_schema(connection, wanted, local=local)
            return
        versions = [self.version_table]
        self.schema = use_schema(connection, wanted, self.names, versions, local=local)
        self.schema_of_versions = (
            self.schema if wanted else find_schema(connection, versions, self.names)
        )

    def refuse_missing_rights(self, connection: Connection, shown: str) -> None:
        """
        Refuse a role that cannot do what a run on PostgreSQL does.

        Args:
            connection: The connection of the run.
            shown: The database, as messages name it.

        Raises:
            RightsMissing: It names the right, and who can grant it.
            ForeignTable: A table belongs to a role that is not trusted.
        """
        names = {*self.names, self.version_table}
        refuse_missing_session_rights(connection, names, self.schema, shown)
        try:
            refuse_missing_rights(connection, names, self.schema, shown)
        except RightsMissing:
            # Its remedy would be to become the role that has taken a name.
            self.refuse_untrusted_owners(connection)
            raise

    def refuse_untrusted_owners(self, connection: Connection) -> None:
        """Refuse tables of roles that are not trusted, as `refuse_untrusted_owners` says."""
        versions = (self.version_table, self.schema, self.schema_of_versions)
        looking = looking_context(connection, self._config, self._script, *versions)
        only_reads = self._command.only_reads
        refuse_untrusted_owners(looking, self.names, self.schema, only_reads=only_reads)

    def refuse_unfit(self, connection: Connection, shown: str) -> None:
        """
        Refuse what is no table, belongs to a role that is not trusted, or has a name of ours.

        Args:
            connection: The connection of the run.
            shown: The database, as messages name it.

        Raises:
            NameTaken: Something else has the name.
            ForeignTable: It belongs to another role.
            RightsMissing: A command that only reads may not read the version table.
        """
        require_tables(connection, self.names, self.schema)
        require_version_table(connection, self.version_table, self.schema_of_versions)
        self.refuse_untrusted_owners(connection)
        if connection.dialect.name == "postgresql" and self._command.only_reads:
            version_table = (self.schema_of_versions, self.version_table)
            refuse_unreadable_tables(connection, [version_table], shown)
        self.refuse_taken_names(connection)

    def refuse_taken_names(self, connection: Connection) -> None:
        """Refuse what another role has made of our names, where something is to be written."""
        if connection.dialect.name == "postgresql" and not self._command.only_reads:
            schemas = (self.schema, self.schema_of_versions)
            refuse_taken_names(connection, self.names, self.version_table, *schemas)

    def told_under_way(self, connection: Connection) -> str:
        """Say how far the run is that is under way; nothing where that is not to be read."""
        try:
            self.refuse_untrusted_owners(connection)
        except ForeignTable:  # the table of runs is that of the version table's owner
            return ""
        return told_under_way(connection, self.runs)
