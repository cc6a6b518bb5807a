"""The page on errors names every one, with the status that a web service answers with."""

from __future__ import annotations

import re
from pathlib import Path

import cleveragents_plans
from cleveragents_plans import PlansError

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()


def test_every_public_error_has_its_http_status():
    public = [getattr(cleveragents_plans, name) for name in cleveragents_plans.__all__]
    errors = {
        each.__name__ for each in public if isinstance(each, type) and issubclass(each, PlansError)
    }
    rows = re.findall(r"^\| (`.*) \| .* \| (\d{3}) \|$", PAGE, re.MULTILINE)
    named = [name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)]

    assert sorted(named) == sorted(errors - {"PlansError"})
    assert {status for _, status in rows} == {"404", "409", "422", "500", "503"}
