"""``status``: at which revision the database is, what is pending, and who migrates it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, Literal

import click
from alembic.config import Config
from pydantic import Field
from rich.table import Table
from rich.text import Text
from sqlalchemy import func, select

from cleveragents_plans.cli.history import RunFacts
from cleveragents_plans.cli.options import (
    Seconds,
    config_of,
    fleet_options,
    for_each_database,
    json_option,
)
from cleveragents_plans.cli.output import Screen, facts, show, show_json, styled
from cleveragents_plans.cli.reports import DatabaseFacts, Part, Report
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.session_rights import uncallable
from cleveragents_plans.evolution.postgresql.table_owners import ForeignTable
from cleveragents_plans.evolution.reporting import console_logging, heartbeat
from cleveragents_plans.evolution.runner.command_line import typed, typed_for_program
from cleveragents_plans.evolution.runner.connection_errors import ConnectionFailed, LoginRefused
from cleveragents_plans.evolution.runner.runs import Run, RunsNotUsable
from cleveragents_plans.evolution.runner.unfinished import Unfinished
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.persistence.sessions import PLANS
from cleveragents_plans.schema.database import Database, read_database
from cleveragents_plans.schema.under_way import runs_under_way, ways_to_wait
from cleveragents_plans.verification.findings import Kind
from cleveragents_plans.verification.postgresql_objects import check_triggers

# Seconds between two looks of --wait.
_POLL = 1.0


class PendingRevision(Part):
    """A revision that was not run."""

    revision: str = Field(description="Its id.")
    title: str = Field(description="What it does, in a line.")


class StatusReport(Report):
    """What ``status`` found."""

    command: Literal["status"] = Field(default="status", description="The command.")
    state: Literal["ready", "behind", "misfit", "unfinished"] = Field(
        description="ready: at the newest revision. behind: revisions are pending. misfit: the "
        "version says nothing true of the tables. unfinished: a revision was interrupted."
    )
    problem: str | None = Field(description="Why the version does not fit; null if it does.")
    remedies: tuple[str, ...] = Field(description="What to type, the first choice first.")
    pending: tuple[PendingRevision, ...] = Field(description="The revisions to be run, in order.")
    plans: int | None = Field(description="How many plans there are; null without their table.")
    children: int | None = Field(description="How many of them have a parent.")
    bytes: int | None = Field(
        description="The size of the table of plans with its indexes, or of the SQLite file."
    )
    migrating: tuple[str, ...] = Field(
        description="The sessions or processes that migrate it now, or lock its file."
    )
    last_run: RunFacts | None = Field(
        description="The newest run, which may be under way; null if none is noted."
    )
    last_run_problem: str | None = Field(description="Why that cannot be read; null if it can.")

    @property
    def is_under_way(self) -> bool:
        """Whether a run is."""
        return bool(self.migrating) or (
            self.last_run is not None and self.last_run.outcome == "running"
        )

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it can be the trace of a run that ended while it was found out."""
        interrupted = self.last_run is not None and self.last_run.outcome == "interrupted"
        return self.state == "ready" and not interrupted

    def in_a_line(self) -> str:
        """Say it in a line."""
        if self.state == "behind":
            return f"behind: {', '.join(each.revision for each in self.pending)} pending"
        more = self.problem or "; ".join(self.remedies)
        return f"{self.state}{': ' if more else ''}{more}"


@click.command("status")
@click.option(
    "--wait", type=Seconds(), default=0.0, metavar="SECONDS",
    help="Wait at most this long until the database is ready.",
)  # fmt: skip
@click.option("--follow", is_flag=True, help="Show the run that is under way until it ends.")
@json_option
@fleet_options
@for_each_database
def status_command(wait: float, follow: bool, json: bool, **given: Any) -> ExitStatus:
    """
    Show at which revision the database is, and what is pending.

    Exit status 0 means ready, 3 behind (or a version that does not fit the tables), 4 that a
    revision is unfinished. With --wait a container can wait until another one has migrated.
    """
    if follow and (json or wait):
        raise click.UsageError("give --follow alone, without --json and --wait")
    config = config_of(given)
    every = Settings.of(SimpleNamespace(config=config)).report_every
    waiting = heartbeat("waiting until the database is ready", every) if wait else nullcontext()
    with console_logging(config.attributes["level"]), waiting:
        report = _report(config, wait)
    if follow:
        report = _follow(config, report)
    elif json:
        show_json(report)
    else:
        show(_shown(report))
    return _STATUSES[report.state]


def _report(config: Config, wait: float) -> StatusReport:
    """Look at the database; again until it is ready, for *wait* seconds at most."""
    until = time.monotonic() + wait
    while True:
        late = time.monotonic() >= until
        try:
            with _looked_at(config) as (database, report):
                if late or report.state == "ready":
                    return report.model_copy(update=_counts(database))
        except ConnectionFailed as error:
            if late or error.lost or isinstance(error, LoginRefused):
                raise
        except ForeignTable:  # the first run creates one before the others
            if late:
                raise
        time.sleep(_POLL)


def _follow(config: Config, report: StatusReport) -> StatusReport:
    """Show *report*, and what it becomes, until no run is under way; give the last one."""
    screen = Screen()
    while True:
        screen.show(_shown(report), _line(report) if report.is_under_way else None)
        if not report.is_under_way:
            screen.end(_shown(report))
            return report
        time.sleep(_POLL)
        # Counting goes through the whole table, which is not for each second.
        counts = {"plans": report.plans, "children": report.children}
        with _looked_at(config) as (_, report):
            report = report.model_copy(update=counts)


