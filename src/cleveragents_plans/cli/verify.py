"""``verify``: whether the database is as it should be, and what mends it."""

from __future__ import annotations

import logging
from typing import Any, Literal

import click
from alembic.config import Config
from pydantic import Field
from rich.table import Table
from rich.text import Text

from cleveragents_plans.cli.options import (
    PLAN_COUNT,
    config_of,
    fleet_options,
    for_each_database,
    json_option,
)
from cleveragents_plans.cli.output import counted, facts, show, show_json, styled
from cleveragents_plans.cli.reports import DatabaseFacts, Report
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.reporting import Progress, console_logging, tell
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Finding, Kind, repair_roots, verify
from cleveragents_plans.verification.trees import ROOTS


class VerifyReport(Report):
    """What ``verify`` found."""

    command: Literal["verify"] = Field(default="verify", description="The command.")
    sound: bool = Field(description="Whether there are no faults; notes may be there.")
    plans: int | None = Field(description="How many plans there are; null without their table.")
    read_plans: bool = Field(description="Whether every plan was read.")
    repaired: int | None = Field(
        description="How many plans were given the root of their tree; null without --repair."
    )
    fingerprint: str | None = Field(
        description="Of all that a migration leaves alone; null unless it was asked for."
    )
    findings: tuple[Finding, ...] = Field(description="What is not as it should be.")

    def in_a_line(self) -> str:
        """Say it in a line."""
        kinds = [each.kind for each in self.findings if each.severity == "fault"]
        return f"{_verdict(self)}{': ' if kinds else ''}{', '.join(sorted({*kinds}))}"


@click.command("verify")
@click.option(
    "--quick",
    is_flag=True,
    help="Check the version, the schema, roots and parents, but do not read every plan.",
)
@click.option(
    "--fingerprint",
    is_flag=True,
    help="Print a fingerprint of everything that migrations do not change.",
)
@click.option(
    "--repair", type=click.Choice(["roots"]),
    help="Set wrong roots to the root of the tree, and verify again.",
)  # fmt: skip
@click.option(
    "--plans", "listed", type=PLAN_COUNT, default=10, show_default=True, metavar="N",
    help="Number of plans that are named for each finding.",
)  # fmt: skip
@json_option
@fleet_options
@for_each_database
def verify_command(
    quick: bool, fingerprint: bool, repair: str | None, listed: int, json: bool, **given: Any
) -> ExitStatus:
    """
    Find what is wrong with the database, at any revision.

    It only reads, in one transaction, while the application goes on. It checks the version, the
    schema, roots and parents, and reads every plan as the application does. Each finding says what
    mends it. Exit status 0 means that nothing has to be mended, 3 that something has.

    With --repair roots it also writes: root_plan_id of plans whose root is wrong, in batches.
    """
    config = config_of(given)
    level = logging.WARNING if given["quiet"] else logging.INFO
    repaired = _repair(config, level) if repair else None
    with read_database(config, "verify") as database, console_logging(level):
        found = verify(database, quick=quick, fingerprint=fingerprint, listed=listed)
        about = DatabaseFacts.of(database)
    report = VerifyReport(
        database=about,
        sound=not found.faults,
        plans=found.plans,
        read_plans=found.read_plans,
        repaired=repaired,
        fingerprint=found.fingerprint,
        findings=found.findings,
    )
    show_json(report) if json else _show(report)
    return ExitStatus.DONE if report.sound else ExitStatus.FOUND


def _repair(config: Config, level: int) -> int:
    """Say what is to be repaired, and repair it; give the number of plans that were written."""
    with read_database(config, "verify --repair roots") as database:
        found = verify(database, quick=True)
    wrong = [finding for finding in found.findings if finding.kind in ROOTS]
    total = sum(finding.total for finding in wrong)
    kinds = ", ".join(f"{finding.total:,} {finding.kind}" for finding in wrong)
    if level == logging.INFO:
        tell(
            f"root_plan_id of {counted(total, 'plan')} and of those below them is set to the root "
            f"of their tree ({kinds}); nothing else is written"
            if wrong
            else "no root has to be repaired"
        )
    with console_logging(level), Progress("roots repaired", total) as progress:
        written = 0
        for done in repair_roots(config) if wrong else ():
            written += done
            progress.tick(done)
    return written


def _show(report: VerifyReport) -> None:
    lines = report.database.lines()
    if report.plans is not None:
        lines.append(("plans", f"{report.plans:,}; {_read(report)}"))
    if report.repaired is not None:
        lines.append(("repaired", counted(report.repaired, "root")))
    if report.fingerprint is not None:
        lines.append(("fingerprint", report.fingerprint))
    show(facts(lines))
    if report.findings:
        show("", _listed(report.findings))
    show("", _verdict(report))


def _read(report: VerifyReport) -> str:
    """Say how many plans could be read; each of the others is found once."""
    if not report.read_plans:
        return "none was read"
    kinds = (Kind.UNREADABLE, Kind.SNAPSHOT_UNREADABLE)
    unreadable = sum(each.total for each in report.findings if each.kind in kinds)
    return f"{unreadable:,} of them cannot be read" if unreadable else "each can be read"


def _listed(findings: tuple[Finding, ...]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in sorted(findings, key=lambda each: each.severity):
        style = "bold red" if finding.severity == "fault" else "yellow"
        said = Text.assemble(styled(f"{finding.kind}  ", style), styled(finding.subject, "bold"))
        if finding.plan_ids:
            said.append(f"  in {counted(finding.total, 'row')}")
        said.append("\n").append_text(styled(finding.found))
        if finding.plan_ids:
            more = finding.total - len(finding.plan_ids)
            others = f" and {more:,} more" if more else ""
            plans = f"plans: {', '.join(finding.plan_ids)}{others}"
            said.append("\n").append_text(styled(plans, "dim", limit=None))
        said.append("\nto mend it: " if finding.severity == "fault" else "\n")
        said.append_text(styled(finding.remedy))
        grid.add_row(styled(finding.severity, style), said)
    return grid


def _verdict(report: VerifyReport) -> Text:
    faults = sum(finding.severity == "fault" for finding in report.findings)
    notes = len(report.findings) - faults
    counts = [counted(faults, "fault")] if faults else []
    counts += [counted(notes, "note")] if notes else []
    if faults:
        return styled(", ".join(counts), "bold red")
    return styled(", ".join(["sound", *counts]), "bold green")
