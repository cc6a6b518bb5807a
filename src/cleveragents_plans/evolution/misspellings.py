"""What a name that is not there may have been meant to be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

# Of the row, which is t in an expression; in the quotes of any language; at the end, on SQLite.
_COLUMN = re.compile(r"""\bt\.["']?(\w+)|["\u00ab\u00bb\u201c\u201e](\w+)|: (\w+)$""")
# A letter in six, two in twenty: other names that begin alike are not taken for misspelt ones.
_MISSPELT = 0.9


def suggestion(name: str, known: Iterable[str], otherwise: str = "correct the name") -> str:
    """Ask whether the *known* name that is most like *name* is meant, or say *otherwise*."""
    close = get_close_matches(name, list(known), n=1)
    return f"is {close[0]} meant?" if close else otherwise


def is_misspelt(name: str, known: Iterable[str]) -> bool:
    """Tell whether *name* differs from one of those that are *known* by a letter or two."""
    return bool(get_close_matches(name, list(known), n=1, cutoff=_MISSPELT))


def column_in(message: str) -> str | None:
    """Find the column that a database says is not there; None, if *message* names none."""
    found = _COLUMN.search(message)
    return found and next(filter(None, found.groups()))
