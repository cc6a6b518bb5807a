"""
Give every plan its root, its profile and its snapshot, and forbid gaps

Why:    the specification wants root_plan_id, the automation profile and a frozen copy of
        it (effective_profile_snapshot) in every plan.
Rows:   first the parents are walked: a plan that is its own ancestor stops the upgrade.
        Then a missing root becomes the root of the plan's tree, a missing or blank
        profile 'balanced', the snapshot '{}', which reads as "not recorded". What is
        there already is kept. NOT NULL comes last.
Undo:   no plan and no snapshot is lost: snapshots wait in v3_plans_snapshot_archive for
        the next upgrade. Roots of root plans and 'balanced' become NULL again, as the
        former release wrote them and can read them; another bare profile name becomes a
        JSON object, which the next upgrade knows and turns back.
Locks:  PostgreSQL: ACCESS EXCLUSIVE on v3_plans for milliseconds at a time, and row locks
        for the length of a batch, some 5 ms; readers and writers go on. While it runs and
        afterwards a trigger fills in what the former release leaves out. SQLite: the
        file, for one transaction.

It relies on four columns only (plan_id, parent_plan_id, root_plan_id,
automation_profile); all others stay as they are found. Every step can be repeated: a run
that was interrupted, in either direction, is run again in either direction.

Revision: m8_001_align_plans_schema, after m4_003_plan_env_columns
"""

from alembic import op
from sqlalchemy import inspect

from cleveragents_plans.evolution import allow_null

revision = "m8_001_align_plans_schema"
down_revision = "m4_003_plan_env_columns"
branch_labels = None
depends_on = None

ARCHIVE = "v3_plans_snapshot_archive"
CREATE_ARCHIVE = (
    f"CREATE TABLE IF NOT EXISTS {ARCHIVE} (plan_id VARCHAR(26) NOT NULL PRIMARY KEY,"
    " effective_profile_snapshot TEXT NOT NULL)"
)


def look_before_upgrade() -> None:
    """Refuse before the first step of a longer way up is taken."""
    op.look_at_tree("v3_plans", key="plan_id", parent="parent_plan_id", root="root_plan_id")


def upgrade() -> None:
    """Fill the gaps, then forbid them."""
    look_before_upgrade()
    # SQLite copies the table once, in one transaction; PostgreSQL works beside its clients.
    if op.get_context().dialect.name == "sqlite":
        _upgrade_sqlite()
    else:
        _upgrade_postgresql()


def downgrade() -> None:
    """Go back to what the former release can read; keep the snapshots aside."""
    if op.get_context().dialect.name == "sqlite":
        _downgrade_sqlite()
    else:
        _downgrade_postgresql()


# How another bare name than 'balanced' is written for the former release, which reads
# JSON only: with spaces that nobody else writes, so that the way back is known.
HEAD, TAIL = '{ "profile_name": "', '", "provenance": null }'


def _upgrade_sqlite() -> None:
    archived = inspect(op.get_bind()).has_table(ARCHIVE)
    op.rebuild_table(
        "v3_plans",
        add={"effective_profile_snapshot": "TEXT DEFAULT '{}' NOT NULL"},
        set_not_null=("root_plan_id", "automation_profile"),
        set_default={"automation_profile": "'balanced'"},
        values={
            "root_plan_id": SQLITE_ROOT,
            "automation_profile": SQLITE_PROFILE,
            **({"effective_profile_snapshot": SQLITE_SNAPSHOT} if archived else {}),
        },
    )
    if archived:
        op.execute(f"DROP TABLE {ARCHIVE}")


def _downgrade_sqlite() -> None:
    op.execute(CREATE_ARCHIVE)
    op.execute(
        f"INSERT OR REPLACE INTO {ARCHIVE} SELECT plan_id, effective_profile_snapshot"
        " FROM v3_plans WHERE effective_profile_snapshot <> '{}'"
    )
    if not op.get_bind().exec_driver_sql(f"SELECT EXISTS (SELECT 1 FROM {ARCHIVE})").scalar():
        op.execute(f"DROP TABLE {ARCHIVE}")
    op.rebuild_table(
        "v3_plans",
        drop=("effective_profile_snapshot",),
        drop_not_null=("root_plan_id", "automation_profile"),
        drop_default=("automation_profile",),
        values={
            "root_plan_id": "CASE WHEN old.parent_plan_id IS NULL"
            " THEN nullif(old.root_plan_id, old.plan_id) ELSE old.root_plan_id END",
            "automation_profile": SQLITE_FORMER_PROFILE,
        },
    )


