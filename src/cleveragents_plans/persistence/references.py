"""
Rows of the application that refer to plans, and forbid to delete them.

https://www.postgresql.org/docs/current/ddl-constraints.html#DDL-CONSTRAINTS-FK
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from sqlalchemy import ColumnElement, column, select, table, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cleveragents_plans.domain.errors import PlansError
from cleveragents_plans.persistence.sessions import PLANS, execute, on_postgresql

# Foreign keys onto plans without an action of ON DELETE; the plans' own and child tables aside.
# The search path is the application's: with types that are equal the operators are PostgreSQL's.
_ON_POSTGRESQL: Final = text("""
    SELECT n.nspname, c.relname, a.attname, f.conname
    FROM pg_constraint f
    JOIN pg_class c ON c.oid = f.conrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
    WHERE f.contype = 'f' AND f.confrelid = CAST(to_regclass('v3_plans') AS pg_catalog.oid)
      AND f.conrelid <> f.confrelid AND f.confdeltype IN ('a', 'r') AND f.conparentid = 0
    ORDER BY 1, 2, 4
""")
_ON_SQLITE: Final = text("""
    SELECT NULL, t.name, f."from", NULL
    FROM sqlite_schema t JOIN pragma_foreign_key_list(t.name) f
    WHERE t.type = 'table' AND lower(f."table") = 'v3_plans' AND lower(t.name) <> 'v3_plans'
      AND f.on_delete IN ('NO ACTION', 'RESTRICT')
    ORDER BY t.name, f.id
""")


@dataclass(eq=False)
class PlanReferenced(PlansError):
    """A plan cannot be deleted, as a row of another table refers to it."""

    http_status: ClassVar[int] = 409

    #: The plan, or the root of the tree; None if several trees were to be deleted.
    plan_id: str | None
    #: The table that refers to it.
    table: str
    #: The foreign key; None where the database does not name it (SQLite).
    constraint: str | None

    def __str__(self) -> str:
        what = f"plan {self.plan_id}" if self.plan_id else "one of the plans"
        by = f" ({self.constraint})" if self.constraint else ""
        return (
            f"{what} cannot be deleted: table {self.table} refers to it by a foreign key{by}; "
            "delete those rows first, or declare the foreign key ON DELETE CASCADE or SET NULL"
        )


def refused_by(
    session: Session, error: IntegrityError, plan_id: str | None, deleted: ColumnElement[bool]
) -> PlanReferenced | None:
    """
    Read why a DELETE of the plans that are *deleted* was refused, after it was rolled back.

    Returns:
        The error to raise; None if no row of another table is the reason.
    """
    if on_postgresql(session):
        found: Any = getattr(error.orig, "diag", None)
        own = PLANS.metadata.tables.keys()
        if found is None or not found.table_name or found.table_name in own:
            return None
        return PlanReferenced(plan_id, found.table_name, found.constraint_name)
    for _, name, referring, _ in _foreign_keys(session):
        other = table(name, column(referring))
        named = select(PLANS.c.plan_id).where(deleted)
        query = select(other.c[referring]).where(other.c[referring].in_(named)).limit(1)
        if execute(session, query).first() is not None:
            return PlanReferenced(plan_id, name, None)
    return None


def tree_is_referenced(session: Session) -> list[ColumnElement[bool]]:
    """List conditions on a root: that a row of another table forbids to delete its tree."""
    conditions: list[ColumnElement[bool]] = []
    for schema, name, referring, _ in _foreign_keys(session):
        other, plan = table(name, column(referring), schema=schema), PLANS.alias("referenced")
        rows = select(plan.c.plan_id).join(other, other.c[referring] == plan.c.plan_id)
        conditions.append(rows.where(plan.c.root_plan_id == PLANS.c.plan_id).exists())
    return conditions


def _foreign_keys(session: Session) -> Sequence[Any]:
    return execute(session, _ON_POSTGRESQL if on_postgresql(session) else _ON_SQLITE).all()
