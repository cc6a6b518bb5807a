"""
Run a command of the program for many databases, several at a time.

Each job has a process, because one run of Alembic at a time can be in one (see
docs/decisions/one-run-in-a-process.md); it takes one database after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from signal import Signals
from types import FrameType
from typing import Any, Final

import cleveragents_plans
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.runner.interruption import handling_signals

# Seconds without news after which is said what is under way.
_SILENCE = 10.0
_LACKING = "no process for it could be started ({}); run the same command again, with fewer --jobs"


@dataclass(frozen=True, slots=True)
class Job:
    """A command for one database."""

    #: What to call the database; no password in it.
    name: str
    #: What is typed after the program's name. Its process reads it from a pipe, so that no list
    #: of processes shows a password.
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a job."""

    job: Job
    #: Its exit status; that of a signal is 128 + its number.
    status: int
    #: What it wrote to standard output, and the last line that it wrote to standard error.
    output: str
    last_line: str
    seconds: float


class Jobs:
    """
    The jobs of one call.

    SIGINT, SIGTERM or SIGHUP ends each as it ends a single run, and begins no other; the second
    such signal kills them.

    Args:
        jobs: What is to be done.
        at_once: How many at a time.
        on_line: Is given what a job writes to standard error.
        on_end: Is given each job that has ended.
        on_silence: Is told which jobs are under way, when nothing else has been for a while.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        at_once: int,
        *,
        on_line: Callable[[Job, str], None],
        on_end: Callable[[Ended], None],
        on_silence: Callable[[Sequence[Job]], None],
    ) -> None:
        self._left = deque(jobs)
        self._at_once = min(at_once, len(jobs))
        self._on_line, self._on_end, self._on_silence = on_line, on_end, on_silence
        self._news: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._under_way: dict[int, Job] = {}
        self._lacking = ""
        #: The first signal that arrived.
        self.signal: Signals | None = None

    @property
    def not_begun(self) -> tuple[Job, ...]:
        """The jobs that a signal left."""
        return tuple(self._left)

    def run(self) -> None:
        """
        Run them all; call back in this thread.

        Raises:
            SystemExit: A second signal arrived.
        """
        threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(self._at_once)
        ]
        with handling_signals(self._stop):
            running = self._started(threads)
            while running:
                try:
                    news = self._news.get(timeout=_SILENCE)
                except Empty:
                    self._on_silence([*self._under_way.values()])
                    continue
                if news is None:
                    running -= 1
                else:
                    news()
        while self.signal is None and self._left:
            self._on_end(Ended(self._left.popleft(), ExitStatus.AGAIN, "", self._lacking, 0))

    def _started(self, threads: Sequence[threading.Thread]) -> int:
        """Start *threads*; give how many there are, if the system allows no more."""
        for number, thread in enumerate(threads):
            try:
                thread.start()
            except RuntimeError as error:
                self._lacking = _LACKING.format(error)
                return number
        return len(threads)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = self.signal or Signals(number)
        with self._lock:
            for worker in self._workers.values():
                worker.kill() if again else worker.terminate()
        if again:
            raise SystemExit(128 + number)

    def _work(self, number: int) -> None:
        """Take one job after the other."""
        try:
            while self.signal is None:
                try:
                    job = self._left.popleft()
                except IndexError:
                    break
                try:
                    worker = self._worker(number)
                except OSError as error:  # no more processes, or files: those that run take it
                    self._lacking = _LACKING.format(error.strerror)
                    self._left.appendleft(job)
                    break
                self._under_way[number] = job
                begun = time.monotonic()
                status, output, last_line = self._do(number, worker, job)
                self._under_way.pop(number)
                ended = Ended(job, status, output, last_line, time.monotonic() - begun)
                self._news.put(partial(self._on_end, ended))
        finally:
            self._end_worker(number)
            self._news.put(None)

    def _do(self, number: int, worker: subprocess.Popen[str], job: Job) -> tuple[int, str, str]:
        assert worker.stdin is not None  # noqa: S101  # Popen was asked for a pipe
        assert worker.stdout is not None  # noqa: S101  # and for this one
        last_line = ""
        with suppress(OSError):  # it has ended at a signal, as its output will say
            worker.stdin.write(json.dumps(job.arguments) + "\n")
            worker.stdin.flush()
        for line in worker.stdout:
            event = _event(line)
            if event is None:
                continue
            if "status" in event:
                if event["status"] > 128:  # it ends at a signal
                    self._end_worker(number)
                return event["status"], event["output"], last_line
            last_line = event["line"]
            self._news.put(partial(self._on_line, job, last_line))
        self._end_worker(number)
        if self.signal is not None:
            return 128 + self.signal, "", last_line
        # 0 where the exit status is not known: the parent process had SIGCHLD ignored.
        code = f" with {worker.returncode}" if worker.returncode else ""
        how = f"its process ended{code} before the command did; run the same command again"
        return ExitStatus.AGAIN, "", how

    def _end_worker(self, number: int) -> None:
        with self._lock:
            worker = self._workers.pop(number, None)
        if worker and worker.stdin and worker.stdout:
            with suppress(OSError):  # what could not be written
                worker.stdin.close()
            worker.stdout.close()
            worker.wait()

    def _worker(self, number: int) -> subprocess.Popen[str]:
        with self._lock:
            if number not in self._workers:
                self._workers[number] = _start()
                if self.signal is not None:  # which arrived meanwhile
                    self._workers[number].terminate()
            return self._workers[number]


# In a process group of its own: Ctrl-C reaches this process, which passes it on once.
_OWN_GROUP: Final[dict[str, Any]] = {"process_group": 0} if os.name == "posix" else {}
_ISOLATION: Final = {
    "-I": sys.flags.isolated,
    "-E": sys.flags.ignore_environment,
    "-s": sys.flags.no_user_site,
    "-S": sys.flags.no_site,
}
_PROGRAM: Final = """\
import sys
sys.path.insert(0, {path!r})
from cleveragents_plans.cli.fleet_worker import main
main()"""


def _event(line: str) -> dict[str, Any] | None:
    """Read an event; None where Python's start-up (a sitecustomize, say) has printed a line."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.keys() & {"line", "status"} else None


def _start() -> subprocess.Popen[str]:
    package = Path(cleveragents_plans.__file__).parents[1]
    # Without the current folder, in which there may be a module of any name, and without what this
    # process was told to ignore.
    flags = [flag for flag, given in _ISOLATION.items() if given]
    return subprocess.Popen(  # noqa: S603  # nothing in it was typed
        [sys.executable, "-P", *flags, "-c", _PROGRAM.format(path=str(package))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        **_OWN_GROUP,
    )
