"""Expressions of SQL in one form, whichever engine wrote them."""

from __future__ import annotations

import re
from typing import Any

from cleveragents_plans.evolution.sqlite.tokens import Token, tokenize

# What PostgreSQL adds when it writes an expression out of its catalog.
_CAST = re.compile(
    r"::(?P<type>character varying|double precision|timestamp with(out)? time zone|\"?\w+\"?)"
    r"(\(\d+(,\d+)?\))?(\[\])?"
)
_NUMBERS = ("integer", "bigint", "smallint", "numeric", "real", "double precision")
# How it writes IN and NOT IN.
_OF_ARRAYS = {("=", "any"): ("in",), ("<", ">", "all"): ("not", "in")}
_OPERATORS = ("<=", ">=", "<>", "!=", "||")
_COMPARES = {"=", "<", ">", "in", "is", "like", "between", "~"}


def canonical(expression: str) -> str:
    """
    Write *expression* so that equal ones are equal texts, of the models and of both engines.

    What makes no difference is left out: casts that PostgreSQL adds, parentheses around what is
    compared, the case of words, white space. ``= ANY (ARRAY[…])`` is ``IN (…)``.
    """
    tree, _ = _tree(_tokens(expression), 0)
    return _joined(_flat(_unwrapped(tree)))


def _tokens(expression: str) -> list[str]:
    words: list[str] = []
    tokens = tokenize(expression)
    position = 0
    while position < len(tokens):
        token = tokens[position]
        cast = _CAST.match(expression, token.start)
        if cast is None:
            if token.text.startswith("["):  # the elements of an ARRAY, or a name for SQLite
                words += ["[", *_tokens(token.text[1:-1]), "]"]
            else:
                words.append(_word(token))
            position += 1
            continue
        if words and words[-1].startswith("'") and cast["type"] in _NUMBERS:
            words[-1] = _number(words[-1][1:-1])
        while position < len(tokens) and tokens[position].start < cast.end():
            position += 1
    return _signed(words)


def _word(token: Token) -> str:
    if token.kind == "number":
        return _number(token.text)
    if token.kind == "quoted":
        return token.name or ""
    return token.keyword or token.text


def _number(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _signed(words: list[str]) -> list[str]:
    """Let a minus before a number be a part of it, unless it subtracts."""
    found: list[str] = []
    for word in words:
        minus = found[-1:] == ["-"] and re.fullmatch(r"[0-9].*", word)
        if minus and (len(found) < 2 or found[-2] in {*"=<>(,", "and", "or"}):
            found[-1] = _number(f"-{word}")
        else:
            found.append(word)
    return found


_Tree = list[Any]


def _tree(words: list[str], start: int) -> tuple[_Tree, int]:
    """Read what stands between two parentheses as a list, with a list for each pair within."""
    found: _Tree = []
    position = start
    while position < len(words):
        word = words[position]
        if word in (")", "]"):
            return found, position
        if word in ("(", "["):
            inner, position = _tree(words, position + 1)
            found.append(inner)
        else:
            found.append(word)
        position += 1
    return found, position


def _unwrapped(tree: _Tree) -> _Tree:
    found: _Tree = []
    for item in tree:
        if not isinstance(item, list):
            found.append(item)
            continue
        inner = _unwrapped(item)
        listed = next((each for each in _OF_ARRAYS if found[-len(each) :] == [*each]), None)
        if listed is not None:
            while len(inner) == 1 and isinstance(inner[0], list):
                inner = inner[0]
            elements = inner[1] if inner[:1] == ["array"] else inner
            found[-len(listed) :] = [*_OF_ARRAYS[listed], elements]
        elif _calls(found):
            found.append(inner)
        elif len(inner) == 1 or _is_comparison(inner):
            found.extend(inner)
        else:
            found.append(inner)
    while len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    return found


def _calls(found: _Tree) -> bool:
    """Tell whether a parenthesis after *found* is that of a function, or of IN."""
    last = found[-1] if found else ""
    return (
        isinstance(last, str)
        and last.isidentifier()
        and last not in ("and", "or", "not", "any", "all")
    )


def _is_comparison(tree: _Tree) -> bool:
    words = {each for each in tree if isinstance(each, str)}
    return not words.isdisjoint(_COMPARES) and words.isdisjoint({"and", "or"})


def _joined(words: list[str]) -> str:
    """Write *words* as SQL that can be typed."""
    text = ""
    for word in words:
        together = text[-1:] + word in _OPERATORS or word in (")", ",") or text[-1:] in ("(", "")
        text += word if together else f" {word}"
    return text


def _flat(tree: _Tree) -> list[str]:
    found: list[str] = []
    for item in tree:
        found += ["(", *_flat(item), ")"] if isinstance(item, list) else [item]
    return found
