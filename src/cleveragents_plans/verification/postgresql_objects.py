"""What only PostgreSQL has: owners, other schemas, triggers and their functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.ownership import take_over
from cleveragents_plans.evolution.postgresql.trust import TRUSTED_OWNER
from cleveragents_plans.evolution.printable import identifier
from cleveragents_plans.persistence import Base, triggers
from cleveragents_plans.schema.database import Database
from cleveragents_plans.verification.expressions import canonical
from cleveragents_plans.verification.fill_function import (
    FILL,
    FILL_SQL,
    has_our_body,
    has_our_settings,
)
from cleveragents_plans.verification.findings import PLANS, Finding, Kind, fault, note

# Any role that may create schemas can have thousands of them.
_MAX_SCHEMAS = 10
# Those that a downgrade has while it runs.
_OF_A_DOWNGRADE = ("v3_plans_unfill", "v3_plans_keep")
# BEFORE INSERT OR UPDATE, FOR EACH ROW.
# https://www.postgresql.org/docs/current/catalog-pg-trigger.html
_BEFORE_ROW_WRITTEN = 1 | 2 | 4 | 16
# It is to fire for rows of clients and of logical replication.
_STATES = {
    "D": "disabled",
    "O": "disabled for rows of logical replication",
    "R": "disabled for rows of clients",
}


def check_owners(database: Database) -> Iterator[Finding]:
    """Find tables that do not belong to the owner of the plans."""
    names = [*Base.metadata.tables, database.options.version_table]
    of = {"schema": database.schema, "names": names}
    owners = run(database.connection, _OWNERS, of).all()
    owner: str | None = next((each for table, each, _ in owners if table == PLANS), None)
    for table, other, trusted in owners:
        if owner is not None and other != owner:
            name, new = database.table(table), identifier(owner)
            yield fault(
                Kind.OWNER,
                table,
                f"the table belongs to {other}, and {PLANS} to {owner}: an upgrade would be "
                "refused, or half of the rights be missing",
                f"ALTER TABLE {name} OWNER TO {new}" if trusted else take_over(name, new),
            )


def check_other_schemas(database: Database) -> Iterator[Finding]:
    """Find tables of plans in other schemas of the database."""
    of = {"schema": database.schema, "name": PLANS}
    others = [schema for (schema,) in run(database.connection, _OTHER_SCHEMAS, of)]
    beside = [schema for schema in others if schema not in database.search_path]
    left_out = beside[_MAX_SCHEMAS:]
    for schema in others:
        if schema in left_out:
            continue
        subject, found = f"{schema}.{PLANS}", "another schema has a table of plans, too"
        if schema in database.search_path:
            yield fault(
                Kind.SECOND_SCHEMA,
                subject,
                f"{found}, and both are in the search path: which one a client uses depends on "
                "its order",
                f"remove {schema} or {database.schema} from the search_path of the role",
            )
        else:
            yield note(
                Kind.SECOND_SCHEMA,
                subject,
                found,
                f"nothing, if it is that of another tenant; otherwise find out who writes to it, "
                f"then DROP SCHEMA {identifier(schema)}",
            )
    if left_out:
        yield note(
            Kind.SECOND_SCHEMA,
            PLANS,
            f"and {len(left_out)} more schemas have a table of plans",
            "nothing, if they are those of other tenants",
        )


def check_triggers(database: Database) -> Iterator[Finding]:
    """Find a trigger that is not as its revision made it, its function included."""
    of = {"schema": database.schema, "table": PLANS}
    found = {row["name"]: row for row in run(database.connection, _TRIGGERS, of).mappings()}
    expected = database.position.is_complete
    for name in found:
        subject = f"{PLANS}.{name}"
        if name in _OF_A_DOWNGRADE:
            yield fault(
                Kind.TRIGGER_EXTRA,
                subject,
                "the trigger is that of a downgrade, and none is unfinished: it undoes what an "
                "upgrade fills in",
                f"DROP TRIGGER {name} ON {PLANS}",
            )
        elif name != FILL or not expected:
            yield note(
                Kind.TRIGGER_EXTRA,
                subject,
                "no revision made this trigger",
                "nothing, if it is known; it fires for the rows that an upgrade fills in",
            )
    if expected:
        assert database.schema is not None  # noqa: S101  # on PostgreSQL there is one
        yield from _check_fill(found.get(FILL), database.schema)
        yield from _check_left_functions(database)


def check_moved_triggers(database: Database) -> Iterator[Finding]:
    """Find triggers of an unfinished revision whose functions stayed in another schema."""
    of = {"schema": database.schema, "table": PLANS}
    for row in run(database.connection, _TRIGGERS, of).mappings():
        if row["name"] in (FILL, *_OF_A_DOWNGRADE) and not row["same_schema"]:
            table = database.table(PLANS)
            yield fault(
                Kind.TRIGGER_CHANGED,
                f"{PLANS}.{row['name']}",
                f"the function of the trigger is {row['called']}, in another schema than the "
                "table: the table was moved, and a run would be refused",
                f"DROP TRIGGER {row['name']} ON {table}, then DROP FUNCTION {row['called']}; the "
                "run that completes or undoes the revision creates both again",
            )


def _check_left_functions(database: Database) -> Iterator[Finding]:
    of = {"schema": database.schema, "table": PLANS, "function": FILL}
    for schema, body in run(database.connection, _LEFT_FUNCTIONS, of):
        if has_our_body(body, schema):
            yield note(
                Kind.FUNCTION_EXTRA,
                f"{schema}.{FILL}()",
                f"no trigger uses the function, and its schema has no {PLANS}: the table was moved",
                f"DROP FUNCTION {schema}.{FILL}()",
            )


def _check_fill(row: Any, schema: str) -> Iterator[Finding]:
    subject = f"{PLANS}.{FILL}"
    again = f"create the trigger and its function again by the SQL of {FILL_SQL}"
    if schema != "public":
        again += f", with {identifier(schema)} for public"
    if row is None:
        yield fault(
            Kind.TRIGGER_MISSING,
            subject,
            "the trigger is not there: plans that a former release writes would be refused",
            f"{again}; or nothing, if no former release runs any more",
        )
        return
    if state := _STATES.get(row["enabled"]):
        yield fault(
            Kind.TRIGGER_DISABLED,
            subject,
            f"the trigger is {state}: plans that a former release writes would be refused there",
            f"ALTER TABLE {PLANS} ENABLE ALWAYS TRIGGER {FILL}",
        )
    if (
        row["type"] != _BEFORE_ROW_WRITTEN
        or row["function"] != FILL
        or not row["same_schema"]
        or _condition(row["definition"]) != _condition(triggers.STATEMENTS.split("$$")[2])
    ):
        definition = row["definition"]
        yield fault(Kind.TRIGGER_CHANGED, subject, f"the trigger is {definition}", again)
    function = f"{FILL}()"
    if not has_our_body(row["body"], row["schema"]):
        yield fault(
            Kind.FUNCTION_CHANGED, function, "the body is not the one that this release has", again
        )
    # Its owner is looked at with those of the other functions, and whatever the version is.
    settings = row["config"] or []
    wrong = {
        "is not SECURITY DEFINER": not row["definer"],
        f"has the settings {settings}": not has_our_settings(settings),
    }
    if any(wrong.values()):
        lacks = ", ".join(said for said, is_so in wrong.items() if is_so)
        yield fault(Kind.FUNCTION_RIGHTS, function, f"the function {lacks}", again)


def _condition(trigger: str) -> str:
    """Write the condition of a trigger in one form: the engine writes it in its own way."""
    text = re.split(r"\bWHEN\b", trigger, maxsplit=1)[-1]
    text = re.split(r"\bEXECUTE\b", text, maxsplit=1)[0]
    return canonical(re.sub(r"E'((?:[^'\\]|\\.)*)'", _plain, text))


def _plain(escaped: re.Match[str]) -> str:
    return "'" + escaped[1].encode().decode("unicode_escape") + "'"


_OWNERS = f"""\
SELECT c.relname, o.rolname, {TRUSTED_OWNER} FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
 WHERE n.nspname = %(schema)s AND c.relname = ANY(%(names)s) AND c.relkind IN ('r', 'p')
 ORDER BY 1"""

_OTHER_SCHEMAS = """\
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = %(name)s AND c.relkind IN ('r', 'p') AND n.nspname <> %(schema)s
   AND n.nspname !~ '^pg_(temp|toast)' ORDER BY 1"""

# Without an argument: a function that a trigger calls.
_LEFT_FUNCTIONS = """\
SELECT quote_ident(n.nspname), p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.proname = %(function)s AND p.pronargs = 0 AND n.nspname <> %(schema)s
   AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = %(table)s)
   AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid)
 ORDER BY n.nspname"""

# One whose table was dropped since the snapshot has no definition any more; the lock on the table
# that is taken before its rows are read tells.
_TRIGGERS = """\
SELECT t.tgname AS name, t.tgenabled::text AS enabled, t.tgtype AS type,
       pg_get_triggerdef(t.oid, true) AS definition,
       p.proname AS function, p.oid::regprocedure::text AS called, quote_ident(n.nspname) AS schema,
       p.pronamespace = c.relnamespace AS same_schema, p.prosrc AS body,
       p.prosecdef AS definer, p.proconfig AS config
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND NOT t.tgisinternal
   AND pg_get_triggerdef(t.oid) IS NOT NULL
 ORDER BY t.tgname"""
