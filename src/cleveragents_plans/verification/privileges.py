"""What other roles own, or may do, of what only the owner is to use (PostgreSQL)."""

from __future__ import annotations

from collections.abc import Iterator

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.dependents import foreign_triggers
from cleveragents_plans.evolution.postgresql.ownership import drop_function
from cleveragents_plans.evolution.postgresql.privileges import HOLDERS, WRITERS
from cleveragents_plans.evolution.postgresql.trust import TRUSTED_OWNER
from cleveragents_plans.evolution.printable import identifier
from cleveragents_plans.evolution.runner.runs import RUNS
from cleveragents_plans.schema.chain import ARCHIVE
from cleveragents_plans.schema.database import Database
from cleveragents_plans.verification.fill_function import FILL, FILL_SQL, is_ours
from cleveragents_plans.verification.findings import PLANS, Finding, Kind, fault, note

_FUNCTIONS = (FILL, "v3_plans_unfill", "v3_plans_keep")


def check_privileges(database: Database) -> Iterator[Finding]:
    """Find rights of other roles than the owner and superusers, and what was made with them."""
    assert database.schema is not None  # noqa: S101  # on PostgreSQL there is one
    schema = identifier(database.schema)
    of = {"schema": database.schema, "names": list(_FUNCTIONS), "table": PLANS}
    for name, owner, expected, body, config, trusted in run(database.connection, _OWNED, of):
        mend = f"ALTER FUNCTION {schema}.{name}() OWNER TO {expected}"
        if not trusted:
            mend = drop_function(f"{schema}.{name}")
            if name == FILL:
                mend += f", and create it by the SQL of {FILL_SQL}"
        elif name != FILL or not is_ours(body, config, schema):
            mend = f"if it is this chain's, run {mend}, otherwise rename or drop it"
        yield fault(
            Kind.FUNCTION_RIGHTS,
            f"{name}()",
            f"the function belongs to {owner}, and {PLANS} to {expected}: an upgrade or a "
            "downgrade would be refused",
            mend,
        )
    for name, others in run(database.connection, _EXECUTE, of):
        yield fault(
            Kind.FUNCTION_RIGHTS,
            f"{name}()",
            f"the function may be executed by {others}, whose triggers could run it with the "
            "rights of its owner",
            f"REVOKE ALL ON FUNCTION {schema}.{name}() FROM {others} CASCADE",
        )
    for name, trigger, table, owner in foreign_triggers(
        database.connection, f"{schema}.{PLANS}", _FUNCTIONS
    ):
        # The trigger that the function was made for: its owner is what is wrong, as said above.
        if (f"{schema}.{trigger}", table) == (name, f"{schema}.{PLANS}"):
            continue
        yield fault(
            Kind.TRIGGER_EXTRA,
            f"{table}.{trigger}",
            f"the trigger, on a table of {owner}, runs the function {name}()",
            f"DROP TRIGGER {trigger} ON {table}, or end the session whose temporary table it is "
            "on; then look at what it may have written",
        )
    tables = {
        ARCHIVE: ("it could change what the next upgrade restores", fault, set[str]()),
        database.options.version_table: (
            "it could change which revisions the next run takes", note, set[str](),
        ),
        RUNS: ("it could change what history shows", note, {"UPDATE"}),  # throttle
    }  # fmt: skip
    for table, (means, severity, granted) in tables.items():
        name = f"{schema}.{identifier(table)}"
        held = run(database.connection, _WRITERS, {"table": name, "granted": list(granted)})
        for other, rights in held:
            yield severity(
                Kind.TABLE_RIGHTS,
                table,
                f"{other} has {rights} on the table: {means}",
                f"REVOKE {rights} ON {name} FROM {other} CASCADE",
            )
    # Rows of plans, and ids and queries of others, which row-level security does not hide in them.
    for table, severity in ((ARCHIVE, fault), (RUNS, note)):
        name = f"{schema}.{identifier(table)}"
        for other, reads_all in run(database.connection, _READERS, {**of, "of": name}):
            reads, mend = "has SELECT on the table", f"REVOKE SELECT ON {name} FROM {other} CASCADE"
            if reads_all:
                reads = "reads all tables by pg_read_all_data"
                mend = (
                    f"if it may read all plans, as for a backup, run ALTER ROLE {other} BYPASSRLS, "
                    "otherwise end its membership of pg_read_all_data"
                )
            yield severity(
                Kind.TABLE_RIGHTS,
                table,
                f"{other} {reads}, and row-level security hides rows of {PLANS} from it: it could "
                "read there what is kept of them",
                mend,
            )


# Functions of triggers that do not belong to the owner of the table of plans.
_OWNED = f"""\
SELECT p.proname, quote_ident(o.rolname), quote_ident(pg_get_userbyid(c.relowner)), p.prosrc,
       p.proconfig, {TRUSTED_OWNER}
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles o ON o.oid = p.proowner
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %(table)s
 WHERE n.nspname = %(schema)s AND p.proname = ANY(CAST(%(names)s AS text[])) AND p.pronargs = 0
   AND p.prorettype = CAST('trigger' AS regtype) AND p.proowner <> c.relowner
 ORDER BY p.proname"""

_EXECUTE = """\
SELECT p.proname, string_agg(DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC'), ', ')
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
  LEFT JOIN pg_roles r ON r.oid = a.grantee
 WHERE n.nspname = %(schema)s AND p.proname = ANY(CAST(%(names)s AS text[])) AND p.pronargs = 0
   AND p.prorettype = CAST('trigger' AS regtype)
   AND a.grantee <> p.proowner AND r.rolsuper IS NOT TRUE
 GROUP BY p.proname ORDER BY p.proname"""

_WRITERS = f"""\
SELECT w.other, string_agg(w.held, ', ' ORDER BY w.held) FROM (
{WRITERS.format(oid="to_regclass(%(table)s)")}
  ) w LEFT JOIN pg_roles s ON quote_ident(s.rolname) = w.other
 WHERE s.rolsuper IS NOT TRUE AND w.held <> ALL(CAST(%(granted)s AS text[]))
 GROUP BY w.other ORDER BY w.other"""

# Whom row-level security of the table of plans binds, and who may read the other one. PUBLIC is no
# role: without an oid it is bound.
_READERS = f"""\
SELECT DISTINCT w.other, w.reads_all FROM (
  SELECT h.other, false AS reads_all FROM (
{HOLDERS.format(oid="to_regclass(%(of)s)")}
  ) h WHERE h.held = 'SELECT'
  UNION ALL
  SELECT quote_ident(m.rolname), true FROM pg_roles m JOIN pg_roles d ON m.oid <> d.oid
   WHERE d.rolname = 'pg_read_all_data' AND pg_has_role(m.oid, d.oid, 'USAGE')
     AND to_regclass(%(of)s) IS NOT NULL
  ) w LEFT JOIN pg_roles s ON quote_ident(s.rolname) = w.other
  JOIN pg_namespace n ON n.nspname = %(schema)s
  JOIN pg_class p ON p.relnamespace = n.oid AND p.relname = %(table)s
 WHERE p.relrowsecurity
   AND (s.rolsuper OR s.rolbypassrls OR pg_has_role(s.oid, p.relowner, 'USAGE')) IS NOT TRUE
 ORDER BY w.other, w.reads_all"""
