"""An event is a line for people, with time and level for logs, or JSON for programs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from cleveragents_plans.evolution.log_format import (
    EventFormatter,
    LogFormat,
    formatted,
    is_plain,
    log_format_restored,
    use_log_format,
)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with log_format_restored():
        yield


def written(name: LogFormat, message: str, level: int = logging.INFO, **facts: object) -> str:
    use_log_format(name)
    record = logging.LogRecord("alembic.evolution", level, "", 0, message, (), None)
    vars(record).update(facts)
    return EventFormatter("%(message)s").format(record)


def test_plain_event_is_its_message():
    assert written("plain", "half of it", event="progress", done=1) == "half of it"
    assert is_plain()


def test_line_begins_with_time_and_level():
    line = written("lines", "no room", logging.WARNING)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning no room", line)
    assert not is_plain()


def test_json_event_has_what_is_known_and_nothing_else():
    event = json.loads(
        written(
            "json", 'copied: "1"\x1b', event="progress", done=1, total=2, rate=1.23456, eta_s=None,
            blockers=["pid 7"], other="x",
        )
    )  # fmt: skip

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("ts"))
    assert event == {
        "level": "info",
        "event": "progress",
        "message": 'copied: "1"\x1b',
        "done": 1,
        "total": 2,
        "rate": 1.235,
        "blockers": ["pid 7"],
    }


@pytest.mark.parametrize(
    ("message", "revision"),
    [
        ("Running upgrade a1 -> b2, Add a column", "b2"),
        ("Running downgrade b2 -> a1, Add a column", "b2"),
        ("Running upgrade  -> a1", "a1"),
    ],
)
def test_events_name_the_revision_that_runs(message: str, revision: str):
    use_log_format("json")

    step = json.loads(formatted(message, "INFO", "message"))
    later = json.loads(formatted("half of it", "INFO", "progress"))
    use_log_format("json")  # of the next command
    after = json.loads(formatted("done", "INFO", "message"))

    assert (step["event"], step["revision"], later["revision"]) == ("step", revision, revision)
    assert "revision" not in after