# The walk ends at the first ancestor that has a root, at the top, or below a parent that is
# missing. A root that does not exist, where no foreign key has seen to it, is none.
SQLITE_ROOT = """\
coalesce(old.root_plan_id, CASE WHEN old.parent_plan_id IS NULL THEN old.plan_id END,
  (WITH RECURSIVE up (at, above, root, steps) AS (
     SELECT old.plan_id, old.parent_plan_id, NULL, 0
     UNION ALL
     SELECT p.plan_id, p.parent_plan_id, coalesce(
              r.plan_id, CASE WHEN p.plan_id IS NULL THEN up.at
                              WHEN p.parent_plan_id IS NULL THEN p.plan_id END), steps + 1
       FROM up LEFT JOIN v3_plans p ON p.plan_id = up.above
       LEFT JOIN v3_plans r ON r.plan_id = p.root_plan_id
      WHERE up.root IS NULL AND up.steps < 100000)
   SELECT root FROM up WHERE root IS NOT NULL LIMIT 1))"""

# A bare name is what starts like one and has nothing in it that JSON would escape.
SQLITE_BARE = (
    "({0} GLOB '[A-Za-z_]*' AND {0} NOT GLOB '*[\"\\' || char(1) || '-' || char(31) || ']*')"
)
SQLITE_NAME = (
    f"substr(old.automation_profile, {len(HEAD) + 1},"
    f" length(old.automation_profile) - {len(HEAD) + len(TAIL)})"
)
SQLITE_PROFILE = f"""\
CASE WHEN trim(coalesce(old.automation_profile, ''), char(32, 9, 10, 11, 12, 13)) = ''
     THEN 'balanced'
     WHEN substr(old.automation_profile, 1, {len(HEAD)}) = '{HEAD}'
      AND {SQLITE_BARE.format(SQLITE_NAME)}
      AND '{HEAD}' || {SQLITE_NAME} || '{TAIL}' = old.automation_profile
     THEN {SQLITE_NAME}
     ELSE old.automation_profile END"""
SQLITE_FORMER_PROFILE = f"""\
CASE WHEN old.automation_profile = 'balanced' THEN NULL
     WHEN {SQLITE_BARE.format("old.automation_profile")}
     THEN '{HEAD}' || old.automation_profile || '{TAIL}'
     ELSE old.automation_profile END"""


SQLITE_SNAPSHOT = f"""\
coalesce((SELECT a.effective_profile_snapshot FROM {ARCHIVE} a WHERE a.plan_id = old.plan_id),
         '{{}}')"""


def _upgrade_postgresql() -> None:
    op.mark_begin(revision, down_revision, "upgrade")
    op.short_lock(
        "v3_plans",
        *DROP_UNFILL,  # of a downgrade that was interrupted
        "ALTER TABLE v3_plans ADD COLUMN IF NOT EXISTS"
        " effective_profile_snapshot TEXT DEFAULT '{}' NOT NULL",
        # It may be there already, in another shape.
        "ALTER TABLE v3_plans ALTER COLUMN effective_profile_snapshot SET DEFAULT '{}'",
        "ALTER TABLE v3_plans ALTER COLUMN automation_profile SET DEFAULT 'balanced'",
        SEARCH_PATH,
        FILL,
        FILL_TRIGGER,
        CREATE_ARCHIVE,
    )
    _fill()
    op.backfill(
        ARCHIVE, key="plan_id", needs="TRUE", update=RESTORE, label="snapshots", vacuum="v3_plans"
    )
    op.short_lock(ARCHIVE, f"DROP TABLE {ARCHIVE}")
    for column in ("root_plan_id", "automation_profile", "effective_profile_snapshot"):
        op.set_not_null("v3_plans", column, refill=_fill)
    op.mark_end(revision)


