"""
Owners of the tables of a chain, from the catalogs alone.

A role that may create objects in the schema can have one of the tables before the chain creates
it. To plan a SELECT is enough for an expression of its index to be evaluated, with the rights of
the role that reads. So these functions come before any statement that names such a table.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.ownership import NameTaken, literal, take_over
from cleveragents_plans.evolution.postgresql.trust import IS_MEMBER, TRUSTED_OWNER, acts_as

#: What a part of the tables may be, after their names, and what is to be done.
PART_OF_ANOTHER: Final = (
    ": a role that may create objects in the schema can have made them, and what their indexes and "
    "triggers call would have the rights of this role"
)
PART_REMEDY: Final = (
    "expected all tables of a revision: if they are this chain's, restore what is missing, "
    "otherwise rename or drop them"
)


class ForeignTable(NameTaken):
    """A table of the chain belongs to a role that must not own it, or runs what it must not."""


def refuse_foreign_tables(
    connection: Connection,
    tables: Collection[str],
    version_table: str,
    schema: str | None,
    version_schema: str | None,
    *,
    only_reads: bool = False,
) -> None:
    """
    Refuse tables of the chain that belong to different roles.

    A superuser may own some of them, and so may this role, and the owner of the schema or of the
    database. To be read they may also belong to a role that this one was made a member of, and to
    roles that act as the owner of the others, who is trusted, because one who is trusted made them
    its members. That an owner is a member of a role says nothing of that role's other members.

    Refused is a version table with a trigger or a rule, too, unless it is only read: any rule, and
    a trigger whose function or table is not of a superuser or of the role that migrates.

    Args:
        connection: The connection that migrates, or reads; catalogs are read.
        tables: Names of tables, without a schema.
        version_table: The table in which Alembic keeps the version.
        schema: The schema of the tables; None is the first of the search path.
        version_schema: The schema of the version table, likewise.
        only_reads: Nothing is going to be written.

    Raises:
        ForeignTable: One belongs to a role that does not own the others, or is the only one; or
            the version table runs what another role wrote.
    """
    names = _names(tables, version_table, schema, version_schema)
    for name, found, remedy in run(connection, _READ if only_reads else _WRITTEN, names):
        raise ForeignTable(name, found, remedy)


def tables_of_untrusted_owners(
    connection: Connection,
    tables: Collection[str],
    version_table: str,
    schema: str | None,
    version_schema: str | None,
) -> list[tuple[str, str]]:
    """
    List the tables of roles that are not trusted, and these roles, as in SQL.

    Trusted are those of `refuse_foreign_tables`, and a role that this one was made a member of by
    one who is trusted. A superuser trusts no role because it is a member. Catalogs are read.
    """
    names = _names(tables, version_table, schema, version_schema)
    return [(name, owner) for name, owner in run(connection, _OF_UNTRUSTED_OWNERS, names)]


def raise_if_foreign_tables(
    tables: Collection[str],
    version_table: str,
    schema: str,
    existing: Collection[str],
    created: Collection[str],
) -> str:
    """
    Give the statement of a script that raises what `refuse_foreign_tables` would raise.

    It raises for a part of the tables, too, whose owner is not trusted: where one of *existing* is
    missing, or one is there that the script creates.

    Args:
        tables: Names of tables, without a schema.
        version_table: The table in which Alembic keeps the version.
        schema: The schema of all.
        existing: Those of all that the revision has with which the script begins.
        created: Those of all that the script creates.
    """
    literals = {
        "tables": _array(tables),
        "created": _array(created),
        "expected": _array(existing),
        "version_table": literal(version_table),
        **dict.fromkeys(("schema", "version_schema"), literal(schema)),
    }
    query = re.sub(r"%\((\w+)\)s", lambda name: literals[name[1]], _IN_A_SCRIPT)
    return f"""\
DO $check$ DECLARE wrong record; BEGIN
  FOR wrong IN
{query}
  LOOP
    RAISE EXCEPTION USING MESSAGE = wrong.name || ' ' || wrong.found, HINT = wrong.remedy;
  END LOOP;
