"""The parts of a CREATE TABLE of SQLite: what stands between its commas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cleveragents_plans.evolution.sqlite.tokens import Token, closing

STARTS_A_CONSTRAINT = frozenset({"constraint", "primary", "unique", "check", "foreign"})
# What can follow a constraint of a column, or, without a comma, one of the table.
_STARTS_ANOTHER = STARTS_A_CONSTRAINT | {"collate", "generated", "as", "references"}


class DdlNotUnderstood(ValueError):
    """The text is not one that can be changed as it was asked to."""


@dataclass(frozen=True)
class Item:
    """A column, or the constraints of the table: what stands between two commas."""

    tokens: tuple[Token, ...]
    #: Where the comma or parenthesis before and after it stands.
    opened: Token
    closed: Token

    @property
    def end(self) -> int:
        """The place behind its last token."""
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


def split_items(tokens: list[Token], start: int) -> tuple[list[Item], int | None]:
    """Cut at the commas what the parenthesis at *start* holds; also say where it is closed."""
    items: list[Item] = []
    depth = 0
    opened = start
    for index in range(start, len(tokens)):
        text = tokens[index].text
        depth += (text == "(") - (text == ")")
        if depth == 0 or (depth == 1 and text == ","):
            inner = tuple(tokens[opened + 1 : index])
            if not inner:
                raise DdlNotUnderstood("a column is missing between two commas")
            items.append(Item(inner, tokens[opened], tokens[index]))
            opened = index
        if depth == 0:
            return items, index
    return items, None


def not_null_of(item: Item) -> int | None:
    """Find NOT NULL; within parentheses the two words are part of an expression."""
    words = [token.keyword for token in item.tokens]
    return next((n for n in item.top() if words[n : n + 2] == ["not", "null"]), None)


def default_of(item: Item) -> tuple[int, int] | None:
    """Find DEFAULT and where its value ends; `ON DELETE SET DEFAULT` is something else."""
    words = [token.keyword for token in item.tokens]
    for place in item.top():
        if words[place] == "default" and words[place - 1] != "set":
            value = place + 1
            value += item.tokens[value].text in "+-"
            return place, value + closing(list(item.tokens[value:])) + 1
    return None


def end_of_constraint(item: Item, first: int) -> int:
    """Find the token behind the CHECK or FOREIGN KEY whose CONSTRAINT is the token *first*."""
    words = [token.keyword for token in item.tokens]
    for place in item.top():
        if place <= first + 2:
            continue
        following = words[place : place + 2]
        if following[0] == "references" and words[first + 2] == "foreign":
            continue
        if following[0] in _STARTS_ANOTHER or following == ["not", "null"]:
            return place
        if following[0] == "default" and words[place - 1] != "set":
            return place
    return len(words)
