"""How far a run is can be seen on a terminal and read in a log."""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress
from io import StringIO

import pytest

from cleveragents_plans.evolution import reporting
from cleveragents_plans.evolution.reporting import (
    Progress,
    console_logging,
    heartbeat,
    reasons,
    tell,
)
from support.waiting import wait_until


class Terminal(StringIO):
    def __init__(self, columns=100):
        super().__init__()
        self.columns = columns

    def isatty(self):
        return True

    @property
    def lines(self):
        return self.getvalue().split("\r\x1b[K")[1:]


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def terminal(monkeypatch):
    # Drawn at once, so that the clock of a test decides what is drawn.
    monkeypatch.setattr(reporting.Console, "write", lambda self, text: self._stream.write(text))
    monkeypatch.setattr(
        reporting.Console,
        "columns",
        property(lambda self: self._stream.columns),
    )
    return Terminal()


def test_bar_is_drawn_again_on_the_same_line(clock, terminal):
    with Progress("filling toy", 200, stream=terminal) as progress:
        clock.now = 5.0
        progress.tick(50)
        clock.now = 10.0
        progress.tick(150)

    assert terminal.lines == [
        "filling toy [######.....................] 50 of 200 rows (25 %), 10 rows/s, 0:05 elapsed,"
        " 0:15 left",
        "filling toy [#############################.] 200 of 200 rows (99 %), 20 rows/s,"
        " 0:10 elapsed",
        "filling toy [##############################] 200 of 200 rows (100 %), 20 rows/s,"
        " 0:10 elapsed\n",
    ]


@pytest.mark.parametrize("columns", [1, 10, 20, 40, 60, 79, 80, 100, 142, 143, 300])
def test_bar_never_wraps(clock, terminal, columns):
    terminal.columns = columns
    with Progress("v3_plans: roots and profiles", 1_000_000, stream=terminal) as progress:
        for _ in range(5):
            clock.now += 1000.0
            progress.tick(123_456)
            progress.passed(123_456)

    assert len(terminal.lines) > 5
    # Cursors stand behind the last character, which must not be the last column.
    assert all(len(line.rstrip("\n")) < max(columns, 2) for line in terminal.lines)
    if columns >= 60:
        assert " %" in terminal.lines[1]
        assert " left" in terminal.lines[1]


def test_bar_says_all_that_is_known_where_there_is_room(clock, terminal):
    terminal.columns = 200
    with Progress("filling toy", 200, stream=terminal) as progress:
        progress.passed(1000)
        clock.now = 5.0
        progress.tick(50)

    assert (
        "50 of 200 rows (25 %), 1,000 others need nothing, 10 rows/s, 0:05 elapsed, 0:15 left"
        in (terminal.lines[0])
    )


def test_bar_is_not_full_before_all_is_done(clock, terminal):
    # Rows were counted, and more are looked at than need anything.
    with Progress("filling toy", 100, rows=1000, stream=terminal) as progress:
        for _ in range(10):
            clock.now += 1.0
            progress.tick(10)
        for _ in range(30):
            clock.now += 1.0
            progress.passed(20)

    *before, last = terminal.lines
    assert not any("100 %" in line for line in before)
    # 60 rows a second are looked at in the last fifteen, and 900 - 600 are left.
    assert before[-1].endswith("0:15 left")
    assert "(100 %)" in last


def test_bar_is_not_full_after_an_error(clock, terminal):
    with suppress(ZeroDivisionError), Progress("x", 5, stream=terminal) as progress:
        progress.tick(5)
        raise ZeroDivisionError

    assert "(99 %)" in terminal.lines[-1]


def test_rate_is_that_of_the_last_fifteen_seconds(clock, terminal):
    with Progress("filling toy", 100_000, stream=terminal) as progress:
        for _ in range(60):
            clock.now += 1.0
            progress.tick(1000)  # at first fast,
        for _ in range(30):
            clock.now += 1.0
            progress.tick(10)  # then slow

        assert ", 10 rows/s" in terminal.lines[-1]
        assert terminal.lines[-1].endswith(" 1:06:10 left")

    # The mean at the end.
    assert ", 670 rows/s, 1:30 elapsed\n" in terminal.lines[-1]


def test_log_gets_a_line_now_and_then(caplog):
    with caplog.at_level(logging.INFO), Progress("filling toy", 4, stream=StringIO()) as progress:
        progress.tick(1)
        progress.tick(1)

    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("filling toy: 2 of 4 rows (100 %), ")

    caplog.clear()
    with (
        caplog.at_level(logging.INFO),
        Progress("filling toy", 4, stream=StringIO(), every=0) as progress,
    ):
        progress.tick(1)
        progress.tick(1)

    assert len(caplog.messages) == 3


