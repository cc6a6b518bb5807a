"""
What else a PostgreSQL table makes of values that are to be written, looked at beforehand.

Indexes, generated columns and conditions of triggers evaluate expressions over them, foreign keys
and unique indexes compare them. One that refuses a value would stop a backfill half way, and where
the value has become a default by then, it would refuse the INSERTs of clients as well.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import UNDEFINED_COLUMN, message_of, sqlstate
from cleveragents_plans.evolution.postgresql.alterations import TableUnfit
from cleveragents_plans.evolution.postgresql.connection import run

log: Final = logging.getLogger("alembic.evolution")

# A value that cannot be had, a constraint of a domain, what a function raises.
_REFUSED = ("22", "23", "P0")
_SAMPLED = 20
_WHEN = re.compile(r" WHEN \((.*)\) EXECUTE FUNCTION ", re.DOTALL)


def refuse_unfit_values(
    connection: Connection, table: str, name_in_sql: str, values: Mapping[str, str | None]
) -> None:
    """
    Refuse a table with something that would refuse what is to be written; change nothing.

    An expression that calls what a role has made who is neither a superuser nor the one that
    migrates is left out: a look runs nothing of another role's. What cannot be known
    beforehand, such as a foreign key of a column without a literal, is warned of. ACCESS
    SHARE on the table and on those that it refers to, for some milliseconds.

    Args:
        connection: In a transaction.
        table: The table, for messages.
        name_in_sql: The table, as in SQL with its schema.
        values: The columns that are to be written, and the literal that most rows get instead
            of NULL, if there is one.

    Raises:
        TableUnfit: It has an index, a generated column, a trigger or a foreign key that would
            refuse one of *values*.
    """
    quote = connection.dialect.identifier_preparer.quote
    planned = {quote(column): value for column, value in values.items() if value is not None}
    shown = " and ".join(f"{column} = {value}" for column, value in planned.items())
    if planned:
        for what, kind, definition in run(connection, _EXPRESSIONS, {"table": name_in_sql}):
            said = _refusal(connection, name_in_sql, planned, kind, definition)
            if said and kind == "virtual":
                log.warning(
                    "%s has %s, which cannot be read any more where %s (PostgreSQL says: %s)",
                    table, what, shown, said,
                )  # fmt: skip
            elif said:
                raise TableUnfit(
                    table,
                    f"has {what}, which would refuse {shown} (PostgreSQL says: {said})",
                    "drop it, or make it so that it accepts this, and run the same command again",
                )
    written = {"table": name_in_sql, "columns": list(values)}
    for what, column, referred, key in run(connection, _FOREIGN_KEYS, written):
        value = planned.get(quote(column)) if column is not None else None
        known = _has_row(connection, referred, key, value) if value is not None else None
        if known is False:
            raise TableUnfit(
                table,
                f"has {what}, which would refuse {column} = {value}: {referred} has no such row",
                "insert it there, or drop the foreign key, and run the same command again",
            )
        if known is None:
            log.warning(
                "%s has %s, over a column that is written: what it refuses would stop this run "
                "half way; drop it for the time of this run unless it fits",
                table, what,
            )  # fmt: skip
    for what, columns in run(connection, _UNIQUE, written):
        log.warning(
            "%s has %s, over %s, which is written: rows that become equal would stop this run half "
            "way; drop it for the time of this run unless it fits",
            table, what, columns,
        )  # fmt: skip


def _refusal(
    connection: Connection, table: str, planned: Mapping[str, str], kind: str, definition: str
) -> str | None:
    """Give what PostgreSQL says against an expression over the values; None if nothing."""
    columns = list(run(connection, _COLUMNS, {"table": table}).scalars())
    values = ", ".join(f"{value} AS {column}" for column, value in planned.items())
    lacking = " AND ".join(f"t.{column} IS NULL" for column in planned)
    rows = f"(SELECT * FROM {table} t WHERE {lacking} LIMIT {_SAMPLED})"
    others = [f"old.{column}" for column in columns if column not in planned]
    filled = f"{rows} AS old CROSS JOIN LATERAL (SELECT {', '.join([*others, values])}) AS new"
    if kind == "when":
        found = _WHEN.search(definition)
        if found is None:
            return None
        expression = f"({found[1]})"
        nulls = ", ".join(f"CAST(NULL AS text) AS {column}" for column in planned)
        alone = f"(SELECT {values}) AS new, (SELECT {nulls}) AS old"
    else:
        expression, alone = f"ROW({definition})", f"(SELECT {values}) AS planned"
        filled = f"(SELECT new.* FROM {filled}) AS planned"
    try:
        with connection.begin_nested():
            run(connection, f"SELECT count({expression}) FROM {alone}")
            return None
    except DBAPIError as error:
        if sqlstate(error) != UNDEFINED_COLUMN:
            return _said(error)
    try:  # over other columns, too, so with those of some rows
        with connection.begin_nested():
            run(connection, f"SELECT count({expression}) FROM {filled}")
            return None
    except DBAPIError as error:
        return _said(error)


def _said(error: DBAPIError) -> str | None:
    if error.connection_invalidated:
        raise error
    # Others are of the look, not of the value.
    return message_of(error) if (sqlstate(error) or "").startswith(_REFUSED) else None


def _has_row(connection: Connection, table: str, key: str, value: str) -> bool | None:
    """Tell whether *table* has a row with that *key*; None where it cannot be read."""
    try:
        with connection.begin_nested():
            # A policy may call what others wrote.
            run(connection, "SET LOCAL row_security = off")
            query = f"SELECT EXISTS (SELECT FROM {table} t WHERE t.{key} = {value})"
            found = bool(run(connection, query).scalar_one())
            run(connection, "SET LOCAL row_security = DEFAULT")
            return found
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return None


_COLUMNS = """\
SELECT quote_ident(a.attname) FROM pg_attribute a
 WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum"""

# What an expression calls, in the catalog under the object that has it; before PostgreSQL 15 that
# of a generated column under the column. What belongs to PostgreSQL itself is not listed there.
_OF_OTHERS = """\
EXISTS (
  SELECT FROM pg_depend d
    LEFT JOIN pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
    LEFT JOIN pg_operator p ON d.refclassid = 'pg_operator'::regclass AND p.oid = d.refobjid
    LEFT JOIN pg_type y ON d.refclassid = 'pg_type'::regclass AND y.oid = d.refobjid
    JOIN pg_roles o ON o.oid = coalesce(f.proowner, p.oprowner, y.typowner)
   WHERE (d.classid, d.objid) IN ({0}) AND f.oid IS DISTINCT FROM {1}
     AND NOT o.rolsuper AND o.rolname <> current_user)"""
_NO_FUNCTION = "CAST(0 AS oid)"
_OF_INDEX = _OF_OTHERS.format("('pg_class'::regclass, i.indexrelid)", _NO_FUNCTION)
_OF_COLUMN = _OF_OTHERS.format(
    "('pg_attrdef'::regclass, g.oid), ('pg_class'::regclass, g.adrelid)", _NO_FUNCTION
)
_OF_TRIGGER = _OF_OTHERS.format("('pg_trigger'::regclass, t.oid)", "t.tgfoid")

# Row triggers (1) for INSERT (4) or UPDATE (16).
_EXPRESSIONS = f"""\
SELECT 'the index ' || quote_ident(c.relname), 'index', pg_get_expr(part.found, i.indrelid)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 CROSS JOIN LATERAL (VALUES (i.indexprs), (i.indpred)) AS part (found)
 WHERE i.indrelid = to_regclass(%(table)s) AND part.found IS NOT NULL AND NOT {_OF_INDEX}
