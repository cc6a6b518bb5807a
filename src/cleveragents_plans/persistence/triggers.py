"""
The PostgreSQL trigger that fills in what the former release leaves out.

The former release inserts plans without root and without profile. While one of its
processes may still run, the table itself gives such a plan the root of its tree and the
default profile. The migration chain creates the same function and trigger; a test compares
them.

The function runs with the rights of the owner of the table, because a role that may write
plans may have no right to read or lock all of them. Therefore it searches system schemas
only, and names the table with its schema
(https://www.postgresql.org/docs/current/sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY).
"""

from __future__ import annotations

from sqlalchemy import DDL, FromClause, event

_BLANK = r"btrim(coalesce(new.automation_profile, ''), E' \t\n\r\f\x0B') = ''"
#: As the migration chain sends them; ``{schema}`` is that of the table.
STATEMENTS = """\
CREATE OR REPLACE FUNCTION {schema}.v3_plans_fill() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
<<fill>>
DECLARE
  at {schema}.v3_plans.plan_id%TYPE;
  above {schema}.v3_plans.parent_plan_id%TYPE;
  root {schema}.v3_plans.root_plan_id%TYPE;
  met {schema}.v3_plans.plan_id%TYPE;
  steps int;
  waiting int;
  tries int := 0;
BEGIN
  IF new.root_plan_id IS NULL AND tg_op = 'UPDATE' THEN
    new.root_plan_id := old.root_plan_id;
  END IF;
  <<search>>
  WHILE new.root_plan_id IS NULL LOOP
    fill.at := new.plan_id; fill.above := new.parent_plan_id; fill.root := NULL; fill.met := NULL;
    fill.steps := 0; fill.waiting := 0;
    WHILE fill.root IS NULL AND fill.above IS NOT NULL LOOP
      SELECT p.plan_id, p.parent_plan_id, r.plan_id,
             fill.waiting + CASE WHEN p.root_plan_id IS NULL THEN 1 ELSE 0 END
        INTO fill.at, fill.above, fill.root, fill.waiting
        FROM {schema}.v3_plans p LEFT JOIN {schema}.v3_plans r ON r.plan_id = p.root_plan_id
       WHERE p.plan_id = fill.above;
      EXIT WHEN NOT FOUND;
      new.root_plan_id := coalesce(fill.root, fill.at);
      -- Below so many rows without a root it is left to the backfill: a client cannot wait.
      IF fill.root IS NULL AND fill.waiting >= 200 THEN
        new.root_plan_id := NULL;
        EXIT search;
      END IF;
      -- A cycle has no top: it is met again at a row that is marked ever later.
      IF fill.at = fill.met THEN
        new.root_plan_id := new.plan_id;
        EXIT;
      END IF;
      fill.steps := fill.steps + 1;
      IF fill.steps & (fill.steps - 1) = 0 THEN
        fill.met := fill.at;
      END IF;
    END LOOP;
    new.root_plan_id := coalesce(new.root_plan_id, new.plan_id);
    -- The foreign key takes this lock anyway. If the root was deleted meanwhile, search again.
    PERFORM 1 FROM {schema}.v3_plans p WHERE p.plan_id = new.root_plan_id FOR KEY SHARE;
    fill.tries := fill.tries + 1;
    IF NOT FOUND AND new.root_plan_id <> new.plan_id AND fill.tries < 20 THEN
      new.root_plan_id := NULL;
    END IF;
  END LOOP;
  IF {_BLANK} THEN
    new.automation_profile := 'balanced';
  END IF;
  RETURN new;
END
$$;
DO $revoke$ DECLARE other text; BEGIN
  FOR other IN
    SELECT DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC')
      FROM pg_proc p
     CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
     WHERE p.oid = to_regprocedure('{schema}.v3_plans_fill()') AND a.grantee <> p.proowner
  LOOP
    EXECUTE 'REVOKE ALL ON FUNCTION {schema}.v3_plans_fill() FROM ' || other || ' CASCADE';
  END LOOP;
END $revoke$;
CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT OR UPDATE ON {schema}.v3_plans
FOR EACH ROW WHEN (
  new.root_plan_id IS NULL
  OR {_BLANK}
) EXECUTE FUNCTION {schema}.v3_plans_fill();
ALTER TABLE {schema}.v3_plans ENABLE ALWAYS TRIGGER v3_plans_fill;""".replace("{_BLANK}", _BLANK)

# Everything is looked up in system schemas, except the table, by the path of the session.
CREATE_TRIGGER = f"""\
DO $create$
DECLARE
  plans pg_catalog.regclass := 'v3_plans'::pg_catalog.regclass;
  former_path pg_catalog.text := pg_catalog.current_setting('search_path');
  schema text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  SELECT quote_ident(n.nspname) INTO STRICT schema
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = plans;
  IF schema ~ '[$]' THEN
    RAISE EXCEPTION 'the schema % of v3_plans has a $ in its name', schema;
  END IF;
  EXECUTE replace($statements$
{STATEMENTS}
$statements$, '{{schema}}', schema);
  IF EXISTS (SELECT FROM pg_proc p JOIN pg_class c ON p.proowner <> c.relowner
              WHERE p.oid = to_regprocedure(schema || '.v3_plans_fill()') AND c.oid = plans) THEN
    RAISE EXCEPTION 'the function v3_plans_fill() belongs to another role than v3_plans'
      USING HINT = 'drop it (DROP FUNCTION ... CASCADE) or rename it, and run this again';
  END IF;
  PERFORM set_config('search_path', former_path, true);
END
$create$"""


def create_with(table: FromClause) -> None:
    """Let ``create_all`` create, and ``drop_all`` drop, the trigger along with *table*."""
    event.listen(table, "after_create", _on_postgresql(CREATE_TRIGGER))
    drop = _on_postgresql("DROP FUNCTION IF EXISTS v3_plans_fill()")
    event.listen(table, "after_drop", drop)


def _on_postgresql(statement: str) -> DDL:
    return DDL(statement.replace("%", "%%")).execute_if(dialect="postgresql")  # type: ignore[no-untyped-call]
