"""
The PostgreSQL trigger that fills in what the former release leaves out.

The former release inserts plans without root and without profile. While one of its
processes may still run, the table itself gives such a plan the root of its tree and the
default profile. The migration chain creates the same functions; a test compares them.
"""

from __future__ import annotations

from sqlalchemy import DDL, FromClause, event

ROOT_OF = """\
CREATE OR REPLACE FUNCTION v3_plans_root_of(start varchar) RETURNS varchar
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
  at varchar; above varchar; root varchar; steps int;
BEGIN
  FOR attempt IN 1..20 LOOP
    above := start; root := NULL; steps := 0;
    WHILE root IS NULL LOOP
      SELECT plan_id, parent_plan_id, root_plan_id INTO at, above, root
        FROM v3_plans WHERE plan_id = above;
      IF NOT FOUND THEN RETURN NULL; END IF;
      IF root IS NULL AND above IS NULL THEN root := at; END IF;
      steps := steps + 1;
      IF steps > 100000 THEN RETURN NULL; END IF;  -- a cycle must not hang a client
    END LOOP;
    -- The foreign key takes this lock anyway. If the root went meanwhile, walk again.
    PERFORM 1 FROM v3_plans WHERE plan_id = root FOR KEY SHARE;
    IF FOUND THEN RETURN root; END IF;
  END LOOP;
  RETURN NULL;
END $$"""

FILL = """\
CREATE OR REPLACE FUNCTION v3_plans_fill() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF new.root_plan_id IS NULL THEN
    IF tg_op = 'UPDATE' AND old.root_plan_id IS NOT NULL THEN
      new.root_plan_id := old.root_plan_id;
    ELSIF new.parent_plan_id IS NULL THEN
      new.root_plan_id := new.plan_id;
    ELSE
      new.root_plan_id := coalesce(v3_plans_root_of(new.parent_plan_id), new.plan_id);
    END IF;
  END IF;
  IF coalesce(btrim(new.automation_profile, E' \\t\\n\\r\\f\\x0B'), '') = '' THEN
    new.automation_profile := 'balanced';
  END IF;
  RETURN new;
END $$"""

TRIGGER = """\
CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT OR UPDATE ON v3_plans
FOR EACH ROW WHEN (
  new.root_plan_id IS NULL
  OR coalesce(btrim(new.automation_profile, E' \\t\\n\\r\\f\\x0B'), '') = ''
) EXECUTE FUNCTION v3_plans_fill()"""


def create_with(table: FromClause) -> None:
    """Let ``create_all`` create, and ``drop_all`` drop, the trigger along with *table*."""
    for statement in (ROOT_OF, FILL, TRIGGER):
        event.listen(table, "after_create", _on_postgresql(statement))
    for function in ("v3_plans_fill()", "v3_plans_root_of(varchar)"):
        event.listen(table, "after_drop", _on_postgresql(f"DROP FUNCTION IF EXISTS {function}"))


def _on_postgresql(statement: str) -> DDL:
    return DDL(statement.replace("%", "%%")).execute_if(dialect="postgresql")  # type: ignore[no-untyped-call]
