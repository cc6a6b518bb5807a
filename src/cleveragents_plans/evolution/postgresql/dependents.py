"""
What depends on tables and functions, so that PostgreSQL would not drop them.

A view, and a function or column of a table's row type, may be created by any role that may use
the schema: rights on a table or a function are checked when it is read or called.
See https://www.postgresql.org/docs/current/ddl-depend.html.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run


class TableInUse(EvolutionError):
    """
    Something else depends on a table that a step would drop.

    Attributes:
        name: The table, with its schema.
        users: What depends on it, five at most.
    """

    def __init__(self, name: str, users: list[str]) -> None:
        super().__init__(
            f"{name}, which this run would drop, is used by {', '.join(users)}; drop that first; "
            "nothing was changed"
        )
        self.name = name
        self.users = users


def refuse_table_in_use(connection: Connection, *tables: str) -> None:
    """
    Refuse to drop *tables*, named as in SQL with their schema, where others depend on them.

    A table that is not there is passed over. Reads the catalog only.

    Raises:
        TableInUse: A view, another function, a column or a foreign key depends on one of them,
            or on its row type.
    """
    found = list(run(connection, _OF_TABLES, {"tables": list(tables)}))
    if found:
        name = found[0][0]
        raise TableInUse(name, [user for used, user in found if used == name][:_MAX_SHOWN])


def functions_in_use(connection: Connection, table: str, names: Collection[str]) -> list[str]:
    """
    Tell which trigger functions more depends on than their own triggers, and what that is.

    `drop_unless_in_use` leaves such a function. Reads the catalog only.

    Args:
        connection: The connection that migrates.
        table: The table of the triggers, as in SQL with its schema.
        names: Names of the functions, in its schema, and of the triggers.
    """
    found = run(connection, _OF_FUNCTIONS, {"table": table, "names": list(names)})
    return [f"{function} is used by {user}" for function, user in found]


def drop_unless_in_use(dropped: str) -> str:
    """
    Give a statement that drops *dropped*, such as ``TABLE …``, unless others depend on it.

    They may have been created while the run was under way, by a role that must not be able to
    keep it from ending. What is left does nothing: a function without a trigger, or a table
    without rows. The server says so in a warning.
    """
    what = dropped.replace("'", "''")
    return f"""\
DO $drop$ BEGIN
  DROP {dropped};
EXCEPTION WHEN dependent_objects_still_exist THEN
  RAISE WARNING USING MESSAGE = 'others depend on it, so it was left: {what}';
END $drop$"""


_MAX_SHOWN = 5
#: Says what ``pg_depend d`` is about; of a view, ``pg_rewrite r``, the view and not its rule.
USER: Final = """\
CASE WHEN (SELECT v.relkind FROM pg_class v WHERE v.oid = r.ev_class) IN ('v', 'm')
     THEN 'view ' || CAST(CAST(r.ev_class AS regclass) AS text)
     ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END"""

# By the row type and its array, too. What belongs to one of the tables is dropped with them.
_OF_TABLES = f"""\
WITH ours AS (
  SELECT c.oid, c.reltype, CAST(CAST(c.oid AS regclass) AS text) AS name
    FROM unnest(CAST(%(tables)s AS text[])) AS given JOIN pg_class c ON c.oid = to_regclass(given)
), used AS (
  SELECT CAST('pg_class' AS regclass) AS classid, oid, name FROM ours
  UNION ALL
  SELECT CAST('pg_type' AS regclass), t.oid, ours.name FROM ours
    JOIN pg_type t ON t.oid = ours.reltype OR (t.typelem = ours.reltype AND t.typelem <> 0)
)
SELECT DISTINCT used.name, {USER}
  FROM used JOIN pg_depend d ON d.refclassid = used.classid AND d.refobjid = used.oid
  LEFT JOIN pg_rewrite r ON d.classid = CAST('pg_rewrite' AS regclass) AND r.oid = d.objid
  LEFT JOIN pg_constraint k ON d.classid = CAST('pg_constraint' AS regclass) AND k.oid = d.objid
  LEFT JOIN pg_trigger g ON d.classid = CAST('pg_trigger' AS regclass) AND g.oid = d.objid
  LEFT JOIN pg_policy p ON d.classid = CAST('pg_policy' AS regclass) AND p.oid = d.objid
  LEFT JOIN pg_class c ON d.classid = CAST('pg_class' AS regclass) AND c.oid = d.objid
 WHERE d.deptype = 'n' AND NOT EXISTS (
   SELECT FROM ours
    WHERE ours.oid IN (r.ev_class, k.conrelid, g.tgrelid, p.polrelid, c.oid))
 ORDER BY 1, 2"""

_OF_FUNCTIONS = f"""\
SELECT DISTINCT CAST(CAST(f.oid AS regprocedure) AS text), {USER}
  FROM pg_class t JOIN pg_proc f ON f.pronamespace = t.relnamespace AND f.pronargs = 0
  JOIN pg_depend d ON d.refclassid = CAST('pg_proc' AS regclass) AND d.refobjid = f.oid
  LEFT JOIN pg_rewrite r ON d.classid = CAST('pg_rewrite' AS regclass) AND r.oid = d.objid
  LEFT JOIN pg_trigger g ON d.classid = CAST('pg_trigger' AS regclass) AND g.oid = d.objid
 WHERE t.oid = to_regclass(%(table)s) AND f.proname = ANY(CAST(%(names)s AS text[]))
   AND d.deptype = 'n' AND (g.tgrelid = t.oid AND g.tgname = f.proname) IS NOT TRUE
 ORDER BY 1, 2"""
