"""
Read the text of a SQLite CREATE TABLE, and change it without disturbing the rest.

SQLite has no statement that changes a column's NOT NULL or DEFAULT: what a
table is, is the text it was made with. Each change here is made at the place
of a token and leaves every other character as it was, so that taking a change
back gives the very text that was there before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cleveragents_plans.evolution.sqlite.tokens import (
    Token,
    closing,
    fold,
    quote,
    same_expression,
    tokenize,
)

_STARTS_A_CONSTRAINT = frozenset({"constraint", "primary", "unique", "check", "foreign"})


class DdlNotUnderstood(ValueError):
    """The text is not one this module can change as it was asked to."""


@dataclass(frozen=True)
class _Item:
    """A column, or the constraints of the table: what stands between two commas."""

    tokens: tuple[Token, ...]
    #: Where the comma or parenthesis before and after it stands.
    opened: Token
    closed: Token

    @property
    def end(self) -> int:
        return self.tokens[-1].end

    @property
    def room(self) -> int:
        """
        The place for one more constraint.

        SQLite allows names at the end that name nothing; what is put after
        them would take the last one, and take it along when it goes.
        """
        last = len(self.tokens) - 1
        while last > 1 and self.tokens[last - 1].keyword == "constraint":
            last -= 2
        return self.tokens[last].end

    def top(self) -> Iterator[int]:
        """Find the places of the tokens that are not within parentheses."""
        depth = 0
        for index, token in enumerate(self.tokens):
            depth -= token.text == ")"
            if depth == 0:
                yield index
            depth += token.text == "("


class CreateTable:
    """
    A CREATE TABLE statement that can be changed.

    Each change gives a new statement. The changes come in pairs, `add` and
    `drop`, `set_not_null` and `drop_not_null`, `set_default` and
    `drop_default`: the second gives back the text that the first was given.
    That holds only if the first did change something. A column that had the
    NOT NULL or the DEFAULT before keeps it as it is; whoever drops it
    afterwards drops what was there all along.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        tokens = tokenize(text)
        start = next((n for n, token in enumerate(tokens) if token.text == "("), 0)
        head = [token.keyword for token in tokens[:start]]
        if head[:1] != ["create"] or "table" not in head or "virtual" in head:
            raise DdlNotUnderstood(f"expected CREATE TABLE name (...), found {text[:60]!r}")
        self.name = tokens[start - 1].name or ""
        items, end = _split(tokens, start)
        if end is None:
            raise DdlNotUnderstood("the parenthesis after the table's name is never closed")
        split = next(
            (n for n, item in enumerate(items) if item.tokens[0].keyword in _STARTS_A_CONSTRAINT),
            len(items),
        )
        self._columns = items[:split]
        self._body = tokens[start : end + 1]
        self._options = tokens[end + 1 :]

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in their order."""
        return [item.tokens[0].name or "" for item in self._columns]

    @property
    def without_rowid(self) -> bool:
        """Whether the table was declared WITHOUT ROWID."""
        return "without" in [token.keyword for token in self._options]

    @property
    def checks(self) -> list[str]:
        """The expressions of the CHECK constraints, those of columns included."""
        found = []
        for index, token in enumerate(self._body):
            if token.keyword == "check":
                rest = self._body[index + 1 :]
                found.append(self.text[rest[0].start : rest[closing(rest)].end])
        return found

    def add(self, column: str, definition: str) -> CreateTable:
        """
        Add *column* after the last one, laid out as that one is.

        Raises:
            DdlNotUnderstood: The column is there already.
        """
        if fold(column) in map(fold, self.columns):
            raise DdlNotUnderstood(f"column {column} is there already")
        last = self._columns[-1]
        indent = re.search(r"\s*\Z", self.text[last.opened.end : last.tokens[0].start])
        space = indent.group() if indent and last.opened.text == "," else " "
        # A comment beside the last column stays beside it.
        gap = self.text[last.end : last.closed.start]
        place = last.closed.start if gap.strip() else last.end
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column)
        name = column if plain else quote(column)
        longer = self._with(place, place, f",{space}{name} {_trimmed(definition)}".rstrip())
        if len(longer.columns) != len(self.columns) + 1:
            raise DdlNotUnderstood(f"expected the definition of one column, found {definition!r}")
        return longer

    def drop(self, column: str) -> CreateTable:
        """Remove *column* with everything that is said of it."""
        item = self._column(column)
        if len(self._columns) == 1:
            raise DdlNotUnderstood(f"column {column} is the only one")
        if item.opened.text == ",":
            return self._with(item.opened.start, item.end, "")
        following = self._columns[1].tokens[0]
        return self._with(item.tokens[0].start, following.start, "")

    def set_not_null(self, column: str) -> CreateTable:
        """Declare *column* NOT NULL, unless it is already."""
        item = self._column(column)
        if _not_null(item) is not None:
            return self
        return self._with(item.room, item.room, " NOT NULL")

    def drop_not_null(self, column: str) -> CreateTable:
        """Take the NOT NULL of *column* away, if there is one."""
        item = self._column(column)
        place = _not_null(item)
        if place is None:
            return self
        end = place + 2
        if [token.keyword for token in item.tokens[end : end + 2]] == ["on", "conflict"]:
            end += 3
        return self._without(item, place, end)

    def set_default(self, column: str, expression: str) -> CreateTable:
        """
        Give *column* the DEFAULT *expression*, unless it has exactly that one.

        Raises:
            DdlNotUnderstood: It has another one.
        """
        item = self._column(column)
        present = self.default(column)
        if present is None:
            return self._with(item.room, item.room, f" DEFAULT {_trimmed(expression)}")
        if not same_expression(present, expression):
            raise DdlNotUnderstood(
                f"column {column} has DEFAULT {present}, expected none or {expression}"
            )
        return self

    def drop_default(self, column: str) -> CreateTable:
        """Take the DEFAULT of *column* away, if there is one."""
        item = self._column(column)
        place = _default(item)
        return self if place is None else self._without(item, *place)

    def default(self, column: str) -> str | None:
        """Find the expression of the DEFAULT of *column*."""
        item = self._column(column)
        place = _default(item)
        if place is None:
            return None
        return self.text[item.tokens[place[0] + 1].start : item.tokens[place[1] - 1].end]

    def _column(self, column: str) -> _Item:
        for item in self._columns:
            if fold(item.tokens[0].name or "") == fold(column):
                return item
        raise DdlNotUnderstood(f"column {column} not found; there are {', '.join(self.columns)}")

    def _with(self, start: int, end: int, text: str) -> CreateTable:
        return CreateTable(self.text[:start] + text + self.text[end:])

    def _without(self, item: _Item, first: int, beyond: int) -> CreateTable:
        """Remove the tokens from *first* to before *beyond*, and the space and name before them."""
        if first >= 2 and item.tokens[first - 2].keyword == "constraint":
            first -= 2
        start = item.tokens[first].start
        start -= len(self.text[:start]) - len(self.text[:start].rstrip(" \t\n\f\r"))
        return self._with(start, item.tokens[beyond - 1].end, "")


def _split(tokens: list[Token], start: int) -> tuple[list[_Item], int | None]:
    """Cut at the commas what the parenthesis at *start* holds; also say where it is closed."""
    items: list[_Item] = []
    depth = 0
    opened = start
    for index in range(start, len(tokens)):
        text = tokens[index].text
        depth += (text == "(") - (text == ")")
        if depth == 0 or (depth == 1 and text == ","):
            inner = tuple(tokens[opened + 1 : index])
            if not inner:
                raise DdlNotUnderstood("a column is missing between two commas")
            items.append(_Item(inner, tokens[opened], tokens[index]))
            opened = index
        if depth == 0:
            return items, index
    return items, None


def _not_null(item: _Item) -> int | None:
    """Find NOT NULL; within parentheses the two words are part of an expression."""
    words = [token.keyword for token in item.tokens]
    return next((n for n in item.top() if words[n : n + 2] == ["not", "null"]), None)


def _default(item: _Item) -> tuple[int, int] | None:
    """Find DEFAULT and where its value ends; `ON DELETE SET DEFAULT` is something else."""
    words = [token.keyword for token in item.tokens]
    for place in item.top():
        if words[place] == "default" and words[place - 1] != "set":
            value = place + 1
            value += item.tokens[value].text in "+-"
            return place, value + closing(list(item.tokens[value:])) + 1
    return None


def _trimmed(text: str) -> str:
    """Cut off what follows the last token: a comment at the end would outlive an undo."""
    tokens = tokenize(text)
    return text[tokens[0].start : tokens[-1].end] if tokens else ""
