"""
The migration chain of an installed package, without a checkout.

``cleveragents-plans upgrade`` is ``alembic upgrade head`` pointed at the chain that
travels in the wheel.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from alembic import command
from alembic.util import CommandError

from cleveragents_plans import __version__
from cleveragents_plans.evolution.reporting import tell
from cleveragents_plans.evolution.runner.standard_streams import have_standard_streams
from cleveragents_plans.schema import chain_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    have_standard_streams()
    given = _parser().parse_args(arguments)
    try:
        level = logging.WARNING if given.quiet else logging.INFO
        config = chain_config(given.url, extra=given.x, level=level)
        if given.command == "upgrade":
            command.upgrade(config, given.revision, sql=given.sql)
        elif given.command == "downgrade":
            command.downgrade(config, given.revision, sql=given.sql)
        elif given.command == "stamp":
            command.stamp(config, given.revision, purge=given.purge)
        else:
            command.current(config, check_heads=given.check_heads)
    except CommandError as error:
        tell(f"error: {error}")
        return 1
    except KeyboardInterrupt:  # how to go on has been said
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--url", help="the database (default: DATABASE_URL, else sqlite:///plans.db)"
    )
    shared.add_argument(
        "-x", action="append", default=[], metavar="NAME=VALUE", help="as `alembic -x`"
    )
    shared.add_argument(
        "-q", "--quiet", action="store_true", help="print the result and warnings only"
    )
    parser = argparse.ArgumentParser(
        prog="cleveragents-plans", description="Migrate the database in which plans are kept."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    upgrade = commands.add_parser("upgrade", parents=[shared], help="upgrade the schema")
    upgrade.add_argument("revision", nargs="?", default="head", help="default: head")
    downgrade = commands.add_parser("downgrade", parents=[shared], help="downgrade the schema")
    downgrade.add_argument("revision", help="as m4_003_plan_env_columns, or base")
    for migrating in (upgrade, downgrade):
        migrating.add_argument(
            "--sql",
            action="store_true",
            help="print the SQL instead of running it (PostgreSQL only)",
        )
    stamp = commands.add_parser(
        "stamp", parents=[shared], help="set the version without running a revision"
    )
    stamp.add_argument("revision", nargs="+", help="as m4_003_plan_env_columns, head or base")
    stamp.add_argument(
        "--purge", action="store_true", help="first delete whatever the version table holds"
    )
    current = commands.add_parser("current", parents=[shared], help="show the current revision")
    current.add_argument(
        "--check-heads", action="store_true", help="fail unless that is the newest, and whole"
    )
    return parser
