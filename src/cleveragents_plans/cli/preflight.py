"""``preflight``: what an upgrade or a downgrade would refuse, wait for and take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import click
from pydantic import Field
from rich.text import Text

from cleveragents_plans.cli.options import (
    config_of,
    database_options,
    json_option,
    run_options,
)
from cleveragents_plans.cli.output import counted, facts, show, show_json, styled
from cleveragents_plans.cli.reports import DatabaseFacts, Report
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.preflight import Preflight, preflight
from cleveragents_plans.preflight.findings import Disk, Write
from cleveragents_plans.preflight.sessions import clock
from cleveragents_plans.schema.database import read_database


class PreflightReport(Report):
    """What ``preflight`` found."""

    command: Literal["preflight"] = Field(default="preflight", description="The command.")
    ready: bool = Field(description="Whether the run can begin.")
    found: Preflight = Field(description="What was found.")


@click.command("preflight")
@click.option("--down", metavar="REVISION", help="Check the downgrade to REVISION instead.")
@json_option
@database_options
@run_options("allow-second-schema", "drop-plans")
def preflight_command(down: str | None, json: bool, **given: Any) -> ExitStatus:
    """
    Check what would stop an upgrade, and estimate its time and disk space, without upgrading.

    It changes nothing, and no client waits for it. Exit status 0 means that the upgrade can begin,
    1 that a person must act first: each line that begins with BLOCKS says what to do.
    """
    config = config_of(given)
    with read_database(config, "preflight") as database:
        about = DatabaseFacts.of(database)
    found = preflight(config, down)
    report = PreflightReport(database=about, ready=found.ready, found=found)
    show_json(report) if json else _show(report)
    return ExitStatus.DONE if report.ready else ExitStatus.REFUSED


def _show(report: PreflightReport) -> None:
    found = report.found
    lines: list[tuple[str, str | Text]] = [*report.database.lines()]
    nothing = "nothing to do" if found.ready else "not known, see BLOCKS"
    lines.append((found.direction, ", ".join(found.steps) or nothing))
    on_sqlite = report.database.engine == "sqlite"
    lines += [
        ("copies" if on_sqlite else "writes", _written(each, on_sqlite)) for each in found.writes
    ]
    if found.depth:
        lines.append(("depth", f"{found.depth} plans, in a sample"))
    if found.indexes:
        lines.append(("indexes", f"{len(found.indexes)} to build: {', '.join(found.indexes)}"))
    if found.estimate is not None:
        times = [clock(each) for each in (found.estimate.least, found.estimate.most)]
        about = f"about {clock(found.estimate.seconds)}, {' to '.join(times)}"
        lines.append(("time", f"{about}, if the load stays as it is now"))
    if found.disk is not None:
        lines.append(("disk", _disk(found.disk, on_sqlite)))
    for lock in found.locks:
        much = "for the whole run" if on_sqlite else "milliseconds each"
        lines.append(("locks", f"{lock.times} x {lock.name} on {lock.on}, {much}"))
    for replica in found.replicas:
        behind = "hidden" if replica.bytes_behind is None else _megabytes(replica.bytes_behind)
        seconds = "" if replica.seconds_behind is None else f", {replica.seconds_behind:.1f} s"
        state = replica.state or "state hidden"
        lines.append(("replica", f"{replica.name}, {state}, behind by {behind}{seconds}"))
    for slot in found.slots:
        active = "active" if slot.active else "inactive"
        kept = "" if slot.bytes_kept is None else f", keeps {_megabytes(slot.bytes_kept)} of WAL"
        lines.append(("slot", f"{slot.name}, {slot.kind}, {active}{kept}"))
    lines += _several("ok", [", ".join(found.passed)] if found.passed else [], "green")
    lines += _several("unchecked", found.unchecked, "yellow")
    lines += _several("warns", found.warnings, "yellow")
    for block in found.blocks:
        lines.append(("BLOCKS", styled(block.found, "bold red")))
        if block.remedy:
            lines.append(("", block.remedy))
    show(facts(lines), "", _verdict(report))


def _several(name: str, said: Iterable[str], style: str) -> Iterable[tuple[str, str | Text]]:
    return [(name, styled(each, style)) for each in said]


def _written(write: Write, on_sqlite: bool) -> str:
    if write.rows is None:
        return f"{write.label}: not known before the run"
    rows = f"{write.rows:,} of {write.of:,} rows of {write.table}"
    if on_sqlite:  # where a table is copied to be changed
        rows = f"{counted(write.of, 'row')} of {write.table}, changes {write.rows:,} of them"
    columns = ", ".join(f"{rows:,} {column}" for column, rows in write.columns.items() if rows)
    return rows + (columns and f": {columns}")


def _disk(disk: Disk, on_sqlite: bool) -> str:
    if on_sqlite:
        said = f"the file grows by {_megabytes(disk.least)}; the run needs {_megabytes(disk.most)}"
    else:
        said = f"the tables grow by {_megabytes(disk.least)} to {_megabytes(disk.most)}"
    if disk.wal is not None:
        said += f", WAL about {_megabytes(disk.wal)}"
    if disk.free is not None:
        said += f", {_megabytes(disk.free)} are free"
    return said


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def _verdict(report: PreflightReport) -> Text:
    blocks = len(report.found.blocks)
    if report.ready:
        return styled("ready" if report.found.steps else "ready, nothing to do", "bold green")
    return styled(f"not ready, {counted(blocks, 'block')}, exit status 1", "bold red")
