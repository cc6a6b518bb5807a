"""
What is made from a column, so that PostgreSQL would not drop the column, or would drop that, too.

See https://www.postgresql.org/docs/current/ddl-depend.html.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import ColumnInUse
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.alterations import FAMILY
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.dependents import USER
from cleveragents_plans.evolution.postgresql.not_null import BECOMING_NOT_NULL

log: Final = logging.getLogger("alembic.evolution")


@checks("dependent objects")
def check_droppable(op: Op, table: str, column: str, *, ours: Sequence[str] = ()) -> None:
    """
    Find out whether *column* of *table* can be dropped on PostgreSQL; change nothing.

    The triggers *ours* go before it, and CHECKs of these names with it. Indexes, statistics and
    constraints that go with it, and privileges on the column alone, are named in a warning.
    Partitions and tables that inherit are looked at, too. On SQLite, and offline, it does nothing.

    Raises:
        ColumnInUse: A view, a generated column, a CHECK, or something else that would not go with
            it or would be missed needs it.
    """
    context = op.get_context()
    if context.dialect.name != "postgresql" or context.as_sql:
        return
    connection, name = op.get_bind(), qualified(context, table)
    found = _users(connection, name, column, ours)
    if refusing := [user for user, refuses in found if refuses]:
        raise ColumnInUse(table, column, refusing)
    granted = list(run(connection, _GRANTED, {"table": name, "column": column}).scalars())
    for lost, what, again in (
        ([user for user, _ in found], "what is made from it", "make that"),
        (granted, "the privileges that were granted on it alone", "grant them"),
    ):
        if lost:
            log.warning(
                "the column %s of %s is dropped with %s: %s; an upgrade does not %s again",
                *(column, table, what, ", ".join(lost), again),
            )


def refuse_used_column(connection: Connection, table: str, column: str) -> None:
    """
    Refuse a column that is used at all: by a view, a trigger, an index, a constraint.

    Reads the catalog only.

    Raises:
        ColumnInUse: Something is made from *column* of *table*, the quoted name.
    """
    found = _users(connection, table, column, ())
    if found:
        raise ColumnInUse(table, column, [user for user, _ in found])


def _users(
    connection: Connection, table: str, column: str, ours: Sequence[str]
) -> list[tuple[str, bool]]:
    """List what is made from a column, and whether the column is not dropped because of it."""
    of = {"table": table, "column": column, "ours": list(ours)}
    # A table that a step before this one is to create is not there yet: no rows.
    return [(user, refuses) for user, refuses in run(connection, _USERS, of)]


_GRANTED = """\
SELECT x.privilege_type || ' to ' || coalesce(quote_ident(r.rolname), 'PUBLIC')
  FROM pg_attribute a, aclexplode(a.attacl) x LEFT JOIN pg_roles r ON r.oid = x.grantee
 WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = %(column)s ORDER BY 1"""

# What PostgreSQL drops with a column depends on it automatically ('a'), a CHECK also normally
# ('n'), as what stops it does. Left out is what a partition has from its table; and what is no
# loss: NOT NULL, and the CHECK of a run that made the column NOT NULL.
_USERS = f"""\
WITH RECURSIVE {FAMILY}, col AS (
  SELECT a.attrelid, a.attnum, CAST(CAST(a.attrelid AS regclass) AS text) AS name
    FROM family JOIN pg_attribute a ON a.attrelid = family.oid AND a.attname = %(column)s
)
SELECT CASE WHEN g.attnum IS NULL THEN {USER}
            ELSE 'the generated column ' || quote_ident(g.attname) || ' of ' || col.name
       END AS made, bool_or(d.deptype = 'n')
  FROM col JOIN pg_depend d ON d.refclassid = CAST('pg_class' AS regclass)
   AND d.refobjid = col.attrelid AND d.refobjsubid = col.attnum AND d.deptype IN ('n', 'a')
  LEFT JOIN pg_rewrite r ON d.classid = CAST('pg_rewrite' AS regclass) AND r.oid = d.objid
  LEFT JOIN pg_trigger t ON d.classid = CAST('pg_trigger' AS regclass) AND t.oid = d.objid
  LEFT JOIN pg_constraint k ON d.classid = CAST('pg_constraint' AS regclass) AND k.oid = d.objid
  LEFT JOIN pg_class i ON d.classid = CAST('pg_class' AS regclass) AND i.oid = d.objid
  LEFT JOIN pg_attrdef e ON d.classid = CAST('pg_attrdef' AS regclass) AND e.oid = d.objid
  LEFT JOIN pg_attribute g ON g.attrelid = e.adrelid AND g.attnum = e.adnum
 WHERE (e.adrelid = col.attrelid AND e.adnum = col.attnum) IS NOT TRUE
   AND (t.tgname = ANY(CAST(%(ours)s AS text[])) OR t.tgparentid <> 0) IS NOT TRUE
   AND (k.conrelid = col.attrelid AND k.contype = 'c'
        AND k.conname = ANY(CAST(%(ours)s AS text[]))) IS NOT TRUE
   AND (k.contype = 'n' OR k.conname ~ {BECOMING_NOT_NULL}) IS NOT TRUE
   AND k.conislocal IS NOT FALSE AND i.relispartition IS NOT TRUE AND g.attislocal IS NOT FALSE
 GROUP BY made
UNION
SELECT 'the table ' || CAST(CAST(i.inhparent AS regclass) AS text) || ', from which it is '
       || 'inherited', true
  FROM pg_inherits i JOIN pg_attribute a ON a.attrelid = i.inhparent AND a.attname = %(column)s
 WHERE i.inhrelid = to_regclass(%(table)s)
 ORDER BY 1"""
