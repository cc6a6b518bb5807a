"""What can be wrong with a database, and how it is mended."""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cleveragents_plans.persistence import LifecyclePlanModel
from cleveragents_plans.persistence.columns import has_surrogates


class Kind(StrEnum):
    """The kinds of findings."""

    #: The version table does not fit the tables, or there are no tables.
    VERSION = "version"
    #: A revision was interrupted.
    UNFINISHED = "unfinished"
    #: Another schema of the database has tables of plans, too.
    SECOND_SCHEMA = "second-schema"
    #: A table is not there.
    TABLE_MISSING = "table-missing"
    #: The definition of a table cannot be read.
    TABLE_UNREADABLE = "table-unreadable"
    #: A table belongs to another role than `v3_plans`.
    OWNER = "owner"
    #: A column is not there.
    COLUMN_MISSING = "column-missing"
    #: A column that no revision made.
    COLUMN_EXTRA = "column-extra"
    #: The type of a column differs.
    COLUMN_TYPE = "column-type"
    #: A column may be NULL and should not, or the reverse.
    COLUMN_NULL = "column-null"
    #: The default of a column differs.
    COLUMN_DEFAULT = "column-default"
    #: A CHECK is not there.
    CHECK_MISSING = "check-missing"
    #: An equal CHECK has another name.
    CHECK_RENAMED = "check-renamed"
    #: A CHECK has another text.
    CHECK_CHANGED = "check-changed"
    #: A CHECK that no revision made.
    CHECK_EXTRA = "check-extra"
    #: A key, foreign key or UNIQUE is not there.
    CONSTRAINT_MISSING = "constraint-missing"
    #: An equal one has another name.
    CONSTRAINT_RENAMED = "constraint-renamed"
    #: One of that name is defined otherwise.
    CONSTRAINT_CHANGED = "constraint-changed"
    #: One that no revision made.
    CONSTRAINT_EXTRA = "constraint-extra"
    #: A constraint is NOT VALID: rows may break it.
    NOT_VALID = "not-valid"
    #: An index is not there.
    INDEX_MISSING = "index-missing"
    #: An equal index has another name.
    INDEX_RENAMED = "index-renamed"
    #: An index of that name is on something else.
    INDEX_CHANGED = "index-changed"
    #: An index that no revision made.
    INDEX_EXTRA = "index-extra"
    #: An index was not built to its end.
    INDEX_INVALID = "index-invalid"
    #: The trigger `v3_plans_fill` is not there.
    TRIGGER_MISSING = "trigger-missing"
    #: It is defined otherwise.
    TRIGGER_CHANGED = "trigger-changed"
    #: It does not fire always; or those that enforce foreign keys do not fire for clients.
    TRIGGER_DISABLED = "trigger-disabled"
    #: A trigger that no revision made, or one of a downgrade that is over.
    TRIGGER_EXTRA = "trigger-extra"
    #: The function of the trigger has another body.
    FUNCTION_CHANGED = "function-changed"
    #: It has other rights or settings than the chain gives it, or others may execute it.
    FUNCTION_RIGHTS = "function-rights"
    #: A function of a trigger that stayed in the schema from which the table was moved.
    FUNCTION_EXTRA = "function-extra"
    #: Another role than the owner may write to a table that only runs write to, or reads in one of
    #: them what row-level security hides.
    TABLE_RIGHTS = "table-rights"
    #: Row-level security is forced on the owner, with whose rights a trigger looks up plans.
    ROW_SECURITY = "row-security"
    #: A plan has no root.
    ROOT_NULL = "root-null"
    #: A plan with a parent names itself as its root.
    ROOT_OWN = "root-own"
    #: The root of a plan is not that of its parent.
    ROOT_OF_ANOTHER_TREE = "root-of-another-tree"
    #: A detached plan names a root that has another root.
    ROOT_IS_NO_ROOT = "root-is-no-root"
    #: The root of a plan is not stored.
    ROOT_NOT_STORED = "root-not-stored"
    #: The parent of a plan is not stored.
    PARENT_NOT_STORED = "parent-not-stored"
    #: Plans are their own ancestors.
    CYCLE = "cycle"
    #: A row of a child table belongs to a plan that is not stored.
    PLAN_NOT_STORED = "plan-not-stored"
    #: A row holds what no plan can hold.
    UNREADABLE = "unreadable"
    #: A snapshot describes no profile.
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
        insort(self._first[key], (exact_text(plan_id), found, remedy))
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


def exact_text(value: object) -> str:
    """Write a value of a row for programs: text as it is, unless no JSON can hold it."""
    return value if isinstance(value, str) and not has_surrogates(value) else ascii(value)


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
