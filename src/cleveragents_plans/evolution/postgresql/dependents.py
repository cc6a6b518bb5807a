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
from cleveragents_plans.evolution.postgresql.connection import raise_if, run
from cleveragents_plans.evolution.postgresql.ownership import NameTaken


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


def refuse_foreign_triggers(connection: Connection, table: str, names: Collection[str]) -> None:
    """
    Refuse trigger functions that a table of another role has a trigger with.

    One that runs with the rights of its owner writes for that role what it chooses. A trigger that
    was created while the role might execute the function goes on running it. The catalog is read.

    Args:
        connection: The connection that migrates.
        table: The table of the triggers, as in SQL with its schema.
        names: Names of the functions, in its schema.

    Raises:
        NameTaken: There is such a trigger.
    """
    for name, trigger, other, owner in foreign_triggers(connection, table, names):
        raise NameTaken(
            f"the function {name}()",
            f"is run by the trigger {trigger} on {other}, which belongs to {owner}",
            "drop that trigger, or end the session whose temporary table it is on, and look at "
            "what it may have written",
        )


def foreign_triggers(
    connection: Connection, table: str, names: Collection[str]
) -> list[tuple[str, str, str, str]]:
    """
    List the triggers that `refuse_foreign_triggers` refuses: function, trigger, its table, owner.

    All are written as in SQL; superusers' tables are left out.
    """
    found = run(connection, _FOREIGN_TRIGGERS, {"table": table, "names": list(names)})
    return [(row[0], row[1], row[2], row[3]) for row in found]


def raise_if_foreign_trigger(function: str) -> str:
    """
    Give a statement that raises what `refuse_foreign_triggers` would raise, under the lock.

    Args:
        function: As in SQL, with its schema and ``()``.
    """
    return raise_if(
        f"EXISTS (SELECT {_FOREIGN_TRIGGER} AND p.oid = to_regprocedure('{function}'))",
        f"the function {function} is run by a trigger on a table of another role",
        "preflight names it",
    )


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

# A clone for a partition is that of its parent's trigger.
_FOREIGN_TRIGGER = """\
FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
  JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_roles o ON o.oid = c.relowner
 WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND c.relowner <> p.proowner AND NOT o.rolsuper"""

_FOREIGN_TRIGGERS = f"""\
SELECT quote_ident((parse_ident(%(table)s))[1]) || '.' || quote_ident(p.proname),
       quote_ident(g.tgname), CAST(CAST(c.oid AS regclass) AS text), quote_ident(o.rolname)
  {_FOREIGN_TRIGGER} AND p.pronargs = 0 AND p.proname = ANY(CAST(%(names)s AS text[]))
   AND p.pronamespace = (SELECT n.oid FROM pg_namespace n
                          WHERE n.nspname = (parse_ident(%(table)s))[1])
 ORDER BY 1, 2, 3"""

# By the row type and its array, and by the sequences of its columns, too. What belongs to one of
# the tables is dropped with them.
_OF_TABLES = f"""\
WITH ours AS (
  SELECT c.oid, c.reltype, CAST(CAST(c.oid AS regclass) AS text) AS name
    FROM unnest(CAST(%(tables)s AS text[])) AS given JOIN pg_class c ON c.oid = to_regclass(given)
), used AS (
  SELECT CAST('pg_class' AS regclass) AS classid, oid, name FROM ours
  UNION ALL
  SELECT CAST('pg_type' AS regclass), t.oid, ours.name FROM ours
    JOIN pg_type t ON t.oid = ours.reltype OR (t.typelem = ours.reltype AND t.typelem <> 0)
  UNION ALL
  SELECT o.classid, o.objid, ours.name FROM ours
    JOIN pg_depend o ON o.refclassid = CAST('pg_class' AS regclass) AND o.refobjid = ours.oid
     AND o.classid = CAST('pg_class' AS regclass) AND o.deptype IN ('a', 'i')
    JOIN pg_class s ON s.oid = o.objid AND s.relkind = 'S'
)
SELECT DISTINCT used.name, {USER}
  FROM used JOIN pg_depend d ON d.refclassid = used.classid AND d.refobjid = used.oid
  LEFT JOIN pg_rewrite r ON d.classid = CAST('pg_rewrite' AS regclass) AND r.oid = d.objid
  LEFT JOIN pg_constraint k ON d.classid = CAST('pg_constraint' AS regclass) AND k.oid = d.objid
  LEFT JOIN pg_trigger g ON d.classid = CAST('pg_trigger' AS regclass) AND g.oid = d.objid
  LEFT JOIN pg_policy p ON d.classid = CAST('pg_policy' AS regclass) AND p.oid = d.objid
  LEFT JOIN pg_class c ON d.classid = CAST('pg_class' AS regclass) AND c.oid = d.objid
  LEFT JOIN pg_attrdef e ON d.classid = CAST('pg_attrdef' AS regclass) AND e.oid = d.objid
 WHERE d.deptype = 'n' AND NOT EXISTS (
   SELECT FROM ours
    WHERE ours.oid IN (r.ev_class, k.conrelid, g.tgrelid, p.polrelid, c.oid, e.adrelid))
UNION
SELECT ours.name, 'the extension ' || quote_ident(x.extname) || ' as its member (ALTER EXTENSION '
       || quote_ident(x.extname) || ' DROP TABLE ' || ours.name || ')'
  FROM ours JOIN pg_depend d ON d.classid = CAST('pg_class' AS regclass) AND d.objid = ours.oid
  JOIN pg_extension x ON d.refclassid = CAST('pg_extension' AS regclass) AND x.oid = d.refobjid
 WHERE d.deptype = 'e'
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
