"""
What the version table says, compared with the chain and with the tables that are there.

A version that does not fit is refused, with the command that mends it.
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Collection
from typing import Final

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.lookups import each_table_once
from cleveragents_plans.evolution.op import schema_of
from cleveragents_plans.evolution.printable import equals, identifier, printable
from cleveragents_plans.evolution.runner.alembic_internals import Command, applied, heads_after
from cleveragents_plans.evolution.runner.command_line import typed, typed_for_program
from cleveragents_plans.evolution.runner.remains import remains
from cleveragents_plans.evolution.runner.table_looks import TableLooks, shortened
from cleveragents_plans.evolution.runner.version_tables import schemas_with, version_tables
from cleveragents_plans.evolution.settings import Options

log: Final = logging.getLogger("alembic.evolution")


class VersionRefused(EvolutionError):
    """
    The version that is stored does not fit the chain, or the tables do not fit the version.

    Attributes:
        found: What was found.
        remedy: What mends it.
    """

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}; nothing was changed")
        self.found = found
        self.remedy = remedy


class TablesIncomplete(VersionRefused):
    """The tables are those of the version, and a part of them is missing."""


class VersionState:
    """
    The version of a database, and what else is there of the chain.

    Args:
        migration: The context of the run.
        options: Its options.
        tables: The names of the tables of the models.
        own_table: A name for a version table that the chain does not share.
    """

    def __init__(
        self,
        migration: MigrationContext,
        options: Options,
        tables: Collection[str],
        own_table: str,
    ) -> None:
        assert migration.script is not None  # noqa: S101  # env.py has all three, on line
        assert migration.config is not None  # noqa: S101
        assert migration.connection is not None  # noqa: S101
        self._migration = migration
        self._script = migration.script
        self._config = migration.config
        self._connection: Connection = migration.connection
        self._options = options
        self._tables = tables
        self._own_table = own_table
        self._schemas = [schema_of(migration), migration.version_table_schema]
        self._looks = TableLooks(migration, tables, self._schemas[0])
        self._chain = self._looks.chain
        # SQLite stores what is no text in a column of text, too, and without the primary key NULL
        # and the same twice.
        self._stored: list[object] = [*migration.get_current_heads()]
        #: Stored revisions that are in the chain.
        self.known: list[str] = [str(head) for head in self._stored if head in self._chain]
        #: Stored revisions that are not, as text.
        self.unknown: list[str] = [str(head) for head in self._stored if head not in self._chain]
        # Those that say something of tables of which revisions can tell: an application may have
        # a branch of its own in the same chain, of which none can.
        self._telling = [head for head in self.known if self._looks.told_of(head)]

    def check(self, command: Command, *, unfinished: bool) -> None:
        """
        Refuse a version from which *command* cannot start, or would report what is not so.

        Args:
            command: The command.
            unfinished: A revision was interrupted, so that the tables are between two versions.

        Raises:
            VersionRefused: The version table has a revision that the chain does not have, or
                two of one branch, or none or one that the tables do not fit; or the tables are
                in another schema.
        """
        if not self.known:
            self._refuse_other_schema()
        stamps = command.name == "do_stamp"
        if not (stamps and self._migration.purge):
            self._refuse_unknown()
        if stamps and not unfinished:
            self._warn_of_stamp(command)
        if stamps or unfinished or not command.relies_on_tables:
            return
        self._refuse_two_of_one_branch()
        try:
            self._refuse_unfit_tables()
        except VersionRefused as error:
            if command.runs_revisions or command.checks_heads or command.compares_tables:
                raise
            log.warning("%s; %s", error.found, error.remedy)

    def require_fit(self, *, unfinished: bool) -> None:
        """
        Refuse a version that says nothing true of the tables, whatever is to be done with them.

        Args:
            unfinished: A revision was interrupted, so that the tables are between two versions.

        Raises:
            VersionRefused: As `check` does for a command that runs revisions.
        """
        if not self.known:
            self._refuse_other_schema()
        self._refuse_unknown()
        if not unfinished:
            self._refuse_two_of_one_branch()
            self._refuse_unfit_tables()

    def _warn_of_stamp(self, command: Command) -> None:
        heads = () if self._migration.purge else self._migration.get_current_heads()
        for step in command.steps(heads, self._migration):
            heads = heads_after(step, self._migration, heads)
        ours = [head for head in heads if head in self._chain]
        if self._looks.any_is_there() and (lacking := self._looks.missing(ours)):
            log.warning(
                "the tables lack %s, which %s has: the next run will be refused",
                shortened(lacking), " and ".join(ours),
            )  # fmt: skip

    def _refuse_other_schema(self) -> None:
        options = self._options
        if self._connection.dialect.name != "postgresql" or options.schema:
            return
        hidden = {
            each.schema: each.name
            for each in version_tables(self._connection, self._schemas, self._tables)
            if each.schema and each.revisions.intersection(self._chain) and not each.is_used
        }
        current = self._schemas[0]
        if hidden and self._looks.any_is_there():
            schema, name = next(iter(hidden.items()))
            raise VersionRefused(
                f"the tables are in the schema {current}, and their version is in {schema}.{name}",
                f"run ALTER TABLE {identifier(schema)}.{identifier(name)} SET SCHEMA "
                f"{identifier(str(current))}, or add {identifier(schema)} to the "
                "end of the search_path of the role",
            )
        owners = schemas_with(self._connection, self._tables, current)
        schemas = sorted({*hidden, *owners})
        if schemas and not options.allow_second_schema:
            # A role that may create a schema can have tables of any name there.
            roles = [
                f"in {each} to the role {owners[each][0]}" for each in schemas if each in owners
            ]
            trusted = [each for each in schemas if each not in owners or owners[each][1]]
            named = shlex.quote(f"schema={trusted[0]}") if trusted else "schema=NAME of your own"
            owned = f" (they belong {', '.join(roles)})" if roles else ""
            raise VersionRefused(
                f"the schema {' and the schema '.join(schemas)} of this database "
                f"has tables of this chain{owned}, and this run would use the schema {current}, "
                "which has none",
                f"give -x {named}, or -x allow-second-schema=yes if "
                f"{current} is to have a set of its own",
            )

    def _refuse_unknown(self) -> None:
        table = self._options.version_table
        for head, times in Counter(self._stored).items():
            if not isinstance(head, str) or not head.strip():
                said = "NULL" if head is None else _quoted(head)
                raise VersionRefused(f"{table} holds {said}, which is no revision", self._stamp())
            if times > 1:
                raise VersionRefused(f"{table} holds {_quoted(head)} twice", self._stamp())
        if not self.unknown:
            return
        found = " and ".join(map(_quoted, self.unknown))
        if own := self._own_version_table():
            raise VersionRefused(
                f"{table} holds {found}, of another chain, and {own} the version of this one",
                _give(own),
            )
        looks = self._looks.like()
        stamp = typed(self._config, f"stamp {looks or 'base'}", version_table=self._own_table)
        then = f"{_give(self._own_table)} from then on"
        # The program of this chain knows no other, and would take it for another application's.
        program = self._config.attributes.get("program")
        both = "if an application's chain holds both, run its `alembic`; " if program else ""
        if self.known:
            ours = " and ".join(map(repr, self.known))
            schema = self._schemas[1]  # None on SQLite
            is_ = equals(on_postgresql=schema is not None)
            stored = f"{identifier(schema)}.{identifier(table)}" if schema else identifier(table)
            of_ours = " OR ".join(f"version_num {is_} {each!r}" for each in self.known)
            raise VersionRefused(
                f"{table} holds {ours} of this chain, and {found}, which this release does not "
                "know",
                f"{both}if that is another application's, let this chain have a version table of "
                f"its own: run {stamp}, then DELETE FROM {stored} WHERE {of_ours}, "
                f"and {then}; if it is a newer release's, install that",
            )
        if not self._looks.any_is_there():
            goal = "head" if len(self._script.get_heads()) == 1 else "heads"
            upgrade = typed(self._config, f"upgrade {goal}", version_table=self._own_table)
            raise VersionRefused(
                f"{table} holds {found}, which this release does not know, and the database "
                "has no table of this chain: it is another application's",
                f"let this chain have a version table of its own: run {upgrade}, and {then}",
            )
        raise VersionRefused(
            f"the database is at revision {found}, which this release does not know",
            f"{both}install the release that migrated it; or, if that is another application's, "
            f"let this chain have a version table of its own: run {stamp}, and {then}",
        )

    def _refuse_two_of_one_branch(self) -> None:
        for head in self.known:
            if below := applied(self._script, [head]).intersection(self.known) - {head}:
                raise VersionRefused(
                    f"{self._options.version_table} holds {head!r} and {min(below)!r}, one of "
                    "which comes after the other",
                    self._stamp(),
                )

    @each_table_once()
    def _refuse_unfit_tables(self) -> None:
        looks = self._looks.like()
        if looks is None:
            return
        if looks == "base" and self._telling:
            self._refuse_remains()
        if not self._telling:
            if looks == "base":
                return
            if self.known:
                raise VersionRefused(
                    f"{self._options.version_table} says {' and '.join(self.known)}, and tables of "
                    "another branch are there",
                    self._stamp(),
                )
            if own := self._own_version_table():
                raise VersionRefused(
                    f"{self._options.version_table} holds no version, and {own} the one of this "
                    "chain",
                    _give(own),
                )
            raise VersionRefused(
                f"the tables are there, and {self._options.version_table} holds no version",
                self._stamp(),
            )
        done = applied(self._script, self.known)
        if False in self._looks.are_applied(done):
            if looks == next(each for each in self._looks.telling if each in done):
                raise TablesIncomplete(
                    f"{self._options.version_table} says {' and '.join(self.known)}, and the "
                    "tables lack a part of what the revisions before it make",
                    f"run {typed_for_program(self._config, 'verify')}, which says what is missing",
                )
            raise VersionRefused(
                f"{self._options.version_table} says {' and '.join(self.known)}, and the tables "
                "are not as that revision makes them",
                self._stamp(),
            )
        if missing := self._looks.missing(self.known):
            raise TablesIncomplete(
                f"{self._options.version_table} says {' and '.join(self.known)}, and the tables "
                f"lack {shortened(missing)}",
                "restore what is missing from a backup, or create it as docs/specification.md has "
                f"it; {typed_for_program(self._config, 'verify')} says what else differs",
            )

    def _refuse_remains(self) -> None:
        found = remains(self._migration, self._tables, self._schemas[0])
        if found:
            remedy = "restore a backup"
            if set(found) <= set(self._tables):  # and nothing that only a torn file has
                remedy = (
                    "give the others back their names, if they were renamed or moved to another "
                    "schema, otherwise restore a backup"
                )
            raise TablesIncomplete(
                f"{self._options.version_table} says {' and '.join(self.known)}, and of its tables "
                f"only {', '.join(found)} {'are' if len(found) > 1 else 'is'} left",
                remedy,
            )

    def _stamp(self) -> str:
        looks = self._looks.like() or "base"
        heads, found = self._looks.heads_like(looks, self.known), "there are no tables"
        if looks == "base" and not self._looks.any_is_there():
            heads = ["base"]
        elif looks == "base":
            found = f"the tables of {self._looks.telling[0]} are not there"
        purge = "--purge " if self.known or self.unknown else ""
        command = typed(self._config, f"stamp {purge}{' '.join(heads)}")
        if looks == "base":
            return f"{found}: run {command}, and then the command that you want"
        if lacking := self._looks.missing([looks], "missing" if self._telling else "lacking"):
            return (
                f"they lack {shortened(lacking)}, and no revision leaves them so: restore a "
                "backup, or rename or drop them if they are not this chain's"
            )
        return f"they look as {looks} makes them: run {command}, and then the command that you want"

    def _own_version_table(self) -> str | None:
        return next(
            (
                each.name
                for each in version_tables(self._connection, self._schemas, self._tables)
                if each.is_used
                and each.name != self._options.version_table
                and each.revisions.intersection(self._chain)
            ),
            None,
        )


def _quoted(version: object) -> str:
    return printable(repr(version), 160)


def _give(table: str) -> str:
    option = shlex.quote(f"version-table={table}")
    return f"give -x {option} (from Python version_table={table!r})"
