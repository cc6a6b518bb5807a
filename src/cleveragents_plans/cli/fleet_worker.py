"""
A process that runs commands of the program one after the other, for `cleveragents_plans.cli.jobs`.

Each line of standard input is the arguments of one, as JSON. Lines of standard output are JSON
as well: what the command wrote to standard error, a line at a time, and at last its exit status
with its result. Python takes a second to import all this, a small database less to be upgraded.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

from cleveragents_plans.cli.program import run
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.runner.standard_streams import have_standard_streams


class _Events:
    """What a command writes to as standard error: each line of it becomes an event."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._begun = ""

    def write(self, text: str) -> None:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.send({"line": line})

    def flush(self) -> None:
        """Do nothing: a line is sent when it is whole."""

    def send(self, event: dict[str, Any]) -> None:
        """
        Write *event*, past any buffer.

        Raises:
            OSError: The parent is gone.
        """
        data = (json.dumps(event) + "\n").encode()
        while data:
            data = data[os.write(self._file, data) :]


def main() -> None:
    """Run what is asked for until there is no more, the parent is gone, or a signal arrives."""
    have_standard_streams()
    file = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # of whatever a library prints
    for line in sys.stdin:
        output, events = StringIO(), _Events(file)
        with redirect_stdout(output), redirect_stderr(events):  # type: ignore[type-var]  # just writes
            status = _run(json.loads(line))
        try:
            events.send({"status": status, "output": output.getvalue()})
        except OSError:
            return
        if status > 128:
            return


def _run(arguments: list[str]) -> int:
    try:
        # The parent writes the events of all, in the format that was asked for.
        return run([arguments[0], "--log", "plain", *arguments[1:]])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ExitStatus.REFUSED
    except Exception as error:  # of one database, and the others are to go on
        name = type(error).__name__
        print(f"error: {name}: {' '.join(str(error).split())}"[:1000], file=sys.stderr)
        return ExitStatus.REFUSED


if __name__ == "__main__":
    main()
