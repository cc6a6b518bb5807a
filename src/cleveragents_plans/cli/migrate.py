"""``upgrade``, ``downgrade``, ``stamp`` and ``current``: Alembic's commands, for this chain."""

from __future__ import annotations

import re
from typing import Any

import click
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from cleveragents_plans.cli.options import (
    config_of,
    create_option,
    database_options,
    fleet_options,
    for_each_database,
    json_option,
    run_options,
)
from cleveragents_plans.cli.output import show_json
from cleveragents_plans.cli.reports import RunReport
from cleveragents_plans.domain.errors import shown


class _RelativeRevision(click.Command):
    """A command that takes ``-1`` as a revision, as Alembic does, and not as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        relative = [each for each in args if re.fullmatch(r"-\d+", each)]
        if relative and "--" not in args:
            others = [each for each in args if each not in relative]
            args = [*others, "--", *relative]
        return super().parse_args(ctx, args)


_SQL = click.option(
    "--sql", is_flag=True, help="Print the SQL instead of running it (PostgreSQL only)."
)


@click.command()
@click.argument("revision", default="head")
@_SQL
@create_option
@json_option
@fleet_options
@run_options("allow-second-schema")
@for_each_database
def upgrade(revision: str, sql: bool, json: bool, **given: Any) -> None:
    """
    Upgrade the schema to REVISION (default: head).

    A SQLite file that does not exist is created only with --create; the default, plans.db in the
    current folder, is created without it. A PostgreSQL database is never created.
    """
    config = _config(revision, sql, json, given)
    command.upgrade(config, revision, sql=sql)
    if json:
        show_json(RunReport.of("upgrade", config.attributes["figures"]))


@click.command(cls=_RelativeRevision)
@click.argument("revision")
@_SQL
@json_option
@fleet_options
@run_options("drop-plans")
@for_each_database
def downgrade(revision: str, sql: bool, json: bool, **given: Any) -> None:
    """
    Downgrade the schema to REVISION, such as m4_003_plan_env_columns, -1 or base.

    A downgrade to base drops the plans; it is refused while there are any, unless --drop-plans is
    given.
    """
    config = _config(revision, sql, json, given)
    command.downgrade(config, revision, sql=sql)
    if json:
        show_json(RunReport.of("downgrade", config.attributes["figures"]))


def _config(revision: str, sql: bool, json: bool, given: dict[str, Any]) -> Config:
    if sql and json:
        raise click.UsageError("give --sql or --json, not both")
    if revision.count(":") > 1:  # which Alembic takes apart at each of them
        raise CommandError(
            f"{shown(revision)} is no revision; expected one, or two with --sql (FROM:TO)"
        )
    return config_of(given)


@click.command()
@click.argument("revisions", metavar="REVISION...", nargs=-1, required=True)
@click.option("--purge", is_flag=True, help="First delete all rows of the version table.")
@database_options
def stamp(revisions: tuple[str, ...], purge: bool, **given: Any) -> None:
    """Store REVISION as the current one, without running any revision."""
    command.stamp(config_of(given), list(revisions), purge=purge)


@click.command()
@click.option(
    "--check-heads",
    is_flag=True,
    help="Fail unless it is the newest revision, and no revision is unfinished.",
)
@database_options
def current(check_heads: bool, **given: Any) -> None:
    """Show the current revision."""
    command.current(config_of(given), check_heads=check_heads)
