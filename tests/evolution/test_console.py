"""Writing to standard error never fails and never waits, whatever reads there."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from io import StringIO, TextIOWrapper
from typing import Any

import pytest

from cleveragents_plans.evolution.console import Console


class OnlyWrites:
    """What applications put in the place of standard error."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class Raises:
    def write(self, text: str) -> None:
        raise ZeroDivisionError(text)


def pipe() -> tuple[int, TextIOWrapper]:
    reader, writer = os.pipe()
    return reader, os.fdopen(writer, "w", encoding="ascii")


def test_console_writes_in_order():
    stream = StringIO()

    with Console(stream) as console:
        for number in range(100):
            console.write(f"{number} ")

    assert stream.getvalue().split() == [str(number) for number in range(100)]


def test_console_needs_write_only():
    stream = OnlyWrites()

    with Console(stream) as console:
        console.write("line\n")
        assert not console.is_terminal
        assert console.columns > 0

    assert stream.text == "line\n"


def test_console_without_standard_error_drops_texts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr", None)

    with Console() as console:
        console.write("line\n")
        assert not console.is_terminal


def test_console_goes_on_after_an_error_of_the_stream():
    with Console(Raises()) as console:
        console.write("one")
        console.write("two")

    assert not console.behind


def test_console_writes_what_the_encoding_lacks_with_backslashes():
    reader, stream = pipe()

    with stream, Console(stream) as console:
        console.write("böse\n")
    written = os.read(reader, 100)
    os.close(reader)

    assert written == b"b\\xf6se\n"


def test_console_leaves_nothing_in_the_buffer_of_a_stream_whose_reader_has_gone():
    reader, stream = pipe()
    os.close(reader)

    with Console(stream) as console:
        console.write("line\n")

    stream.close()  # would raise BrokenPipeError


def test_console_does_not_wait_for_a_reader_that_has_stopped():
    reader, stream = pipe()

    # Where it waits, this does not end.
    with stream:
        with Console(stream) as console:
            for _ in range(100):
                console.write("x" * 10_000)  # more than any pipe holds
            assert console.behind
        os.close(reader)  # ends the thread


@pytest.mark.parametrize(("set_to", "columns"), [(57, 57), (0, 80)])
def test_console_is_as_wide_as_the_terminal(
    monkeypatch: pytest.MonkeyPatch, set_to: int, columns: int
):
    monkeypatch.delenv("COLUMNS", raising=False)
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, set_to, 0, 0))
    stream: Any = os.fdopen(terminal, "w")

    with stream, Console(stream) as console:
        assert console.is_terminal
        assert console.columns == columns
    os.close(controller)
