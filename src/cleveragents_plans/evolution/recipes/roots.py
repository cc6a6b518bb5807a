"""
The root of each row of a tree that is stored as parent links, where it is missing.

A walk goes up from a row. It ends at the first ancestor that has a root, at the top, or
below a parent that is missing; where no foreign key is enforced, a root that does not
exist counts as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import NamedTuple

from sqlalchemy import Connection

from cleveragents_plans.evolution.foreseen import Backfill, foresee
from cleveragents_plans.evolution.lookups import names_of
from cleveragents_plans.evolution.op import Op, in_schema, qualified
from cleveragents_plans.evolution.postgresql.batches import run_in_batches
from cleveragents_plans.evolution.postgresql.connection import online, run, write_sql
from cleveragents_plans.evolution.postgresql.ranges import base_type
from cleveragents_plans.evolution.postgresql.search_path import IN_A_SCRIPT, SET_SYSTEM_SCHEMAS
from cleveragents_plans.evolution.postgresql.triggers import RowExpression, Trigger
from cleveragents_plans.evolution.recipes.parent_trees import (
    ParentTree,
    rows_to_fill_first,
)
from cleveragents_plans.evolution.rehearsal import Rehearsal

#: A walk ends there, which is in a cycle; or else the rows above get their root first.
_MAX_STEPS = 100_000
#: So many ancestors without a root a client's INSERT looks up: some 2 ms.
_MAX_WAITING = 200


class ColumnDefault(NamedTuple):
    """A column that is filled in along with the root."""

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
    key would lock it, so that it stays; rows and roots that others lock are left for a
    later pass. Ancestors come before their descendants, so that the time is linear in the
    rows, whatever the shape of the trees. Offline the script raises if a row is its own
    ancestor.

    Args:
        op: Alembic's ``op``.
        tree: The table and its columns.
        also: What else is filled in on the way, by the name of the column.
        label: What to call it in messages.

    Returns:
        How many rows were written; 0 offline.

    Raises:
        BackfillStuck: Rows that need it could not be written.
    """
    also = also or {}
    context = op.get_context()
    if context.as_sql:
        if rehearsal := Rehearsal.of(op):
            _foresee(op, rehearsal, tree, also, label)
        names = _names(tree, also)
        write_sql(
            context,
            *(in_schema(context, each.format(**names, expected=IN_A_SCRIPT)) for each in _OFFLINE),
        )
        return 0
    connection, table = op.get_bind(), qualified(context, tree.table)
    needs, update = _statements(connection, table, tree, also)
    with online(op) as connection:
        first = rows_to_fill_first(connection, tree, table)
        return run_in_batches(
            op, tree.table, key=tree.key, needs=needs, update=update, first=first, label=label
        )


def _needs(tree: ParentTree, also: Mapping[str, ColumnDefault]) -> dict[str, str]:
    return {
        tree.root: f"t.{tree.root} IS NULL",
        **{name: one.needs("t") for name, one in also.items()},
    }


def _names(tree: ParentTree, also: Mapping[str, ColumnDefault]) -> dict[str, str]:
    values = "".join(
        f",\n  {name} = CASE WHEN {one.needs('t')}\n    THEN {one.value('t')} ELSE t.{name} END"
        for name, one in also.items()
    )
    needs = "\nOR ".join(_needs(tree, also).values())
    return {**asdict(tree), "needs": needs, "also": values, "name": f"{{schema}}.{tree.table}"}


def _statements(
    connection: Connection, table: str, tree: ParentTree, also: Mapping[str, ColumnDefault]
) -> tuple[str, str]:
    """Give the condition that a row needs it, and the UPDATE of a batch."""
    names = _names(tree, also)
    wanted = {"table": table, "root": tree.root, "key": tree.key}
    # A recursive query allows no other length.
    names["type"] = base_type(connection, table, tree.key)
    # Where a foreign key ensures that roots exist, they need not be looked up.
    if run(connection, _FOREIGN_KEY, wanted).scalar_one():
        names["known"], names["lookup"] = f"p.{tree.root}", ""
    else:
        names["known"] = f"r.{tree.key}"
        names["lookup"] = "\n    LEFT JOIN {name} r ON r.{key} = p.{root}".format(**names)
    return names["needs"], _UPDATE.format(**names, batch="{batch}")


