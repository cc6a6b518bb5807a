"""Foreign keys of PostgreSQL that nothing enforces, because their triggers are disabled."""

from __future__ import annotations

from collections.abc import Iterator

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.printable import identifier
from cleveragents_plans.persistence import Base
from cleveragents_plans.schema.database import Database

# The trigger of the chain that fires always.
_FILL = "v3_plans_fill"


def disabled_foreign_keys(database: Database) -> Iterator[tuple[str, str, str]]:
    """
    Find tables on which triggers of foreign keys do not fire for clients.

    ``DISABLE TRIGGER ALL`` on either table of a key disables those, too, and leaves it validated.
    Each has its table, what was found, and the remedy. Locks: none but on catalogs.
    """
    wanted = {"schema": database.schema, "tables": [*Base.metadata.tables], "fill": _FILL}
    for table, keys, always in run(database.connection, _DISABLED, wanted):
        at = f"ALTER TABLE {identifier(table)}"
        remedies = [f"{at} ENABLE TRIGGER ALL"]
        remedies += [f"{at} ENABLE ALWAYS TRIGGER {identifier(name)}" for name in always or ()]
        yield (
            table,
            f"triggers on the table that enforce foreign keys are disabled ({', '.join(keys)}): "
            "rows may refer to plans that are not stored, or stay when their plan is deleted",
            f"{'; '.join(remedies)}, as a superuser; then run `cleveragents-plans verify` again, "
            "which finds such rows",
        )


# https://www.postgresql.org/docs/current/catalog-pg-trigger.html
_DISABLED = """\
SELECT c.relname, array_agg(DISTINCT k.conname::text ORDER BY k.conname::text),
       (SELECT array_agg(u.tgname::text ORDER BY u.tgname) FROM pg_trigger u
         WHERE u.tgrelid = c.oid AND NOT u.tgisinternal
           AND (u.tgenabled = 'A' OR u.tgname = %(fill)s))
  FROM pg_constraint k
  JOIN pg_class f ON f.oid = k.conrelid JOIN pg_namespace n ON n.oid = f.relnamespace
  JOIN pg_trigger t ON t.tgconstraint = k.oid AND t.tgisinternal AND t.tgenabled IN ('D', 'R')
  JOIN pg_class c ON c.oid = t.tgrelid
 WHERE k.contype = 'f' AND n.nspname = %(schema)s
   AND f.relname = ANY(CAST(%(tables)s AS text[]))
 GROUP BY c.oid, c.relname ORDER BY c.relname"""
