"""``history``: the runs that migrated the database, newest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal, Self

import click
from alembic.config import Config
from pydantic import Field

from cleveragents_plans.cli.options import config_of, database_options, json_option
from cleveragents_plans.cli.output import fits, show, show_json, table
from cleveragents_plans.cli.reports import DatabaseFacts, Part, Report
from cleveragents_plans.evolution.postgresql.session_name import short_revision
from cleveragents_plans.evolution.runner.runs import Run, how_far
from cleveragents_plans.schema.database import read_database


class RunFacts(Part):
    """A run of upgrade or downgrade that ran at least one revision."""

    run_id: str = Field(description="Its id.")
    version_table: str = Field(description="The version table of its chain.")
    command: str = Field(description="upgrade or downgrade.")
    revision_before: str | None = Field(description="The version before; null is none.")
    revision_after: str | None = Field(description="The version afterwards; null is none.")
    began_at: str = Field(description="When it began, ISO 8601 in UTC.")
    ended_at: str | None = Field(description="When it ended, or was last heard of.")
    outcome: str = Field(description="running, done, failed, or interrupted (or killed).")
    error: str | None = Field(description="Why it failed.")
    role: str | None = Field(description="The role that migrated; null on SQLite.")
    host: str = Field(description="The host of the process.")
    pid: int = Field(description="The id of the process.")
    backend_pid: int | None = Field(description="The session of PostgreSQL.")
    package_version: str = Field(description="The version of this package.")
    revision: str | None = Field(description="The revision it was at when last heard of.")
    what: str | None = Field(description="What was under way then.")
    done: int | None = Field(description="How many rows were done of that.")
    total: int | None = Field(description="How many there were.")
    rate: float | None = Field(description="Rows per second.")
    eta_s: float | None = Field(description="Seconds that were left.")
    waiting_for: str | None = Field(description="What it waited for.")
    updated_at: str | None = Field(description="When it was last heard of.")
    rows_per_second: float | None = Field(description="The rate that throttle chose; 0: no limit.")
    paused: bool = Field(description="Whether throttle paused it.")

    @classmethod
    def of(cls, run: Run) -> Self:
        """Report *run*."""
        return cls(**asdict(run))

    def line(self) -> str:
        """Say in one line what it did."""
        to = self.revision_after or "base"
        if self.outcome == "running":
            return f"{self.when} {self.command}, running, by {self.who}"
        if self.outcome != "done":
            at = f" at {self.revision}" if self.revision else ""
            return f"{self.when} {self.command}, {self.outcome}{at}, by {self.who}"
        return f"{self.when} {self.command} to {to}, {self.took}, by {self.who}"

    def how_far(self) -> str:
        """Say how far it is, or came, or why it failed."""
        return self.error or how_far(Run(**self.model_dump()))

    @property
    def when(self) -> str:
        """When it began, to the second."""
        return self.began_at[:19].replace("T", " ")

    @property
    def who(self) -> str:
        """The role and the host."""
        return f"{self.role}@{self.host}" if self.role else self.host

    @property
    def took(self) -> str:
        """How long it took; empty while it is not known."""
        if self.ended_at is None:
            return ""
        try:
            ended, began = map(datetime.fromisoformat, (self.ended_at, self.began_at))
            return f"{(ended - began).total_seconds():,.1f} s"
        except (TypeError, ValueError):  # a row that was written by hand
            return ""


class HistoryReport(Report):
    """The runs that migrated the database."""

    command: Literal["history"] = Field(default="history", description="The command.")
    runs: tuple[RunFacts, ...] = Field(description="The runs, newest first.")


@click.command("history")
@json_option
@database_options
def history_command(json: bool, **given: Any) -> None:
    """
    List the runs that migrated the database, newest first.

    A run that had nothing to do is not noted, and on SQLite none that failed. On PostgreSQL a
    crash of the server empties the list.
    """
    config = config_of(given)
    report = _report(config)
    if report.runs and report.runs[0].outcome == "interrupted":
        # It may have ended between its row and the look whether its lock is held.
        report = _report(config)
    if json:
        show_json(report)
        return
    _show(report)


def _report(config: Config) -> HistoryReport:
    with read_database(config, "history") as database:
        runs = tuple(map(RunFacts.of, database.runs.read(database.connection)))
        return HistoryReport(database=DatabaseFacts.of(database), runs=runs)


def _show(report: HistoryReport) -> None:
    if not report.runs:
        show("no run is noted")
        return
    names = ["began", "command", "from", "to", "outcome", "took", "by", "version", "note"]
    rows = [_row(each, str) for each in report.runs]
    if not fits(names, rows):
        rows = [_row(each, short_revision) for each in report.runs]
    show(table(names, rows))


def _row(run: RunFacts, written: Callable[[str], str]) -> list[str]:
    """Give the columns of *run*; revisions are *written* in a way that has room."""
    before, after = (
        written(each) if each else "base" for each in (run.revision_before, run.revision_after)
    )
    return [
        run.when,
        run.command,
        before,
        "" if run.outcome != "done" and not run.revision_after else after,
        run.outcome,
        run.took,
        run.who,
        run.package_version,
        "" if run.outcome == "done" else run.how_far(),
    ]
