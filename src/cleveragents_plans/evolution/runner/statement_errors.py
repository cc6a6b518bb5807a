"""What the database refused: which statement, and why, without what the rows hold."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError, sqlstate

# Others depend on what was to be dropped (class 2B): the details name objects. Those of
# other errors may quote rows, and what plans hold is not for logs.
_DEPENDENT = "2B"
# What a block of the script itself ran; others' functions may put rows into their SQL.
_IN_BLOCK = re.compile(r'SQL statement "(.*?)"\s*PL/pgSQL function inline_code_block\b', re.DOTALL)
_STATEMENT = re.compile(
    r"""(?:\$(\w*)\$.*?\$\1\$ | '[^']*' | "[^"]*" | --[^\n]* | /\*.*?\*/ | [^;])+""",
    re.VERBOSE | re.DOTALL,
)


class StatementFailed(EvolutionError):
    """
    The database refused a statement that the chain counted on.

    Attributes:
        target: What the database is called.
        reason: What it said, on one line.
    """

    def __init__(self, target: str, error: DBAPIError) -> None:
        self.target = target
        said: Any = getattr(error.orig, "diag", None)
        # The driver's whole text may quote the row.
        self.reason = _short(getattr(said, "message_primary", None) or error.orig, 300)
        if (sqlstate(error) or "").startswith(_DEPENDENT) and said.message_detail:
            self.reason += f" ({_short(said.message_detail, 300)})"
        super().__init__(
            f"{target} refused {_what(error, said)}: {self.reason}; the step that failed was "
            "taken back: remove the cause and run the same command again"
        )


def _what(error: DBAPIError, said: Any) -> str:
    """Name the statement that failed; of several that were sent together, as far as is known."""
    if inner := _IN_BLOCK.match(getattr(said, "context", None) or ""):
        return f"`{_short(inner[1])}`"
    script = error.statement or "COMMIT"
    found = [each for each in _STATEMENT.finditer(script) if each[0].strip()]
    if len(found) == 1:
        return f"`{_short(found[0][0])}`"
    if position := getattr(said, "statement_position", None):
        at = int(position) - 1
        return next(f"`{_short(each[0])}`" for each in found if at < each.end())
    # The server does not tell which one it was, but speaks of the same things.
    best = _most_alike(str(said.message_primary), [each[0] for each in found])
    return f"one of {len(found)} statements, probably `{_short(best)}`"


def _most_alike(message: str, statements: list[str]) -> str:
    words = [{*re.findall(r"\w{3,}", each.lower())} for each in statements]
    # A word says the more, the fewer statements have it.
    common = Counter(word for each in words for word in each)
    told = {*re.findall(r"\w{3,}", message.lower())}
    likeness = [sum(1 / common[word] for word in each & told) for each in words]
    return statements[likeness.index(max(likeness))]


def _short(text: object, length: int = 80) -> str:
    return " ".join(str(text).split())[:length]