def _foresee(
    op: Op,
    rehearsal: Rehearsal,
    tree: ParentTree,
    also: Mapping[str, ColumnDefault],
    label: str | None,
) -> None:
    """Tell what will be written, of the columns that are there already."""
    context, table = op.get_context(), qualified(op.get_context(), tree.table)
    present = names_of(op, "column", tree.table)
    if tree.root not in present:
        return
    also = {name: one for name, one in also.items() if name in present}
    needs, update = (
        in_schema(context, each) for each in _statements(rehearsal.connection, table, tree, also)
    )
    # When its turn comes, the parent of a row has its root: the walk up is one step long.
    above = f"SELECT FROM {table} p WHERE p.{tree.key} = t.{tree.parent}"
    typical = (
        f"(t.{tree.parent} IS NULL OR EXISTS ({above}"
        f" AND (p.{tree.parent} IS NULL OR p.{tree.root} IS NOT NULL)))"
    )
    columns, dropped = _needs(tree, also), rehearsal.dropped_triggers(table)
    what = label or "roots"
    foresee(Backfill(table, tree.key, what, needs, update, columns, typical, dropped))


# IS TRUE makes the last subquery a hash table; as a join it would be scanned for every row.
_UPDATE = f"""\
WITH RECURSIVE batch AS MATERIALIZED (
  SELECT {{key}}, {{parent}}, {{root}} FROM {{name}} t
   WHERE {{batch}} AND ({{needs}}) ORDER BY {{key}} FOR NO KEY UPDATE SKIP LOCKED
), up (id, at, above, root, steps) AS (
  SELECT b.{{key}}, b.{{key}}, b.{{parent}}, CAST(coalesce(
           b.{{root}}, CASE WHEN b.{{parent}} IS NULL THEN b.{{key}} END) AS {{type}}), 0
    FROM batch b
  UNION ALL
  SELECT up.id, p.{{key}}, p.{{parent}}, CAST(coalesce(
           {{known}}, CASE WHEN p.{{key}} IS NULL THEN up.at
                         WHEN p.{{parent}} IS NULL THEN p.{{key}} END) AS {{type}}), up.steps + 1
    FROM up LEFT JOIN {{name}} p ON p.{{key}} = up.above{{lookup}}
   WHERE up.root IS NULL AND up.steps < {_MAX_STEPS}
), found AS MATERIALIZED (
  SELECT up.id, up.root FROM up WHERE up.root IS NOT NULL
), kept AS MATERIALIZED (
  SELECT {{key}} FROM {{name}} WHERE {{key}} IN (SELECT found.root FROM found)
   ORDER BY {{key}} FOR KEY SHARE SKIP LOCKED
)
UPDATE {{name}} t SET
  {{root}} = found.root{{also}}
FROM found
WHERE t.{{key}} = found.id
  AND (t.{{root}} IS NOT NULL OR (found.root IN (SELECT {{key}} FROM kept)) IS TRUE)"""