@contextmanager
def _looked_at(config: Config) -> Iterator[tuple[Database, StatusReport]]:
    """
    Find out everything but the counts, in a transaction that begins after the last run ended.

    Tables are read in one snapshot, and who holds a lock is looked up after it: a run that ends
    in between is in the snapshot, unfinished, but under way no more. The next snapshot has its end.
    """
    with read_database(config, "status") as database:
        report = _look(database)
        if report.is_under_way or report.is_settled:
            yield database, report
            return
    with read_database(config, "status") as database:
        yield database, _look(database)


def _line(report: StatusReport) -> str:
    """Say how far the run under way is; the last one may be another, or the application writes."""
    run = report.last_run
    running = run is not None and run.outcome == "running"
    far = run.how_far() if run and running else f"migrating: {'; '.join(report.migrating)}"
    return f"{time.strftime('%H:%M:%S')} {far}"


_STATUSES = {
    "ready": ExitStatus.DONE,
    "behind": ExitStatus.FOUND,
    "misfit": ExitStatus.FOUND,
    "unfinished": ExitStatus.UNFINISHED,
}


def _counts(database: Database) -> dict[str, int | None]:
    if PLANS.name not in database.position.tables:
        return {"plans": None, "children": None}
    database.lock_tables()
    query = select(func.count(), func.count(PLANS.c.parent_plan_id)).select_from(PLANS)
    with database.heartbeat("counting plans"):
        plans, children = database.connection.execute(query).one()
    return {"plans": plans, "children": children}


def _look(database: Database) -> StatusReport:
    """Find out everything but the counts."""
    position = database.position
    size, (last_run, unread) = _bytes(database), _last_run(database)
    migrating = runs_under_way(database)
    state: Literal["ready", "behind", "misfit", "unfinished"] = "ready"
    remedies: tuple[str, ...] = ()
    if position.unfinished is not None:
        state, remedies = "unfinished", _ways_out(database, position.unfinished)
    elif position.misfit is not None:
        state, remedies = "misfit", (position.misfit.remedy,)
    elif not position.pending:
        remedies = _trigger_changed(database)
    else:
        state, remedies = "behind", (f"run {typed(database.config, 'upgrade')}",)
    if migrating:
        # A second run would only wait, and then go the other way.
        paused = last_run is not None and last_run.outcome == "running" and last_run.paused
        remedies = ways_to_wait(database, migrating, remedies, paused=paused)
    return StatusReport(
        database=DatabaseFacts.of(database),
        state=state,
        problem=position.misfit.found if position.misfit else None,
        remedies=remedies,
        pending=tuple(
            PendingRevision(revision=each, title=position.titles[each]) for each in position.pending
        ),
        plans=None,
        children=None,
        bytes=size,
        migrating=tuple(map(str, migrating)),
        last_run=RunFacts.of(last_run) if last_run else None,
        last_run_problem=unread,
    )


def _trigger_changed(database: Database) -> tuple[str, ...]:
    """Lead to verify where the trigger that fills in plans is another, as after a new schema."""
    if not database.on_postgresql or PLANS.name not in database.position.tables:
        return ()
    changed = {Kind.TRIGGER_CHANGED, Kind.FUNCTION_CHANGED}
    if not any(each.kind in changed for each in check_triggers(database)):
        return ()
    return (
        f"run {typed_for_program(database.config, 'verify')}: the trigger v3_plans_fill is not as "
        "its revision made it, so plans that a former release writes may be refused",
    )


def _last_run(database: Database) -> tuple[Run | None, str | None]:
    try:
        found = database.runs.read(database.connection, most=1)
    except RunsNotUsable as error:
        return None, str(error)
    return (found[0] if found else None), None


def _ways_out(database: Database, unfinished: Unfinished) -> tuple[str, ...]:
    if unfinished.revision not in database.position.titles:
        return ("install the release that has this revision, and run its upgrade or downgrade",)
    below = database.position.below[unfinished.revision]
    up = typed(database.config, f"upgrade {unfinished.revision}")
    down = typed(database.config, f"downgrade {below}")
    complete, undo = (up, down) if unfinished.direction == "upgrade" else (down, up)
    return f"run {complete} to complete it", f"or {undo} to undo it"


def _bytes(database: Database) -> int | None:
    if not database.on_postgresql:
        query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        return int(database.connection.exec_driver_sql(query).scalar_one())
    if PLANS.name not in database.position.tables:
        return None
    if uncallable(database.connection, ["pg_total_relation_size(pg_catalog.regclass)"]):
        return None
    query = "SELECT pg_total_relation_size(%(table)s::regclass)"
    table = {"table": database.table(PLANS.name)}
    return int(run(database.connection, query, table).scalar_one())


def _shown(report: StatusReport) -> Table:
    lines: list[tuple[str, str | Text]] = [*report.database.lines()]
    if report.problem:
        lines.append(("problem", report.problem))
    lines += [("pending", f"{each.revision}: {each.title}") for each in report.pending]
    size = f"; {report.bytes / 1e6:,.1f} MB" if report.bytes is not None else ""
    if report.plans is not None:
        lines.append(("plans", f"{report.plans:,}, {report.children:,} with a parent{size}"))
    lines += [("migrating", each) for each in report.migrating]
    if report.last_run is not None:
        lines.append(("last run", report.last_run.line()))
        if report.last_run.outcome != "done":
            lines.append(("", report.last_run.how_far()))
    elif report.last_run_problem:
        lines.append(("last run", f"not known: {report.last_run_problem}"))
    style = "bold green" if report.state == "ready" else "bold yellow"
    if report.state in ("misfit", "unfinished"):
        style = "bold red"
    lines.append(("state", styled(report.state, style)))
    lines += [("" if number else "next", each) for number, each in enumerate(report.remedies)]
    return facts(lines)
