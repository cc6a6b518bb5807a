"""The pictures on the pages are those that the code draws."""

from __future__ import annotations

import re
import runpy
from xml.etree import ElementTree

import pytest

from cleveragents_plans.domain.lifecycle import STEPS
from support.databases import ROOT
from support.pages import page

SCRIPT = ROOT / "docs" / "extension" / "pictures.py"
DRAWN = runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("name", sorted(DRAWN["PICTURES"]))
def test_picture_is_as_the_code_draws_it(name: str):
    kept = (DRAWN["FOLDER"] / name).read_text()

    assert kept == DRAWN["PICTURES"][name](), f"run: python {SCRIPT.relative_to(ROOT)}"
    assert ElementTree.fromstring(kept).tag.endswith("svg")
    assert "@media(prefers-color-scheme:dark)" in kept


def test_picture_of_the_life_of_a_plan_has_every_step_that_leads_somewhere():
    shown = set(re.findall(r'class="v"[^>]*>(\w+)<', DRAWN["lifecycle"]()))

    assert shown == {verb for verb, step in STEPS.items() if step.to is not None}


def test_table_of_verbs_has_every_step_that_leads_somewhere():
    listed = re.findall(r"^\| `(\w+)` \|", page("docs/lifecycle.md"), re.MULTILINE)

    assert listed == [verb for verb, step in STEPS.items() if step.to is not None]
