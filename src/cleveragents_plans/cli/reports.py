"""What ``--json`` prints: one shape, described by a JSON schema that is in the package."""

from __future__ import annotations

import sqlite3
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.run_figures import RunFigures
from cleveragents_plans.schema.database import Database

#: It grows with each change after which a program that reads the output would have to change.
FORMAT: Literal[1] = 1


class Part(BaseModel):
    """A part of a report: immutable, and nothing in it is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseFacts(Part):
    """Which database it is."""

    url: str = Field(description="Its URL, without passwords.")
    engine: Literal["postgresql", "sqlite"] = Field(description="The engine.")
    version: str = Field(description="The version of the server, or of the library of SQLite.")
    schema_name: str | None = Field(description="The schema of the tables; null on SQLite.")
    role: str | None = Field(description="The role that is connected; null on SQLite.")
    standby: bool = Field(description="Whether it is a standby, which only reads.")
    revisions: tuple[str, ...] = Field(description="What the version table holds.")
    unknown: tuple[str, ...] = Field(
        description="Of these, the revisions that this release does not know."
    )
    pending: tuple[str, ...] = Field(description="The revisions that were not run, in order.")
    unfinished: str | None = Field(
        description="The revision that was interrupted; null if none was."
    )
    direction: Literal["upgrade", "downgrade"] | None = Field(
        description="The direction in which it was going."
    )

    @classmethod
    def of(cls, database: Database) -> DatabaseFacts:
        """Look at *database*."""
        position = database.position
        version, role, standby = sqlite3.sqlite_version, None, False
        if database.on_postgresql:
            version, role, standby = run(database.connection, _SERVER).one()
        unfinished = position.unfinished
        return cls(
            url=database.shown,
            engine="postgresql" if database.on_postgresql else "sqlite",
            version=version,
            schema_name=database.schema,
            role=role,
            standby=standby,
            revisions=position.stored,
            unknown=position.unknown,
            pending=position.pending,
            unfinished=unfinished.revision if unfinished else None,
            direction=unfinished.direction if unfinished else None,
        )

    def lines(self) -> list[tuple[str, str]]:
        """Say it to people."""
        where = f"{self.url}, SQLite {self.version}"
        if self.engine == "postgresql":
            kind = "standby" if self.standby else "primary"
            where = (
                f"{self.url}, PostgreSQL {self.version} {kind}, role {self.role}, "
                f"schema {self.schema_name}"
            )
        at = ", ".join(self.revisions) or "none"
        if self.unfinished:
            at += f"; the {self.direction} of {self.unfinished} is unfinished"
        elif self.unknown:
            at += f"; this release does not know {', '.join(self.unknown)}"
        elif not self.pending:
            at += " (head)"
        else:
            at += f"; {len(self.pending)} behind"
        return [("database", where), ("revision", at)]


class Output(Part):
    """What a command prints."""

    format: Literal[1] = Field(default=FORMAT, description="The version of this format.")


class RunReport(Output):
    """What ``upgrade`` or ``downgrade`` did."""

    command: Literal["upgrade", "downgrade"] = Field(description="The command.")
    url: str = Field(description="The URL of the database, without passwords.")
    schema_name: str | None = Field(description="The schema of the tables; null on SQLite.")
    before: tuple[str, ...] = Field(description="What the version table held before the run.")
    after: tuple[str, ...] = Field(description="What it holds now.")
    rows: int = Field(description="How many rows were written, by backfills and copies.")
    longest_lock_s: float | None = Field(
        description="Seconds of the longest exclusive lock; null if there was none."
    )

    @classmethod
    def of(cls, command: Literal["upgrade", "downgrade"], figures: RunFigures) -> RunReport:
        """Report the *figures* of a run."""
        return cls(
            command=command,
            url=figures.target,
            schema_name=figures.schema,
            before=figures.before,
            after=figures.after,
            rows=figures.rows,
            longest_lock_s=figures.longest_lock,
        )

    def in_a_line(self) -> str:
        """Say it in a line."""
        before, after = (", ".join(each) or "empty" for each in (self.before, self.after))
        if self.before == self.after and not self.rows:
            return f"already at {after}, nothing to do"
        figures = RunFigures(self.rows, self.longest_lock_s)
        return f"{before} -> {after}; {figures}"


class Report(Output):
    """What a command found in a database."""

    database: DatabaseFacts = Field(description="The database that was looked at.")


_SERVER = "SELECT current_setting('server_version'), current_user::text, pg_is_in_recovery()"
