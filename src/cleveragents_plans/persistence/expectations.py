"""What a readable row has in a column, in words, as the domain's own schema says it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from cleveragents_plans.domain import Plan


def expected_at(path: Iterable[str]) -> str:
    """Say what belongs into the field of a plan that *path* leads to, from field to field."""
    node: dict[str, Any] = _schema()
    for name in path:
        node = _resolved(node)
        node = _resolved(node.get("items", node))["properties"][name]
    return _in_words(node)


@lru_cache(maxsize=1)
def _schema() -> dict[str, Any]:
    # What is written, not what is accepted: a row holds the former.
    return Plan.model_json_schema(mode="serialization")


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    name = node.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = _schema()["$defs"][name] if name else node
    return found


def _in_words(node: dict[str, Any]) -> str:
    node = _resolved(node)
    if "anyOf" in node:
        return f"{_in_words(node['anyOf'][0])}, or NULL"
    if "enum" in node:
        return f"one of {', '.join(node['enum'])}"
    if node["type"] == "integer":
        return f"an integer from {node['minimum']} to {node['maximum']}"
    if node["type"] == "number":
        return f"a finite number from {node['minimum']}"
    if node["type"] == "boolean":
        return "a boolean"
    if "pattern" in node:
        return str(node["description"])
    return f"text{_length(node)} without NUL"


def _length(node: dict[str, Any]) -> str:
    shortest, longest = node.get("minLength"), node.get("maxLength")
    if shortest and longest:
        return f" of {shortest} to {longest} characters"
    if longest:
        return f" of at most {longest} characters"
    return f" of at least {shortest} character" if shortest else ""
