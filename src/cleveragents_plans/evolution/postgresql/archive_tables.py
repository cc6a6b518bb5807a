"""Whether the table of an archive, and its index, are as a revision creates them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import RENAME
from cleveragents_plans.evolution.postgresql.added_objects import ADDED
from cleveragents_plans.evolution.postgresql.connection import raise_if, run
from cleveragents_plans.evolution.postgresql.ownership import NameTaken, literal
from cleveragents_plans.evolution.postgresql.row_security import BINDS_OWNER
from cleveragents_plans.evolution.postgresql.trust import OWNER_IS_TRUSTED


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
        NameTaken: It belongs to another role (a remedy gives it to the owner only where that role
            is trusted), is no table, has other columns, or something was added to it that its use
            would fire or break, which is named with the statement that removes it; or *index* is
            the name of something else.
    """
    wanted = {"name": name, "table": table, "columns": list(columns), "index": index}
    for found, remedy in run(connection, _AS_CREATED, wanted):
        raise NameTaken(name, found, remedy)


def raise_if_another_roles(name: str, table: str) -> str:
    """
    Give a statement that raises where the archive *name* is not of the owner of *table*.

    Sent after ``CREATE TABLE IF NOT EXISTS``, which uses what is there. Both names are as in SQL,
    with their schema.
    """
    return raise_if(
        "EXISTS (SELECT FROM pg_class c JOIN pg_class t ON c.relowner <> t.relowner\n"
        f"              WHERE c.oid = to_regclass({literal(name)})"
        f" AND t.oid = to_regclass({literal(table)}))",
        f"{name} belongs to another role than {table}",
        "rename it; if it was not there before, an event trigger gave it away as it was created",
    )


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

# Clients' triggers insert without naming the columns, so their order counts.
_COLUMNS = """\
  SELECT 'has the columns ' || found.names || ', and not '
         || array_to_string(CAST(%(columns)s AS text[]), ', '),
         CASE WHEN found.others IS NULL OR found.lacking THEN '{rename}'
              ELSE 'if it is this chain''s, run ALTER TABLE ' || CAST(%(name)s AS text) || ' '
                   || found.others || ', otherwise rename it' END
    FROM (
      SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS names,
             array_agg(CAST(a.attname AS text) ORDER BY a.attnum) AS found,
             string_agg('DROP COLUMN ' || quote_ident(a.attname), ', ' ORDER BY a.attnum)
               FILTER (WHERE a.attname <> ALL(CAST(%(columns)s AS text[]))) AS others,
             NOT CAST(%(columns)s AS text[]) <@ array_agg(CAST(a.attname AS text)) AS lacking
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS found
   WHERE found.found <> CAST(%(columns)s AS text[])
  UNION ALL
  SELECT 'has the column ' || quote_ident(a.attname) || ' of the type '
         || format_type(a.atttypid, NULL) || ', and ' || CAST(%(table)s AS text) || ' of '
         || format_type(b.atttypid, NULL), '{rename}'
    FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = t.oid AND b.attname = a.attname
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT b.attisdropped AND b.atttypid <> a.atttypid"""

# What a run would fire or break, with the statement that removes it. Row-level security that is not
# forced does no harm, whatever the policies: the owner writes.
_ADDED = f"""\
{ADDED}
  UNION ALL
  SELECT 'row-level security that is forced on its owner',
         'ALTER TABLE ' || n.name || ' NO FORCE ROW LEVEL SECURITY'
   WHERE {BINDS_OWNER}
  UNION ALL
  SELECT 'NOT NULL for ' || quote_ident(a.attname),
         'ALTER TABLE ' || n.name || ' ALTER COLUMN ' || quote_ident(a.attname) || ' DROP NOT NULL'
    FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = t.oid AND b.attname = a.attname
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attnotnull AND NOT b.attnotnull
     AND a.attname <> ALL((CAST(%(columns)s AS text[]))[:2])"""

# One row for each thing that is not as the revision creates it, the most telling first.
_AS_CREATED = f"""\
SELECT found, remedy FROM pg_namespace s
  LEFT JOIN pg_class t ON t.oid = to_regclass(%(table)s)
  LEFT JOIN pg_class c ON c.oid = to_regclass(%(name)s)
  LEFT JOIN pg_class i ON i.relnamespace = s.oid AND i.relname = %(index)s
  LEFT JOIN pg_index x ON x.indexrelid = i.oid
 CROSS JOIN LATERAL (
  SELECT CAST(%(name)s AS text) AS name,
         (SELECT k.attnum FROM pg_attribute k
           WHERE k.attrelid = c.oid AND k.attname = (CAST(%(columns)s AS text[]))[1]) AS key,
         CAST(%(index)s AS text) AS index) AS n
 CROSS JOIN LATERAL (
  SELECT 'belongs to ' || quote_ident(pg_get_userbyid(c.relowner)) || ', and '
         || CAST(%(table)s AS text) || ' to ' || quote_ident(pg_get_userbyid(t.relowner)) AS found,
         CASE WHEN {OWNER_IS_TRUSTED}
              THEN 'if it is this chain''s, run ALTER TABLE ' || n.name || ' OWNER TO '
                   || quote_ident(pg_get_userbyid(t.relowner)) || ', otherwise rename it'
              ELSE 'rename or drop it: that role may have chosen what is in it' END AS remedy
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
  SELECT 'is no ordinary table', '{RENAME}'
   WHERE c.relkind <> 'r' OR c.relispartition OR c.relhassubclass
  UNION ALL
{_COLUMNS.format(rename=RENAME)}
  UNION ALL
  SELECT 'has ' || string_agg(added.what, ' and ') || '; expected none',
         'run ' || string_agg(added.statement, ' and ')
    FROM (
{_ADDED}
    ) AS added (what, statement) HAVING count(*) > 0
  UNION ALL
  SELECT 'needs an index ' || quote_ident(i.relname) || ', which is the name of something else',
         'rename or drop that'
   WHERE i.oid IS NOT NULL AND {_ON_KEY.format(key="(CAST(%(columns)s AS text[]))[1]")} IS NOT TRUE
 ) AS wrong
 WHERE s.nspname = (parse_ident(%(table)s))[1]"""
