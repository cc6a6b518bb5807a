"""The tables of a PostgreSQL database, out of its catalog."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.verification.expressions import canonical
from cleveragents_plans.verification.tables import (
    Column,
    Constraint,
    Index,
    Table,
    foreign_key_definition,
    index_definition,
)

_KINDS = {"c": "CHECK", "f": "FOREIGN KEY", "p": "PRIMARY KEY", "u": "UNIQUE"}
_ACTIONS = {
    "a": "NO ACTION",
    "c": "CASCADE",
    "d": "SET DEFAULT",
    "n": "SET NULL",
    "r": "RESTRICT",
    " ": "NO ACTION",
}


def postgresql_tables(
    connection: Connection, schema: str, names: Collection[str]
) -> dict[str, Table]:
    """Describe the tables *names* of *schema*, as far as they are there."""
    of = {"schema": schema, "names": list(names)}
    columns: dict[str, dict[str, Column]] = {}
    for table, name, type_, nullable, default in run(connection, _COLUMNS, of):
        columns.setdefault(table, {})[name] = Column.declared(type_, nullable, default)
    constraints: dict[str, list[Constraint]] = defaultdict(list)
    for row in run(connection, _CONSTRAINTS, of).mappings():
        constraints[row["table"]].append(_constraint(row, schema))
    indexes: dict[str, list[Index]] = defaultdict(list)
    for row in run(connection, _INDEXES, of).mappings():
        definition = index_definition(row["columns"], row["unique"], row["condition"])
        index = Index(row["name"], definition, row["valid"], row["pid"])
        indexes[row["table"]].append(index)
    return {
        name: Table(name, columns[name], tuple(constraints[name]), tuple(indexes[name]))
        for name in sorted(columns)
    }


def _constraint(row: Any, schema: str) -> Constraint:
    kind = _KINDS[row["kind"]]
    if kind == "CHECK":
        definition = canonical(row["expression"])
    elif kind == "FOREIGN KEY":
        other = (
            row["target"]
            if row["target_schema"] == schema
            else (f"{row['target_schema']}.{row['target']}")
        )
        on_delete, on_update = _ACTIONS[row["on_delete"]], _ACTIONS[row["on_update"]]
        definition = foreign_key_definition(
            row["columns"], other, row["targets"], on_delete, on_update
        )
    else:
        definition = f"({', '.join(row['columns'])})"
    return Constraint(kind, row["name"], definition, row["valid"])


_OF = """\
pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 AND n.nspname = %(schema)s AND c.relname = ANY(%(names)s) AND c.relkind IN ('r', 'p')"""

# A NOT NULL that is NOT VALID (PostgreSQL 18) does not say that no row has NULL.
_COLUMNS = f"""\
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
       NOT a.attnotnull OR EXISTS (
         SELECT 1 FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n'
            AND k.conkey[1] = a.attnum AND NOT k.convalidated),
       CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END
  FROM {_OF}
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 ORDER BY c.relname, a.attnum"""

_NAMES = """\
(SELECT array_agg(a.attname::text ORDER BY e.place)
   FROM unnest({keys}) WITH ORDINALITY e (key, place)
   JOIN pg_attribute a ON a.attrelid = {table} AND a.attnum = e.key)"""

_CONSTRAINTS = f"""\
SELECT c.relname AS table, k.contype::text AS kind, k.conname AS name, k.convalidated AS valid,
       pg_get_expr(k.conbin, k.conrelid) AS expression,
       {_NAMES.format(keys="k.conkey", table="k.conrelid")} AS columns,
       {_NAMES.format(keys="k.confkey", table="k.confrelid")} AS targets,
       t.relname AS target, tn.nspname AS target_schema,
       k.confdeltype::text AS on_delete, k.confupdtype::text AS on_update
  FROM {_OF}
  JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype IN ('c', 'f', 'p', 'u')
  LEFT JOIN pg_class t ON t.oid = k.confrelid
  LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
 ORDER BY c.relname, k.conname"""

# Without those that a constraint made. CREATE INDEX CONCURRENTLY shows which one it builds; REINDEX
# holds a lock on all that it builds or drops, one after the other. The first bit of an option means
# DESC.
_INDEXES = f"""\
SELECT c.relname AS table, i.relname AS name, x.indisunique AS unique,
       x.indisvalid AND x.indisready AS valid, pg_get_expr(x.indpred, x.indrelid) AS condition,
       (SELECT array_agg(pg_get_indexdef(x.indexrelid, p, true)
                || CASE WHEN x.indoption[p - 1] & 1 = 1 THEN ' DESC' ELSE '' END ORDER BY p)
          FROM generate_series(1, x.indnkeyatts) p) AS columns,
       CASE WHEN NOT (x.indisvalid AND x.indisready) THEN (
         SELECT min(at.pid) FROM (
           SELECT b.pid FROM pg_stat_progress_create_index b
            WHERE b.datname = current_database() AND b.index_relid = i.oid
            UNION ALL
           SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE d.datname = current_database() AND l.relation = i.oid AND l.granted
              AND l.mode = 'ShareUpdateExclusiveLock') AS at) END AS pid
  FROM {_OF}
  JOIN pg_index x ON x.indrelid = c.oid
  JOIN pg_class i ON i.oid = x.indexrelid
 WHERE NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = x.indexrelid
                      AND k.contype IN ('p', 'u', 'x'))
 ORDER BY c.relname, i.relname"""
