"""Whether the table of an archive, and its index, are as a revision creates them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import raise_if, run
from cleveragents_plans.evolution.postgresql.ownership import NameTaken, literal


def refuse_foreign_table(
    connection: Connection, name: str, table: str, columns: Sequence[str], index: str
) -> None:
    """
    Refuse a table that a revision creates beside another one, if it is not as it creates it.

    Args:
        connection: The connection that migrates; catalogs are read.
        name: The table, as in SQL with its schema; it need not exist.
        table: The other one, likewise, whose owner must own it and whose *columns* it has.
        columns: The columns.
        index: The name of its unique index on the first column.

    Raises:
        NameTaken: It belongs to another role, is no table, has other columns, triggers, rules,
            policies, defaults or CHECKs, or *index* is the name of something else.
    """
    wanted = {"name": name, "table": table, "columns": list(columns), "index": index}
    for found, remedy in run(connection, _AS_CREATED, wanted):
        raise NameTaken(name, found, remedy)


def raise_unless_unique_index(index: str, table: str, key: str) -> str:
    """
    Give a statement that raises where *index* is not a unique index of *table* on *key* alone.

    Sent after ``CREATE UNIQUE INDEX IF NOT EXISTS``, which is silent where anything has the
    name; without that index ``ON CONFLICT`` fails, which clients' writes run in a trigger. Both
    names are as in SQL, with their schema.
    """
    return raise_if(
        "NOT EXISTS (SELECT FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid\n"
        f"                  WHERE x.indexrelid = to_regclass({literal(index)})"
        f" AND c.oid = to_regclass({literal(table)})\n"
        f"                    AND {_ON_KEY.format(key=literal(key))})",
        f"{table} needs an index {index}, which is the name of something else",
        "rename or drop that",
    )


# What ON CONFLICT with the column *key* of the table *c* needs of the index *x*.
_ON_KEY = """\
(x.indrelid = c.oid AND x.indisunique AND x.indimmediate AND x.indisvalid
         AND x.indpred IS NULL AND x.indnkeyatts = 1 AND x.indkey[0] = (
           SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = {key}))"""

# One row for each thing that is not as the revision creates it, the most telling first.
_AS_CREATED = f"""\
SELECT found, remedy FROM pg_namespace n
  LEFT JOIN pg_class t ON t.oid = to_regclass(%(table)s)
  LEFT JOIN pg_class c ON c.oid = to_regclass(%(name)s)
  LEFT JOIN pg_class i ON i.relnamespace = n.oid AND i.relname = %(index)s
  LEFT JOIN pg_index x ON x.indexrelid = i.oid
 CROSS JOIN LATERAL (
  SELECT 'belongs to ' || quote_ident(pg_get_userbyid(c.relowner)) || ', and '
         || CAST(%(table)s AS text) || ' to ' || quote_ident(pg_get_userbyid(t.relowner)) AS found,
         'if it is this chain''s, run ALTER TABLE ' || CAST(%(name)s AS text) || ' OWNER TO '
         || quote_ident(pg_get_userbyid(t.relowner)) || ', otherwise rename or drop it' AS remedy
   WHERE c.relowner <> t.relowner
  UNION ALL
  SELECT 'is there, and ' || CAST(%(table)s AS text) || ' is not',
         'it may keep what was in that table: if that was renamed, give it its name back, '
         'otherwise rename this one'
   WHERE c.oid IS NOT NULL AND t.oid IS NULL
  UNION ALL
  SELECT 'is the name of a type', 'rename or drop that'
   WHERE c.oid IS NULL AND to_regtype(%(name)s) IS NOT NULL
  UNION ALL
  SELECT 'is no ordinary table', 'rename or drop it'
   WHERE c.relkind <> 'r' OR c.relispartition OR c.relhassubclass
  UNION ALL
  SELECT 'has other columns than ' || array_to_string(CAST(%(columns)s AS text[]), ' and ')
         || ', or of other types than ' || CAST(%(table)s AS text) || ' has', 'rename or drop it'
   WHERE c.oid IS NOT NULL AND (SELECT count(*) FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         ) <> cardinality(CAST(%(columns)s AS text[]))
      OR EXISTS (SELECT FROM pg_attribute a
                   LEFT JOIN pg_attribute b ON b.attrelid = t.oid AND b.attname = a.attname
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND (a.attname <> ALL(CAST(%(columns)s AS text[])) OR a.atthasdef
                         OR b.attnum IS NOT NULL AND b.atttypid <> a.atttypid))
  UNION ALL
  SELECT 'has triggers, rules, policies or constraints of its own', 'rename or drop it'
   WHERE c.relrowsecurity OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid)
      OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid)
      OR EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid)
      OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid)
  UNION ALL
  SELECT 'needs an index ' || quote_ident(i.relname) || ', which is the name of something else',
         'rename or drop that'
   WHERE i.oid IS NOT NULL AND {_ON_KEY.format(key="(CAST(%(columns)s AS text[]))[1]")} IS NOT TRUE
 ) AS wrong
 WHERE n.nspname = (parse_ident(%(table)s))[1]"""
