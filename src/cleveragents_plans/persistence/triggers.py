"""
The PostgreSQL trigger that fills in what the former release leaves out.

The former release inserts plans without root and without profile. While one of its
processes may still run, the table itself gives such a plan the root of its tree and the
default profile. The migration chain creates the same functions; a test compares them.
"""

from __future__ import annotations

from sqlalchemy import DDL, FromClause, event

# Whoever writes to the table may have no right to read or lock it, or be shown a part of
# its rows only: the functions run as the owner. Temporary tables of the same name come last.
SEARCH_PATH = (
    "SELECT set_config('search_path', current_setting('search_path') || ', pg_temp', true)"
)
FILL = """\
CREATE OR REPLACE FUNCTION v3_plans_fill() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  at varchar; above varchar; root varchar; steps int; tries int := 0;
BEGIN
  IF new.root_plan_id IS NULL AND tg_op = 'UPDATE' THEN
    new.root_plan_id := old.root_plan_id;
  END IF;
  WHILE new.root_plan_id IS NULL LOOP
    at := new.plan_id; above := new.parent_plan_id; root := NULL; steps := 0;
    -- A cycle must not hang a client.
    WHILE root IS NULL AND above IS NOT NULL AND steps < 100000 LOOP
      SELECT p.plan_id, p.parent_plan_id, r.plan_id INTO at, above, root
        FROM v3_plans p LEFT JOIN v3_plans r ON r.plan_id = p.root_plan_id
       WHERE p.plan_id = above;
      EXIT WHEN NOT FOUND;
      new.root_plan_id := coalesce(root, at);
      steps := steps + 1;
    END LOOP;
    new.root_plan_id := coalesce(new.root_plan_id, new.plan_id);
    -- The foreign key takes this lock anyway. If the root went meanwhile, walk again.
    PERFORM 1 FROM v3_plans WHERE plan_id = new.root_plan_id FOR KEY SHARE;
    tries := tries + 1;
    IF NOT FOUND AND new.root_plan_id <> new.plan_id AND tries < 20 THEN
      new.root_plan_id := NULL;
    END IF;
  END LOOP;
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
    for statement in (SEARCH_PATH, FILL, TRIGGER):
        event.listen(table, "after_create", _on_postgresql(statement))
    drop = _on_postgresql("DROP FUNCTION IF EXISTS v3_plans_fill()")
    event.listen(table, "after_drop", drop)


def _on_postgresql(statement: str) -> DDL:
    return DDL(statement.replace("%", "%%")).execute_if(dialect="postgresql")  # type: ignore[no-untyped-call]
