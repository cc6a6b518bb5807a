"""What an operator types, and what they read."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from robot.api import logger
from robot.api.deco import keyword, library
from sqlalchemy import make_url

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent


@library(scope="TEST")
class OperatorLibrary:
    """The commands of one test, run as an operator runs them."""

    def __init__(self) -> None:
        self._outputs: list[tuple[int, str, str]] = []

    @keyword
    def run_command(self, command: str, url: str | None = None) -> None:
        """Run *command* in the checkout, with DATABASE_URL naming *url*."""
        self._run([command], url, ROOT)

    @keyword
    def run_together(self, command: str, url: str, processes: int) -> None:
        """Run *command* in so many *processes* at once, as pods that start together do."""
        self._run([command] * processes, url, ROOT)

    @keyword
    def run_with_either_command(self, arguments: str, url: str) -> None:
        """Run `alembic` and `cleveragents-plans`, both with *arguments*, at the same time."""
        self._run([f"{name} {arguments}" for name in ("alembic", "cleveragents-plans")], url, ROOT)

    @keyword
    def run_elsewhere(self, command: str) -> None:
        """Run *command* in an empty folder that is no checkout, without a DATABASE_URL."""
        with TemporaryDirectory() as folder:
            self._run([command], None, Path(folder))

    @keyword
    def run_at_once(self, url: str, *commands: str) -> None:
        """Run the *commands* at the same time, with DATABASE_URL naming *url*."""
        self._run(list(commands), url, ROOT)

    @keyword
    def run_from_page(
        self, page: str, heading: str, block: int, folder: str, programs: str, url: str
    ) -> None:
        """
        Run the commands that *page* of docs/ shows under *heading*, in its *block* of that number.

        They run in *folder*, with DATABASE_URL naming *url*, RESTORED_URL the database
        `plans_restored` beside it, and the *programs* of the server in the path.
        """
        text = (ROOT / "docs" / page).read_text()
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        shown = re.findall(r"^ *```sh\n(.*?)^ *```", section, re.DOTALL | re.MULTILINE)
        path = os.pathsep.join(filter(None, [str(SCRIPTS), programs, os.environ["PATH"]]))
        named = {
            "DATABASE_URL": libpq_url(url),
            "PATH": path,
            "RESTORED_URL": libpq_url(url, "plans_restored"),
        }
        script = textwrap.dedent(shown[block - 1])
        self._start([["bash", "-euo", "pipefail", "-c", script]], named, Path(folder))

    @keyword
    def restored_url(self, url: str) -> str:
        """Name the database that the page on restoring makes beside *url*."""
        return libpq_url(url, "plans_restored")

    @keyword
    def kill_upgrade(self, url: str, point: str) -> None:
        """Run `alembic upgrade head`, and kill it before the first statement that has *point*."""
        victim = [sys.executable, "-m", "support.victim", "--die-at", point]
        named = {"DATABASE_URL": url, "PYTHONPATH": str(ROOT / "tests")}
        self._start([[*victim, "--", "upgrade", "head"]], named, ROOT)
        self.command_should_end_with(-signal.SIGKILL)

    @keyword
    def fingerprint_shown(self) -> str:
        """Give the fingerprint that the last command showed."""
        found = re.findall(r"^fingerprint +([0-9a-f]{32})$", self._outputs[-1][1], re.MULTILINE)
        if len(found) != 1:
            raise AssertionError(f"expected one fingerprint, found {found}")
        return str(found[0])

    @keyword
    def command_should_end_with(self, status: int) -> None:
        """Fail unless every command that was run last ended with *status*."""
        for found, output, errors in self._outputs:
            if found != status:
                raise AssertionError(f"status {found}, expected {status}:\n{output}{errors}")

    @keyword
    def command_should_succeed(self) -> None:
        """Fail unless every command that was run last ended well."""
        for status, _, errors in self._outputs:
            if status != 0:
                raise AssertionError(f"status {status}:\n{errors}")

    @keyword
    def command_should_be_refused(self, *words: str) -> None:
        """Fail unless every command failed, and said *words* in one clear line at the end."""
        for status, output, errors in self._outputs:
            if status == 0:
                raise AssertionError("the command succeeded")
            if "Traceback" in errors + output:
                raise AssertionError(f"a traceback was shown:\n{errors}{output}")
            # Alembic writes its refusal to the standard output, ours goes to the error output.
            lines = [*errors.splitlines(), *output.splitlines()]
            refusals = [line for line in lines if re.match(r"FAILED: |error: |\S+Z error ", line)]
            if refusals != lines[-1:]:
                raise AssertionError(f"expected one line at the end that says why:\n{lines}")
            for word in words:
                if word not in refusals[0]:
                    raise AssertionError(f"{word!r} is not in: {refusals[0]}")

    @keyword
    def messages_should_contain(self, words: str, times: int | None = None) -> None:
        """Fail unless *words* were shown by every command, or by so many of them."""
        found = sum(words in output + errors for _, output, errors in self._outputs)
        if found != (len(self._outputs) if times is None else times):
            raise AssertionError(f"{words!r} was shown by {found} of {len(self._outputs)}")

    @keyword
    def messages_should_not_contain(self, words: str) -> None:
        """Fail if any command showed *words*."""
        self.messages_should_contain(words, times=0)

    @keyword
    def messages_should_begin_with(self, words: str) -> None:
        """Fail unless the first line of every command begins with *words*."""
        for _, _, errors in self._outputs:
            # Time and level stand before a line that goes to no terminal.
            shown = re.sub(r"^[-\d]{10}T[:.\d]{12}Z \w+ +", "", errors)
            if not shown.startswith(words):
                raise AssertionError(f"expected {words!r} first, found:\n{errors}")

    @keyword
    def output_should_be(self, words: str) -> None:
        """Fail unless the last command wrote *words* to its standard output, and no more."""
        output = self._outputs[-1][1].strip()
        if output != words:
            raise AssertionError(f"expected {words!r}, found {output!r}")

    def _run(self, commands: list[str], url: str | None, folder: Path) -> None:
        words = [[str(SCRIPTS / first), *rest] for first, *rest in map(shlex.split, commands)]
        self._start(words, {} if url is None else {"DATABASE_URL": url}, folder)

    def _start(self, commands: list[list[str]], named: Mapping[str, str], folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        started = [
            subprocess.Popen(
                words,
                cwd=folder,
                env={**environment, **named},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for words in commands
        ]
        self._outputs = []
        for command, process in zip(commands, started, strict=True):
            output, errors = process.communicate(timeout=120)
            logger.info(f"$ {shlex.join(command)}\n{errors}{output}=> {process.returncode}")
            self._outputs.append((process.returncode, output, errors))


def libpq_url(url: str, database: str | None = None) -> str:
    """Write *url* as pg_dump reads it, too; with another *database*. One of SQLite is as it was."""
    found = make_url(url)
    if found.get_backend_name() == "sqlite":
        return url
    found = found.set(drivername="postgresql", database=database or found.database)
    return found.render_as_string(hide_password=False)
