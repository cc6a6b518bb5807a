"""The program: its commands, and what becomes of what they raise."""

from __future__ import annotations

from collections.abc import Sequence

import click
from alembic.util import CommandError

from cleveragents_plans import __version__
from cleveragents_plans.cli import migrate
from cleveragents_plans.cli.fleet import run_fleet
from cleveragents_plans.cli.history import history_command
from cleveragents_plans.cli.options import refuse_bytes, refuse_repeated
from cleveragents_plans.cli.plans import plans_command
from cleveragents_plans.cli.preflight import preflight_command
from cleveragents_plans.cli.profiles import profiles_command
from cleveragents_plans.cli.show import show_command
from cleveragents_plans.cli.spec import spec_command
from cleveragents_plans.cli.status import status_command
from cleveragents_plans.cli.statuses import ExitStatus, status_of
from cleveragents_plans.cli.throttle import throttle_command
from cleveragents_plans.cli.tree import tree_command
from cleveragents_plans.cli.verify import verify_command
from cleveragents_plans.domain.errors import PlansError
from cleveragents_plans.evolution.log_format import is_plain, log_format_restored
from cleveragents_plans.evolution.reporting import tell
from cleveragents_plans.evolution.runner.standard_streams import standard_output

NAME = "cleveragents-plans"
_EPILOG = """\
The result is written to standard output, everything else to standard error. Exit statuses:
0 done, 1 refused, 2 usage, 3 behind or findings, 4 between two revisions, 69 unreachable,
75 run it again, 128 + the number of a signal.
"""


@click.group(NAME, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def program() -> None:
    """Migrate the database in which plans are kept, and look into it."""


for _command in (
    migrate.upgrade,
    migrate.downgrade,
    migrate.stamp,
    migrate.current,
    status_command,
    history_command,
    preflight_command,
    throttle_command,
    verify_command,
    plans_command,
    show_command,
    tree_command,
    profiles_command,
    spec_command,
):
    refuse_bytes(_command)
    refuse_repeated(_command)
    program.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """
    Run the program; give its exit status.

    Raises:
        SystemExit: A signal arrived.
    """
    with log_format_restored():
        return _run(None if arguments is None else list(arguments))


def _run(given: list[str] | None) -> int:
    try:
        with standard_output():
            # Otherwise click prints errors and ends the process by itself.
            status = program.main(given, prog_name=NAME, standalone_mode=False, obj=run_fleet)
    except click.ClickException as error:
        *lines, last = _usage(error).splitlines()
        for line in lines:
            tell(line)
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            tell(last)
        else:
            tell(_error_line(last), level="error", event="error")
        return ExitStatus.USAGE
    except (CommandError, PlansError) as error:
        tell(_error_line(error), level="error", event="error")
        return status_of(error)
    except MemoryError:
        line = "this process ran out of memory; give it more, and run the same command again"
        tell(_error_line(line), level="error", event="error")
        return ExitStatus.REFUSED
    except (KeyboardInterrupt, click.Abort):  # how to go on has been said
        return ExitStatus.INTERRUPTED
    return int(status or ExitStatus.DONE)


def _error_line(error: Exception | str) -> str:
    """Write *error* as a line; an event has its level besides."""
    return f"error: {error}" if is_plain() else str(error)


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message()
    said = " ".join(error.format_message().split())
    if context is None:
        return said
    return f"{context.get_usage()}\n{said} (see {context.command_path} -h)"
