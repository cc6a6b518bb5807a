"""A process that may have no more threads says so in one line."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from support.databases import ONE_OF_EACH, database_at
from support.revisions import M4_003


@pytest.mark.parametrize("command", ["status", "preflight", "upgrade"])
@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_thread_that_cannot_be_started_is_told_in_one_line(
    engine: str,
    command: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with database_at(M4_003, engine, tmp_path) as url:
        capfd.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            code = main([command, "-q", "--url", url])
        said = capfd.readouterr()
        after = main(["upgrade", "-q", "--url", url])

    assert code in (ExitStatus.REFUSED, ExitStatus.FOUND)
    assert "this process cannot start another thread: the limit on processes" in said.out + said.err
    assert said.err.count("\n") <= 1
    assert after == 0
