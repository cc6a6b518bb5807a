"""
The root of each row of a tree that is kept as parent links, where nobody wrote it down.

A walk goes up from a row. It ends at the first ancestor that has a root, at the top, or
below a parent that is missing; a root that does not exist, where no foreign key has seen
to it, is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection

from cleveragents_plans.evolution.op import Op
from cleveragents_plans.evolution.postgresql.batches import run_in_batches
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.triggers import RowExpression, Trigger
from cleveragents_plans.evolution.recipes.parent_trees import ParentTree

#: A cycle must not hang anybody.
_MAX_STEPS = 100_000


class ColumnDefault(NamedTuple):
    """What else a row may lack."""

    #: True for a row that lacks it.
    needs: RowExpression
    #: What it gets.
    value: RowExpression


def fill_roots(
    op: Op,
    tree: ParentTree,
    *,
    also: Mapping[str, ColumnDefault] | None = None,
    label: str | None = None,
) -> int:
    """
    Give every row of *tree* that has no root the root of its tree, on PostgreSQL.

    One UPDATE for a row, in batches: see `run_in_batches`. A root is locked as the foreign
    key would lock it, so that it stays; rows and roots that others hold are left for a
    later pass. What a row costs is the number of its ancestors without a root.

    Args:
        op: Alembic's ``op``.
        tree: The table and its columns.
        also: What else is filled in on the way, by the name of the column.
        label: What to call it in messages.

    Returns:
        How many rows were written; 0 offline.

    Raises:
        BackfillStuck: Rows that need it could not be written for too long.
    """
    also = also or {}
    lacking = [f"t.{tree.root} IS NULL", *(one.needs("t") for one in also.values())]
    needs = "\nOR ".join(lacking)
    values = {name: _value(name, one) for name, one in also.items()}
    # Where a foreign key has seen to it that roots exist, they need not be looked up.
    sure = not op.get_context().as_sql and _has_foreign_key(op.get_bind(), tree)
    update = _update(tree, needs, values, sure=sure)
    return run_in_batches(op, tree.table, key=tree.key, needs=needs, update=update, label=label)


def _value(column: str, fill: ColumnDefault) -> str:
    return f"CASE WHEN {fill.needs('t')}\n    THEN {fill.value('t')} ELSE t.{column} END"


def _has_foreign_key(connection: Connection, tree: ParentTree) -> bool:
    wanted = {"table": tree.table, "root": tree.root, "key": tree.key}
    return bool(run(connection, _FOREIGN_KEY, wanted).scalar_one())


def _update(tree: ParentTree, needs: str, values: Mapping[str, str], *, sure: bool) -> str:
    t, key, parent, root = tree.table, tree.key, tree.parent, tree.root
    known = f"p.{root}" if sure else f"r.{key}"
    join = "" if sure else f"\n    LEFT JOIN {t} r ON r.{key} = p.{root}"
    also = "".join(f",\n  {column} = {value}" for column, value in values.items())
    # IS TRUE makes the last subquery a hash table; as a join it would be gone through
    # again for every row.
    return f"""\
WITH RECURSIVE batch AS MATERIALIZED (
  SELECT {key}, {parent}, {root} FROM {t} t
   WHERE {{batch}} AND ({needs}) ORDER BY {key} FOR NO KEY UPDATE SKIP LOCKED
), up (id, at, above, root, steps) AS (
  SELECT b.{key}, b.{key}, b.{parent}, CAST(coalesce(
           b.{root}, CASE WHEN b.{parent} IS NULL THEN b.{key} END) AS {tree.type}), 0
    FROM batch b
  UNION ALL
  SELECT up.id, p.{key}, p.{parent}, CAST(coalesce(
           {known}, CASE WHEN p.{key} IS NULL THEN up.at
                         WHEN p.{parent} IS NULL THEN p.{key} END) AS {tree.type}), up.steps + 1
    FROM up LEFT JOIN {t} p ON p.{key} = up.above{join}
   WHERE up.root IS NULL AND up.steps < {_MAX_STEPS}
), found AS MATERIALIZED (
  SELECT up.id, up.root FROM up WHERE up.root IS NOT NULL
), kept AS MATERIALIZED (
  SELECT {key} FROM {t} WHERE {key} IN (SELECT found.root FROM found)
   ORDER BY {key} FOR KEY SHARE SKIP LOCKED
)
UPDATE {t} t SET
  {root} = found.root{also}
