"""Automation profiles out of files that people write."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cleveragents_plans.domain.errors import (
    BadProfileFile,
    InvalidFields,
    InvalidType,
    in_one_line,
    shown,
)
from cleveragents_plans.domain.profiles import AutomationProfile


def load_profiles(path: str | os.PathLike[str]) -> dict[str, AutomationProfile]:
    """
    Read custom profiles from a YAML or JSON file: one profile, or a list of them.

    Raises:
        BadProfileFile: The file cannot be read, or holds something else.
        ProfileNameTaken: A profile has the name of a built-in one.
        InvalidType: *path* is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidType("path", shown(path), "the path of a file")
    try:
        found = _decoded(Path(path))
        return _profiles(found if isinstance(found, list) else [found])
    except _Bad as bad:
        raise BadProfileFile(os.fspath(path), str(bad)) from None


class _Bad(Exception):
    """What is to be corrected in the file, in one line."""


def _profiles(found: list[Any]) -> dict[str, AutomationProfile]:
    if not found:
        raise _Bad("it holds an empty list; expected a profile, or a list of them")
    profiles: dict[str, AutomationProfile] = {}
    for index, fields in enumerate(found):
        place = f"profile {index + 1}"
        if not isinstance(fields, dict):
            raise _Bad(f"{place} is {shown(fields)}, not a mapping of fields")
        try:
            profile = AutomationProfile.from_mapping(fields)
        except InvalidFields as error:
            named = shown(fields["name"]) if "name" in fields else "without a name"
            raise _Bad(f"{place} ({named}): {in_one_line(error.errors)}") from None
        if profile.name in profiles:
            raise _Bad(f"{place} is a second {profile.name!r}")
        profiles[profile.name] = profile
    return profiles


def _decoded(path: Path) -> Any:
    decode = {".json": _decoded_json, ".yaml": _decoded_yaml, ".yml": _decoded_yaml}
    if path.suffix not in decode:
        raise _Bad("its name should end in .yaml, .yml or .json")
    try:
        # Some editors begin a file with a mark, which neither JSON nor YAML wants.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        # A ValueError is a NUL in the path, or bytes that are no UTF-8.
        raise _Bad(getattr(error, "strerror", None) or _line(error)) from None
    return decode[path.suffix](text)


def _decoded_json(text: str) -> Any:
    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice(key for key, _ in pairs)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=checked)
    except (ValueError, RecursionError) as error:
        raise _Bad(f"broken JSON: {_line(error)}") from None


def _decoded_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise _Bad("YAML needs PyYAML: pip install 'cleveragents-plans[yaml]'") from None

    class Loader(yaml.SafeLoader):
        # When a mapping is composed its merged keys, which may come again, are not in it yet.
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _refuse_twice(key.value for key in keys)
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (_Bad, yaml.YAMLError, RecursionError):
                raise
            except Exception:
                # A number, a boolean or a date that is none fails with whatever Python says.
                kind = node.tag.rpartition(":")[2]
                place = _place(node.start_mark)
                raise _Bad(f"broken YAML: {shown(node.value)}{place} is no {kind}") from None

    try:
        return yaml.load(text, Loader)  # noqa: S506  a SafeLoader, see above
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise _Bad(f"broken YAML: {problem}{_place(error.problem_mark)}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise _Bad(f"broken YAML: {_line(error)}") from None


def _place(mark: Any) -> str:
    return f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _refuse_twice(keys: Iterable[str]) -> None:
    for key, times in Counter(keys).items():
        if times > 1:
            raise _Bad(f"the key {shown(key)} comes {times} times; write it once")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
