"""
Read the text of a SQLite CREATE TABLE, and change it without disturbing the rest.

SQLite has no statement that changes a column's NOT NULL or DEFAULT, or adds a constraint: a table
is defined by the text that created it. Each change here is an edit at the place of a token, which
leaves every other character as it was, so that the opposite change gives the former text.
"""

from __future__ import annotations

import re

from cleveragents_plans.evolution.sqlite.items import (
    STARTS_A_CONSTRAINT,
    DdlNotUnderstood,
    Item,
    default_of,
    end_of_constraint,
    not_null_of,
    split_items,
)
from cleveragents_plans.evolution.sqlite.tokens import (
    closing,
    fold,
    quote,
    same_expression,
    tokenize,
)


class CreateTable:
    """
    A CREATE TABLE statement that can be changed.

    Each change gives a new statement. The changes are pairs, `add` and `drop`, `set_not_null` and
    `drop_not_null`, `set_default` and `drop_default`: the second restores the text that the
    first was given. That holds only if the first changed something: a column that had the NOT
    NULL or the DEFAULT before keeps it, and the second would drop what was there all along.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        tokens = tokenize(text)
        start = next((n for n, token in enumerate(tokens) if token.text == "("), 0)
        head = [token.keyword for token in tokens[:start]]
        if head[:1] != ["create"] or "table" not in head or "virtual" in head:
            raise DdlNotUnderstood(f"expected CREATE TABLE name (...), found {text[:60]!r}")
        items, end = split_items(tokens, start)
        if end is None:
            raise DdlNotUnderstood("the parenthesis after the table's name is never closed")
        split = next(
            (n for n, item in enumerate(items) if item.tokens[0].keyword in STARTS_A_CONSTRAINT),
            len(items),
        )
        self._columns = items[:split]
        self._items = items
        self._body = tokens[start : end + 1]

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in their order."""
        return [item.tokens[0].name or "" for item in self._columns]

    @property
    def checks(self) -> list[str]:
        """The expressions of the CHECK constraints, those of columns included."""
        return [expression for _, expression in self.named_checks]

    @property
    def named_checks(self) -> list[tuple[str | None, str]]:
        """The CHECK constraints: their names, if they have one, and their expressions."""
        found = []
        for index, token in enumerate(self._body):
            if token.keyword == "check":
                named = self._body[index - 2].keyword == "constraint"
                name = self._body[index - 1].name if named else None
                rest = self._body[index + 1 :]
                found.append((name, self.text[rest[0].start : rest[closing(rest)].end]))
        return found

    def add(self, column: str, definition: str) -> CreateTable:
        """
        Add *column* after the last one, laid out as that one is.

        Raises:
            DdlNotUnderstood: The column is there already.
        """
        if fold(column) in map(fold, self.columns):
            raise DdlNotUnderstood(f"column {column} is there already")
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column)
        name = column if plain else quote(column)
        longer = self._after(self._columns[-1], f"{name} {_trimmed(definition)}")
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

    def add_constraint(self, definition: str) -> CreateTable:
        """
        Add a constraint of the table, ``CONSTRAINT name CHECK (...)`` or the like, at the end.

        Raises:
            DdlNotUnderstood: It is not one constraint.
        """
        longer = self._after(self._items[-1], _trimmed(definition))
        if longer.columns != self.columns or len(longer._items) != len(self._items) + 1:
            raise DdlNotUnderstood(f"expected one constraint of a table, found {definition!r}")
        return longer

    def drop_constraint(self, name: str) -> CreateTable:
        """
        Remove the CHECK or FOREIGN KEY *name*, of the table or of a column.

        Raises:
            DdlNotUnderstood: There is no such constraint, or it is of another kind.
        """
        item, first, beyond = self._constraint(name)
        kind = item.tokens[first + 2].keyword
        if kind not in ("check", "foreign", "references"):
            raise DdlNotUnderstood(
                f"the constraint {name} is {kind.upper()}, expected CHECK or FOREIGN KEY"
            )
        if first == 0 and beyond == len(item.tokens):
            return self._with(item.opened.start, item.end, "")
        return self._without(item, first + 2, beyond)

    def constraint(self, name: str) -> str | None:
        """Find the text of the constraint *name*, from the word CONSTRAINT on."""
        found = self._find_constraint(name)
        if found is None:
            return None
        item, first, beyond = found
        return self.text[item.tokens[first].start : item.tokens[beyond - 1].end]

    def referring_columns(self, name: str) -> tuple[str, ...]:
        """Name the columns of the FOREIGN KEY *name*, folded; none for a CHECK."""
        item, first, beyond = self._constraint(name)
        tokens = item.tokens[first + 2 : beyond]
        if tokens[0].keyword == "check":
            return ()
        if tokens[0].keyword == "references":
            return (fold(item.tokens[0].name or ""),)
        listed = tokens[3 : 2 + closing(list(tokens[2:]))]
        return tuple(fold(token.name or "") for token in listed if token.text != ",")

    def _constraint(self, name: str) -> tuple[Item, int, int]:
        found = self._find_constraint(name)
        if found is None:
            raise DdlNotUnderstood(f"there is no constraint {name}")
        return found

    def _find_constraint(self, name: str) -> tuple[Item, int, int] | None:
        for item in self._items:
            for place in item.top():
                # A name at the end of a column may name nothing.
                if item.tokens[place].keyword != "constraint" or place + 2 >= len(item.tokens):
                    continue
                if fold(item.tokens[place + 1].name or "") == fold(name):
                    return item, place, end_of_constraint(item, place)
        return None

    def set_not_null(self, column: str) -> CreateTable:
        """Declare *column* NOT NULL, unless it is already."""
        item = self._column(column)
        if not_null_of(item) is not None:
            return self
        return self._with(item.room, item.room, " NOT NULL")

    def drop_not_null(self, column: str) -> CreateTable:
        """Remove the NOT NULL of *column*, if there is one."""
        item = self._column(column)
        place = not_null_of(item)
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

    def replace_default(self, column: str, expression: str) -> CreateTable:
        """Give *column* the DEFAULT *expression*, in the place of another one if it has one."""
        item = self._column(column)
        place = default_of(item)
        if place is None:
            return self.set_default(column, expression)
        start, end = item.tokens[place[0] + 1].start, item.tokens[place[1] - 1].end
        return self._with(start, end, _trimmed(expression))

    def drop_default(self, column: str) -> CreateTable:
        """Remove the DEFAULT of *column*, if there is one."""
        item = self._column(column)
        place = default_of(item)
        return self if place is None else self._without(item, *place)

    def default(self, column: str) -> str | None:
        """Find the expression of the DEFAULT of *column*."""
        item = self._column(column)
        place = default_of(item)
        if place is None:
            return None
        return self.text[item.tokens[place[0] + 1].start : item.tokens[place[1] - 1].end]

    def _column(self, column: str) -> Item:
        for item in self._columns:
            if fold(item.tokens[0].name or "") == fold(column):
                return item
        raise DdlNotUnderstood(f"column {column} not found; there are {', '.join(self.columns)}")

    def _after(self, item: Item, text: str) -> CreateTable:
        """Add *text* as another item behind *item*, laid out as that one is."""
        indent = re.search(r"\s*\Z", self.text[item.opened.end : item.tokens[0].start])
        space = indent.group() if indent and item.opened.text == "," else " "
        # A comment beside the item stays beside it.
        gap = self.text[item.end : item.closed.start]
        place = item.closed.start if gap.strip() else item.end
        return self._with(place, place, f",{space}{text}".rstrip())

    def _with(self, start: int, end: int, text: str) -> CreateTable:
        return CreateTable(self.text[:start] + text + self.text[end:])

    def _without(self, item: Item, first: int, beyond: int) -> CreateTable:
        """Remove the tokens from *first* to before *beyond*, and the space and name before them."""
        if first >= 2 and item.tokens[first - 2].keyword == "constraint":
            first -= 2
        start = item.tokens[first].start
        start -= len(self.text[:start]) - len(self.text[:start].rstrip(" \t\n\f\r"))
        return self._with(start, item.tokens[beyond - 1].end, "")


def _trimmed(text: str) -> str:
    """Cut off what follows the last token: the opposite change would leave a comment there."""
    tokens = tokenize(text)
    return text[tokens[0].start : tokens[-1].end] if tokens else ""
