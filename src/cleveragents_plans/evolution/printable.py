"""
Text of others on one line of a terminal or a log: names, queries, versions, paths.

A role that names a table, a session or a file can put escape sequences and ends of lines into it.
A terminal would act on them (CWE-150), and a log would get forged lines (CWE-117).
"""

from __future__ import annotations

import re

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

#: Characters of a message; longer ones are cut in their middle, since the remedy is at the end.
MAX_MESSAGE = 4000
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def printable(text: object, limit: int | None = MAX_MESSAGE) -> str:
    """
    Write *text* so that it can be printed: escaped as in Python where it cannot be as it is.

    Args:
        text: What is to be printed.
        limit: The characters after which it is cut in the middle; None, it is not.
    """
    whole = str(text) if limit is None else shortened(str(text), limit)
    if whole.isprintable():
        return whole
    return "".join(each if each.isprintable() else _escaped(each) for each in whole)


def shortened(text: str, limit: int = MAX_MESSAGE) -> str:
    """Cut *text* in its middle if it has more than *limit* characters, and say how many."""
    if len(text) <= limit:
        return text
    begin, end = text[: limit // 2], text[-limit // 4 :]
    left_out = len(text) - len(begin) - len(end)
    return f"{begin} … ({left_out:,} characters left out) … {end}"


def identifier(name: str) -> str:
    """
    Write the *name* of something as SQL that can be typed, quoted unless it is plain.

    Others chose it: without quotes it could be further statements.
    """
    if _PLAIN.fullmatch(name) and name not in RESERVED_WORDS:
        return name
    return '"{}"'.format(name.replace('"', '""'))


def equals(*, on_postgresql: bool) -> str:
    """
    Give the operator that compares a column with a literal in SQL that can be typed.

    For varchar PostgreSQL would take an operator of just these types from any schema of the search
    path of the session, before its own for text; another role may have created it there.
    """
    return "OPERATOR(pg_catalog.=)" if on_postgresql else "="


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