# From the top downwards, so that each row is met once. The copy of the links has an index by
# which children are found, and statistics.
_OFFLINE = (
    """\
CREATE TEMPORARY TABLE evolution_link ON COMMIT DROP AS
SELECT t.{key} AS id, t.{parent} AS parent, r.{key} AS root
  FROM {name} t LEFT JOIN {name} r ON r.{key} = t.{root}""",
    "CREATE INDEX ON pg_temp.evolution_link (parent)",
    "CREATE INDEX ON pg_temp.evolution_link (id)",
    "ANALYZE pg_temp.evolution_link",
    """\
WITH RECURSIVE down (id, root) AS (
  SELECT l.id, coalesce(l.root, l.id) FROM pg_temp.evolution_link l
   WHERE l.root IS NOT NULL OR NOT EXISTS (
           SELECT FROM pg_temp.evolution_link p WHERE p.id = l.parent)
  UNION ALL
  SELECT l.id, down.root FROM down JOIN pg_temp.evolution_link l ON l.parent = down.id
   WHERE l.root IS NULL
)
UPDATE {name} t SET
  {root} = coalesce(t.{root}, down.root){also}
FROM down
WHERE t.{key} = down.id AND ({needs})
  AND {expected}""",
    SET_SYSTEM_SCHEMAS,
    """\
DO $cycle$
DECLARE found text;
BEGIN
  SELECT string_agg(id, ', ') INTO found FROM (
    SELECT CAST({key} AS text) AS id FROM {name} WHERE {root} IS NULL ORDER BY {key} LIMIT 10
  ) AS rows;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'rows of {table} are their own ancestors, or below such rows, among them: %',
      found USING HINT = 'set {parent} of one row in each cycle to its true parent or to NULL';
  END IF;
END $cycle$""",
)

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
    in *also*. A client pays for it with one look-up for each ancestor without a root, at
    most 200: below more of them the root stays NULL, for `fill_roots`. The root that is
    found is locked as the foreign key would lock it.

    Args:
        tree: The table and its columns.
        name: What to call the trigger and its function.
        also: What else is filled in, by the name of the column.
    """
    t, key, parent, root = f"{{schema}}.{tree.table}", tree.key, tree.parent, tree.root
    others = "".join(
        f"  IF {one.needs('new')} THEN\n    new.{column} := {one.value('new')};\n  END IF;\n"
        for column, one in also.items()
    )
    # The label keeps the variables apart from columns of the same name.
    body = f"""\
<<fill>>
DECLARE
  at {t}.{key}%TYPE;
  above {t}.{parent}%TYPE;
  root {t}.{root}%TYPE;
  met {t}.{key}%TYPE;
  steps int;
  waiting int;
  tries int := 0;
BEGIN
  IF new.{root} IS NULL AND tg_op = 'UPDATE' THEN
    new.{root} := old.{root};
  END IF;
  <<search>>
  WHILE new.{root} IS NULL LOOP
    fill.at := new.{key}; fill.above := new.{parent}; fill.root := NULL; fill.met := NULL;
    fill.steps := 0; fill.waiting := 0;
    WHILE fill.root IS NULL AND fill.above IS NOT NULL LOOP
      SELECT p.{key}, p.{parent}, r.{key},
             fill.waiting + CASE WHEN p.{root} IS NULL THEN 1 ELSE 0 END
        INTO fill.at, fill.above, fill.root, fill.waiting
        FROM {t} p LEFT JOIN {t} r ON r.{key} = p.{root}
       WHERE p.{key} = fill.above;
      EXIT WHEN NOT FOUND;
      new.{root} := coalesce(fill.root, fill.at);
      -- Below so many rows without a root it is left to the backfill: a client cannot wait.
      IF fill.root IS NULL AND fill.waiting >= {_MAX_WAITING} THEN
        new.{root} := NULL;
        EXIT search;
      END IF;
      -- A cycle has no top: it is met again at a row that is marked ever later.
      IF fill.at = fill.met THEN
        new.{root} := new.{key};
        EXIT;
      END IF;
      fill.steps := fill.steps + 1;
      IF fill.steps & (fill.steps - 1) = 0 THEN
        fill.met := fill.at;
      END IF;
    END LOOP;
    new.{root} := coalesce(new.{root}, new.{key});
    -- The foreign key takes this lock anyway. If the root was deleted meanwhile, search again.
    PERFORM 1 FROM {t} p WHERE p.{key} = new.{root} FOR KEY SHARE;
    fill.tries := fill.tries + 1;
    IF NOT FOUND AND new.{root} <> new.{key} AND fill.tries < 20 THEN
      new.{root} := NULL;
    END IF;
  END LOOP;
{others}  RETURN new;
END"""
    when = "\n  OR ".join([f"new.{root} IS NULL", *(one.needs("new") for one in also.values())])
    event = "BEFORE INSERT OR UPDATE"
    return Trigger(table=tree.table, name=name, event=event, body=body, when=when, as_owner=True)
