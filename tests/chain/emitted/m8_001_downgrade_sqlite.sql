CREATE TABLE IF NOT EXISTS v3_plans_snapshot_archive AS SELECT plan_id, effective_profile_snapshot, created_at FROM v3_plans WHERE 0;

CREATE UNIQUE INDEX IF NOT EXISTS uq_v3_plans_snapshot_archive_plan_id ON v3_plans_snapshot_archive (plan_id);

INSERT OR REPLACE INTO v3_plans_snapshot_archive SELECT plan_id, effective_profile_snapshot, created_at FROM v3_plans WHERE effective_profile_snapshot <> '{}';

ALTER TABLE main."v3_plans" RENAME TO _rebuild_1;

CREATE TABLE v3_plans (
	plan_id VARCHAR(26) NOT NULL, 
	parent_plan_id VARCHAR(26), 
	root_plan_id VARCHAR(26), 
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
	automation_profile TEXT, 
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
	completed_at TEXT, execution_environment VARCHAR(255), execution_env_priority VARCHAR(20) CONSTRAINT ck_v3_plans_execution_env_priority CHECK (execution_env_priority IN ('fallback', 'override')), 
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

INSERT OR ABORT INTO main."v3_plans" (rowid, "plan_id", "parent_plan_id", "root_plan_id", "attempt", "namespaced_name", "namespace", "action_name", "description", "definition_of_done", "phase", "processing_state", "strategy_actor", "execution_actor", "estimation_actor", "invariant_actor", "automation_profile", "changeset_id", "decision_root_id", "sandbox_refs_json", "validation_summary_json", "error_message", "error_details_json", "cost_actual_usd", "token_count_input", "token_count_output", "reversion_count", "last_completed_step", "last_checkpoint_id", "reusable", "read_only", "tags_json", "created_by", "created_at", "updated_at", "completed_at", "execution_environment", "execution_env_priority") SELECT old.rowid, old."plan_id", old."parent_plan_id", (CASE WHEN (old.parent_plan_id IS NULL AND old.root_plan_id = old.plan_id) THEN NULL ELSE old.root_plan_id END), old."attempt", old."namespaced_name", old."namespace", old."action_name", old."description", old."definition_of_done", old."phase", old."processing_state", old."strategy_actor", old."execution_actor", old."estimation_actor", old."invariant_actor", (CASE WHEN old.automation_profile = 'balanced' THEN NULL
     WHEN (typeof(old.automation_profile) = 'text' AND substr(old.automation_profile, 1) = old.automation_profile AND old.automation_profile >= '!' AND substr(old.automation_profile, 1, 1) NOT IN ('[', ']', '{') AND old.automation_profile NOT GLOB '*["\' || char(1) || '-' || char(31) || ']*' AND old.automation_profile NOT IN ('true', 'false', 'null') AND NOT (ltrim(old.automation_profile, '-') GLOB '[0-9]*' AND old.automation_profile NOT GLOB '*[^0-9.eE+-]*'))
     THEN '{ "profile_name": "' || old.automation_profile || '", "provenance": null }' ELSE old.automation_profile END), old."changeset_id", old."decision_root_id", old."sandbox_refs_json", old."validation_summary_json", old."error_message", old."error_details_json", old."cost_actual_usd", old."token_count_input", old."token_count_output", old."reversion_count", old."last_completed_step", old."last_checkpoint_id", old."reusable", old."read_only", old."tags_json", old."created_by", old."created_at", old."updated_at", old."completed_at", old."execution_environment", old."execution_env_priority" FROM main._rebuild_1 AS old NOT INDEXED WHERE old.rowid > ? ORDER BY old.rowid LIMIT 10000;

DROP TABLE main._rebuild_1;

CREATE INDEX ix_v3_plans_root_plan_id ON v3_plans (root_plan_id);

CREATE INDEX ix_v3_plans_action_name ON v3_plans (action_name);

UPDATE alembic_version SET version_num='m4_003_plan_env_columns' WHERE alembic_version.version_num = 'm8_001_align_plans_schema';
