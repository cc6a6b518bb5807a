"""
Give every plan its root, its profile and its snapshot, and forbid gaps

Why:    the specification wants root_plan_id, the automation profile and a frozen copy of
        it (effective_profile_snapshot) in every plan.
Rows:   first the parents are walked: a plan that is its own ancestor stops the upgrade.
        Then a missing root becomes the root of the plan's tree, a missing or blank
        profile 'balanced', the snapshot '{}', which reads as "not recorded". What is
        there already is kept. NOT NULL comes last.
Undo:   no plan and no snapshot is lost: snapshots wait in v3_plans_snapshot_archive for
        the next upgrade, which restores them to plans that were not deleted and created
        again meanwhile. Roots of root plans and 'balanced' become NULL again, as the
        former release wrote them and can read them; another bare profile name becomes a
        JSON object, which the next upgrade knows and turns back.
Locks:  PostgreSQL: ACCESS EXCLUSIVE on v3_plans for milliseconds at a time, and row locks
        for the length of a batch, some 5 ms; readers and writers go on. While it runs and
        afterwards a trigger fills in what the former release leaves out. SQLite: the
        file, for one transaction.

It relies on four columns only (plan_id, parent_plan_id, root_plan_id,
automation_profile), and looks at created_at where there is one; all others stay as they
are found. In SQLite a plan is tried beforehand in an empty copy of the schema. Every step
can be repeated: a run that was interrupted, in either direction, is run again in either
direction.

No release has carried this revision, so its functions were changed in it: they search system
schemas only, because one that runs with the rights of the owner would have run operators that any
role may create in the schema of the table; docs/security.md replaces them elsewhere. They fire for
rows of logical replication, and leave a root that is very far up to the backfill; E'…' means the
same for every client. None but their owner may execute them, whatever default privileges grant, nor
write to the archive: its next upgrade would restore what they chose; nor read it: row-level
security of v3_plans does not hide its rows. What others use is left: they could stop a run.
Row-level security that an event trigger forces on each new table does not bind the owner of the
archive, who writes to it in triggers (NO FORCE). v3_plans_keep fires for a change of plan_id, too:
the plan lost its snapshot, which stayed under the former id.

On SQLite keys are compared by SQLite alone, and never pass through Python: neither the encoding of
the file, nor collations, nor keys that are numbers or bytes, make a difference. The copy tells the
function that finds roots which parents are roots, as to walk up to them took a third of its time.

Revision: m8_001_align_plans_schema, after m4_003_plan_env_columns
"""

from alembic import op
from sqlalchemy import inspect

from cleveragents_plans.evolution import (
    ColumnArchive,
    ColumnDefault,
    ParentTree,
    Trigger,
    archive_column,
    check_alterable,
    check_archive,
    check_drop_not_null,
    check_droppable,
    check_insertable,
    check_key,
    check_parent_tree,
    check_row_security,
    check_set_not_null,
    check_writable,
    columns_of,
    drop_if_empty,
    drop_not_null_sql,
    drop_trigger_sql,
    fill_roots,
    fill_trigger,
    rebuild_table,
    restore_column,
    root_in_copy,
    run_in_batches,
    set_not_null,
    with_exclusive_lock,
)

revision = "m8_001_align_plans_schema"
down_revision = "m4_003_plan_env_columns"
branch_labels = None
depends_on = None

PLANS = ParentTree("v3_plans", key="plan_id", parent="parent_plan_id", root="root_plan_id")
SNAPSHOTS = ColumnArchive(
    "v3_plans_snapshot_archive",
    table="v3_plans",
    key="plan_id",
    column="effective_profile_snapshot",
    empty_value="'{}'",
    # A plan that is deleted and created again under its id gets no snapshot of the former one.
    identity=("created_at",),
)
# A plan as the former release inserts it, and what the present one inserts instead.
FORMER_PLAN = {
    "plan_id": "'00000000000000000000000000'",
    "namespaced_name": "'local/plan'",
    "namespace": "'local'",
    "action_name": "'local/action'",
    "created_at": "'2026-01-01T00:00:00.000000+00:00'",
    "updated_at": "'2026-01-01T00:00:00.000000+00:00'",
}
JSON_PROFILE = """'{"profile_name": "trusted", "provenance": "plan"}'"""
FORMER_PLANS = (FORMER_PLAN, {**FORMER_PLAN, "automation_profile": JSON_PROFILE})
PRESENT_PLAN = {
    "root_plan_id": FORMER_PLAN["plan_id"],
    "automation_profile": "'balanced'",
    SNAPSHOTS.column: "'{}'",
}
# While an upgrade runs and afterwards, and for the length of a downgrade.
FILL, UNFILL, KEEP = "v3_plans_fill", "v3_plans_unfill", "v3_plans_keep"

