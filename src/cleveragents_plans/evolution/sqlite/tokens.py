"""The tokens of SQL, as SQLite reads it, and what can be said of a text by them alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate

# One alternative per kind of token. Comments and quotes without an end reach
# to the end of the text, as they do in SQLite.
_LEXEMES = re.compile(
    r"""
    (?P<space>   [ \t\n\f\r]+ | --[^\n]* | /\*(?s:.*?)(?:\*/|\Z) )
  | (?P<string>  [xX]?'(?:[^']|'')*(?:'|\Z) )
  | (?P<quoted>  "(?:[^"]|"")*(?:"|\Z) | `(?:[^`]|``)*(?:`|\Z) | \[[^\]]*(?:\]|\Z) )
  | (?P<word>    [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* )
  | (?P<number>  \.?[0-9](?:[eE][+-]|[A-Za-z0-9_.])* )
  | (?P<sign>    (?s:.) )
    """,
    re.VERBOSE,
)

_UPPER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True)
class Token:
    """A piece of SQL with a meaning, and where it stands in the text."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def keyword(self) -> str:
        """The word in lower case; empty for anything in quotes, which is no keyword."""
        return fold(self.text) if self.kind == "word" else ""

    @property
    def name(self) -> str | None:
        """The identifier this token can be, without its quotes."""
        if self.kind == "word":
            return self.text
        if self.kind == "quoted":
            closing = self.text[-1]
            return self.text[1:-1].replace(closing * 2, closing)
        # SQLite takes 'a' for an identifier where only an identifier can stand.
        return self.text[1:-1].replace("''", "'") if self.text[0] == "'" else None


def fold(name: str) -> str:
    """Bring *name* to the form in which SQLite compares names: only A to Z lose their case."""
    return name.translate(_UPPER)


def quote(name: str) -> str:
    """Write *name* so that SQLite reads it as an identifier whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def tokenize(sql: str) -> list[Token]:
    """Split *sql* into its tokens, leaving out white space and comments."""
    return [
        Token(found.lastgroup or "", found.group(), found.start(), found.end())
        for found in _LEXEMES.finditer(sql)
        if found.lastgroup != "space"
    ]


def same_expression(one: str, other: str) -> bool:
    """Tell whether two texts are the same but for white space, comments and outer parentheses."""
    return _bare(tokenize(one)) == _bare(tokenize(other))


def rename_table(expression: str, table: str, replacement: str) -> str:
    """
    Make *expression* read *replacement* wherever it names *table*.

    What follows a point is a column, unless the point follows `main`.
    """
    tokens = tokenize(expression)
    for index in reversed(range(len(tokens))):
        token = tokens[index]
        if token.kind == "string" or fold(token.name or "") != fold(table):
            continue
        after_point = index > 0 and tokens[index - 1].text == "."
        if after_point and not (index > 1 and fold(tokens[index - 2].name or "") == "main"):
            continue
        expression = expression[: token.start] + replacement + expression[token.end :]
    return expression


def closing(tokens: list[Token]) -> int:
    """Find the token that closes the parenthesis which the first one opens, if it opens one."""
    depths = accumulate((token.text == "(") - (token.text == ")") for token in tokens)
    return next(place for place, depth in enumerate(depths) if depth == 0)


def _bare(tokens: list[Token]) -> list[str]:
    while len(tokens) > 1 and tokens[0].text == "(" and closing(tokens) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return [token.keyword or token.text for token in tokens]
