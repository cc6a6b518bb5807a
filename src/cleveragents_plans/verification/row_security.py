"""Row-level security that is forced on the owner of the plans (PostgreSQL)."""

from __future__ import annotations

from collections.abc import Iterator

from cleveragents_plans.evolution.postgresql.row_security import (
    binds_owner,
    hides_rows_from_owner,
)
from cleveragents_plans.evolution.printable import identifier
from cleveragents_plans.schema.chain import ARCHIVE
from cleveragents_plans.schema.database import Database
from cleveragents_plans.verification.findings import PLANS, Finding, Kind, fault


def check_row_security(database: Database) -> Iterator[Finding]:
    """Find policies that hide rows from the owner of the plans, as whom triggers run."""
    assert database.schema is not None  # noqa: S101  # on PostgreSQL there is one
    name = f"{identifier(database.schema)}.{PLANS}"
    archive = f"{identifier(database.schema)}.{ARCHIVE}"
    owner = hides_rows_from_owner(database.connection, name)
    if owner is not None:
        yield fault(
            Kind.ROW_SECURITY,
            PLANS,
            f"row-level security is forced on the owner {owner}, with whose rights the trigger "
            "v3_plans_fill looks up parents: it stores wrong roots, and the next migration is "
            "refused",
            f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, which leaves every other role bound",
        )
    owner = binds_owner(database.connection, archive)
    if owner is not None:
        yield fault(
            Kind.ROW_SECURITY,
            ARCHIVE,
            f"row-level security is forced on the owner {owner}, as whom snapshots are kept and "
            "restored: the next migration is refused",
            f"ALTER TABLE {archive} NO FORCE ROW LEVEL SECURITY",
        )
