"""The fields of a plan with their types and defaults, which autodoc does not find by itself."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AwareDatetime

from cleveragents_plans import Plan

_NAMES = {AwareDatetime: "datetime", NoneType: "None", ...: "..."}


def fields_of_a_plan() -> Iterator[tuple[str, str, str]]:
    """Give each field, as a link, its type once it was checked, and its default, as Markdown."""
    for name, field in Plan.model_fields.items():
        kind = _type_name(field.annotation).replace("|", r"\|")
        value = field.default.value if isinstance(field.default, Enum) else field.default
        default = "" if field.is_required() else f"`{value!r}`"
        yield f"{{py:attr}}`~cleveragents_plans.Plan.{name}`", f"`{kind}`", default


def _type_name(annotation: Any) -> str:
    """Write a type without what checks its values."""
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(of[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, of))
    if origin:
        return f"{origin.__name__}[{', '.join(map(_type_name, of))}]"
    return _NAMES.get(annotation) or str(annotation.__name__)
