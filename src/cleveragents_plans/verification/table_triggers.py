"""Triggers of the tables that no revision gives any: they run whenever a migration writes there."""

from __future__ import annotations

from collections.abc import Iterator

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.printable import identifier
from cleveragents_plans.persistence import Base
from cleveragents_plans.schema.chain import ARCHIVE
from cleveragents_plans.schema.database import Database
from cleveragents_plans.verification.findings import PLANS, Finding, Kind, fault, note


def check_table_triggers(database: Database) -> Iterator[Finding]:
    """
    Find triggers of the version table, of the archive and of the tables of plans.

    On PostgreSQL those of the table of plans are compared with what its revision made elsewhere.
    """
    versions = database.options.version_table
    tables = {versions, ARCHIVE, *Base.metadata.tables}
    if database.on_postgresql:
        tables.remove(PLANS)
        wanted = {"schema": database.schema, "tables": sorted(tables)}
        found = run(database.connection, _POSTGRESQL, wanted).all()
    else:
        found = [row for row in run(database.connection, _SQLITE) if row[0].lower() in tables]
    for table, name in found:
        subject = f"{table}.{name}"
        if table.lower() in (versions.lower(), ARCHIVE):
            yield fault(
                Kind.TRIGGER_EXTRA,
                subject,
                "no revision made this trigger, and it runs in every migration that writes there",
                f"DROP TRIGGER {identifier(name)}"
                + (f" ON {identifier(table)}" if database.on_postgresql else ""),
            )
        else:
            yield note(
                Kind.TRIGGER_EXTRA,
                subject,
                "no revision made this trigger",
                "nothing, if it is known; it fires for the rows that an upgrade fills in",
            )


_SQLITE = "SELECT tbl_name, name FROM sqlite_schema WHERE type = 'trigger' ORDER BY 1, 2"

_POSTGRESQL = """\
SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = ANY(CAST(%(tables)s AS text[]))
   AND NOT t.tgisinternal ORDER BY 1, 2"""
