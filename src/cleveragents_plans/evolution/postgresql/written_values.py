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
from cleveragents_plans.evolution.postgresql.read_locks import lock_as_found

log: Final = logging.getLogger("alembic.evolution")

# A value that cannot be had, a constraint of a domain, what a function raises.
_REFUSED = ("22", "23", "P0")
_SAMPLED = 20
_UNKNOWN: Final = (
    "%s has %s, %s: what it refuses would stop this run half way; drop it for the time of this run "
    "unless it fits"
)
_WHEN = re.compile(r" WHEN \((.*)\) EXECUTE FUNCTION ", re.DOTALL)


def refuse_unfit_values(
    connection: Connection,
    table: str,
    name_in_sql: str,
    values: Mapping[str, str | None],
    rows: str | None = None,
) -> None:
    """
    Refuse a table with something that would refuse what is to be written; change nothing.

    An expression is looked at as text, which another role can give another meaning to: one that
    calls what is not PostgreSQL's own is only warned of, and so is what else cannot be known
    beforehand, such as a foreign key of a column without a literal, or to a table of another
    owner. ACCESS SHARE on the table and on those that it refers to, for some milliseconds.

    Args:
        connection: In a transaction.
        table: The table, for messages.
        name_in_sql: The table, as in SQL with its schema.
        values: The columns that are to be written, and the literal that most rows get, or NULL,
            if there is one.
        rows: A condition over the alias ``t`` that is true for rows that get all of *values*; by
            default those that have NULL in these columns.

    Raises:
        TableUnfit: It has an index, a generated column, a trigger or a foreign key that would
            refuse one of *values*.
    """
    quote = connection.dialect.identifier_preparer.quote
    planned = {quote(column): value for column, value in values.items() if value is not None}
    shown = " and ".join(f"{column} = {value}" for column, value in planned.items())
    if planned:
        rows = rows or " AND ".join(f"t.{column} IS NULL" for column in planned)
        for what, kind, definition, is_built_in in run(
            connection, _EXPRESSIONS, {"table": name_in_sql}
        ):
            if not is_built_in:
                log.warning(_UNKNOWN, table, what, "which calls functions or types of its own")
                continue
            said = _refusal(connection, name_in_sql, planned, rows, kind, definition)
            if said and kind == "virtual":
                log.warning(
                    "%s has %s, which cannot be read any more where %s (%s)",
                    table, what, shown, said,
                )  # fmt: skip
            elif said:
                raise TableUnfit(
                    table,
                    f"has {what}, which would refuse {shown} ({said})",
                    "drop it, or make it so that it accepts this, and run the same command again",
                )
    written = {"table": name_in_sql, "columns": list(values)}
    for what, column, oid, referred, key in run(connection, _FOREIGN_KEYS, written):
        value = planned.get(quote(column)) if column is not None else None
        if value == "NULL":  # which refers to no row
            continue
        known = None
        if value is not None and oid is not None:
            known = _has_row(connection, oid, referred, key, value)
        if known is False:
            raise TableUnfit(
                table,
                f"has {what}, which would refuse {column} = {value}: {referred} has no such row",
                "insert it there, or drop the foreign key, and run the same command again",
            )
        if known is None:
            log.warning(_UNKNOWN, table, what, "over a column that is written")
    for what, columns in run(connection, _UNIQUE, written):
        log.warning(
            "%s has %s, over %s, which is written: rows that become equal would stop this run half "
            "way; drop it for the time of this run unless it fits",
            table, what, columns,
        )  # fmt: skip


def _refusal(
    connection: Connection,
    table: str,
    planned: Mapping[str, str],
    condition: str,
    kind: str,
    definition: str,
) -> str | None:
    """Give what speaks against an expression over the values; None if nothing does."""
    columns = list(run(connection, _COLUMNS, {"table": table}).scalars())
    values = ", ".join(f"{value} AS {column}" for column, value in planned.items())
    rows = f"(SELECT * FROM {table} t WHERE {condition} LIMIT {_SAMPLED})"
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
    number = f"count({expression})"
    if kind == "not null":
        number = f"count(*) FILTER (WHERE ({definition}) IS NULL)"
    for source in (alone, filled):  # over other columns, too, so with those of some rows
        try:
            with connection.begin_nested():
                nulls = run(connection, f"SELECT {number} FROM {source}").scalar_one()
                return "it is NOT NULL" if kind == "not null" and nulls else None
        except DBAPIError as error:
            if sqlstate(error) != UNDEFINED_COLUMN:
                return _said(error)
    return None


def _said(error: DBAPIError) -> str | None:
    if error.connection_invalidated:
        raise error
    # Others are of the look, not of the value.
    refused = (sqlstate(error) or "").startswith(_REFUSED)
    return f"PostgreSQL says: {message_of(error)}" if refused else None


