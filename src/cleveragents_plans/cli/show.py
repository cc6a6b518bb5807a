"""``show``: one plan, or, where its row cannot be read, the row."""

from __future__ import annotations

from json import dumps
from typing import Any, Literal

import click
from pydantic import Field
from sqlalchemy import text

from cleveragents_plans.cli.options import config_of, database_options, json_option
from cleveragents_plans.cli.output import facts, show, show_json, styled
from cleveragents_plans.cli.plans import require_plans
from cleveragents_plans.cli.reports import DatabaseFacts, Part, Report
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.domain import PlanView, SnapshotUnreadable
from cleveragents_plans.evolution.runner.command_line import typed
from cleveragents_plans.persistence import CorruptPlanRow, PlanNotFound
from cleveragents_plans.persistence.queries import plan_in
from cleveragents_plans.persistence.sessions import PLANS
from cleveragents_plans.schema.database import Database, read_database
from cleveragents_plans.verification.findings import exact_text
from cleveragents_plans.verification.rows import CHILD_TABLES, can_be_read, plan_rows

_Value = str | int | float | None


class RowsOfTable(Part):
    """Rows of a table, as they are stored."""

    table: str = Field(description="The table.")
    rows: tuple[dict[str, _Value], ...] = Field(
        description="The rows, by column; what is no text or number is escaped."
    )


class ShowReport(Report):
    """What ``show`` found."""

    command: Literal["show"] = Field(default="show", description="The command.")
    plan: PlanView | None = Field(description="The plan; null where its row cannot be read.")
    problem: str | None = Field(description="Why it cannot be read, or its snapshot; null if not.")
    stored: tuple[RowsOfTable, ...] = Field(description="Its rows, as they are stored.")


@click.command("show")
@click.argument("plan_id", metavar="ID")
@click.option("--raw", is_flag=True, help="Show its rows as they are stored.")
@json_option
@database_options
def show_command(plan_id: str, raw: bool, json: bool, **given: Any) -> ExitStatus:
    """
    Show the plan ID, at any revision.

    Where its row cannot be read, it says why and shows the row; the exit status is 3.
    """
    with read_database(config_of(given), "show") as database:
        require_plans(database)
        stored = _stored(database, plan_id)
        plan, problem = _read(database, str(stored[0].rows[0]["plan_id"]))
        about = DatabaseFacts.of(database)
    report = ShowReport(database=about, plan=plan, problem=problem, stored=stored)
    show_json(report) if json else _show(report, raw)
    return ExitStatus.FOUND if problem else ExitStatus.DONE


def _stored(database: Database, plan_id: str) -> tuple[RowsOfTable, ...]:
    found: list[RowsOfTable] = []
    of = "plan_id IN (:plan_id, :upper)"
    named = {"plan_id": plan_id, "upper": plan_id.upper()}
    for table in (PLANS.name, *CHILD_TABLES):
        if table not in database.position.tables:
            continue
        order = "plan_id" if table == PLANS.name else "position"
        query = text(f"SELECT * FROM {database.table_in_text(table)} WHERE {of} ORDER BY {order}")
        rows = database.connection.execute(query, named).mappings().all()
        if table == PLANS.name and not rows:
            raise PlanNotFound(plan_id)
        found.append(
            RowsOfTable(
                table=table,
                rows=tuple({name: _value(each) for name, each in row.items()} for row in rows),
            )
        )
    return tuple(found)


def _value(value: Any) -> _Value:
    return value if value is None or isinstance(value, int | float) else exact_text(value)


def _read(database: Database, plan_id: str) -> tuple[PlanView | None, str | None]:
    if not can_be_read(database):
        return None, f"the table lacks columns of a plan; run {typed(database.config, 'verify')}"
    for row in [*plan_rows(database, PLANS.c.plan_id == plan_id)]:
        try:
            plan = plan_in(row)
            plan.effective_profile  # noqa: B018  raises if the snapshot is unreadable
        except CorruptPlanRow as corrupt:
            return None, str(corrupt)
        except SnapshotUnreadable as unreadable:
            return PlanView.of(plan), str(unreadable)
        return PlanView.of(plan), None
    return None, "its id is no text"


def _show(report: ShowReport, raw: bool) -> None:
    if report.problem:
        show(styled(report.problem, "bold red"), "")
    if report.plan is not None and not raw:
        show(facts(_lines(report.plan), whole=True))
        return
    for table in report.stored:
        for row in table.rows:
            show(styled(table.table, "bold"))
            said = (
                (name, "NULL" if value is None else _one_line(value)) for name, value in row.items()
            )
            show(facts(said, whole=True), "")


def _lines(plan: PlanView) -> list[tuple[str, str]]:
    written = plan.model_dump(mode="json", exclude={"identity", "profile"})
    below = {
        "project_links": [
            link.project_name + (f" as {link.alias}" if link.alias else "")
            for link in plan.project_links
        ],
        "invariants": [f"{each.text} ({each.source.value})" for each in plan.invariants],
        "arguments": [f"{name} = {value}" for name, value in plan.arguments.texts()],
    }
    lines = []
    for name, value in {"plan_id": plan.plan_id, **written, **below}.items():
        if isinstance(value, list):
            lines += [
                (name if not place else "", _one_line(each)) for place, each in enumerate(value)
            ]
        elif value not in (None, "", {}):
            lines.append((name, _one_line(value)))
    return lines


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else dumps(value, ensure_ascii=False)
    return text if text.isprintable() else repr(text)