NOT_NULL = ("root_plan_id", "automation_profile")
# With its schema, for PostgreSQL.
TABLE = "{schema}.v3_plans"
SNAPSHOT = "TEXT DEFAULT '{}' NOT NULL"
ADD_SNAPSHOT = f"ADD COLUMN IF NOT EXISTS {SNAPSHOTS.column} {SNAPSHOT}"
DEFAULT_PROFILE = "ALTER COLUMN automation_profile SET DEFAULT 'balanced'"


def is_applied() -> bool:
    """Tell whether the tables look as if this revision had been run."""
    columns = columns_of(op, "v3_plans")
    filled = (SNAPSHOTS.column, "root_plan_id")
    return all(name in columns and not columns[name]["nullable"] for name in filled)


def check_upgrade() -> None:
    """Refuse before the first step of a longer way up is taken."""
    written = {"adds": [SNAPSHOTS.column], "default_of": ["automation_profile"]}
    check_alterable(op, "v3_plans", ADD_SNAPSHOT, DEFAULT_PROFILE, **written)
    check_set_not_null(op, "v3_plans", *NOT_NULL, SNAPSHOTS.column)
    check_key(op, PLANS.table, PLANS.key)
    check_row_security(op, "v3_plans")
    check_parent_tree(op, PLANS)
    check_archive(op, SNAPSHOTS.in_database(op), exists=True)
    lacking = f"t.root_plan_id IS NULL OR {_is_blank('t')} OR {_is_wrapped('t')}"
    _check_writable(lacking, {"root_plan_id": None, "automation_profile": "'balanced'"})
    check_insertable(op, "v3_plans", rows=FORMER_PLANS, values=PRESENT_PLAN)


def check_downgrade() -> None:
    """Refuse before the first step of a longer way down is taken."""
    no_default = "ALTER COLUMN automation_profile DROP DEFAULT"
    # An upgrade that was interrupted has not added it.
    check_alterable(op, "v3_plans", ADD_SNAPSHOT, no_default, adds=[SNAPSHOTS.column])
    check_key(op, PLANS.table, PLANS.key)
    check_row_security(op, "v3_plans")
    check_droppable(op, "v3_plans", "effective_profile_snapshot", ours=(KEEP,))
    check_drop_not_null(op, "v3_plans", *NOT_NULL)
    check_archive(op, SNAPSHOTS.in_database(op), exists=False)
    both = f"{_is_root('t')} AND t.automation_profile = 'balanced'"
    _check_writable(FILLED, {"root_plan_id": "NULL", "automation_profile": "NULL"}, both)


def _check_writable(needs: str, values: dict[str, str | None], rows: str | None = None) -> None:
    ours = (FILL, UNFILL, KEEP)
    check_writable(op, "v3_plans", key="plan_id", needs=needs, values=values, rows=rows, ours=ours)


def upgrade() -> None:
    """Fill the gaps, then forbid them."""
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


