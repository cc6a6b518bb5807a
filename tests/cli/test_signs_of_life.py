"""A command that takes long says what it does, every few seconds."""

from __future__ import annotations

import importlib
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from cleveragents_plans.cli import main
from support.databases import database_at
from support.revisions import M4_003

PREFLIGHT = "cleveragents_plans.preflight.preflight"
SOUNDNESS = "cleveragents_plans.evolution.sqlite.soundness"
SQLITE = "cleveragents_plans.preflight.sqlite"

#: The command, the engine, the function that takes long, and what is said meanwhile.
WAITS = [
    ("preflight", "sqlite", PREFLIGHT, "look_ahead", "checking what the run would refuse"),
    ("preflight", "sqlite", SOUNDNESS, "switched_on", "is not damaged"),
    ("preflight", "sqlite", SQLITE, "count_writes", "counting the rows to be written"),
    ("preflight", "sqlite", SQLITE, "scan_tree", "looking for cycles and missing parents"),
    ("preflight", "sqlite", PREFLIGHT, "run_on_sample", "trying the upgrade on a sample"),
    ("preflight", "postgresql-18", PREFLIGHT, "look_ahead", "checking what the run would refuse"),
    ("preflight", "postgresql-18", PREFLIGHT, "_counted", "counting the rows to be written"),
    ("preflight", "postgresql-18", PREFLIGHT, "costs", "trying batches and index builds"),
    ("verify", "sqlite", "cleveragents_plans.verification.verify", "compare_tables", "the schema"),
    ("verify", "sqlite", "cleveragents_plans.verification.verify", "check_trees", "checking roots"),
    ("plans", "sqlite", "cleveragents_plans.cli.plans", "count_by", "counting plans"),
    ("status --wait 1", "sqlite", "cleveragents_plans.cli.status", "_look", "waiting until"),
]


class _Said(logging.Handler):
    """Waits until something is logged, and so lets a function take long."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self.heard = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.heard.set()


@pytest.mark.parametrize(("command", "engine", "module", "function", "words"), WAITS)
def test_command_says_what_takes_long(
    command: str,
    engine: str,
    module: str,
    function: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    said = _Said(words)
    place = importlib.import_module(module)
    real: Any = getattr(place, function)

    def slow(*arguments: Any, **options: Any) -> Any:
        if arguments[-1] != 0:  # a sample without rows takes no time
            assert said.heard.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(place, function, slow)
    log = logging.getLogger("alembic.evolution")
    log.addHandler(said)
    try:
        with caplog.at_level(logging.INFO, log.name), database_at(M4_003, engine, tmp_path) as url:
            main([*command.split(), "--url", url, "-x", "report-every=0.05"])
    finally:
        log.removeHandler(said)

    assert said.heard.is_set()
