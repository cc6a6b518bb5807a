"""The page on errors names every one, with the status that a web service answers with."""

from __future__ import annotations

import re
from pathlib import Path

import cleveragents_plans
from cleveragents_plans import PlansError

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()


def test_every_public_error_stands_with_its_http_status():
    public = [getattr(cleveragents_plans, name) for name in cleveragents_plans.__all__]
    errors = {each for each in public if isinstance(each, type) and issubclass(each, PlansError)}
    rows = re.findall(r"^\| (`.*) \| .* \| (\d{3}) \|$", PAGE, re.MULTILINE)
    named = [(name, int(status)) for cell, status in rows for name in re.findall(r"`(\w+)`", cell)]

    assert sorted(named) == sorted(
        (each.__name__, each.http_status) for each in errors - {PlansError}
    )
