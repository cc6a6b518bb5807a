"""How docstrings of attributes, and signatures of models, are shown."""

from __future__ import annotations

from inspect import isclass
from itertools import takewhile
from typing import Any, Final

from pydantic import BaseModel
from sphinx.application import Sphinx

from cleveragents_plans import AsyncPlanRepository, PlanFilters, PlanRepository, QueueFilters

#: What begins the part of a docstring that `documents_filters` adds.
_FILTERS: Final = "The filters:"


def _as_text(
    _app: Sphinx, what: str, _name: str, _value: object, _options: object, lines: list[str]
) -> None:
    """
    Keep Napoleon from taking ``none: no limit`` for a type and its description.

    It looks for a type in the first line that is not empty, so a comment is put before it.
    """
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def _without_repetitions(
    _app: Sphinx, what: str, name: str, _value: object, _options: object, lines: list[str]
) -> None:
    """
    Let the filters, and the methods of both repositories, be described once.

    For `help`, which has no links, each method says all of it.
    """
    *_, owner, method = name.split(".")
    if what == "method" and owner == AsyncPlanRepository.__name__:
        summary = takewhile(str.strip, lines)
        lines[:] = [*summary, "", f"As `{PlanRepository.__name__}.{method}`.", ""]
    elif _FILTERS in lines:
        at = lines.index(_FILTERS)
        every = any("completed_from" in line for line in lines[at:])
        known = PlanFilters if every else QueueFilters
        lines[at:] = [f"The filters are those of `{known.__name__}`.", ""]


def _without_validators(
    _app: Sphinx, _what: str, _name: str, value: object, *_: object
) -> tuple[str, None] | None:
    """Leave out the signature of a model: its fields follow, and need no validators to be read."""
    return ("", None) if isclass(value) and issubclass(value, BaseModel) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before Napoleon, whose handler has the ordinary priority."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-signature", _without_validators)
    app.connect("autodoc-process-docstring", _as_text, priority=400)
    app.connect("autodoc-process-docstring", _without_repetitions, priority=400)
    return {"parallel_read_safe": True}