def _fill() -> None:
    op.backfill(
        "v3_plans", key="plan_id", needs=INCOMPLETE, update=COMPLETE, label="roots and profiles"
    )


def _downgrade_postgresql() -> None:
    op.mark_begin(revision, down_revision, "downgrade")
    op.short_lock(
        "v3_plans",
        # An upgrade that was interrupted early has no column yet.
        "ALTER TABLE v3_plans ADD COLUMN IF NOT EXISTS"
        " effective_profile_snapshot TEXT DEFAULT '{}' NOT NULL",
        CREATE_ARCHIVE,
        *DROP_FILL,
        SEARCH_PATH,
        KEEP,
        KEEP_TRIGGER,
        UNFILL,
        UNFILL_TRIGGER,
        *allow_null("v3_plans", "root_plan_id", "automation_profile"),
        "ALTER TABLE v3_plans ALTER COLUMN automation_profile DROP DEFAULT",
    )
    op.backfill("v3_plans", key="plan_id", needs=UNARCHIVED, update=TO_ARCHIVE, label="snapshots")
    op.backfill("v3_plans", key="plan_id", needs=FILLED, update=EMPTY, label="former form")
    op.short_lock(
        "v3_plans",
        *DROP_UNFILL,
        "ALTER TABLE v3_plans DROP COLUMN effective_profile_snapshot",
        DROP_EMPTY_ARCHIVE,
    )
    op.mark_end(revision)


# What a bare name is: it starts like one and has nothing in it that JSON would escape.
NAME = r'[A-Za-z_][^"\\\x01-\x1f]*'
BLANK = "coalesce(btrim({}.automation_profile, E' \\t\\n\\r\\f\\x0B'), '') = ''"

# The walk ends at the first ancestor that has a root, at the top, or below a parent that is
# missing; a root that does not exist, where no foreign key has seen to it, is none. The
# root is locked as the foreign key would lock it, so that it stays; rows and roots that
# others hold are left for a later pass. IS TRUE makes the last subquery a hash table; as a
# join it would be gone through again for every row.
OF_ROLLBACK = (
    f"(starts_with(t.automation_profile, '{HEAD}')"
    f" AND t.automation_profile ~ '^\\{HEAD}{NAME}{TAIL[:-1]}\\}}$')"
)
INCOMPLETE = f"""\
t.root_plan_id IS NULL OR {BLANK.format("t")} OR {OF_ROLLBACK}
OR t.effective_profile_snapshot IS NULL"""
COMPLETE = f"""\
WITH RECURSIVE batch AS MATERIALIZED (
  SELECT plan_id, parent_plan_id, root_plan_id FROM v3_plans t
   WHERE {{batch}} AND ({INCOMPLETE}) ORDER BY plan_id FOR NO KEY UPDATE SKIP LOCKED
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
    WHEN {BLANK.format("t")} THEN 'balanced'
    WHEN {OF_ROLLBACK}
    THEN substr(t.automation_profile, {len(HEAD) + 1},
                length(t.automation_profile) - {len(HEAD) + len(TAIL)})
    ELSE t.automation_profile END,
  effective_profile_snapshot = coalesce(t.effective_profile_snapshot, '{{}}')
FROM found
WHERE t.plan_id = found.plan_id
  AND (t.root_plan_id IS NOT NULL OR (found.root IN (SELECT plan_id FROM kept)) IS TRUE)"""

# Archived snapshots of plans that were deleted meanwhile go with them.
RESTORE = f"""\
WITH taken AS (
  DELETE FROM {ARCHIVE} t WHERE {{batch}} RETURNING plan_id, effective_profile_snapshot
), restored AS (
  UPDATE v3_plans p SET effective_profile_snapshot = taken.effective_profile_snapshot
    FROM taken WHERE p.plan_id = taken.plan_id AND p.effective_profile_snapshot = '{{}}'
)
SELECT plan_id FROM taken"""

