"""
The entry point: it runs a command, and turns what it raises into one line and an exit status.

What the command line itself needs (click, rich) is an extra of the package, so that an
application that only uses the library does not install it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cleveragents_plans.evolution.reporting import tell
from cleveragents_plans.evolution.runner.interruption import end_soon
from cleveragents_plans.evolution.runner.standard_streams import have_standard_streams

_EXTRA = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        arguments: What is typed after the program's name; by default that of this process.

    Returns:
        The exit status, see `cleveragents_plans.cli.statuses.ExitStatus`.

    Raises:
        SystemExit: A signal arrived; the code is 128 + its number.
    """
    have_standard_streams()
    end_soon()
    try:
        from cleveragents_plans.cli.program import run
    except ModuleNotFoundError as missing:
        if missing.name not in _EXTRA:
            raise
        tell(
            f"error: the module {missing.name!r} of the command line is not installed; "
            "run: pip install 'cleveragents-plans[cli]'"
        )
        return 1
    return run(arguments)
