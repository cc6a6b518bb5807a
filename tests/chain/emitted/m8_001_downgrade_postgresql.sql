COMMENT ON TABLE public.alembic_version IS '[unfinished downgrade of m8_001_align_plans_schema]';

ALTER TABLE public.v3_plans ADD COLUMN IF NOT EXISTS effective_profile_snapshot TEXT DEFAULT '{}' NOT NULL;

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

DROP TRIGGER IF EXISTS v3_plans_fill ON public.v3_plans;

DO $drop$ BEGIN
  DROP FUNCTION IF EXISTS public.v3_plans_fill();
EXCEPTION WHEN dependent_objects_still_exist THEN
  RAISE WARNING USING MESSAGE = 'others depend on it, so it was left: FUNCTION IF EXISTS public.v3_plans_fill()';
END $drop$;

CREATE OR REPLACE FUNCTION public.v3_plans_keep() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF tg_op = 'UPDATE' AND new.plan_id <> old.plan_id THEN
    DELETE FROM public.v3_plans_snapshot_archive a WHERE a.plan_id = old.plan_id
       AND NOT EXISTS (SELECT FROM public.v3_plans t
                        WHERE t.plan_id = a.plan_id AND t.effective_profile_snapshot <> '{}');
  END IF;
  INSERT INTO public.v3_plans_snapshot_archive VALUES (new.plan_id, new.effective_profile_snapshot, new.created_at)
  ON CONFLICT (plan_id) DO UPDATE SET effective_profile_snapshot = excluded.effective_profile_snapshot, created_at = excluded.created_at;
  RETURN NULL;
END
$$;

DO $revoke$ DECLARE other text; BEGIN
  FOR other IN
    SELECT DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC')
      FROM pg_proc p
     CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
     WHERE p.oid = to_regprocedure('public.v3_plans_keep()') AND a.grantee <> p.proowner
  LOOP
    EXECUTE 'REVOKE ALL ON FUNCTION public.v3_plans_keep() FROM ' || other || ' CASCADE';
  END LOOP;
END $revoke$;

CREATE OR REPLACE TRIGGER v3_plans_keep AFTER INSERT OR UPDATE OF plan_id, effective_profile_snapshot, created_at ON public.v3_plans
FOR EACH ROW WHEN (
  new.effective_profile_snapshot <> '{}'
) EXECUTE FUNCTION public.v3_plans_keep();

ALTER TABLE public.v3_plans ENABLE ALWAYS TRIGGER v3_plans_keep;

CREATE OR REPLACE FUNCTION public.v3_plans_unfill() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  new.root_plan_id := CASE WHEN (new.parent_plan_id IS NULL AND new.root_plan_id = new.plan_id) THEN NULL ELSE new.root_plan_id END;
  new.automation_profile := CASE WHEN new.automation_profile = 'balanced' THEN NULL
     WHEN (new.automation_profile ~ E'^[^][{"\\\\\\x01-\\x20][^"\\\\\\x01-\\x1f]*$' AND new.automation_profile !~ '^(true|false|null|-*[0-9][0-9.eE+-]*)$')
     THEN '{ "profile_name": "' || new.automation_profile || '", "provenance": null }' ELSE new.automation_profile END;
  RETURN new;
END
$$;

DO $revoke$ DECLARE other text; BEGIN
  FOR other IN
    SELECT DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC')
      FROM pg_proc p
     CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
     WHERE p.oid = to_regprocedure('public.v3_plans_unfill()') AND a.grantee <> p.proowner
  LOOP
    EXECUTE 'REVOKE ALL ON FUNCTION public.v3_plans_unfill() FROM ' || other || ' CASCADE';
  END LOOP;
END $revoke$;

CREATE OR REPLACE TRIGGER v3_plans_unfill BEFORE INSERT OR UPDATE ON public.v3_plans
FOR EACH ROW EXECUTE FUNCTION public.v3_plans_unfill();

ALTER TABLE public.v3_plans ENABLE ALWAYS TRIGGER v3_plans_unfill;

ALTER TABLE public.v3_plans ALTER COLUMN root_plan_id DROP NOT NULL;

ALTER TABLE public.v3_plans ALTER COLUMN automation_profile DROP NOT NULL;

DO $$ DECLARE stand_in name; BEGIN
  FOR stand_in IN SELECT conname FROM pg_constraint
     WHERE conrelid = 'public.v3_plans'::regclass AND contype = 'c'
       AND conname ~ '^becoming_not_null_[0-9]+$'
  LOOP
    EXECUTE format('ALTER TABLE public.v3_plans DROP CONSTRAINT %I', stand_in);
  END LOOP;
END $$;

ALTER TABLE public.v3_plans ALTER COLUMN automation_profile DROP DEFAULT;

INSERT INTO public.v3_plans_snapshot_archive
SELECT t.plan_id, t.effective_profile_snapshot, t.created_at FROM public.v3_plans t
 WHERE (t.plan_id > '<after>' AND t.plan_id <= '<to>' AND (SELECT set_config('search_path', '<search_path>', true)) IS NOT NULL) AND (t.effective_profile_snapshot <> '{}' AND NOT EXISTS (
  SELECT 1 FROM public.v3_plans_snapshot_archive a WHERE a.plan_id = t.plan_id
     AND a.effective_profile_snapshot = t.effective_profile_snapshot AND a.created_at IS NOT DISTINCT FROM t.created_at)) ORDER BY t.plan_id
ON CONFLICT (plan_id) DO UPDATE SET effective_profile_snapshot = excluded.effective_profile_snapshot, created_at = excluded.created_at;

WITH batch AS MATERIALIZED (
  SELECT plan_id FROM public.v3_plans t
   WHERE (t.plan_id > '<after>' AND t.plan_id <= '<to>' AND (SELECT set_config('search_path', '<search_path>', true)) IS NOT NULL) AND ((t.parent_plan_id IS NULL AND t.root_plan_id = t.plan_id) OR (t.automation_profile ~ E'^[^][{"\\\\\\x01-\\x20][^"\\\\\\x01-\\x1f]*$' AND t.automation_profile !~ '^(true|false|null|-*[0-9][0-9.eE+-]*)$')) ORDER BY plan_id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE public.v3_plans t SET
  root_plan_id = CASE WHEN (t.parent_plan_id IS NULL AND t.root_plan_id = t.plan_id) THEN NULL ELSE t.root_plan_id END,
  automation_profile = CASE WHEN t.automation_profile = 'balanced' THEN NULL
     WHEN (t.automation_profile ~ E'^[^][{"\\\\\\x01-\\x20][^"\\\\\\x01-\\x1f]*$' AND t.automation_profile !~ '^(true|false|null|-*[0-9][0-9.eE+-]*)$')
     THEN '{ "profile_name": "' || t.automation_profile || '", "provenance": null }' ELSE t.automation_profile END
FROM batch WHERE t.plan_id = batch.plan_id;

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

ALTER TABLE public.v3_plans DROP COLUMN effective_profile_snapshot;

DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM public.v3_plans_snapshot_archive) THEN
    DROP TABLE public.v3_plans_snapshot_archive;
  END IF;
EXCEPTION WHEN dependent_objects_still_exist THEN
  RAISE WARNING USING MESSAGE = 'others depend on it, so it was left: public.v3_plans_snapshot_archive';
END $$;

UPDATE public.alembic_version SET version_num='m4_003_plan_env_columns' WHERE public.alembic_version.version_num = 'm8_001_align_plans_schema';

COMMENT ON TABLE public.alembic_version IS NULL;