FROM found
WHERE t.{key} = found.id
  AND (t.{root} IS NOT NULL OR (found.root IN (SELECT {key} FROM kept)) IS TRUE)"""


_FOREIGN_KEY = """\
SELECT EXISTS (SELECT FROM pg_constraint c
 WHERE c.conrelid = to_regclass(%(table)s) AND c.confrelid = c.conrelid AND c.contype = 'f'
   AND c.convalidated
   AND c.conkey = ARRAY(SELECT attnum FROM pg_attribute
                         WHERE attrelid = c.conrelid AND attname = %(root)s)
   AND c.confkey = ARRAY(SELECT attnum FROM pg_attribute
                          WHERE attrelid = c.conrelid AND attname = %(key)s))"""


def fill_trigger(tree: ParentTree, name: str, *, also: Mapping[str, ColumnDefault]) -> Trigger:
    """
    Give a trigger that fills in missing roots.

    On PostgreSQL it fills in the root that an INSERT or an UPDATE leaves out, and what is
    in *also*. A client pays for it with one look-up for each ancestor without a root; the
    root that is found is locked as the foreign key would lock it.

    Args:
        tree: The table and its columns.
        name: What to call the trigger and its function.
        also: What else is filled in, by the name of the column.
    """
    t, key, parent, root = tree.table, tree.key, tree.parent, tree.root
    others = "".join(
        f"  IF {one.needs('new')} THEN\n    new.{column} := {one.value('new')};\n  END IF;\n"
        for column, one in also.items()
    )
    # The label keeps the variables apart from columns of the same name. Operators are named with
    # their schema, because there is none for varchar in pg_catalog: one that another role makes
    # in the schema of the table would be an exact match, and run with the rights of the owner.
    body = f"""\
<<fill>>
DECLARE
  at {t}.{key}%TYPE; above {t}.{parent}%TYPE; root {t}.{root}%TYPE;
  steps int; tries int := 0;
BEGIN
  IF new.{root} IS NULL AND tg_op = 'UPDATE' THEN
    new.{root} := old.{root};
  END IF;
  WHILE new.{root} IS NULL LOOP
    fill.at := new.{key}; fill.above := new.{parent}; fill.root := NULL; fill.steps := 0;
    -- A cycle must not hang a client.
    WHILE fill.root IS NULL AND fill.above IS NOT NULL AND fill.steps < {_MAX_STEPS} LOOP
      SELECT p.{key}, p.{parent}, r.{key} INTO fill.at, fill.above, fill.root
        FROM {t} p LEFT JOIN {t} r ON r.{key} OPERATOR(pg_catalog.=) p.{root}
       WHERE p.{key} OPERATOR(pg_catalog.=) fill.above;
      EXIT WHEN NOT FOUND;
      new.{root} := coalesce(fill.root, fill.at);
      fill.steps := fill.steps + 1;
    END LOOP;
    new.{root} := coalesce(new.{root}, new.{key});
    -- The foreign key takes this lock anyway. If the root went meanwhile, walk again.
    PERFORM 1 FROM {t} p WHERE p.{key} OPERATOR(pg_catalog.=) new.{root} FOR KEY SHARE;
    fill.tries := fill.tries + 1;
    IF NOT FOUND AND new.{root} OPERATOR(pg_catalog.<>) new.{key} AND fill.tries < 20 THEN
      new.{root} := NULL;
    END IF;
  END LOOP;
{others}  RETURN new;
END"""
    when = "\n  OR ".join([f"new.{root} IS NULL", *(one.needs("new") for one in also.values())])
    event = "BEFORE INSERT OR UPDATE"
    return Trigger(table=t, name=name, event=event, body=body, when=when, as_owner=True)
