"""
The PostgreSQL trigger that fills in what the former release leaves out.

The former release inserts plans without root and without profile. While one of its
processes may still run, the table itself gives such a plan the root of its tree and the
default profile. The migration chain creates the same functions; a test compares them.
"""

from __future__ import annotations

from sqlalchemy import DDL, FromClause, event

# Whoever writes to the table may have no right to read or lock it, or be shown a part of
# its rows only: the function runs as the owner, and looks into the schema of the table
# first, into temporary tables last.
REMEMBER_PATH = "SELECT set_config('evolution.path', current_setting('search_path'), true)"
BESIDE = """\
SELECT set_config('search_path', quote_ident(n.nspname) || ', pg_temp', true)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = 'v3_plans'::regclass"""
_BLANK = (
    r"pg_catalog.btrim(coalesce(new.automation_profile, ''), E' \t\n\r\f\x0B')"
    " OPERATOR(pg_catalog.=) ''"
)
FILL = f"""\
CREATE OR REPLACE FUNCTION v3_plans_fill() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
<<fill>>
DECLARE
  at v3_plans.plan_id%TYPE; above v3_plans.parent_plan_id%TYPE; root v3_plans.root_plan_id%TYPE;
  steps int; tries int := 0;
BEGIN
  IF new.root_plan_id IS NULL AND tg_op = 'UPDATE' THEN
    new.root_plan_id := old.root_plan_id;
  END IF;
  WHILE new.root_plan_id IS NULL LOOP
    fill.at := new.plan_id; fill.above := new.parent_plan_id; fill.root := NULL; fill.steps := 0;
    -- A cycle must not hang a client.
    WHILE fill.root IS NULL AND fill.above IS NOT NULL AND fill.steps < 100000 LOOP
      SELECT p.plan_id, p.parent_plan_id, r.plan_id INTO fill.at, fill.above, fill.root
        FROM v3_plans p LEFT JOIN v3_plans r ON r.plan_id OPERATOR(pg_catalog.=) p.root_plan_id
       WHERE p.plan_id OPERATOR(pg_catalog.=) fill.above;
      EXIT WHEN NOT FOUND;
      new.root_plan_id := coalesce(fill.root, fill.at);
      fill.steps := fill.steps + 1;
    END LOOP;
    new.root_plan_id := coalesce(new.root_plan_id, new.plan_id);
    -- The foreign key takes this lock anyway. If the root went meanwhile, walk again.
    PERFORM 1 FROM v3_plans p WHERE p.plan_id OPERATOR(pg_catalog.=) new.root_plan_id FOR KEY SHARE;
    fill.tries := fill.tries + 1;
    IF NOT FOUND AND new.root_plan_id OPERATOR(pg_catalog.<>) new.plan_id AND fill.tries < 20 THEN
      new.root_plan_id := NULL;
    END IF;
  END LOOP;
  IF {_BLANK} THEN
    new.automation_profile := 'balanced';
  END IF;
  RETURN new;
END
$$"""
TRIGGER = f"""\
CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT OR UPDATE ON v3_plans
FOR EACH ROW WHEN (
  new.root_plan_id IS NULL
  OR {_BLANK}
) EXECUTE FUNCTION v3_plans_fill()"""
# Or else anybody could make a trigger of the function, and read by it.
REVOKE = "REVOKE EXECUTE ON FUNCTION v3_plans_fill() FROM PUBLIC"
FORMER_PATH = "SELECT set_config('search_path', current_setting('evolution.path'), true)"


def create_with(table: FromClause) -> None:
    """Let ``create_all`` create, and ``drop_all`` drop, the trigger along with *table*."""
    for statement in (REMEMBER_PATH, BESIDE, FILL, REVOKE, TRIGGER, FORMER_PATH):
        event.listen(table, "after_create", _on_postgresql(statement))
    drop = _on_postgresql("DROP FUNCTION IF EXISTS v3_plans_fill()")
    event.listen(table, "after_drop", drop)


def _on_postgresql(statement: str) -> DDL:
    return DDL(statement.replace("%", "%%")).execute_if(dialect="postgresql")  # type: ignore[no-untyped-call]
