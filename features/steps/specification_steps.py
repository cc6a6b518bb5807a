"""Steps of the specification and of the list of what differs from it."""

import re
import tomllib
from pathlib import Path

from behave import given, then, when

PAGE = (Path(__file__).parents[2] / "docs" / "specification.md").read_text(encoding="utf-8")
SPECIFIED, MAX_LISTED = (
    re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]
    for language in ("sql", "toml")
)
DEVIATIONS = tomllib.loads(MAX_LISTED)["deviation"]


def deviations(of, *kinds):
    return [entry for entry in DEVIATIONS if of in entry["of"] and entry["what"] in kinds]


@given("the specification lets a plan begin in the {phase:Phase} phase")
def specified_phase(context, phase):
    assert re.search(rf"\bphase\b.*DEFAULT '{phase}'", SPECIFIED)


@then("the list says why a plan begins in the {phase:Phase} phase")
def listed_phase(context, phase):
    (entry,) = deviations("phase", "default")
    assert entry["here"] == f"'{phase}'"
    assert entry["why"]


@given('the specification calls it "{name}"')
def specified_name(context, name):
    assert re.search(rf"\b{name}\b", SPECIFIED)


@when('"{name}" is looked up in the list of deviations')
def look_up(context, name):
    (context.entry,) = deviations(name, "name", "table")


@then('it is called "{name}" here')
def called_here(context, name):
    assert context.entry["here"] == name


@then("the list says why")
def told_why(context):
    assert context.entry["why"]
