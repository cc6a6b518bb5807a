"""Automation profiles out of files that people write."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from itertools import chain
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

# Hundreds of profiles fit in; what a file can make of it, and how long that takes, is bounded.
_MAX_BYTES = 2**18
_MAX_VALUES = 100_000
_MAX_DEPTH = 100
_MAX_NUMBER = 100
_TOO_DEEP = f"it is nested more than {_MAX_DEPTH} levels deep"


def load_profiles(path: str | os.PathLike[str]) -> dict[str, AutomationProfile]:
    """
    Read custom profiles from a YAML or JSON file: one profile, or a list of them.

    The file may have up to 262,144 bytes, and 100,000 values when its aliases are written out.

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
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        # Some editors begin a file with a mark, which neither JSON nor YAML wants.
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        # A ValueError is a NUL in the path, or bytes that are no UTF-8.
        raise _Bad(getattr(error, "strerror", None) or _line(error)) from None
    if len(data) > _MAX_BYTES:
        raise _Bad(f"it has more than {_MAX_BYTES:,} bytes; split it")
    return decode[path.suffix](text)


def _decoded_json(text: str) -> Any:
    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice(key for key, _ in pairs)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=checked)
    except RecursionError:
        raise _Bad(_TOO_DEEP) from None
    except ValueError as error:
        raise _Bad(f"broken JSON: {_line(error)}") from None


def _decoded_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise _Bad("YAML needs PyYAML: pip install 'cleveragents-plans[yaml]'") from None

    class Loader(yaml.SafeLoader):
        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self._depth = 0
            # How many values each node stands for when its aliases are written out.
            self._values: dict[Any, int] = {}

        # A node is composed before anything is made of it: PyYAML copies the keys that are
        # merged (<<), and those of keys merged into them, so that a few lines can be millions.
        def compose_node(self, parent: Any, index: Any) -> Any:
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise _Bad(_TOO_DEEP)
            place = _place(self.peek_event().start_mark)  # type: ignore[no-untyped-call]  # PyYAML
            node = super().compose_node(parent, index)
            self._depth -= 1
            if node not in self._values:
                self._values[node] = self._size(node, place)
            return node

        def _size(self, node: Any, place: str) -> int:
            if isinstance(node, yaml.ScalarNode):
                return 1
            if node.end_mark is None:
                raise _Bad(f"the alias{place} names what it is a part of")
            pairs = isinstance(node, yaml.MappingNode)
            below = chain.from_iterable(node.value) if pairs else node.value
            size = 1 + sum(map(self._values.__getitem__, below))
            if size > _MAX_VALUES:
                raise _Bad(f"it has more than {_MAX_VALUES:,} values, aliases written out")
            return size

        # When a mapping is composed its merged keys, which may come again, are not in it yet.
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _refuse_twice(key.value for key in keys)
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            kind = node.tag.rpartition(":")[2]
            try:
                if kind in ("int", "float") and len(node.value) > _MAX_NUMBER:
                    raise ValueError  # 1:1:1:… is a number in YAML, and takes for ever
                return super().construct_object(node, deep)
            except (_Bad, yaml.YAMLError):
                raise
            except Exception:
                # A number, a boolean or a date that is none fails with whatever Python says.
                place = _place(node.start_mark)
                raise _Bad(f"broken YAML: {shown(node.value)}{place} is no {kind}") from None

    try:
        return yaml.load(text, Loader)  # noqa: S506  a SafeLoader, see above
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(filter(None, (error.context, error.problem)))[:200]
        raise _Bad(f"broken YAML: {problem}{_place(error.problem_mark)}") from None
    # The others are those of an escape that is no character.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _Bad(f"broken YAML: {_line(error)}") from None


def _place(mark: Any) -> str:
    return f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _refuse_twice(keys: Iterable[str]) -> None:
    for key, times in Counter(keys).items():
        if times > 1:
            raise _Bad(f"the key {shown(key)} comes {times} times; write it once")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