def test_log_gets_speed_and_time_left(clock, caplog):
    with caplog.at_level(logging.INFO), Progress("x", 90_000, stream=StringIO()) as progress:
        clock.now = 10.0
        progress.tick(100)
        assert caplog.messages == [
            "x: 100 of 90,000 rows (0 %), 10 rows/s, 0:10 elapsed, 2:29:50 left"
        ]
        (record,) = caplog.records
        assert (record.event, record.done, record.total, record.rate, record.eta_s) == (
            "progress",
            100,
            90_000,
            10.0,
            8990.0,
        )


def test_time_left_is_not_known_without_a_row(clock, caplog):
    with caplog.at_level(logging.INFO), Progress("x", 5, stream=StringIO()) as progress:
        clock.now = 10.0
        progress.tick(0)

    assert caplog.messages[0] == "x: 0 of 5 rows (0 %), 0 rows/s, 0:10 elapsed, unknown left"


def test_rows_that_need_nothing_are_counted(caplog):
    with (
        caplog.at_level(logging.INFO),
        Progress("x", 5, stream=StringIO(), every=0) as progress,
    ):
        progress.passed(2_000)
        progress.passed(0)

    assert caplog.messages[1].startswith("x: 0 of 5 rows (0 %), 2,000 others need nothing, ")


def test_rows_that_came_meanwhile_are_counted(caplog):
    with caplog.at_level(logging.INFO), Progress("x", 5, stream=StringIO()) as progress:
        progress.tick(7)

    assert "7 of 7 rows (100 %)" in caplog.text


@pytest.mark.parametrize("stream", [StringIO(), Terminal()])
def test_nothing_to_do_is_all_done(stream, caplog):
    with caplog.at_level(logging.INFO), Progress("x", 0, stream=stream):
        pass

    assert "0 of 0 rows (100 %)" in caplog.text + stream.getvalue()


@pytest.mark.parametrize("stream", [StringIO(), Terminal()])
def test_message_in_between_has_a_line_of_its_own(stream, caplog):
    with Progress("x", 5, stream=stream) as progress:
        progress.say("100 % of it waits")

    assert "100 % of it waits" in caplog.messages


def wait_until_said(caplog, messages):
    wait_until(lambda: len(caplog.messages) >= messages)


def test_heartbeat_speaks_every_so_many_seconds(caplog):
    begun = time.monotonic()
    with caplog.at_level(logging.INFO), heartbeat("counting", 0.1):
        wait_until_said(caplog, 2)
        assert time.monotonic() - begun >= 0.2
    said = len(caplog.messages)
    time.sleep(0.15)

    assert re.fullmatch(r"counting \(0:0\d elapsed\)", caplog.messages[0])
    assert len(caplog.messages) == said


def test_heartbeat_says_the_reason(caplog):
    with (
        caplog.at_level(logging.INFO),
        reasons(lambda: "it waits for pid 12"),
        heartbeat("counting", 0.1),
    ):
        wait_until_said(caplog, 1)

    assert caplog.messages[0].endswith(" elapsed); it waits for pid 12")


def test_innermost_heartbeat_speaks(caplog):
    with caplog.at_level(logging.INFO), heartbeat("outer", 0.1), heartbeat("inner", 0.1):
        # The outer one may have spoken before.
        wait_until(lambda: "inner" in caplog.text)
        caplog.clear()
        wait_until_said(caplog, 3)

    assert {message.split(" (")[0] for message in caplog.messages} == {"inner"}


def test_heartbeat_does_not_mention_what_is_quick(caplog):
    with caplog.at_level(logging.INFO), heartbeat("counting", 120):
        pass

    assert caplog.messages == []


def test_log_and_lines_go_to_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])  # as where nothing has configured logging
    log = logging.getLogger("alembic.evolution")
    with console_logging():
        log.info("from the log")
        tell("a line")
    log.info("after the end")
    tell("outside of a run")

    assert capsys.readouterr().err == "from the log\na line\noutside of a run\n"


def test_logging_of_an_application_is_left_alone(capsys):
    with console_logging():
        logging.getLogger("alembic.evolution").info("for the application's handlers")

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("limit", "said"), [(0.0, "10 rows/s, 0:10 elapsed, 0:40"),
                                             (0.5, "0.5 rows/s, 0:10 elapsed, 13:20"),
                                             (50.0, "10 rows/s, 0:10 elapsed, 0:40")])  # fmt: skip
def test_time_left_is_that_of_the_rate_that_holds_now(clock, caplog, limit, said):
    caplog.set_level(logging.INFO, "alembic.evolution")
    with reporting.Progress("x", 500, every=5, limit=lambda: limit) as progress:
        clock.now += 10
        progress.tick(100)
        assert progress.figures().eta_s == pytest.approx(400 / min(limit or 10, 10))
    assert f"x: 100 of 500 rows (20 %), {said} left" in caplog.messages
