"""A statement that the database refused: which one, and why, without what the rows hold."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import (
    EvolutionError,
    again,
    causes,
    function_of,
    is_reading,
    message_of,
    name_taken,
    policies_bind,
    sqlstate,
)
from cleveragents_plans.evolution.sqlite.temporary_files import remedy_of_disk_error

# Class 2B: others depend on what was to be dropped, and the details name objects. Those of
# other errors may quote rows, and what plans hold is not for logs.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_DEPENDENT = "2B"
# Classes 25 and 3B: the transaction has failed already, or is gone, with its savepoints.
_AFTER_A_FAILURE = ("25", "3B")
# A transaction that only reads has no such conflict with another one: with the replay of a standby.
# https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CONFLICT
_BY_RECOVERY = "40001"
# What a block of the script itself ran; others' functions may put rows into their SQL.
_IN_BLOCK = re.compile(r'SQL statement "(.*?)"\s*PL/pgSQL function inline_code_block\b', re.DOTALL)

# What `raise_if` raises says what was found, and in its hint what to do.
_RAISED = "P0001"
# One line, in the language of the server, in which these words have any order.
_BY_BLOCK = re.compile(r"(?=.*inline_code_block)(?=.*RAISE).*")

_NOT_BOUND = (
    "expected that the role sees all rows: run ALTER TABLE … NO FORCE ROW LEVEL SECURITY if it is "
    "the owner, otherwise connect as the owner, or as a role with BYPASSRLS"
)


class StatementFailed(EvolutionError):
    """
    The database refused a statement that the chain counted on.

    Of several errors, the first one is told: a failed transaction refuses every statement
    after it, those that set the session back as well.

    Attributes:
        target: What the database is called.
        reason: What it said, on one line.
    """

    def __init__(self, target: str, error: DBAPIError) -> None:
        self.target = target
        error = _first(error)
        said: Any = getattr(error.orig, "diag", None)
        # The driver's whole text may quote the row.
        self.reason: str = message_of(error)[:300]
        if (sqlstate(error) or "").startswith(_DEPENDENT) and said.message_detail:
            self.reason += f" ({_short(said.message_detail, 300)})"
        context = getattr(said, "context", None) or ""
        if sqlstate(error) == _RAISED and _BY_BLOCK.fullmatch(context):
            super().__init__(
                f"{target}: {self.reason}; {_short(said.message_hint, 300)}, and {again()}"
            )
            return
        if policies_bind(error):
            super().__init__(f"{target}: {self.reason}; {_NOT_BOUND}, and {again()}")
            return
        inner = _IN_BLOCK.match(context)
        statement = inner[1] if inner else error.statement or "COMMIT"
        remedy = remedy_of_disk_error(error.orig) or "remove the cause"
        if name_taken(error) is not None:
            remedy = "rename or drop what has it now,"
        if is_reading() and sqlstate(error) == _BY_RECOVERY:
            remedy = (
                "a standby ends what reads for longer than its max_standby_streaming_delay allows: "
                "ask the primary or raise that,"
            )
        # At COMMIT nothing else says which constraint trigger it was.
        function = function_of(error)
        where = f" in the function {function}" if function else ""
        super().__init__(
            f"{target} refused `{_short(statement)}`{where}: {self.reason}; {remedy} and {again()}"
        )


def _first(error: DBAPIError) -> DBAPIError:
    found = [cause for cause in causes(error) if isinstance(cause, DBAPIError)]
    real = (each for each in found if not (sqlstate(each) or "").startswith(_AFTER_A_FAILURE))
    return next(real, error)


def _short(text: object, length: int = 80) -> str:
    return " ".join(str(text).split())[:length]
