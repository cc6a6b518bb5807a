COMMENT ON TABLE public.alembic_version IS '[unfinished upgrade of m8_001_align_plans_schema]';

DROP TRIGGER IF EXISTS v3_plans_unfill ON public.v3_plans;

DO $drop$ BEGIN
  DROP FUNCTION IF EXISTS public.v3_plans_unfill();
EXCEPTION WHEN dependent_objects_still_exist THEN
  RAISE WARNING USING MESSAGE = 'others depend on it, so it was left: FUNCTION IF EXISTS public.v3_plans_unfill()';
END $drop$;

DROP TRIGGER IF EXISTS v3_plans_keep ON public.v3_plans;

DO $drop$ BEGIN
  DROP FUNCTION IF EXISTS public.v3_plans_keep();
EXCEPTION WHEN dependent_objects_still_exist THEN
  RAISE WARNING USING MESSAGE = 'others depend on it, so it was left: FUNCTION IF EXISTS public.v3_plans_keep()';
END $drop$;

ALTER TABLE public.v3_plans ADD COLUMN IF NOT EXISTS effective_profile_snapshot TEXT DEFAULT '{}' NOT NULL;

ALTER TABLE public.v3_plans ALTER COLUMN effective_profile_snapshot SET DEFAULT '{}';

ALTER TABLE public.v3_plans ALTER COLUMN automation_profile SET DEFAULT 'balanced';

CREATE OR REPLACE FUNCTION public.v3_plans_fill() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
<<fill>>
DECLARE
  at public.v3_plans.plan_id%TYPE;
  above public.v3_plans.parent_plan_id%TYPE;
  root public.v3_plans.root_plan_id%TYPE;
  met public.v3_plans.plan_id%TYPE;
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
        FROM public.v3_plans p LEFT JOIN public.v3_plans r ON r.plan_id = p.root_plan_id
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
    PERFORM 1 FROM public.v3_plans p WHERE p.plan_id = new.root_plan_id FOR KEY SHARE;
    fill.tries := fill.tries + 1;
    IF NOT FOUND AND new.root_plan_id <> new.plan_id AND fill.tries < 20 THEN
      new.root_plan_id := NULL;
    END IF;
  END LOOP;
  IF btrim(coalesce(new.automation_profile, ''), E' \t\n\r\f\x0B') = '' THEN
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
     WHERE p.oid = to_regprocedure('public.v3_plans_fill()') AND a.grantee <> p.proowner
  LOOP
    EXECUTE 'REVOKE ALL ON FUNCTION public.v3_plans_fill() FROM ' || other || ' CASCADE';
  END LOOP;
END $revoke$;

CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT OR UPDATE ON public.v3_plans
FOR EACH ROW WHEN (
  new.root_plan_id IS NULL
  OR btrim(coalesce(new.automation_profile, ''), E' \t\n\r\f\x0B') = ''
) EXECUTE FUNCTION public.v3_plans_fill();

ALTER TABLE public.v3_plans ENABLE ALWAYS TRIGGER v3_plans_fill;

CREATE TABLE IF NOT EXISTS public.v3_plans_snapshot_archive AS SELECT plan_id, effective_profile_snapshot, created_at FROM public.v3_plans WITH NO DATA;

DO $revoke$ DECLARE other text; held text; BEGIN
  FOR other, held IN
    SELECT DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC') AS other, a.privilege_type AS held
      FROM pg_class c
     CROSS JOIN LATERAL (
       SELECT t.grantee, t.privilege_type FROM aclexplode(c.relacl) t
        UNION ALL
       SELECT b.grantee, b.privilege_type
         FROM pg_attribute n CROSS JOIN LATERAL aclexplode(n.attacl) b WHERE n.attrelid = c.oid
     ) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
     WHERE c.oid = to_regclass('public.v3_plans_snapshot_archive') AND a.grantee <> c.relowner
  LOOP
    EXECUTE 'REVOKE ' || held || ' ON TABLE public.v3_plans_snapshot_archive FROM ' || other || ' CASCADE';
  END LOOP;
END $revoke$;

CREATE UNIQUE INDEX IF NOT EXISTS uq_v3_plans_snapshot_archive_plan_id ON public.v3_plans_snapshot_archive (plan_id);

ALTER TABLE public.v3_plans_snapshot_archive REPLICA IDENTITY FULL, NO FORCE ROW LEVEL SECURITY;

