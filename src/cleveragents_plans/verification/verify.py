"""The whole of a verification: the version, the schema, the trees and every plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from cleveragents_plans.evolution.errors import listed as named
from cleveragents_plans.evolution.postgresql.server import RightsMissing
from cleveragents_plans.evolution.reporting import Progress
from cleveragents_plans.evolution.runner.command_line import typed, typed_for_program
from cleveragents_plans.evolution.runner.version_state import TablesIncomplete
from cleveragents_plans.persistence import Base
from cleveragents_plans.persistence.sessions import PLANS as PLANS_TABLE
from cleveragents_plans.schema.database import Database
from cleveragents_plans.schema.foreign_key_triggers import disabled_foreign_keys
from cleveragents_plans.schema.under_way import is_paused, runs_under_way, ways_to_wait
from cleveragents_plans.verification.comparison import compare_tables
from cleveragents_plans.verification.expected import expected_tables
from cleveragents_plans.verification.findings import PLANS, Finding, Kind, fault
from cleveragents_plans.verification.postgresql_objects import (
    check_moved_triggers,
    check_other_schemas,
    check_owners,
    check_triggers,
)
from cleveragents_plans.verification.postgresql_tables import postgresql_tables
from cleveragents_plans.verification.privileges import check_privileges
from cleveragents_plans.verification.row_security import check_row_security
from cleveragents_plans.verification.rows import Fingerprint, can_be_read, check_rows, plan_rows
from cleveragents_plans.verification.sqlite_tables import sqlite_tables
from cleveragents_plans.verification.table_triggers import check_table_triggers
from cleveragents_plans.verification.tables import Table
from cleveragents_plans.verification.trees import check_trees


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what was found."""

    #: Rows of the table of plans; None where there is none.
    plans: int | None
    findings: tuple[Finding, ...]
    #: Of the columns that a migration leaves alone, if it was asked for.
    fingerprint: str | None
    #: Whether every plan was read.
    read_plans: bool

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that are to be mended."""
        return tuple(each for each in self.findings if each.severity == "fault")


def verify(
    database: Database, *, quick: bool = False, fingerprint: bool = False, listed: int = 10
) -> Verification:
    """
    Find what is wrong with *database*, at any revision; nothing is written.

    Memory does not grow with the number of plans.

    Args:
        database: What is looked at.
        quick: Do not read every plan: look at the version, the schema, roots and parents only.
        fingerprint: Make a fingerprint of the plans, for which every row is read.
        listed: How many plans are named for each kind of finding.
    """
    database.lock_tables()
    with database.heartbeat("checking the version and the schema"):
        findings = [*_check_version(database), *_check_schema(database)]
    if PLANS not in database.position.tables:
        return Verification(None, tuple(findings), None, False)
    with database.heartbeat("checking roots and parents"):
        count = select(func.count()).select_from(PLANS_TABLE)
        plans = database.connection.execute(count).scalar_one()
        if {"plan_id", "parent_plan_id", "root_plan_id"} <= database.columns(PLANS):
            findings += check_trees(database, listed)
    print_of = Fingerprint() if fingerprint else None
    reads = (fingerprint or not quick) and can_be_read(database)
    if reads:
        with Progress("plans read", plans) as progress:
            rows = plan_rows(database)
            findings += check_rows(rows, listed, print_of, progress.tick)
    return Verification(
        plans, tuple(findings), str(print_of) if reads and print_of else None, reads
    )


def _check_version(database: Database) -> Iterator[Finding]:
    position = database.position
    table = database.options.version_table
    if position.misfit is not None:
        yield fault(Kind.VERSION, table, position.misfit.found, position.misfit.remedy)
    if position.unfinished is not None:
        direction, revision = position.unfinished.direction, position.unfinished.revision
        state = "was interrupted"
        remedy = "run the same command again to complete it, or the opposite one to undo it"
        if migrating := _migrating(database):
            if any(each.pid for each in migrating):  # and not only a prepared transaction
                state = f"is under way, by {named(migrating)}"
            waiting = ways_to_wait(database, migrating, (remedy,), paused=is_paused(database))
            remedy = "; ".join(waiting)
        yield fault(
            Kind.UNFINISHED,
            table,
            f"the {direction} of {revision} {state}: the database is between two versions",
            remedy,
        )
    elif not position.stored and not position.tables:
        yield fault(
            Kind.VERSION,
            table,
            "the database has no tables of this package",
            f"if it is the right one, run {typed_for_program(database.config, 'upgrade')}",
        )


def _migrating(database: Database) -> list[Any]:
    try:
        return runs_under_way(database)
    except RightsMissing:  # it is not known, and the rest is
        return []


def _check_schema(database: Database) -> Iterator[Finding]:
    position = database.position
    if database.schema is not None:
        yield from check_owners(database)
        yield from check_other_schemas(database)
        for disabled in disabled_foreign_keys(database):
            yield fault(Kind.TRIGGER_DISABLED, *disabled)
        yield from check_privileges(database)
        yield from check_row_security(database)
    yield from check_table_triggers(database)
    # Where the version says nothing true of the tables, nothing can be expected of them; where a
    # part is missing, the comparison says which.
    unfit = position.misfit is not None and not isinstance(position.misfit, TablesIncomplete)
    if unfit or not position.applied:
        return
    names, unreadable = Base.metadata.tables, dict[str, str]()
    if database.schema is not None:
        found = postgresql_tables(database.connection, database.schema, names)
    else:
        found = sqlite_tables(database.connection, names, unreadable)
    for table, reason in unreadable.items():
        yield fault(
            Kind.TABLE_UNREADABLE,
            table,
            f"the definition of the table cannot be read ({reason})",
            "compare it with docs/specification.md",
        )
    if position.unfinished is not None:
        yield from _missing_at_both_ends(database, position.unfinished.revision, found)
        if database.schema is not None:
            yield from check_moved_triggers(database)
        return
    stamped = position.applied[-1]
    differences = [
        each
        for each in _differences(database, stamped, found)
        if each.subject not in unreadable  # which is not missing
    ]
    other = _made_by(database, found) if differences and not unreadable else stamped
    if other not in (None, stamped):
        yield fault(
            Kind.VERSION,
            database.options.version_table,
            f"the version is {stamped}, and the tables are as {other} makes them",
            f"run {typed(database.config, f'stamp {other}')}",
        )
        return
    yield from differences
    if database.schema is not None and PLANS in found:
        yield from check_triggers(database)


def _differences(
    database: Database, revision: str, found: Mapping[str, Table]
) -> Iterator[Finding]:
    return compare_tables(expected_tables(revision), found, database.schema)


def _missing_at_both_ends(
    database: Database, revision: str, found: Mapping[str, Table]
) -> Iterator[Finding]:
    """Find what lacks whether the *revision* that is unfinished is completed or undone."""
    below = database.position.below.get(revision, "base")
    if below == "base":
        return
    expected = {each.subject for each in _differences(database, below, found)}
    for each in _differences(database, revision, found):
        if each.kind.endswith("-missing") and each.subject in expected:
            yield each


def _made_by(database: Database, found: Mapping[str, Table]) -> str | None:
    """Name the revision that makes the tables as they are, but for what no revision makes."""
    position = database.position
    chain = [*position.applied, *position.pending]
    made = {
        f"{table.name}.{name}"
        for table in expected_tables(chain[-1]).values()
        for name in table.names
    }
    for revision in reversed(chain):
        differences = [*_differences(database, revision, found)]
        if all(each.severity == "note" and each.subject not in made for each in differences):
            return revision
    return None
