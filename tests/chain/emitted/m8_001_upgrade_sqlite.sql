ALTER TABLE main."v3_plans" RENAME TO _rebuild_1;

CREATE TABLE v3_plans (
	plan_id VARCHAR(26) NOT NULL, 
	parent_plan_id VARCHAR(26), 
	root_plan_id VARCHAR(26) NOT NULL, 
	attempt INTEGER DEFAULT 1 NOT NULL, 
	namespaced_name VARCHAR(255), 
	namespace VARCHAR(255), 
	action_name VARCHAR(255) NOT NULL, 
	description TEXT DEFAULT '' NOT NULL, 
	definition_of_done TEXT, 
	phase VARCHAR(20) DEFAULT 'action' NOT NULL, 
	processing_state VARCHAR(20) DEFAULT 'queued' NOT NULL, 
	strategy_actor VARCHAR(255), 
	execution_actor VARCHAR(255), 
	estimation_actor VARCHAR(255), 
	invariant_actor VARCHAR(255), 
	automation_profile TEXT DEFAULT 'balanced' NOT NULL, 
	changeset_id VARCHAR(26), 
	decision_root_id VARCHAR(26), 
	sandbox_refs_json TEXT, 
	validation_summary_json TEXT, 
	error_message TEXT, 
	error_details_json TEXT, 
	cost_actual_usd REAL, 
	token_count_input INTEGER, 
	token_count_output INTEGER, 
	reversion_count INTEGER DEFAULT 0 NOT NULL, 
	last_completed_step INTEGER DEFAULT (-1) NOT NULL, 
	last_checkpoint_id VARCHAR(26), 
	reusable BOOLEAN DEFAULT 0 NOT NULL, 
	read_only BOOLEAN DEFAULT 0 NOT NULL, 
	tags_json TEXT, 
	created_by VARCHAR(255), 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	completed_at TEXT, execution_environment VARCHAR(255), execution_env_priority VARCHAR(20) CONSTRAINT ck_v3_plans_execution_env_priority CHECK (execution_env_priority IN ('fallback', 'override')), effective_profile_snapshot TEXT DEFAULT '{}' NOT NULL, 
	CONSTRAINT pk_v3_plans PRIMARY KEY (plan_id), 
	CONSTRAINT fk_v3_plans_parent_plan_id FOREIGN KEY(parent_plan_id) REFERENCES v3_plans (plan_id) ON DELETE SET NULL, 
	CONSTRAINT fk_v3_plans_root_plan_id FOREIGN KEY(root_plan_id) REFERENCES v3_plans (plan_id) ON DELETE RESTRICT, 
	CONSTRAINT ck_v3_plans_attempt CHECK (attempt >= 1), 
	CONSTRAINT ck_v3_plans_phase CHECK (phase IN ('action', 'strategize', 'execute', 'apply')), 
	CONSTRAINT ck_v3_plans_processing_state CHECK (processing_state IN ('queued', 'processing', 'complete', 'errored', 'constrained', 'applied', 'cancelled')), 
	CONSTRAINT ck_v3_plans_cost_actual_usd CHECK (cost_actual_usd >= 0 AND cost_actual_usd <= 1.7976931348623157e308), 
	CONSTRAINT ck_v3_plans_token_count_input CHECK (token_count_input >= 0), 
	CONSTRAINT ck_v3_plans_token_count_output CHECK (token_count_output >= 0), 
	CONSTRAINT ck_v3_plans_reversion_count CHECK (reversion_count >= 0 AND reversion_count <= 3), 
	CONSTRAINT ck_v3_plans_last_completed_step CHECK (last_completed_step >= -1)
);

INSERT OR ABORT INTO main."v3_plans" (rowid, "plan_id", "parent_plan_id", "root_plan_id", "attempt", "namespaced_name", "namespace", "action_name", "description", "definition_of_done", "phase", "processing_state", "strategy_actor", "execution_actor", "estimation_actor", "invariant_actor", "automation_profile", "changeset_id", "decision_root_id", "sandbox_refs_json", "validation_summary_json", "error_message", "error_details_json", "cost_actual_usd", "token_count_input", "token_count_output", "reversion_count", "last_completed_step", "last_checkpoint_id", "reusable", "read_only", "tags_json", "created_by", "created_at", "updated_at", "completed_at", "execution_environment", "execution_env_priority", "effective_profile_snapshot") SELECT old.rowid, old."plan_id", old."parent_plan_id", (coalesce(old.root_plan_id, CASE WHEN old.parent_plan_id IS NULL THEN old.plan_id END, (
  SELECT coalesce(
    (SELECT r.plan_id FROM _rebuild_1 r WHERE r.plan_id = +p.root_plan_id),
    CASE WHEN p.parent_plan_id IS NULL THEN CASE WHEN tree_root(old.rowid, p.rowid, p.rowid) IS NOT NULL THEN p.plan_id END END,
    (SELECT r.plan_id FROM _rebuild_1 r WHERE r.rowid = tree_root(old.rowid, p.rowid)))
  FROM _rebuild_1 p WHERE p.plan_id = +old.parent_plan_id
), tree_root(NULL, NULL), old.plan_id)), old."attempt", old."namespaced_name", old."namespace", old."action_name", old."description", old."definition_of_done", old."phase", old."processing_state", old."strategy_actor", old."execution_actor", old."estimation_actor", old."invariant_actor", (CASE WHEN trim(coalesce(old.automation_profile, ''), char(32, 9, 10, 11, 12, 13)) = '' THEN 'balanced'
     WHEN (substr(old.automation_profile, 1, 19) = '{ "profile_name": "' AND (typeof(substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0))) = 'text' AND substr(substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)), 1) = substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)) AND substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)) >= '!' AND substr(substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)), 1, 1) NOT IN ('[', ']', '{') AND substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)) NOT GLOB '*["\' || char(1) || '-' || char(31) || ']*' AND substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)) NOT IN ('true', 'false', 'null') AND NOT (ltrim(substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)), '-') GLOB '[0-9]*' AND substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)) NOT GLOB '*[^0-9.eE+-]*')) AND '{ "profile_name": "' || substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)) || '", "provenance": null }' = old.automation_profile)
     THEN substr(old.automation_profile, 20, max(length(old.automation_profile) - 42, 0)) ELSE old.automation_profile END), old."changeset_id", old."decision_root_id", old."sandbox_refs_json", old."validation_summary_json", old."error_message", old."error_details_json", old."cost_actual_usd", old."token_count_input", old."token_count_output", old."reversion_count", old."last_completed_step", old."last_checkpoint_id", old."reusable", old."read_only", old."tags_json", old."created_by", old."created_at", old."updated_at", old."completed_at", old."execution_environment", old."execution_env_priority", (coalesce((SELECT a.effective_profile_snapshot FROM v3_plans_snapshot_archive a WHERE a.plan_id = +old.plan_id AND a.created_at IS old.created_at), '{}')) FROM main._rebuild_1 AS old NOT INDEXED WHERE old.rowid > ? ORDER BY old.rowid LIMIT 10000;

DROP TABLE main._rebuild_1;

CREATE INDEX ix_v3_plans_root_plan_id ON v3_plans (root_plan_id);

CREATE INDEX ix_v3_plans_action_name ON v3_plans (action_name);

DROP TABLE v3_plans_snapshot_archive;

UPDATE alembic_version SET version_num='m8_001_align_plans_schema' WHERE alembic_version.version_num = 'm4_003_plan_env_columns';