UNARCHIVED = f"""\
t.effective_profile_snapshot <> '{{}}' AND NOT EXISTS (
  SELECT 1 FROM {ARCHIVE} a WHERE a.plan_id = t.plan_id
     AND a.effective_profile_snapshot = t.effective_profile_snapshot)"""
TO_ARCHIVE = f"""\
INSERT INTO {ARCHIVE} SELECT t.plan_id, t.effective_profile_snapshot FROM v3_plans t
 WHERE {{batch}} AND ({UNARCHIVED}) ORDER BY t.plan_id
ON CONFLICT (plan_id) DO UPDATE
  SET effective_profile_snapshot = excluded.effective_profile_snapshot"""


def _former_root(row: str) -> str:
    return f"CASE WHEN {_of_root_plan(row)} THEN NULL ELSE {row}.root_plan_id END"


def _former_profile(row: str) -> str:
    return f"""\
CASE WHEN {row}.automation_profile = 'balanced' THEN NULL
       WHEN {_bare(row)} THEN '{HEAD}' || {row}.automation_profile || '{TAIL}'
       ELSE {row}.automation_profile END"""


def _of_root_plan(row: str) -> str:
    return f"({row}.parent_plan_id IS NULL AND {row}.root_plan_id = {row}.plan_id)"


def _bare(row: str) -> str:
    return f"({row}.automation_profile ~ '^{NAME}$')"


FILLED = f"{_of_root_plan('t')} OR {_bare('t')}"
EMPTY = f"""\
WITH batch AS MATERIALIZED (
  SELECT plan_id FROM v3_plans t
   WHERE {{batch}} AND ({FILLED}) ORDER BY plan_id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE v3_plans t SET
  root_plan_id = {_former_root("t")},
  automation_profile = {_former_profile("t")}
FROM batch WHERE t.plan_id = batch.plan_id"""

# Fills in what the former release leaves out, for as long as one of its processes may run.
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
FILL_TRIGGER = f"""\
CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT OR UPDATE ON v3_plans
FOR EACH ROW WHEN (
  new.root_plan_id IS NULL
  OR {BLANK.format("new")}
) EXECUTE FUNCTION v3_plans_fill()"""

# For the length of a downgrade: what is written behind its back takes the former form
# too, and no snapshot is missed.
UNFILL = f"""\
CREATE OR REPLACE FUNCTION v3_plans_unfill() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  new.root_plan_id := {_former_root("new")};
  new.automation_profile := {_former_profile("new")};
  RETURN new;
END $$"""
UNFILL_TRIGGER = """\
CREATE OR REPLACE TRIGGER v3_plans_unfill BEFORE INSERT OR UPDATE ON v3_plans
FOR EACH ROW EXECUTE FUNCTION v3_plans_unfill()"""
KEEP = f"""\
CREATE OR REPLACE FUNCTION v3_plans_keep() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO {ARCHIVE} VALUES (new.plan_id, new.effective_profile_snapshot)
  ON CONFLICT (plan_id) DO UPDATE
    SET effective_profile_snapshot = excluded.effective_profile_snapshot;
  RETURN NULL;
END $$"""
KEEP_TRIGGER = """\
CREATE OR REPLACE TRIGGER v3_plans_keep
AFTER INSERT OR UPDATE OF effective_profile_snapshot ON v3_plans
FOR EACH ROW WHEN (new.effective_profile_snapshot <> '{}') EXECUTE FUNCTION v3_plans_keep()"""

DROP_FILL = (
    "DROP TRIGGER IF EXISTS v3_plans_fill ON v3_plans",
    "DROP FUNCTION IF EXISTS v3_plans_fill()",
)
DROP_UNFILL = (
    "DROP TRIGGER IF EXISTS v3_plans_unfill ON v3_plans",
    "DROP FUNCTION IF EXISTS v3_plans_unfill()",
    "DROP TRIGGER IF EXISTS v3_plans_keep ON v3_plans",
    "DROP FUNCTION IF EXISTS v3_plans_keep()",
)
DROP_EMPTY_ARCHIVE = f"""\
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM {ARCHIVE}) THEN DROP TABLE {ARCHIVE}; END IF;
END $$"""