def _has_row(connection: Connection, oid: int, table: str, key: str, value: str) -> bool | None:
    """Tell whether *table* has a row with that *key*; None where it cannot be read."""
    try:
        with connection.begin_nested() as savepoint:
            # A policy may call what others wrote.
            run(connection, "SET LOCAL row_security = off")
            lock_as_found(connection, table, oid)
            query = f"SELECT EXISTS (SELECT FROM ONLY {table} t WHERE t.{key} = {value})"
            found = bool(run(connection, query).scalar_one())
            savepoint.rollback()
            return found
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return None


_COLUMNS = """\
SELECT quote_ident(a.attname) FROM pg_attribute a
 WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum"""

#: Whether objects, as pairs of catalog and oid, use no function, operator or type but PostgreSQL's
#: own, which ``pg_depend`` does not list; *except_for* is a function that does not count.
BUILT_IN: Final = """\
NOT EXISTS (
  SELECT FROM pg_depend d
   WHERE (d.classid, d.objid) IN ({objects}) AND d.refobjid <> {except_for}
     AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass))"""
_OF_INDEX = BUILT_IN.format(objects="('pg_class'::regclass, i.indexrelid)", except_for=0)
# Before PostgreSQL 15 they are listed under the column.
_OF_COLUMN = BUILT_IN.format(
    objects="('pg_attrdef'::regclass, g.oid), ('pg_class'::regclass, g.adrelid)",
    except_for=0,
)
_OF_TRIGGER = BUILT_IN.format(objects="('pg_trigger'::regclass, t.oid)", except_for="t.tgfoid")

# Row triggers (1) for INSERT (4) or UPDATE (16).
_EXPRESSIONS = f"""\
SELECT 'the index ' || quote_ident(c.relname), 'index', pg_get_expr(part.found, i.indrelid),
       {_OF_INDEX}
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 CROSS JOIN LATERAL (VALUES (i.indexprs), (i.indpred)) AS part (found)
 WHERE i.indrelid = to_regclass(%(table)s) AND part.found IS NOT NULL
UNION ALL
SELECT 'the generated column ' || quote_ident(a.attname),
       CASE WHEN a.attnotnull THEN 'not null'
            WHEN CAST(a.attgenerated AS text) = 's' THEN 'stored' ELSE 'virtual' END,
       pg_get_expr(g.adbin, g.adrelid), {_OF_COLUMN}
  FROM pg_attrdef g JOIN pg_attribute a ON a.attrelid = g.adrelid AND a.attnum = g.adnum
 WHERE g.adrelid = to_regclass(%(table)s) AND a.attgenerated <> ''
UNION ALL
SELECT 'the trigger ' || quote_ident(t.tgname), 'when', pg_get_triggerdef(t.oid), {_OF_TRIGGER}
  FROM pg_trigger t
 WHERE t.tgrelid = to_regclass(%(table)s) AND t.tgqual IS NOT NULL AND NOT t.tgisinternal
   AND t.tgenabled IN ('O', 'A') AND t.tgtype & 1 <> 0 AND t.tgtype & 20 <> 0
 ORDER BY 1"""

# Those within the table are of its trees. The planner runs what the owner of a table has in its
# indexes, so only a trusted one's is read. NOT ENFORCED comes with PostgreSQL 18.
_FOREIGN_KEYS = """\
SELECT 'the foreign key ' || quote_ident(c.conname)
       || CASE WHEN c.conrelid = own.oid THEN ''
               ELSE ' of ' || CAST(CAST(c.conrelid AS regclass) AS text) || ' to it' END,
       CASE WHEN c.conrelid = own.oid AND cardinality(c.conkey) = 1 THEN
         (SELECT CAST(a.attname AS text) FROM pg_attribute a
           WHERE a.attrelid = own.oid AND a.attnum = c.conkey[1]) END,
       CASE WHEN referred.relkind = 'r' AND (referred.relowner = own.relowner OR EXISTS (
              SELECT FROM pg_roles o WHERE o.oid = referred.relowner
                 AND (o.rolsuper OR o.rolname = current_user)))
            THEN referred.oid END,
       CAST(CAST(c.confrelid AS regclass) AS text),
       (SELECT quote_ident(a.attname) FROM pg_attribute a
         WHERE a.attrelid = c.confrelid AND a.attnum = c.confkey[1])
  FROM pg_constraint c JOIN pg_class own ON own.oid = to_regclass(%(table)s)
  JOIN pg_class referred ON referred.oid = c.confrelid
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
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND (a.attnum = ANY(i.indkey) OR EXISTS (
         -- of an expression, or of the predicate
         SELECT FROM pg_depend d
          WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
            AND d.refobjsubid = a.attnum))
 WHERE i.indrelid = to_regclass(%(table)s) AND (i.indisunique OR i.indisexclusion)
   AND a.attname = ANY(CAST(%(columns)s AS text[]))
 GROUP BY 1 ORDER BY 1"""
