"""What commands write to standard output, whatever it is and whatever they found."""

from __future__ import annotations

import io
import json
import sys

import pytest
from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from cleveragents_plans.cli.output import Screen, facts, show, show_json, styled, table

TEXT = 'é€\x1b[2J\x7f\x9b31m\u202e\U0001f600\U000e0001\n\\"\u2028'


class Said(BaseModel):
    text: str


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "latin-1", "ascii"])
def test_json_is_exact_and_has_nothing_that_a_terminal_acts_on(
    encoding: str, monkeypatch: pytest.MonkeyPatch
):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))

    show_json(Said(text=TEXT))

    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert json.loads(text) == {"text": TEXT}
    assert text.replace("\n", "").isprintable()
    assert ("é" in text) == encoding.upper().startswith("UTF")


NAME = "a\x1b]0;owned\x07\x9b31m\u202eb"
WRITTEN = r"a\x1b]0;owned\x07\x9b31m\u202eb"


@pytest.mark.parametrize(
    "part",
    [
        NAME,
        styled(NAME, "bold"),
        facts([("found", NAME), ("found", styled(NAME, "red"))]),
        table(["name", NAME], [[NAME, styled(NAME, "red")]]),
        table(["name", NAME], [[NAME, styled(NAME, "red")]], shortened="name"),
        # What is not made by `styled` is escaped, too.
        Group(Text("plain"), Tree(Text().append("a\x1b[2J\u202e", "bold"))),
    ],
)
def test_nothing_reaches_a_terminal_that_it_acts_on(
    part: RenderableType, capfd: pytest.CaptureFixture[str]
):
    show(part)
    Screen().show(part, NAME)

    written = capfd.readouterr().out
    assert written.replace("\n", "").isprintable()
    assert r"a\x1b" in written
    assert r"\u202e" in written


def test_columns_have_room_for_what_is_escaped(capfd: pytest.CaptureFixture[str]):
    show(table(["name", "n"], [[NAME, "1"], [styled(NAME, "red"), "2"]], shortened="n"))

    header, *lines = capfd.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[WRITTEN, "1"], [WRITTEN, "2"]]
    assert {header.rindex("n"), *(line.rindex("  ") + 2 for line in lines)} == {len(WRITTEN) + 2}
