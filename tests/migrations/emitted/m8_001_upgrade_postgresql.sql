CREATE TABLE IF NOT EXISTS evolution_marker (revision text PRIMARY KEY, down_revision text, direction text NOT NULL, started_at timestamptz NOT NULL);

INSERT INTO evolution_marker VALUES ('<revision>', '<down>', '<direction>', now()) ON CONFLICT (revision) DO UPDATE SET direction = excluded.direction;

DROP TRIGGER IF EXISTS v3_plans_unfill ON v3_plans;
DROP FUNCTION IF EXISTS v3_plans_unfill();
DROP TRIGGER IF EXISTS v3_plans_keep ON v3_plans;
DROP FUNCTION IF EXISTS v3_plans_keep();
ALTER TABLE v3_plans ADD COLUMN IF NOT EXISTS effective_profile_snapshot TEXT DEFAULT '{}' NOT NULL;
ALTER TABLE v3_plans ALTER COLUMN effective_profile_snapshot SET DEFAULT '{}';
ALTER TABLE v3_plans ALTER COLUMN automation_profile SET DEFAULT 'balanced';
SELECT set_config('search_path', current_setting('search_path') || ', pg_temp', true);
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
  IF coalesce(btrim(new.automation_profile, E' \t\n\r\f\x0B'), '') = '' THEN
    new.automation_profile := 'balanced';
  END IF;
  RETURN new;
END $$;
CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT OR UPDATE ON v3_plans
FOR EACH ROW WHEN (
  new.root_plan_id IS NULL
  OR coalesce(btrim(new.automation_profile, E' \t\n\r\f\x0B'), '') = ''
) EXECUTE FUNCTION v3_plans_fill();
CREATE TABLE IF NOT EXISTS v3_plans_snapshot_archive (plan_id VARCHAR(26) NOT NULL PRIMARY KEY, effective_profile_snapshot TEXT NOT NULL);;

WITH RECURSIVE batch AS MATERIALIZED (
  SELECT plan_id, parent_plan_id, root_plan_id FROM v3_plans t
   WHERE (t.plan_id > '<after>' AND t.plan_id <= '<to>') AND (t.root_plan_id IS NULL OR coalesce(btrim(t.automation_profile, E' \t\n\r\f\x0B'), '') = '' OR (starts_with(t.automation_profile, '{ "profile_name": "') AND t.automation_profile ~ '^\{ "profile_name": "[A-Za-z_][^"\\\x01-\x1f]*", "provenance": null \}$')
OR t.effective_profile_snapshot IS NULL) ORDER BY plan_id FOR NO KEY UPDATE SKIP LOCKED
), up (plan_id, at, above, root, steps) AS (
  SELECT plan_id, plan_id, parent_plan_id, CAST(coalesce(
           root_plan_id, CASE WHEN parent_plan_id IS NULL THEN plan_id END) AS text), 0
    FROM batch
  UNION ALL
  SELECT up.plan_id, p.plan_id, p.parent_plan_id, CAST(coalesce(
           r.plan_id, CASE WHEN p.plan_id IS NULL THEN up.at
                           WHEN p.parent_plan_id IS NULL THEN p.plan_id END) AS text), steps + 1
    FROM up LEFT JOIN v3_plans p ON p.plan_id = up.above
    LEFT JOIN v3_plans r ON r.plan_id = p.root_plan_id
   WHERE up.root IS NULL AND up.steps < 100000
), found AS MATERIALIZED (
  SELECT plan_id, root FROM up WHERE root IS NOT NULL
), kept AS MATERIALIZED (
  SELECT plan_id FROM v3_plans WHERE plan_id IN (SELECT root FROM found)
   ORDER BY plan_id FOR KEY SHARE SKIP LOCKED
)
UPDATE v3_plans t SET
  root_plan_id = found.root,
  automation_profile = CASE
    WHEN coalesce(btrim(t.automation_profile, E' \t\n\r\f\x0B'), '') = '' THEN 'balanced'
    WHEN (starts_with(t.automation_profile, '{ "profile_name": "') AND t.automation_profile ~ '^\{ "profile_name": "[A-Za-z_][^"\\\x01-\x1f]*", "provenance": null \}$')
    THEN substr(t.automation_profile, 20,
                length(t.automation_profile) - 42)
    ELSE t.automation_profile END,
  effective_profile_snapshot = coalesce(t.effective_profile_snapshot, '{}')
FROM found
WHERE t.plan_id = found.plan_id
  AND (t.root_plan_id IS NOT NULL OR (found.root IN (SELECT plan_id FROM kept)) IS TRUE);

DROP TABLE v3_plans_snapshot_archive;;

ALTER TABLE v3_plans ADD NOT NULL root_plan_id NOT VALID;;

ALTER TABLE v3_plans VALIDATE CONSTRAINT v3_plans_root_plan_id_not_null;

ALTER TABLE v3_plans ADD NOT NULL automation_profile NOT VALID;;

ALTER TABLE v3_plans VALIDATE CONSTRAINT v3_plans_automation_profile_not_null;

DELETE FROM evolution_marker WHERE revision = '<revision>';

DROP TABLE evolution_marker;

UPDATE alembic_version SET version_num='m8_001_align_plans_schema' WHERE alembic_version.version_num = 'm4_003_plan_env_columns';
