"""``spec``: the specified table, the one that is there, and the errata between them."""

from __future__ import annotations

from typing import Any, Literal

import click
from pydantic import Field

from cleveragents_plans.cli.options import config_of, database_options, json_option
from cleveragents_plans.cli.output import counted, facts, show, show_json, styled, table
from cleveragents_plans.cli.plans import require_plans
from cleveragents_plans.cli.reports import DatabaseFacts, Output, Part
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.runner.target import find_target
from cleveragents_plans.schema import specification
from cleveragents_plans.schema.chain import APPLICATION
from cleveragents_plans.schema.database import read_database


class SpecDifference(Part):
    """Something in which the table differs from the specified one."""

    what: str = Field(description="What differs: table, name, column, type, null, default, …")
    of: str = Field(description="Of which column or constraint, by its specified name if any.")
    specified: str = Field(description="What is specified.")
    found: str = Field(description="What is there.")
    since: str | None = Field(description="The revision since when it is meant; null if it is not.")
    why: str | None = Field(description="The erratum that explains it; null if none does.")


class SpecColumn(Part):
    """A column, as it is specified and as it is there."""

    specified_name: str | None = Field(description="Its specified name; null if it has none.")
    name: str | None = Field(description="Its name in the table; null if it is not there.")
    specified: str | None = Field(description="What is specified.")
    found: str | None = Field(description="What is there.")


class SpecReport(Output):
    """The specification against a schema."""

    command: Literal["spec"] = Field(default="spec", description="The command.")
    database: DatabaseFacts | None = Field(
        description="The database; null where the models of this release were looked at."
    )
    columns: tuple[SpecColumn, ...] = Field(description="Each column of either.")
    differences: tuple[SpecDifference, ...] = Field(description="In what they differ.")


@click.command("spec")
@json_option
@database_options
def spec_command(json: bool, **given: Any) -> ExitStatus:
    """
    Compare the table of plans with its specification, and say why it differs.

    Without --url and DATABASE_URL it is the table of this release's models. Exit status 3 means
    that a difference is on no list of errata.
    """
    config = config_of(given)
    if find_target(config, APPLICATION).is_default:
        about, here = None, specification.table_of_models()
    else:
        with read_database(config, "spec") as database:
            require_plans(database)
            here = specification.table(database.connection, specification.TABLE, database.schema)
            about = DatabaseFacts.of(database)
    report = _compare(about, here)
    show_json(report) if json else _show(report)
    unexplained = any(each.why is None for each in report.differences)
    return ExitStatus.FOUND if unexplained else ExitStatus.DONE


def _compare(about: DatabaseFacts | None, here: specification.Table) -> SpecReport:
    specified = specification.specified_table()
    ours = {
        name: name if name in here.columns else specification.renamed().get(name, name)
        for name in specified.columns
    }
    columns = [
        _column(name, ours[name], specified.columns[name], here.columns.get(ours[name]))
        for name in specified.columns
    ]
    columns += [
        _column(None, name, None, found)
        for name, found in here.columns.items()
        if name not in ours.values()
    ]
    errata = specification.errata()
    found = [
        SpecDifference(
            what=each.what,
            of=each.of,
            specified=each.specified,
            found=each.here,
            since=errata[each].since if each in errata else None,
            why=errata[each].why if each in errata else None,
        )
        for each in sorted(specification.differences(specified, here))
    ]
    return SpecReport(database=about, columns=tuple(columns), differences=tuple(found))


def _column(
    specified_name: str | None,
    name: str,
    specified: dict[str, str] | None,
    found: dict[str, str] | None,
) -> SpecColumn:
    return SpecColumn(
        specified_name=specified_name,
        name=name if found else None,
        specified=specified and _words(specified),
        found=found and _words(found),
    )


def _words(column: dict[str, str]) -> str:
    """Write what is known of a column as DDL has it."""
    words = [column["type"]]
    words += ["NOT NULL"] if column["null"] == "NOT NULL" else []
    words += [f"DEFAULT {column['default']}"] if column["default"] != "none" else []
    words += ["PRIMARY KEY"] if column["primary key"] != "none" else []
    words += [f"REFERENCES {column['reference']}"] if column["reference"] != "none" else []
    return " ".join(words)


def _show(report: SpecReport) -> None:
    lines = report.database.lines() if report.database else [("models", "those of this release")]
    show(facts(lines), "")
    rows = [
        (
            each.specified_name or "",
            styled(each.name or "absent", "" if each.name else "bold red"),
            each.specified or "",
            each.found or "",
        )
        for each in report.columns
    ]
    show(table(["specified", "here", "as specified", "as it is"], rows), "")
    for each in report.differences:
        what = styled(f"{each.what} {each.of}: ", "bold")
        show(what.append_text(styled(f"{each.specified} -> {each.found}")))
        style = "dim" if each.why else "bold red"
        show(styled(f"  {each.why or 'on no list of errata'}", style))
    odd = sum(each.why is None for each in report.differences)
    verdict = f"{counted(len(report.differences), 'difference')}, {odd or 'none'} unexplained"
    show("", styled(verdict, "bold red" if odd else "bold green"))