WITH RECURSIVE batch AS MATERIALIZED (
  SELECT plan_id, parent_plan_id, root_plan_id FROM public.v3_plans t
   WHERE (t.plan_id > '<after>' AND t.plan_id <= '<to>' AND (SELECT set_config('search_path', '<search_path>', true)) IS NOT NULL) AND (t.root_plan_id IS NULL
OR btrim(coalesce(t.automation_profile, ''), E' \t\n\r\f\x0B') = '' OR (substr(t.automation_profile, 1, 19) = '{ "profile_name": "' AND (substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) ~ E'^[^][{"\\\\\\x01-\\x20][^"\\\\\\x01-\\x1f]*$' AND substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) !~ '^(true|false|null|-*[0-9][0-9.eE+-]*)$') AND '{ "profile_name": "' || substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) || '", "provenance": null }' = t.automation_profile)
OR t.effective_profile_snapshot IS NULL) ORDER BY plan_id FOR NO KEY UPDATE SKIP LOCKED
), up (id, at, above, root, steps) AS (
  SELECT b.plan_id, b.plan_id, b.parent_plan_id, CAST(coalesce(
           b.root_plan_id, CASE WHEN b.parent_plan_id IS NULL THEN b.plan_id END) AS pg_catalog."varchar"), 0
    FROM batch b
  UNION ALL
  SELECT up.id, p.plan_id, p.parent_plan_id, CAST(coalesce(
           p.root_plan_id, CASE WHEN p.plan_id IS NULL THEN up.at
                         WHEN p.parent_plan_id IS NULL THEN p.plan_id END) AS pg_catalog."varchar"), up.steps + 1
    FROM up LEFT JOIN public.v3_plans p ON p.plan_id = up.above
   WHERE up.root IS NULL AND up.steps < 100000
), found AS MATERIALIZED (
  SELECT up.id, up.root FROM up WHERE up.root IS NOT NULL
), kept AS MATERIALIZED (
  SELECT plan_id FROM public.v3_plans WHERE plan_id IN (SELECT found.root FROM found)
   ORDER BY plan_id FOR KEY SHARE SKIP LOCKED
)
UPDATE public.v3_plans t SET
  root_plan_id = found.root,
  automation_profile = CASE WHEN btrim(coalesce(t.automation_profile, ''), E' \t\n\r\f\x0B') = '' OR (substr(t.automation_profile, 1, 19) = '{ "profile_name": "' AND (substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) ~ E'^[^][{"\\\\\\x01-\\x20][^"\\\\\\x01-\\x1f]*$' AND substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) !~ '^(true|false|null|-*[0-9][0-9.eE+-]*)$') AND '{ "profile_name": "' || substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) || '", "provenance": null }' = t.automation_profile)
    THEN CASE WHEN btrim(coalesce(t.automation_profile, ''), E' \t\n\r\f\x0B') = '' THEN 'balanced'
     WHEN (substr(t.automation_profile, 1, 19) = '{ "profile_name": "' AND (substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) ~ E'^[^][{"\\\\\\x01-\\x20][^"\\\\\\x01-\\x1f]*$' AND substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) !~ '^(true|false|null|-*[0-9][0-9.eE+-]*)$') AND '{ "profile_name": "' || substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) || '", "provenance": null }' = t.automation_profile)
     THEN substr(t.automation_profile, 20, greatest(length(t.automation_profile) - 42, 0)) ELSE t.automation_profile END ELSE t.automation_profile END,
  effective_profile_snapshot = CASE WHEN t.effective_profile_snapshot IS NULL
    THEN '{}' ELSE t.effective_profile_snapshot END
FROM found
WHERE t.plan_id = found.id
  AND (t.root_plan_id IS NOT NULL OR (found.root IN (SELECT plan_id FROM kept)) IS TRUE);

WITH held AS MATERIALIZED (
  SELECT p.plan_id FROM public.v3_plans p WHERE p.plan_id IN (
           SELECT t.plan_id FROM public.v3_plans_snapshot_archive t WHERE (t.plan_id > '<after>' AND t.plan_id <= '<to>' AND (SELECT set_config('search_path', '<search_path>', true)) IS NOT NULL))
   ORDER BY p.plan_id FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
  DELETE FROM public.v3_plans_snapshot_archive t
   WHERE (t.plan_id > '<after>' AND t.plan_id <= '<to>' AND (SELECT set_config('search_path', '<search_path>', true)) IS NOT NULL) AND ((t.plan_id IN (SELECT held.plan_id FROM held)) IS TRUE
     OR NOT EXISTS (SELECT 1 FROM public.v3_plans p WHERE p.plan_id = t.plan_id))
  RETURNING t.plan_id, t.effective_profile_snapshot, t.created_at
), restored AS (
  UPDATE public.v3_plans p SET effective_profile_snapshot = taken.effective_profile_snapshot
    FROM taken WHERE p.plan_id = taken.plan_id AND p.created_at IS NOT DISTINCT FROM taken.created_at
     AND p.effective_profile_snapshot = '{}'
)
SELECT taken.plan_id FROM taken;

DO $drop$ BEGIN
  DROP TABLE public.v3_plans_snapshot_archive;
EXCEPTION WHEN dependent_objects_still_exist THEN
  RAISE WARNING USING MESSAGE = 'others depend on it, so it was left: TABLE public.v3_plans_snapshot_archive';
END $drop$;

ALTER TABLE public.v3_plans ADD NOT NULL root_plan_id NOT VALID;

ALTER TABLE public.v3_plans ADD NOT NULL automation_profile NOT VALID;

ALTER TABLE public.v3_plans VALIDATE CONSTRAINT v3_plans_root_plan_id_not_null, VALIDATE CONSTRAINT v3_plans_automation_profile_not_null;

UPDATE public.alembic_version SET version_num='m8_001_align_plans_schema' WHERE public.alembic_version.version_num = 'm4_003_plan_env_columns';

COMMENT ON TABLE public.alembic_version IS NULL;
