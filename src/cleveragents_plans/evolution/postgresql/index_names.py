"""What has the name of an index: relations of a schema have their names from one pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.postgresql.connection import run

#: What follows the name of the table in the definition of an index, and whether it is unique.
Definition: TypeAlias = tuple[str, bool]


class FoundIndex(NamedTuple):
    """What has the name of an index."""

    #: Whether it is an index of the table that is meant.
    of_table: bool
    #: ``index``, ``table``, ...
    kind: str
    valid: bool
    #: None of what is no index.
    definition: Definition | None
    #: The constraint that it belongs to.
    constraint: str | None
    #: Its name with the schema, quoted.
    qualified: str
    #: The table that it is an index of, with the schema, quoted.
    table: str | None


def check_names(connection: Connection, table: str, names: Sequence[str]) -> None:
    """
    Refuse names for indexes of *table*, the quoted name, that something else has.

    Raises:
        OperationRefused: Something else has one of *names*, or the table is partitioned: no index
            of one is built or dropped CONCURRENTLY
            (https://www.postgresql.org/docs/current/ddl-partitioning.html).
    """
    if run(connection, _IS_PARTITIONED, {"table": table}).scalar():
        raise OperationRefused(
            "check_index_names",
            f"{table} is partitioned, and PostgreSQL builds no index of such a table CONCURRENTLY",
            "name the revision before as the goal of the run, and create the indexes that are "
            "needed by hand, on each partition",
        )
    for name in names:
        found = find_index(connection, table, name)
        if found is not None and (found.kind != "index" or not found.of_table):
            raise OperationRefused(
                "check_index_names",
                f"{name} is the name of {described(found)}",
                "drop or rename what has it",
            )


def find_index(connection: Connection, table: str, name: str) -> FoundIndex | None:
    """Find what has *name* in the schema of *table*, the quoted name; None, nothing has it."""
    row = run(connection, _INDEX, {"table": table, "name": name}).first()
    if row is None:
        return None
    of_table, kind, valid, definition, unique, *rest = row
    compared = None if definition is None else comparable(definition, unique)
    return FoundIndex(of_table, kind, valid, compared, *rest)


def comparable(definition: str, unique: bool) -> Definition:
    """Give what two definitions of equal indexes have in common."""
    return definition.split(" USING ", 1)[1], unique


def described(found: FoundIndex) -> str:
    """Say what was *found*."""
    if found.kind != "index":
        return f"the {found.kind} {found.qualified}"
    if not found.of_table:
        return f"an index of another table ({found.qualified} of {found.table})"
    return f"another index: USING {found.definition and found.definition[0]}"


_IS_PARTITIONED = """\
SELECT c.relkind = 'p' FROM pg_class c WHERE c.oid = to_regclass(%(table)s)"""

# Indexes, tables, views and sequences of a schema have their names from one pool.
_INDEX = """\
SELECT i.indrelid IS NOT DISTINCT FROM t.oid,
       CASE c.relkind WHEN 'i' THEN 'index' WHEN 'I' THEN 'partitioned index' WHEN 'v' THEN 'view'
                      WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
                      WHEN 'c' THEN 'type' ELSE 'table' END,
       coalesce(i.indisvalid, false), pg_get_indexdef(i.indexrelid), coalesce(i.indisunique, false),
       (SELECT conname FROM pg_constraint WHERE conindid = c.oid AND contype IN ('p', 'u', 'x')),
       quote_ident(n.nspname) || '.' || quote_ident(c.relname), i.indrelid::regclass::text
  FROM pg_namespace n
  LEFT JOIN pg_class t ON t.oid = to_regclass(%(table)s)
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %(name)s
  LEFT JOIN pg_index i ON i.indexrelid = c.oid
 WHERE n.nspname = (parse_ident(%(table)s))[1]"""
