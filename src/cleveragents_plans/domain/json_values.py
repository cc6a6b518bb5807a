"""
JSON as an immutable value that is equal when its canonical text is.

Python calls 1, 1.0 and True equal; the rows they make are not. Plans are equal
exactly when their rows are, so JSON is compared as the text that is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from json import JSONEncoder
from math import isfinite
from typing import Any, Self, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema, from_json

from cleveragents_plans.domain.errors import NotJson, shown

#: What can be read out of a `JsonObject`: arrays as tuples, objects as `JsonObject`.
JsonValue: TypeAlias = "bool | int | float | str | tuple[JsonValue, ...] | JsonObject | None"

# Half as deep as the parser goes, so that what is written can be read again, wherever it
# is put.
_MAX_DEPTH = 100
# Python and the parser write and read integers of up to 4300 digits.
_MAX_INTEGER = 10**4300
#: How many values a JSON value may consist of when it is given, and how many characters its texts
#: may have. What is stored already is read whatever its size.
MAX_VALUES = 250_000
MAX_CHARACTERS = 2**26
_MAX_NAME = 255

# Texts that may hold what the parser takes and we do not: NUL, and numbers that overflow
# to infinity. A match costs a second look, nothing else; so do many brackets, which may be deep.
_SUSPECT = re.compile(r"\\u0000|[eE]\+?[0-9]{2}|[0-9]{200}")

_encode = JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode


def canonical_json(value: object) -> str:
    """
    Write *value* as JSON in the one form that it has: sorted keys, no spaces, no escapes.

    Raises:
        NotJson: *value* holds something that JSON, or a database, cannot.
    """
    return _encode(_plain(value, "$", 0, _Room()))


class JsonObject(Mapping[str, JsonValue]):
    """
    A JSON object that never changes.

    Equal to a mapping that has the same canonical JSON: `{"a": 1}`, `{"a": 1.0}`
    and `{"a": True}` are three different values.
    """

    __slots__ = ("_canonical", "_data")

    def __init__(self, values: Mapping[str, Any] | None = None, /) -> None:
        self._data: dict[str, Any] = self._read({} if values is None else values)
        # Written at once, so that a value is refused here or nowhere.
        self._canonical: str | None = self._write()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """
        Read a JSON text; as fast as parsing it.

        Raises:
            NotJson: The text is broken, or is no object.
        """
        return cls._over(cls._checked_names(_parsed(text)))

    @property
    def canonical(self) -> str:
        """The canonical JSON text: what is stored, and what equality means."""
        if self._canonical is None:
            self._canonical = self._write()
        return self._canonical

    def to_plain(self) -> dict[str, Any]:
        """Copy into ordinary dicts and lists."""
        plain: dict[str, Any] = from_json(self.canonical)
        return plain

    def __getitem__(self, name: str) -> JsonValue:
        return _frozen(self._data[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JsonObject):
            return type(self) is type(other) and self.canonical == other.canonical
        if isinstance(other, Mapping):
            try:
                return self.canonical == type(self)(other).canonical
            except NotJson:
                return False
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self.to_plain())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_text, (self.canonical,)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        as_dict = core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())
        return core_schema.no_info_plain_validator_function(
            cls._validated,
            json_schema_input_schema=as_dict,
            serialization=core_schema.plain_serializer_function_ser_schema(
                cls.to_plain, return_schema=as_dict
            ),
        )

    @classmethod
    def _validated(cls, value: Any) -> Self:
        return value if type(value) is cls else cls(value)

    @classmethod
    def _read(cls, values: object) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            raise NotJson("$", _described(values), "a mapping")
        plain: dict[str, Any] = _plain(values, "$", 0, _Room())
        return cls._checked_names(plain)

    @classmethod
    def _over(cls, data: dict[str, Any]) -> Self:
        new = cls.__new__(cls)
        new._data = data
        new._canonical = None
        return new

    @classmethod
    def _checked_names(cls, data: dict[str, Any]) -> dict[str, Any]:
        return data

    def _write(self) -> str:
        return _encode(self._data)


class Arguments(JsonObject):
    """
    The arguments of a plan by name, in the order in which they were given.

    The order is stored, so it is part of what makes two of them equal.
    """

    __slots__ = ("_texts",)

    @classmethod
    def from_texts(cls, texts: Iterable[tuple[str, str]]) -> Self:
        """
        Read arguments from pairs of a name and the JSON text of its value.

        Raises:
            NotJson: A text is broken, or a name comes twice.
        """
        data: dict[str, Any] = {}
        for name, text in texts:
            if name in data:
                raise NotJson("$", f"a second argument {shown(name)}", "each name once")
            data[_key(name, "$")] = _parsed_value(text, f"$.{name}", 1)
        return cls._over(cls._checked_names(data))

    def texts(self) -> tuple[tuple[str, str], ...]:
        """Give each name, in order, with the canonical JSON text of its value."""
        if self._canonical is None:
            self._canonical = self._write()
        return self._texts

    @classmethod
    def _checked_names(cls, data: dict[str, Any]) -> dict[str, Any]:
        for name in data:
            if not 0 < len(name) <= _MAX_NAME:
                expected = f"an argument name of 1 to {_MAX_NAME} characters"
                raise NotJson("$", f"a name of {len(name)} characters", expected)
        return data

    def _write(self) -> str:
        self._texts = tuple((name, _encode(value)) for name, value in self._data.items())
        return "{" + ",".join(f"{_encode(name)}:{text}" for name, text in self._texts) + "}"


def _parsed(text: str) -> dict[str, Any]:
    data = _parsed_value(text, "$")
    if type(data) is not dict:
        raise NotJson("$", _described(data), "a JSON object")
    return data


def _parsed_value(text: str, path: str, depth: int = 0) -> Any:
    if not isinstance(text, str):  # the parser takes bytes, too
        raise NotJson(path, _described(text), "a JSON text")
    try:
        data = from_json(text, allow_inf_nan=False)
        suspect = _SUSPECT.search(text) or text.count("[") + text.count("{") > _MAX_DEPTH - depth
    except (TypeError, ValueError) as error:
        # A TypeError is a text that has no UTF-8 form.
        raise NotJson(path, f"{_described(text)} ({error})", "a JSON text") from error
    if suspect:
        # What was parsed is as large as its text, and is stored already.
        _plain(data, path, depth, _Room(values=len(text), characters=len(text)))
    return data


class _Room:
    """
    How much JSON a value may still come to.

    A list that holds one list twice, which holds another twice, is small in memory: written
    out it would fill it.
    """

    __slots__ = ("characters", "values")

    def __init__(self, values: int = MAX_VALUES, characters: int = MAX_CHARACTERS) -> None:
        self.values = values
        self.characters = characters

    def take(self, path: str, characters: int = 0) -> None:
        self.values -= 1
        self.characters -= characters
        if self.values < 0:
            raise NotJson(path, f"more than {MAX_VALUES:,} values", "a smaller value")
        if self.characters < 0:
            raise NotJson(path, f"more than {MAX_CHARACTERS:,} characters", "a smaller value")


def _plain(value: Any, path: str, depth: int, room: _Room) -> Any:
    """Copy *value* into dicts, lists and scalars that can be stored, or say what cannot."""
    room.take(path, len(value) if isinstance(value, str) else 0)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        if not -_MAX_INTEGER < value < _MAX_INTEGER:
            raise NotJson(path, "an integer of more than 4300 digits", "a shorter one")
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise NotJson(path, repr(value), "a finite number")
        return float(value)
    if depth >= _MAX_DEPTH:
        raise NotJson(path, f"more than {_MAX_DEPTH} levels", "a flatter value")
    if isinstance(value, Mapping):
        plain = {}
        for name, inner in value.items():
            key = _key(name, path)
            room.take(path, len(key))
            plain[key] = _plain(inner, f"{path}.{key}", depth + 1, room)
        return plain
    if isinstance(value, (list, tuple)):
        return [
            _plain(inner, f"{path}[{index}]", depth + 1, room) for index, inner in enumerate(value)
        ]
    raise NotJson(path, _described(value), "null, a boolean, number, text, list or mapping")


def _key(name: object, path: str) -> str:
    if not isinstance(name, str):
        raise NotJson(path, f"the key {shown(name)}", "keys that are text")
    return _text(name, path)


def _text(value: str, path: str) -> str:
    if "\0" in value:
        raise NotJson(path, "a NUL character", "text without one")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise NotJson(path, "a lone surrogate", "Unicode text") from error
    # Not str(value): that of an enumeration's member is its name.
    return str.__str__(value)


def _frozen(value: Any) -> JsonValue:
    if type(value) is dict:
        return JsonObject._over(value)
    if type(value) is list:
        return tuple(_frozen(inner) for inner in value)
    scalar: JsonValue = value
    return scalar


def _described(value: object) -> str:
    return f"{type(value).__name__} {shown(value)}"