def _upgrade_sqlite() -> None:
    tables = inspect(op.get_bind())
    archived = tables.has_table(SNAPSHOTS.name)
    # It may be there already, in another shape.
    present = any(c["name"] == SNAPSHOTS.column for c in tables.get_columns("v3_plans"))
    root, functions = root_in_copy(op, PLANS)
    values = {"root_plan_id": root, "automation_profile": _present_profile("old", SQLITE)}
    if archived:
        values[SNAPSHOTS.column] = SNAPSHOTS.in_database(op).value_in_copy(present=present)
    elif present:
        values[SNAPSHOTS.column] = f"coalesce(old.{SNAPSHOTS.column}, '{{}}')"
    rebuild_table(
        op,
        "v3_plans",
        add={} if present else {SNAPSHOTS.column: SNAPSHOT},
        set_not_null=(*NOT_NULL, *[SNAPSHOTS.column] * present),
        set_default={
            "automation_profile": "'balanced'",
            **({SNAPSHOTS.column: "'{}'"} if present else {}),
        },
        values=values,
        functions=functions,
    )
    if archived:
        op.execute(f"DROP TABLE {SNAPSHOTS.name}")


def _downgrade_sqlite() -> None:
    archive_column(op, SNAPSHOTS.in_database(op))
    rebuild_table(
        op,
        "v3_plans",
        drop=("effective_profile_snapshot",),
        drop_not_null=NOT_NULL,
        drop_default=("automation_profile",),
        values={
            "root_plan_id": _former_root("old"),
            "automation_profile": _former_profile("old", SQLITE),
        },
    )


def _upgrade_postgresql() -> None:
    with_exclusive_lock(
        op,
        "v3_plans",
        *drop_trigger_sql("v3_plans", UNFILL),  # of a downgrade that was interrupted
        *drop_trigger_sql("v3_plans", KEEP),
        f"ALTER TABLE {TABLE} {ADD_SNAPSHOT}",
        # It may be there already, in another shape.
        f"ALTER TABLE {TABLE} ALTER COLUMN {SNAPSHOTS.column} SET DEFAULT '{{}}'",
        f"ALTER TABLE {TABLE} {DEFAULT_PROFILE}",
        *fill_trigger(
            PLANS,
            FILL,
            also={"automation_profile": ColumnDefault(_is_blank, lambda _row: "'balanced'")},
        ).create_sql(),
        *SNAPSHOTS.in_database(op).create(),
    )
    _fill()
    restore_column(op, SNAPSHOTS.in_database(op))
    set_not_null(op, "v3_plans", *NOT_NULL, SNAPSHOTS.column, refill=_fill)


def _fill() -> None:
    fill_roots(
        op,
        PLANS,
        also={
            "automation_profile": ColumnDefault(
                lambda row: f"{_is_blank(row)} OR {_is_wrapped(row)}",
                lambda row: _present_profile(row, POSTGRESQL),
            ),
            SNAPSHOTS.column: ColumnDefault(
                lambda row: f"{row}.{SNAPSHOTS.column} IS NULL", lambda _row: "'{}'"
            ),
        },
        label="roots and profiles",
    )


def _downgrade_postgresql() -> None:
    # What is written concurrently takes the former form, too, and no snapshot is missed.
    unfill = Trigger(
        table="v3_plans",
        name=UNFILL,
        event="BEFORE INSERT OR UPDATE",
        body=f"BEGIN\n  new.root_plan_id := {_former_root('new')};\n"
        f"  new.automation_profile := {_former_profile('new', POSTGRESQL)};\n  RETURN new;\nEND",
    )
    with_exclusive_lock(
        op,
        "v3_plans",
        # An upgrade that was interrupted early has no column yet.
        f"ALTER TABLE {TABLE} {ADD_SNAPSHOT}",
        *SNAPSHOTS.in_database(op).create(),
        *drop_trigger_sql("v3_plans", FILL),
        *SNAPSHOTS.in_database(op).keep_trigger(KEEP).create_sql(),
        *unfill.create_sql(),
        *drop_not_null_sql(TABLE, *NOT_NULL),
        f"ALTER TABLE {TABLE} ALTER COLUMN automation_profile DROP DEFAULT",
    )
    archive_column(op, SNAPSHOTS.in_database(op))
    run_in_batches(op, "v3_plans", key="plan_id", needs=FILLED, update=EMPTY, label="former form")
    with_exclusive_lock(
        op,
        "v3_plans",
        *drop_trigger_sql("v3_plans", UNFILL),
        *drop_trigger_sql("v3_plans", KEEP),
        f"ALTER TABLE {TABLE} DROP COLUMN {SNAPSHOTS.column}",
    )
    drop_if_empty(op, SNAPSHOTS)