END $check$;"""


def _array(names: Collection[str]) -> str:
    return f"CAST(ARRAY[{', '.join(map(literal, sorted(names)))}] AS text[])"


def _names(
    tables: Collection[str], version_table: str, schema: str | None, version_schema: str | None
) -> dict[str, Any]:
    return {
        "tables": list(tables),
        "schema": schema,
        "version_table": version_table,
        "version_schema": version_schema,
    }


_FROM_OURS = """\
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles o ON o.oid = c.relowner
 WHERE ((c.relname = ANY(CAST(%(tables)s AS text[]))
         AND n.nspname = coalesce(%(schema)s, current_schema()))
        OR (c.relname = %(version_table)s
            AND n.nspname = coalesce(%(version_schema)s, current_schema())))"""

_OF_UNTRUSTED_OWNERS = f"""\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), quote_ident(o.rolname)
{_FROM_OURS}
   AND NOT {TRUSTED_OWNER} AND NOT {IS_MEMBER} ORDER BY 1"""

_TAKE_OVER = (
    literal(f"expected one owner of all: {take_over('<table>', '<owner>')}")
    .replace("<table>", "' || ours.name || '")
    .replace("<owner>", "' || most.owner || '")
)

# Of the version table: a superuser and the role that migrates may write what it runs. Its owner
# may not, as no revision makes a trigger there.
# The owner of most tables, the oldest among them, is taken for that of the chain. A table is
# never said to be given to a role that is not trusted where one of the others is.
_OURS = f"""\
WITH ours AS (
  SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
         c.relowner, quote_ident(o.rolname) AS owner, {{trusted}} AS trusted,
         o.rolsuper OR o.rolname = current_user AS has_rights,
         c.relname = %(version_table)s AS has_version
{_FROM_OURS}
), most AS (
  SELECT owner, bool_and(trusted) AS trusted FROM ours GROUP BY owner
  HAVING count(*) * 2 > (SELECT count(*) FROM ours)
     AND min(oid) = (SELECT min(oid) FROM ours)
), wrong_owners AS (
  SELECT others.names IS NOT NULL AND coalesce(ours.owner = most.owner, false) AS of_most,
         ours.name,
         'belongs to ' || ours.owner || ', '
         || coalesce('and other tables of this chain to ' || others.names, 'alone') AS found,
         CASE WHEN others.names IS NULL AND ours.has_version
              THEN 'rename or drop it, or give -x version-table=NAME if another application uses it'
              WHEN others.names IS NULL THEN 'rename or drop it'
              WHEN ours.owner <> most.owner
                   AND (most.trusted OR NOT EXISTS (SELECT FROM ours o WHERE o.trusted))
              THEN {_TAKE_OVER}
              ELSE 'expected one owner of all: rename or drop those that are not this chain''s'
         END AS remedy
    FROM ours LEFT JOIN most ON true CROSS JOIN LATERAL (
      SELECT string_agg(DISTINCT o.owner, ' and ') AS names,
             bool_or(NOT ({{related}})) AS are_others
        FROM ours o WHERE o.owner <> ours.owner) AS others
   WHERE NOT ours.trusted AND (others.are_others OR (SELECT count(*) FROM ours) = 1)
)"""

_RELATED = f"o.trusted AND {acts_as('ours.relowner', 'o.relowner')}"

_READ = f"""\
{_OURS.format(trusted=f"({TRUSTED_OWNER} OR {IS_MEMBER})", related=_RELATED)}
SELECT name, found, remedy FROM wrong_owners ORDER BY of_most, name LIMIT 1"""

_WRITTEN = f"""\
{_OURS.format(trusted=TRUSTED_OWNER, related="false")}
SELECT refused.name, refused.found, refused.remedy FROM (
  SELECT * FROM wrong_owners
  UNION ALL
  SELECT false, ours.name, 'has the trigger ' || quote_ident(g.tgname) || ', whose function '
         || CAST(CAST(p.oid AS regprocedure) AS text) || ' belongs to ' || quote_ident(o.rolname),
         'drop that'
    FROM ours JOIN pg_trigger g ON g.tgrelid = ours.oid
    JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_roles o ON o.oid = p.proowner
   WHERE ours.has_version AND NOT g.tgisinternal
     AND NOT (ours.has_rights AND (o.rolsuper OR o.rolname = current_user))
  UNION ALL
  SELECT false, ours.name, 'has the rule ' || quote_ident(r.rulename), 'drop that'
    FROM ours JOIN pg_rewrite r ON r.ev_class = ours.oid
   WHERE ours.has_version
) AS refused ORDER BY refused.of_most, refused.name, refused.found LIMIT 1"""

# (…) UNION ALL (…) keeps the ORDER BY and LIMIT of each.
_IN_A_SCRIPT = f"""\
({_WRITTEN})
UNION ALL
(SELECT part.name, 'belongs to ' || part.owner || ', and '
       || coalesce('the tables lack ' || lacking.names, 'this script creates it')
       || '{PART_OF_ANOTHER}', '{PART_REMEDY.replace("'", "''")}'
  FROM (
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
           CAST(c.relname AS text) AS plain, quote_ident(o.rolname) AS owner
{_FROM_OURS}
       AND NOT {TRUSTED_OWNER} AND NOT {IS_MEMBER}
  ) AS part CROSS JOIN (
    SELECT string_agg(quote_ident(e.name), ', ' ORDER BY e.name) AS names
      FROM unnest(%(expected)s) AS e (name)
     WHERE NOT EXISTS (SELECT {_FROM_OURS} AND c.relname = e.name)
  ) AS lacking
 WHERE lacking.names IS NOT NULL OR part.plain = ANY(%(created)s)
 ORDER BY part.name LIMIT 1)"""
