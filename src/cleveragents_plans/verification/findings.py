"""What can be wrong with a database, and how it is mended."""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cleveragents_plans.persistence import LifecyclePlanModel


class Kind(StrEnum):
    """The kinds of findings."""

    # The version, and the schema as a whole.
    VERSION = "version"
    UNFINISHED = "unfinished"
    SECOND_SCHEMA = "second-schema"
    TABLE_MISSING = "table-missing"
    TABLE_UNREADABLE = "table-unreadable"
    OWNER = "owner"
    # Columns.
    COLUMN_MISSING = "column-missing"
    COLUMN_EXTRA = "column-extra"
    COLUMN_TYPE = "column-type"
    COLUMN_NULL = "column-null"
    COLUMN_DEFAULT = "column-default"
    # Constraints.
    CHECK_MISSING = "check-missing"
    CHECK_RENAMED = "check-renamed"
    CHECK_CHANGED = "check-changed"
    CHECK_EXTRA = "check-extra"
    CONSTRAINT_MISSING = "constraint-missing"
    CONSTRAINT_RENAMED = "constraint-renamed"
    CONSTRAINT_CHANGED = "constraint-changed"
    CONSTRAINT_EXTRA = "constraint-extra"
    NOT_VALID = "not-valid"
    # Indexes.
    INDEX_MISSING = "index-missing"
    INDEX_RENAMED = "index-renamed"
    INDEX_CHANGED = "index-changed"
    INDEX_EXTRA = "index-extra"
    INDEX_INVALID = "index-invalid"
    # Triggers and their functions.
    TRIGGER_MISSING = "trigger-missing"
    TRIGGER_CHANGED = "trigger-changed"
    TRIGGER_DISABLED = "trigger-disabled"
    TRIGGER_EXTRA = "trigger-extra"
    FUNCTION_CHANGED = "function-changed"
    FUNCTION_RIGHTS = "function-rights"
    # Plans and their trees.
    ROOT_NULL = "root-null"
    ROOT_OWN = "root-own"
    ROOT_OF_ANOTHER_TREE = "root-of-another-tree"
    ROOT_IS_NO_ROOT = "root-is-no-root"
    ROOT_NOT_STORED = "root-not-stored"
    PARENT_NOT_STORED = "parent-not-stored"
    CYCLE = "cycle"
    PLAN_NOT_STORED = "plan-not-stored"
    UNREADABLE = "unreadable"
    SNAPSHOT_UNREADABLE = "snapshot-unreadable"


class Finding(BaseModel):
    """Something that is not as it should be."""

    model_config = ConfigDict(frozen=True)

    kind: Kind = Field(description="What is wrong, as a word that stays the same.")
    severity: Literal["fault", "note"] = Field(
        description="A fault is to be mended; a note says what differs and does no harm."
    )
    subject: str = Field(description="The table, column, constraint, index or trigger.")
    found: str = Field(description="What was found, in a sentence.")
    remedy: str = Field(description="What mends it: what to do, or to type.")
    total: int = Field(default=1, description="How many rows, or objects, it is found in.")
    plan_ids: tuple[str, ...] = Field(
        default=(), description="The first of the plans that it is found in, by their ids."
    )


def fault(kind: Kind, subject: str, found: str, remedy: str) -> Finding:
    """Make a finding that is to be mended."""
    return Finding(kind=kind, severity="fault", subject=subject, found=found, remedy=remedy)


def note(kind: Kind, subject: str, found: str, remedy: str = "nothing needs to be done") -> Finding:
    """Make a finding that does no harm."""
    return Finding(kind=kind, severity="note", subject=subject, found=found, remedy=remedy)


class RowFindings:
    """
    Findings in rows, as they come: counted, and the first of them named.

    Args:
        listed: How many plans are named for each kind.
    """

    def __init__(self, listed: int) -> None:
        self._listed = listed
        self._totals: Counter[tuple[Kind, str]] = Counter()
        # The plans with the smallest ids, each with what was found and what mends it.
        self._first: dict[tuple[Kind, str], list[tuple[str, str, str]]] = defaultdict(list)

    def add(self, kind: Kind, subject: str, plan_id: object, found: str, remedy: str) -> None:
        """Count a plan; what is said of the kind is *found* and *remedy* of the first plan."""
        key = kind, subject
        self._totals[key] += 1
        insort(self._first[key], (text_of(plan_id), found, remedy))
        del self._first[key][self._listed :]

    def __iter__(self) -> Iterator[Finding]:
        order = [*Kind]
        for kind, subject in sorted(self._totals, key=lambda key: (order.index(key[0]), key[1])):
            first = self._first[kind, subject]
            yield Finding(
                kind=kind,
                severity="fault",
                subject=subject,
                found=first[0][1],
                remedy=first[0][2],
                total=self._totals[kind, subject],
                plan_ids=tuple(plan_id for plan_id, _, _ in first),
            )


def text_of(value: object) -> str:
    """Write a value of a row for people: text as it is, if it can be printed."""
    return value if isinstance(value, str) and value.isprintable() else ascii(value)


def literal_of(value: object) -> str:
    """Write a value of a row as SQL that can be typed."""
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    text = str(value)
    if not text.isprintable():
        return f"CAST(X'{text.encode(errors='surrogateescape').hex()}' AS TEXT)"
    return "'" + text.replace("'", "''") + "'"


#: The table of plans.
PLANS = LifecyclePlanModel.__tablename__
