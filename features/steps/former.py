"""The former release, as far as a database can tell: what it writes, and how it reads."""

import json
from contextlib import contextmanager

from sqlalchemy import NullPool, text

from cleveragents_plans import open_engine

_NOW = "2026-03-14T00:05:32.000000+00:00"
_INSERT = text(
    "INSERT INTO v3_plans (plan_id, parent_plan_id, root_plan_id, action_name, description,"
    " automation_profile, created_at, updated_at)"
    " VALUES (:plan, :part_of, :tree, 'local/build', 'Build it', :profile, :now, :now)"
)
_LINK = text("UPDATE v3_plans SET parent_plan_id = :part_of WHERE plan_id = :plan")
_ROOT = text("UPDATE v3_plans SET root_plan_id = :tree WHERE plan_id = :plan")
_PLANS = text(
    "SELECT plan_id, parent_plan_id, root_plan_id, automation_profile FROM v3_plans"
    " ORDER BY plan_id"
)
_CORRECTIONS = text(
    "CREATE TABLE IF NOT EXISTS correction_attempts (id VARCHAR(26) NOT NULL PRIMARY KEY,"
    " plan_id VARCHAR(26) NOT NULL CONSTRAINT fk_correction_attempts_plan_id"
    " REFERENCES v3_plans (plan_id) ON DELETE CASCADE)"
)


@contextmanager
def database(context, *, checked=True):
    """Connect as another program does; SQLite checks no references unless *checked*."""
    engine = open_engine(context.url, migrating=not checked, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


def write(context, rows):
    """Store plans in their order; a link to a plan that comes later is made at the end."""
    with database(context, checked=False) as connection:
        there = {row.plan_id for row in connection.execute(_PLANS)}
        later = []
        for row in rows:
            there.add(row["plan"])
            made = {**row, "now": _NOW}
            for link, statement in (("part_of", _LINK), ("tree", _ROOT)):
                if row[link] not in there | {None}:
                    made[link] = None
                    later.append((statement, row))
            connection.execute(_INSERT, made)
        for statement, row in later:
            connection.execute(statement, row)


def read(context):
    """Read plans as the former release does, by id: parent, root, profile or None."""
    with database(context) as connection:
        return {
            row.plan_id: (
                row.parent_plan_id,
                row.root_plan_id,
                None if row.automation_profile is None else json.loads(row.automation_profile),
            )
            for row in connection.execute(_PLANS)
        }


def whole_rows(context, without):
    """Read every row, but for some columns."""
    with database(context) as connection:
        found = connection.execute(text("SELECT * FROM v3_plans ORDER BY plan_id")).mappings()
        return [{name: row[name] for name in row if name not in without} for row in found]


def change(context, statement, **values):
    """Run one statement, as a program does that knows nothing of this package."""
    with database(context) as connection:
        connection.execute(text(statement), values)


def keep_corrections(context):
    """Make the table in which another package keeps corrections of plans."""
    with database(context) as connection:
        connection.execute(_CORRECTIONS)


def corrected(context):
    """List the plans of which there are corrections."""
    with database(context) as connection:
        return connection.scalars(text("SELECT plan_id FROM correction_attempts")).all()
