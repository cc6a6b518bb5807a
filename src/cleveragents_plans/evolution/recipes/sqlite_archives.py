"""Whether the table of an archive is as a revision creates it on SQLite."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, inspect

from cleveragents_plans.evolution.errors import RENAME
from cleveragents_plans.evolution.operations.names import require_tables
from cleveragents_plans.evolution.postgresql.ownership import NameTaken


def refuse_other_shape(
    connection: Connection, name: str, table: str, columns: Sequence[str], index: str
) -> None:
    """
    Refuse the table *name*, if it is there and not as a revision creates it beside *table*.

    Args:
        connection: The connection that migrates; the schema is read.
        name: The archive.
        table: The table whose values it keeps.
        columns: Its columns, the key first.
        index: The name of its unique index on the key.

    Raises:
        NameTaken: It is no table, has other columns, triggers or unique indexes that were added to
            it, or *index* is the name of something else.
    """
    require_tables(connection, [name], None)
    if not all(connection.exec_driver_sql(_INDEX, (columns[0], name, index)).scalars()):
        raise NameTaken(
            name,
            f"needs an index {index}, which is the name of something else",
            "rename or drop that",
        )
    there = inspect(connection)
    if not there.has_table(name):
        return
    if not there.has_table(table):
        raise NameTaken(
            name,
            f"is there, and {table} is not",
            "it may keep what was in that table: if that was renamed, give it its name back, "
            "otherwise rename this one",
        )
    added = connection.exec_driver_sql(
        _ADDED, {"name": name, "index": index, "key": columns[0]}
    ).all()
    if added:
        raise NameTaken(
            name,
            f"has {' and '.join(what for what, _ in added)}; expected none",
            f"run {' and '.join(statement for _, statement in added)}",
        )
    found = [column["name"] for column in there.get_columns(name)]
    if found != [*columns]:
        raise NameTaken(
            name, f"has the columns {', '.join(found)}, and not {', '.join(columns)}", RENAME
        )


# Where it is written, a trigger would run, and INSERT OR REPLACE would delete for a unique index.
_ADDED = """\
SELECT 'the trigger ' || m.name, 'DROP TRIGGER "' || replace(m.name, '"', '""') || '"'
  FROM sqlite_schema m WHERE m.type = 'trigger' AND lower(m.tbl_name) = lower(:name)
UNION ALL
SELECT 'the unique index ' || l.name, 'DROP INDEX "' || replace(l.name, '"', '""') || '"'
  FROM pragma_index_list(:name) l
 WHERE l."unique" AND l.origin = 'c' AND lower(l.name) <> lower(:index)
   AND (SELECT count(*) <> 1 OR lower(max(i.name)) IS NOT lower(:key)
          FROM pragma_index_info(l.name) i)
 ORDER BY 1"""

# Tables and views have their names from the same pool. Whether it is a unique index on the key.
_INDEX = """\
SELECT EXISTS (SELECT 1 FROM pragma_index_list(m.tbl_name) l
                WHERE lower(l.name) = lower(m.name) AND l."unique" AND NOT l.partial)
   AND (SELECT count(*) = 1 AND lower(max(i.name)) = lower(?) FROM pragma_index_info(m.name) i)
   AND lower(m.tbl_name) = lower(?)
  FROM sqlite_schema m WHERE m.type <> 'trigger' AND lower(m.name) = lower(?)"""
