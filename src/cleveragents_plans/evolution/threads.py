"""Threads of a run, in a process that may have no more of them."""

from __future__ import annotations

import threading

from cleveragents_plans.evolution.errors import AGAIN, EvolutionError


class ThreadNotStarted(EvolutionError):
    """The process may have no more threads, or has no memory for one."""

    def __init__(self) -> None:
        super().__init__(
            "this process cannot start another thread: the limit on processes (`ulimit -u`, the "
            f"pids of a container) or on its memory (`ulimit -v`) is too low; raise it, and {AGAIN}"
        )


def start(thread: threading.Thread) -> None:
    """
    Start *thread*.

    Raises:
        ThreadNotStarted: It cannot be.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if thread.ident is not None:  # it was started before
            raise
        raise ThreadNotStarted from error