# Profiles. The former release reads JSON only: another bare name than 'balanced' is written
# for it as an object, with spaces that no other program writes: the next upgrade restores the
# name.
HEAD, TAIL = '{ "profile_name": "', '", "provenance": null }'


# What an engine says of the expression {0}: that it is blank; that it is no JSON, and has
# nothing in it that JSON would escape.
POSTGRESQL = {
    "blank": r"btrim(coalesce({0}, ''), E' \t\n\r\f\x0B') = ''",
    "bare": r"""({0} ~ E'^[^][{{"\\\\\\x01-\\x20][^"\\\\\\x01-\\x1f]*$'"""
    r" AND {0} !~ '^(true|false|null|-*[0-9][0-9.eE+-]*)$')",
    "greatest": "greatest",
}
SQLITE = {
    "blank": "trim(coalesce({0}, ''), char(32, 9, 10, 11, 12, 13)) = ''",
    # substr stops at NUL, and mends text that is not valid: such a name is left alone.
    "bare": "(typeof({0}) = 'text' AND substr({0}, 1) = {0}"
    " AND {0} >= '!' AND substr({0}, 1, 1) NOT IN ('[', ']', '{{')"
    " AND {0} NOT GLOB '*[\"\\' || char(1) || '-' || char(31) || ']*'"
    " AND {0} NOT IN ('true', 'false', 'null')"
    " AND NOT (ltrim({0}, '-') GLOB '[0-9]*' AND {0} NOT GLOB '*[^0-9.eE+-]*'))",
    "greatest": "max",
}


def _is_blank(row: str) -> str:
    return POSTGRESQL["blank"].format(f"{row}.automation_profile")


def _name(row: str, sql: dict[str, str]) -> str:
    found, around = f"{row}.automation_profile", len(HEAD + TAIL)
    return f"substr({found}, {len(HEAD) + 1}, {sql['greatest']}(length({found}) - {around}, 0))"


def _is_wrapped(row: str, sql: dict[str, str] = POSTGRESQL) -> str:
    found, name = f"{row}.automation_profile", _name(row, sql)
    return (
        f"(substr({found}, 1, {len(HEAD)}) = '{HEAD}' AND {sql['bare'].format(name)}"
        f" AND '{HEAD}' || {name} || '{TAIL}' = {found})"
    )


def _present_profile(row: str, sql: dict[str, str]) -> str:
    found = f"{row}.automation_profile"
    return (
        f"CASE WHEN {sql['blank'].format(found)} THEN 'balanced'\n"
        f"     WHEN {_is_wrapped(row, sql)}\n     THEN {_name(row, sql)} ELSE {found} END"
    )


def _former_profile(row: str, sql: dict[str, str]) -> str:
    found = f"{row}.automation_profile"
    return (
        f"CASE WHEN {found} = 'balanced' THEN NULL\n     WHEN {sql['bare'].format(found)}\n"
        f"     THEN '{HEAD}' || {found} || '{TAIL}' ELSE {found} END"
    )


def _is_root(row: str) -> str:
    return f"({row}.parent_plan_id IS NULL AND {row}.root_plan_id = {row}.plan_id)"


def _former_root(row: str) -> str:
    return f"CASE WHEN {_is_root(row)} THEN NULL ELSE {row}.root_plan_id END"


FILLED = f"{_is_root('t')} OR {POSTGRESQL['bare'].format('t.automation_profile')}"
EMPTY = f"""\
WITH batch AS MATERIALIZED (
  SELECT plan_id FROM {TABLE} t
   WHERE {{batch}} AND ({FILLED}) ORDER BY plan_id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {TABLE} t SET
  root_plan_id = {_former_root("t")},
  automation_profile = {_former_profile("t", POSTGRESQL)}
FROM batch WHERE t.plan_id = batch.plan_id"""
