"""What commands write to standard output, whatever it is and whatever they found."""

from __future__ import annotations

import io
import json
import sys

import pytest
from pydantic import BaseModel

from cleveragents_plans.cli.output import show_json

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
