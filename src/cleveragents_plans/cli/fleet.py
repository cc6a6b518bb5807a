"""A command for many databases, or for many schemas of one: what came of each."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import click
from alembic.config import Config
from alembic.util import CommandError
from pydantic import Field, TypeAdapter
from sqlalchemy import URL

from cleveragents_plans.cli.jobs import Ended, Job, Jobs
from cleveragents_plans.cli.options import config_of
from cleveragents_plans.cli.output import counted, show, show_json, styled, table
from cleveragents_plans.cli.reports import Output, Part, RunReport
from cleveragents_plans.cli.status import StatusReport
from cleveragents_plans.cli.statuses import ExitStatus, status_of, worst
from cleveragents_plans.cli.verify import VerifyReport
from cleveragents_plans.evolution.reporting import console_logging, log
from cleveragents_plans.evolution.runner.target import Target, find_target
from cleveragents_plans.schema.chain import APPLICATION
from cleveragents_plans.schema.tenants import (
    EXCEPT,
    NoSuchSchemas,
    TenantSchemas,
    find_schemas,
    require_every_pattern,
)

_MemberReport = Annotated[RunReport | StatusReport | VerifyReport, Field(discriminator="command")]
_READ: Final[TypeAdapter[Any]] = TypeAdapter(_MemberReport)


class FleetMember(Part):
    """What came of one database."""

    url: str = Field(description="Its URL, without passwords.")
    schema_name: str | None = Field(description="The schema, if schemas were asked for.")
    status: int | None = Field(
        description="The exit status; null where a signal ended the run before its turn."
    )
    result: str = Field(description="What came of it, in a line.")
    seconds: float | None = Field(description="How long it took.")
    report: _MemberReport | None = Field(
        description="What the command prints for this database alone; null if it was refused."
    )

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.url}, schema {self.schema_name}" if self.schema_name else self.url


class FleetReport(Output):
    """What came of a command for many databases."""

    command: Literal["fleet"] = Field(default="fleet", description="That there are many.")
    of: Literal["upgrade", "downgrade", "status", "verify"] = Field(description="The command.")
    status: int = Field(description="The exit status: that of the worst.")
    members: tuple[FleetMember, ...] = Field(description="The databases, in the order given.")


class _Fleet:
    """The databases that were named, and what is known of each so far."""

    def __init__(self, words: Sequence[str], quiet: bool) -> None:
        self.words = words
        self.quiet = quiet
        #: By name, in the order given.
        self.members: dict[str, FleetMember] = {}
        self.jobs: list[Job] = []

    def add(self, target: Target, schema: str | None) -> None:
        member = _member(target, schema, "not begun")
        self.members[member.name] = member
        chosen = ["--schema", schema] if schema else []
        url = target.url.render_as_string(hide_password=False)
        self.jobs.append(Job(member.name, (*self.words, "--url", url, *chosen)))

    def add_refused(self, target: Target, error: CommandError) -> None:
        member = _member(target, None, str(error), status_of(error))
        self.members[member.name] = member
        self._tell(member)

    def on_line(self, job: Job, line: str) -> None:
        if not line.startswith("error: "):  # which is told when it has ended
            log.warning("%s: %s", job.name, line, extra={"event": "database", "database": job.name})

    def on_end(self, ended: Ended) -> None:
        report = _READ.validate_json(ended.output) if ended.output else None
        result = report.in_a_line() if report else ended.last_line.removeprefix("error: ")
        former = self.members[ended.job.name]
        member = former.model_copy(
            update={
                "status": ended.status,
                "result": result or "interrupted",
                "seconds": round(ended.seconds, 3),
                "report": report,
            }
        )
        self.members[member.name] = member
        self._tell(member)

    def on_silence(self, under_way: Sequence[Job]) -> None:
        names = "; ".join(job.name for job in under_way)
        log.info("%d of %d done; under way: %s", self._done, len(self.members), names)

    @property
    def _done(self) -> int:
        return sum(each.status is not None for each in self.members.values())

    def _tell(self, member: FleetMember) -> None:
        level = logging.WARNING if member.status else logging.INFO
        said = f"{self._done} of {max(len(self.members), self._done)}: {member.name}"
        facts = {"event": "database", "database": member.name, "status": member.status}
        log.log(level, "%s: %s", said, member.result, extra=facts)


def run_fleet(
    context: click.Context,
    urls: Sequence[str],
    patterns: Sequence[str],
    jobs: int,
    given: dict[str, Any],
) -> int:
    """
    Run the command of *context* for each of the databases; give the exit status of the worst.

    Args:
        context: The command, and what was typed.
        urls: The databases; the default if there is none.
        patterns: Which of their schemas, see `find_schemas`; none: that of each.
        jobs: How many at a time.
        given: The options of the command.

    Raises:
        UsageError: The options do not fit many databases, or one is named twice.
        CommandError: No database can be looked for, or a pattern fits no schema.
        SystemExit: A second signal arrived.
    """
    name: Any = context.command.name
    _refuse_unfit_options(given, patterns)
    fleet = _Fleet(_arguments(context), given["quiet"])
    with console_logging(logging.WARNING if given["quiet"] else logging.INFO):
        _find_members(fleet, urls, patterns, given)
        run = Jobs(
            fleet.jobs,
            jobs,
            on_line=fleet.on_line,
            on_end=fleet.on_end,
            on_silence=fleet.on_silence,
        )
        run.run()
        members = tuple(fleet.members.values())
        status = worst(each.status for each in members if each.status is not None)
        if run.signal is not None:
            status = 128 + run.signal
            log.error(
                "interrupted by %s; %d not begun; to go on, run the same command again: it does "
                "what is left to do",
                run.signal.name,
                len(run.not_begun),
            )
    report = FleetReport(of=name, status=status, members=members)
    show_json(report) if given["json"] else _show(report)
    return status


def _refuse_unfit_options(given: dict[str, Any], patterns: Sequence[str]) -> None:
    for option in ("sql", "follow"):
        if given.get(option):
            raise click.UsageError(
                f"--{option} is for one database: give one --url, and no --each-schema"
            )
    names = [each.partition("=")[0].strip() for each in given["x"]]
    if "url" in names:
        raise click.UsageError("name the databases by --url only, and none by -x url=")
    if patterns and (given["schema"] is not None or "schema" in names):
        raise click.UsageError("give --schema or --each-schema, not both")
    for pattern in patterns:
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise click.UsageError(
                f"--each-schema {pattern} ends with a backslash, which stands before a character; "
                "leave it out, or give two of them"
            )
    if patterns and all(pattern.startswith(EXCEPT) for pattern in patterns):
        raise click.UsageError(
            "--each-schema only leaves schemas out here; name those that are meant as well, such "
            "as --each-schema '%'"
        )


def _find_members(
    fleet: _Fleet, urls: Sequence[str], patterns: Sequence[str], given: dict[str, Any]
) -> None:
    """
    Find the databases that were named, each once.

    Raises:
        UsageError: One is named twice.
        NoSuchSchemas: A pattern fits no schema of any of them: it may be misspelt.
        CommandError: A URL cannot be read; or the only one that is named cannot be looked at.
    """
    named: list[str | None] = [*urls] or [None]
    configs = [config_of({**given, "url": url}) for url in named]
    targets = [find_target(config, APPLICATION) for config in configs]
    twice = [key for key, times in Counter(map(_identity, targets)).items() if times > 1]
    for target in targets:
        if _identity(target) in twice:
            raise click.UsageError(f"{target.shown} is named twice; name each database once")
    if not patterns:
        for target in targets:
            fleet.add(target, None)
        return
    looked = [
        (target, _look(config, patterns)) for config, target in zip(configs, targets, strict=True)
    ]
    found = {target.shown: one for target, one in looked if isinstance(one, TenantSchemas)}
    if found:
        require_every_pattern(patterns, found)
    for target, one in looked:
        if isinstance(one, TenantSchemas) and one.chosen:
            for schema in one.chosen:
                fleet.add(target, schema)
            continue
        refused = (
            one
            if isinstance(one, CommandError)
            else NoSuchSchemas(target.shown, patterns, [*one.patterns])
        )
        if len(targets) == 1:
            raise refused
        fleet.add_refused(target, refused)


def _look(config: Config, patterns: Sequence[str]) -> TenantSchemas | CommandError:
    try:
        return find_schemas(config, patterns)
    except CommandError as error:
        return error


def _identity(target: Target) -> Any:
    url: URL = target.url
    if target.is_sqlite:
        return os.path.realpath(target.file) if target.file else url
    place = {name: url.query.get(name) for name in ("host", "port")}
    port = str(url.port or place["port"] or 5432)
    return url.host or place["host"], port, url.database


# What is not passed on to the processes.
_OF_THE_FLEET = ("url", "each_schema", "jobs", "json", "quiet")


def _arguments(context: click.Context) -> tuple[str, ...]:
    """Write what was typed for the command, but for the databases."""
    options: list[str] = []
    operands: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in _OF_THE_FLEET or value is None or value is False:
            continue
        values = [str(each) for each in (value if isinstance(value, tuple) else [value])]
        if isinstance(parameter, click.Argument):
            operands += values
        elif value is True:
            options.append(parameter.opts[0])
        else:
            options += [word for each in values for word in (parameter.opts[0], each)]
    command = context.command.name or ""
    # Operands first: those such as -1 are no options.
    return (command, *operands, *options, "--json", "--quiet")


def _member(
    target: Target, schema: str | None, result: str, status: int | None = None
) -> FleetMember:
    return FleetMember(
        url=target.shown,
        schema_name=schema,
        status=status,
        result=result,
        seconds=None,
        report=None,
    )


_STYLES: dict[int | None, str] = {None: "dim", ExitStatus.DONE: "green", ExitStatus.FOUND: "yellow"}


def _show(report: FleetReport) -> None:
    members = report.members
    urls = {member.url for member in members}
    one = len(urls) == 1
    rows = [
        (
            (member.schema_name if one else member.name) or member.name,
            styled("" if member.status is None else str(member.status), _style(member)),
            member.result,
        )
        for member in members
    ]
    show(table(["schema" if one else "database", "exit", report.of], rows), "")
    failed = sum(bool(member.status) for member in members)
    left = sum(member.status is None for member in members)
    counts = [f"{counted(len(members), 'schema' if one else 'database')}"]
    counts += [f"{failed:,} with a status other than 0"] if failed else []
    counts += [f"{left:,} not begun"] if left else []
    show(styled(", ".join(counts), "bold red" if failed or left else "bold green"))


def _style(member: FleetMember) -> str:
    return _STYLES.get(member.status, "bold red")