UNION ALL
SELECT 'the generated column ' || quote_ident(a.attname),
       CASE CAST(a.attgenerated AS text) WHEN 's' THEN 'stored' ELSE 'virtual' END,
       pg_get_expr(g.adbin, g.adrelid)
  FROM pg_attrdef g JOIN pg_attribute a ON a.attrelid = g.adrelid AND a.attnum = g.adnum
 WHERE g.adrelid = to_regclass(%(table)s) AND a.attgenerated <> '' AND NOT {_OF_COLUMN}
UNION ALL
SELECT 'the trigger ' || quote_ident(t.tgname), 'when', pg_get_triggerdef(t.oid)
  FROM pg_trigger t
 WHERE t.tgrelid = to_regclass(%(table)s) AND t.tgqual IS NOT NULL AND NOT t.tgisinternal
   AND t.tgenabled IN ('O', 'A') AND t.tgtype & 1 <> 0 AND t.tgtype & 20 <> 0 AND NOT {_OF_TRIGGER}
 ORDER BY 1"""

# Those within the table are of its trees. NOT ENFORCED comes with PostgreSQL 18.
_FOREIGN_KEYS = """\
SELECT 'the foreign key ' || quote_ident(c.conname)
       || CASE WHEN c.conrelid = own.oid THEN ''
               ELSE ' of ' || CAST(CAST(c.conrelid AS regclass) AS text) || ' to it' END,
       CASE WHEN c.conrelid = own.oid AND cardinality(c.conkey) = 1 THEN
         (SELECT CAST(a.attname AS text) FROM pg_attribute a
           WHERE a.attrelid = own.oid AND a.attnum = c.conkey[1]) END,
       CAST(CAST(c.confrelid AS regclass) AS text),
       (SELECT quote_ident(a.attname) FROM pg_attribute a
         WHERE a.attrelid = c.confrelid AND a.attnum = c.confkey[1])
  FROM pg_constraint c JOIN pg_class own ON own.oid = to_regclass(%(table)s)
 WHERE c.contype = 'f' AND c.conrelid <> c.confrelid AND c.conparentid = 0
   AND coalesce(to_jsonb(c) ->> 'conenforced', 'true') = 'true'
   AND EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = own.oid AND a.attname = ANY(CAST(%(columns)s AS text[]))
                  AND (c.conrelid = own.oid AND a.attnum = ANY(c.conkey)
                       OR c.confrelid = own.oid AND a.attnum = ANY(c.confkey)))
 ORDER BY 1"""

_UNIQUE = """\
SELECT CASE WHEN i.indisexclusion THEN 'the exclusion constraint ' ELSE 'the unique index ' END
       || quote_ident(c.relname),
       string_agg(quote_ident(a.attname), ' and ' ORDER BY a.attnum)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
 WHERE i.indrelid = to_regclass(%(table)s) AND (i.indisunique OR i.indisexclusion)
   AND a.attname = ANY(CAST(%(columns)s AS text[]))
 GROUP BY 1 ORDER BY 1"""
