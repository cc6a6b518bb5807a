"""``plans``: a listing, with the filters of the repository, and what it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Self

import click
from pydantic import Field
from sqlalchemy import ColumnElement, RowMapping, select
from sqlalchemy.orm import Session

from cleveragents_plans.cli.options import PLAN_COUNT, config_of, database_options, json_option
from cleveragents_plans.cli.output import counted, show, show_json, styled, table
from cleveragents_plans.cli.reports import DatabaseFacts, Part, Report
from cleveragents_plans.domain.errors import InvalidValue, shown
from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.runner.command_line import typed
from cleveragents_plans.persistence.columns import parsed_time
from cleveragents_plans.persistence.filters import conditions
from cleveragents_plans.persistence.pages import beyond, cursor_of
from cleveragents_plans.persistence.sessions import PLANS
from cleveragents_plans.persistence.summaries import count_by
from cleveragents_plans.schema.database import Database, read_database
from cleveragents_plans.verification.findings import exact_text

_COLUMNS = (
    "plan_id",
    "parent_plan_id",
    "root_plan_id",
    "namespaced_name",
    "action_name",
    "phase",
    "processing_state",
    "created_by",
    "created_at",
    "updated_at",
)
# How a state looks on a terminal.
_STYLES = {
    "processing": "cyan",
    "complete": "green",
    "applied": "green",
    "errored": "red",
    "constrained": "yellow",
    "cancelled": "dim",
}


class PlanLine(Part):
    """What a listing says of a plan, as its row has it, whether it can be read or not."""

    plan_id: str = Field(description="The id.")
    parent_plan_id: str | None = Field(description="The parent.")
    root_plan_id: str | None = Field(description="The root; null before it was filled in.")
    namespaced_name: str | None = Field(description="The name.")
    action_name: str | None = Field(description="The action.")
    phase: str | None = Field(description="The phase.")
    processing_state: str | None = Field(description="The state in the phase.")
    created_by: str | None = Field(description="The author.")
    created_at: str | None = Field(description="When it was created.")
    updated_at: str | None = Field(description="When it was last written.")

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """Say it of *row*."""
        return cls(**{name: _exact(row[name]) for name in _COLUMNS})

    @property
    def called(self) -> str:
        """The name, or else the action."""
        return self.namespaced_name or self.action_name or ""

    @property
    def style(self) -> str:
        """How its state looks on a terminal."""
        return _STYLES.get(self.processing_state or "", "")


class StateCount(Part):
    """How many plans are in a phase and a state."""

    phase: str | None = Field(description="The phase.")
    processing_state: str | None = Field(description="The state.")
    plans: int = Field(description="How many.")


class PlansReport(Report):
    """What ``plans`` found."""

    command: Literal["plans"] = Field(default="plans", description="The command.")
    total: int = Field(description="How many plans pass the filters.")
    counts: tuple[StateCount, ...] = Field(description="The same, by phase and state.")
    plans: tuple[PlanLine, ...] = Field(description="A page of them, in the order of their ids.")
    next_cursor: str | None = Field(
        description="What --after takes for the next page; null on the last one."
    )


_TEXT_FILTERS = {
    "phase": "In this phase: action, strategize, execute, apply.",
    "processing-state": "In this state: queued, processing, complete, errored, ...",
    "namespace": "In this namespace.",
    "action": "Of this action.",
    "project": "That work on this project.",
    "parent": "Whose parent has this id.",
    "root": "Whose root has this id.",
    "created-by": "Of this author.",
    "tag": "With this tag.",
}
_TIME_FILTERS = {
    f"{event}-{edge}": f"{said} {when}."
    for event, said in (("created", "Created"), ("updated", "Written"), ("completed", "Completed"))
    for edge, when in (("from", "at this time or later"), ("before", "before this time"))
}


def _filters(function: Any) -> Any:
    for name, said in reversed(_TIME_FILTERS.items()):
        function = click.option(f"--{name}", metavar="TIME", help=said)(function)
    final = click.option("--final/--open", "is_final", default=None, help="Ended, or not.")
    function = final(function)
    for name, said in reversed(_TEXT_FILTERS.items()):
        option = click.option(f"--{name}", multiple=True, metavar="VALUE", help=said)
        function = option(function)
    return function


@click.command("plans")
@_filters
@click.option(
    "--order",
    type=click.Choice(["oldest", "newest"]),
    default="oldest",
    show_default=True,
    help="Which plans come first, by their ids.",
)
@click.option(
    "--limit",
    type=PLAN_COUNT,
    default=50,
    show_default=True,
    metavar="N",
    help="Number of plans that are shown at most.",
)
@click.option(
    "--after", metavar="CURSOR", help="Show the next page; the one before printed its CURSOR."
)
@json_option
@database_options
def plans_command(
    order: Literal["oldest", "newest"], limit: int, after: str | None, json: bool, **given: Any
) -> None:
    """
    List plans, and count them, at any revision.

    A filter may be given several times: a plan matches if one of the values does. Times are
    written like 2026-03-14T12:00:00Z. Rows that cannot be read as a plan are listed, too.
    """  # fmt: skip
    with read_database(config_of(given), "plans") as database:
        require_plans(database)
        session = Session(database.connection)
        wanted = conditions(database.on_postgresql, _given_filters(given))
        with database.heartbeat("counting plans"):
            counts = count_by(session, ["phase", "processing_state"], wanted)
        page = [*wanted, beyond(session, after, order)] if after is not None else wanted
        rows = listed_rows(database, page, limit + 1, newest=order == "newest")
        about = DatabaseFacts.of(database)
    more = len(rows) > limit
    report = PlansReport(
        database=about,
        total=sum(counts.values()),
        counts=tuple(
            StateCount(phase=_exact(phase), processing_state=_exact(state), plans=number)
            for (phase, state), number in counts.items()
        ),
        plans=tuple(map(PlanLine.of, rows[:limit])),
        next_cursor=cursor_of(rows[limit - 1]["plan_id"], order) if more else None,
    )
    show_json(report) if json else _show(report)


def require_plans(database: Database) -> None:
    """
    Refuse a database that has no plans; lock its tables to be read.

    Raises:
        EvolutionError: The table is not there, or lacks columns of the first revision.
    """
    database.lock_tables()
    missing = {*_COLUMNS} - database.columns(PLANS.name)
    if missing:
        raise EvolutionError(
            f"{database.shown} has no table of plans; run {typed(database.config, 'status')} to "
            "see what it has"
            if PLANS.name not in database.position.tables
            else f"the table of plans lacks {', '.join(sorted(missing))}; run "
            f"{typed(database.config, 'verify')} to see what mends it"
        )


def listed_rows(
    database: Database, wanted: list[ColumnElement[bool]], limit: int, *, newest: bool = False
) -> Sequence[RowMapping]:
    """Read what a `PlanLine` says of the plans that are *wanted*, in the order of their ids."""
    by_id = PLANS.c.plan_id.desc() if newest else PLANS.c.plan_id
    query = select(*(PLANS.c[name] for name in _COLUMNS)).where(*wanted).order_by(by_id)
    return database.connection.execute(query.limit(limit)).mappings().all()


def _exact(value: Any) -> str | None:
    return None if value is None else exact_text(getattr(value, "value", value))


def _given_filters(given: dict[str, Any]) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    for option in _TEXT_FILTERS:
        name = option.replace("-", "_")
        if given[name]:
            filters[name] = list(given[name])
    for option in _TIME_FILTERS:
        name = option.replace("-", "_")
        if given[name] is not None:
            filters[name] = parsed_time(given[name])
            if filters[name] is None:
                raise InvalidValue(option, shown(given[name]), "a time like 2026-03-14T12:00:00Z")
    if given["is_final"] is not None:
        filters["is_final"] = given["is_final"]
    return filters


def _show(report: PlansReport) -> None:
    if report.plans:
        rows = [
            (
                styled(plan.plan_id, "bold"),
                plan.called,
                styled(f"{plan.phase}/{plan.processing_state}", plan.style),
                (plan.updated_at or "")[:16].replace("T", " "),
            )
            for plan in report.plans
        ]
        names = ["plan", "name or action", "state", "written (UTC)"]
        show(table(names, rows, shortened="name or action"), "")
    if report.next_cursor:
        show(styled(f"more: --after {report.next_cursor}", "dim", limit=None))
    by_state: Counter[str | None] = Counter()
    for each in report.counts:
        by_state[each.processing_state] += each.plans
    states = ", ".join(f"{number:,} {state}" for state, number in sorted(by_state.items(), key=str))
    show(styled(f"{counted(report.total, 'plan')}{': ' if states else ''}{states}"))
