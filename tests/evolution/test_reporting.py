"""How far it is can be seen on a terminal and read in a log."""

from __future__ import annotations

import logging
import time
from io import StringIO

import pytest

from cleveragents_plans.evolution.reporting import Progress, heartbeat


class Terminal(StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_one_line_is_drawn_again_and_again(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    terminal = Terminal()

    with Progress("filling toy", 200, stream=terminal) as progress:
        progress.tick(50)
        progress.tick(150)

    drawn = terminal.getvalue().split("\r\x1b[K")
    assert len(drawn) == 4
    assert "filling toy [#######.......................] 50 of 200 rows (25 %)" in drawn[1]
    assert "[##############################] 200 of 200 rows (100 %)" in drawn[2]
    assert drawn[3].endswith("0:00 left\n")


def test_elsewhere_a_line_is_logged_now_and_then(caplog):
    with caplog.at_level(logging.INFO), Progress("filling toy", 4, stream=StringIO()) as progress:
        progress.tick(1)
        progress.tick(1)

    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("filling toy: 2 of 4 rows (50 %), ")

    caplog.clear()
    with (
        caplog.at_level(logging.INFO),
        Progress("filling toy", 4, stream=StringIO(), every=0) as progress,
    ):
        progress.tick(1)
        progress.tick(1)

    assert len(caplog.messages) == 3


def test_speed_and_time_left_are_told(monkeypatch, caplog):
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    clock = [0.0]
    with caplog.at_level(logging.INFO), Progress("x", 90_000, stream=StringIO()) as progress:
        clock[0] = 10.0
        progress.tick(100)
        assert caplog.messages == [
            "x: 100 of 90,000 rows (0 %), 10 rows/s, 0:10 gone, 2:29:50 left"
        ]


def test_without_a_row_the_time_left_is_not_known(caplog):
    with caplog.at_level(logging.INFO), Progress("x", 5, stream=StringIO()):
        pass

    assert "0 of 5 rows (0 %)" in caplog.text
    assert "unknown left" in caplog.text


def test_rows_that_need_nothing_keep_it_moving(caplog):
    with (
        caplog.at_level(logging.INFO),
        Progress("x", 5, stream=StringIO(), every=0) as progress,
    ):
        progress.passed(2_000)
        progress.passed(0)

    assert caplog.messages[1].startswith("x: 0 of 5 rows (0 %), 2,000 others need nothing, ")


def test_what_is_long_is_said_now_and_then(caplog):
    with caplog.at_level(logging.INFO), heartbeat("counting", 0.1):
        time.sleep(0.35)
    time.sleep(0.15)

    assert caplog.messages[0] == "counting (0:00 gone)"
    assert len(caplog.messages) in (2, 3)


def test_what_is_quick_is_not_mentioned(caplog):
    with caplog.at_level(logging.INFO), heartbeat("counting", 10):
        pass

    assert caplog.messages == []


@pytest.mark.parametrize("stream", [StringIO(), Terminal()])
def test_nothing_to_do_is_all_done(stream, caplog):
    with caplog.at_level(logging.INFO), Progress("x", 0, stream=stream):
        pass

    assert "0 of 0 rows (100 %)" in caplog.text + stream.getvalue()


def test_rows_that_came_meanwhile_are_counted(caplog):
    with caplog.at_level(logging.INFO), Progress("x", 5, stream=StringIO()) as progress:
        progress.tick(7)

    assert "7 of 7 rows (100 %)" in caplog.text


@pytest.mark.parametrize("stream", [StringIO(), Terminal()])
def test_a_message_in_between_has_a_line_of_its_own(stream, caplog):
    with Progress("x", 5, stream=stream) as progress:
        progress.say("100 % of it waits")

    assert "100 % of it waits" in caplog.messages
