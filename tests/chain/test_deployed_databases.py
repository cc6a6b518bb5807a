"""Databases that this chain did not create: whatever else is in them stays as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import NullPool, make_url
from sqlalchemy.exc import IntegrityError

from cleveragents_plans import open_engine
from support.databases import ENGINES, database_at, empty_database, migrate, roll_back
from support.revisions import M4_003, M8_001
from support.rows import database_hash, schema_dump

# The application's own, longer chain made these: other types, further columns, an unnamed
# CHECK, a foreign key to another package's table, no index on root_plan_id.
TABLES = """\
CREATE TABLE actions (namespaced_name TEXT PRIMARY KEY);
CREATE TABLE plans (id INTEGER PRIMARY KEY, "what a legacy table holds" TEXT);
CREATE TABLE v3_plans (
  plan_id TEXT NOT NULL PRIMARY KEY, -- a ULID, with a comma (and a bracket
  parent_plan_id TEXT REFERENCES v3_plans (plan_id) ON DELETE SET NULL,
  root_plan_id TEXT REFERENCES v3_plans (plan_id) ON DELETE RESTRICT,
  "odd column" TEXT DEFAULT 'it''s (odd), NOT NULL',
  automation_profile TEXT,
  action_name TEXT NOT NULL REFERENCES actions (namespaced_name),
  priority INTEGER NOT NULL DEFAULT 5 CHECK (priority BETWEEN 1 AND 9),
  doubled INTEGER GENERATED ALWAYS AS (priority * 2) STORED,
  at TEXT, above TEXT, root TEXT, steps INTEGER, id TEXT, -- as the toolkit calls things itself
  CHECK (length(action_name) > 2),
  CONSTRAINT uq_v3_plans_odd UNIQUE ("odd column", plan_id)
);
CREATE INDEX ix_partial ON v3_plans (priority DESC) WHERE priority > 3;
CREATE UNIQUE INDEX ix_expression ON v3_plans (lower(plan_id));
CREATE TABLE plan_notes (
  plan_id TEXT NOT NULL REFERENCES v3_plans (plan_id) ON DELETE CASCADE, note TEXT);
CREATE TABLE audit (plan_id TEXT, was TEXT);
CREATE VIEW urgent_plans AS SELECT plan_id, automation_profile FROM v3_plans WHERE priority > 7;
CREATE VIEW urgent_ids AS SELECT plan_id FROM urgent_plans;
INSERT INTO actions VALUES ('local/tidy');
INSERT INTO plans VALUES (1, 'old');
INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, priority) VALUES
  ('01', NULL, 'local/tidy', 9), ('02', '01', 'local/tidy', 5), ('03', '02', 'local/tidy', 8);
INSERT INTO plan_notes VALUES ('01', 'one'), ('03', 'three');
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('m4_003_plan_env_columns')"""

TRIGGERS = {
    "sqlite": [
        "CREATE TRIGGER audit_plans AFTER UPDATE OF priority ON v3_plans BEGIN"
        " INSERT INTO audit VALUES (new.plan_id, old.priority); END",
        "CREATE TRIGGER note_plans AFTER INSERT ON plan_notes BEGIN"
        " UPDATE v3_plans SET priority = 6 WHERE plan_id = new.plan_id; END",
        "CREATE TRIGGER to_view INSTEAD OF DELETE ON urgent_plans BEGIN"
        " DELETE FROM v3_plans WHERE plan_id = old.plan_id; END",
    ],
    "postgresql": [
        "CREATE FUNCTION audit_plans() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO audit VALUES (new.plan_id, old.priority); RETURN new; END$$",
        "CREATE TRIGGER audit_plans AFTER UPDATE OF priority ON v3_plans"
        " FOR EACH ROW EXECUTE FUNCTION audit_plans()",
    ],
}


def run(url: str, *statements: str) -> list[tuple]:
    engine = open_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []


@pytest.fixture(params=ENGINES)
def deployed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        statements = TABLES.split(";\n")
        if request.param != "sqlite":
            # Another schema comes first in the search path, as in many installations.
            name = make_url(url).database
            run(url, "CREATE SCHEMA app", f'ALTER DATABASE "{name}" SET search_path = app, public')
        run(url, *statements, *TRIGGERS[url.split(":")[0].split("+")[0]])
        yield url


def test_unknown_objects_stay_through_up_and_down(deployed: str):
    # As the former release wrote them: children knew their root.
    run(deployed, "UPDATE v3_plans SET root_plan_id = '01' WHERE plan_id <> '01'")
    rows, schema = database_hash(deployed), schema_dump(deployed)

    migrate(deployed, M8_001)
    between = schema_dump(deployed)
    roll_back(deployed, M4_003)

    assert database_hash(deployed) == rows
    assert schema_dump(deployed) == schema
    added = {entry[2] for entry in set(between) - set(schema)}
    # SQLite keeps one text for the table; PostgreSQL names NOT NULL since 18.
    expected = {"v3_plans"}
    if not deployed.startswith("sqlite"):
        expected |= {
            "effective_profile_snapshot",
            "root_plan_id",
            "automation_profile",
            "v3_plans_fill",
            "v3_plans_fill()",
        }
        if any(kind == "constraint" and name.endswith("_not_null") for kind, _, name, _ in schema):
            expected |= {
                "v3_plans_root_plan_id_not_null",
                "v3_plans_automation_profile_not_null",
                "v3_plans_effective_profile_snapshot_not_null",
            }
    assert added == expected


def test_deployed_plans_get_their_roots_and_views_and_triggers_go_on_working(deployed: str):
    migrate(deployed, M8_001)

    assert run(
        deployed,
        "SELECT plan_id, root_plan_id, automation_profile, doubled FROM v3_plans ORDER BY 1",
    ) == [
        ("01", "01", "balanced", 18),
        ("02", "01", "balanced", 10),
        ("03", "01", "balanced", 16),
    ]
    assert run(deployed, "SELECT plan_id FROM urgent_ids ORDER BY 1") == [("01",), ("03",)]
    assert run(deployed, "SELECT * FROM audit") == []  # no trigger of theirs fired for us
    run(deployed, "UPDATE v3_plans SET priority = 7 WHERE plan_id = '02'")
    assert run(deployed, "SELECT plan_id, was FROM audit") == [("02", "5")]
    run(deployed, "DELETE FROM v3_plans WHERE plan_id = '03'")
    assert run(deployed, "SELECT plan_id FROM plan_notes") == [("01",)]


def test_clients_with_another_search_path_can_still_insert_plans(tmp_path: Path):
    with database_at(M8_001, "postgresql-18", tmp_path) as url:
        run(
            url,
            "SET search_path = pg_catalog",
            "INSERT INTO public.v3_plans (plan_id, action_name, created_at, updated_at)"
            " VALUES ('01', 'local/tidy', '', '')",
            "INSERT INTO public.v3_plans (plan_id, parent_plan_id, action_name, created_at,"
            " updated_at) VALUES ('02', '01', 'local/tidy', '', '')",
        )

        assert run(url, "SELECT plan_id, root_plan_id FROM v3_plans ORDER BY 1") == [
            ("01", "01"),
            ("02", "01"),
        ]


def test_table_left_by_alembics_batch_mode_does_not_stop_the_upgrade(sqlite_url: str):
    migrate(sqlite_url, M4_003)
    run(
        sqlite_url,
        "CREATE TABLE _alembic_tmp_v3_plans (x)",
        "INSERT INTO _alembic_tmp_v3_plans VALUES (1)",
    )

    migrate(sqlite_url, M8_001)

    assert run(sqlite_url, "SELECT x FROM _alembic_tmp_v3_plans") == [(1,)]


@pytest.mark.parametrize("engine", ENGINES)
def test_snapshot_column_that_exists_already_keeps_its_values(engine: str, tmp_path: Path):
    with database_at(M4_003, engine, tmp_path) as url:
        run(
            url,
            "ALTER TABLE v3_plans ADD COLUMN effective_profile_snapshot TEXT NOT NULL DEFAULT '{}'",
            "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at,"
            " effective_profile_snapshot) VALUES ('01', 'a', '', '', '{\"a\":1}')",
        )

        migrate(url, M8_001)

        assert run(url, "SELECT effective_profile_snapshot FROM v3_plans") == [('{"a":1}',)]


def test_plans_are_found_in_a_later_schema_of_the_search_path_with_all_objects_beside_them(
    postgresql_url: str,
):
    migrate(postgresql_url, M8_001)
    run(
        postgresql_url,
        "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at,"
        " effective_profile_snapshot) VALUES ('01', 'a', '', '', '{\"a\":1}')",
        "CREATE SCHEMA app",
    )
    name = make_url(postgresql_url).database
    where = (
        "SELECT pronamespace::regnamespace::text, proname FROM pg_proc"
        " WHERE proname IN ('v3_plans_fill', 'v3_plans_keep', 'v3_plans_unfill')"
        " UNION ALL SELECT relnamespace::regnamespace::text, relname FROM pg_class"
        " WHERE relname = 'v3_plans_snapshot_archive'"
    )

    run(postgresql_url, f'ALTER DATABASE "{name}" SET search_path = app, public')
    roll_back(postgresql_url, M4_003)
    assert run(postgresql_url, where) == [("public", "v3_plans_snapshot_archive")]
    migrate(postgresql_url, M8_001)
    assert run(postgresql_url, where) == [("public", "v3_plans_fill")]
    run(postgresql_url, f'ALTER DATABASE "{name}" RESET search_path')
    roll_back(postgresql_url, M4_003)
    migrate(postgresql_url, M8_001)

    assert run(postgresql_url, where) == [("public", "v3_plans_fill")]
    assert run(postgresql_url, "SELECT effective_profile_snapshot FROM v3_plans") == [('{"a":1}',)]


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (
            "CHECK (length(action_name) > 2) NOT VALID",
            "is NOT VALID, and rows break it, such as 01",
        ),
        (
            "CHECK (automation_profile IS NULL OR automation_profile LIKE '{%')",
            "would refuse automation_profile = 'balanced'",
        ),
    ],
)
def test_check_that_would_refuse_the_rows_stops_the_upgrade_before_any_change(
    postgresql_url: str, check: str, told: str
):
    migrate(postgresql_url, M4_003)
    run(
        postgresql_url,
        "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
        " VALUES ('01', 'a', '', '')",
        f"ALTER TABLE v3_plans ADD CONSTRAINT strict {check}".replace("%", "%%"),
    )
    before = database_hash(postgresql_url), schema_dump(postgresql_url)

    with pytest.raises(CommandError, match=f"the CHECK strict of v3_plans {told}") as refused:
        migrate(postgresql_url, M8_001)
    assert "\n" not in str(refused.value)
    assert (database_hash(postgresql_url), schema_dump(postgresql_url)) == before
    run(postgresql_url, "ALTER TABLE v3_plans DROP CONSTRAINT strict")
    migrate(postgresql_url, M8_001)


def test_view_of_the_snapshots_stops_the_downgrade_before_any_change(postgresql_url: str):
    migrate(postgresql_url, M8_001)
    run(
        postgresql_url,
        "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
        " VALUES ('01', 'a', '', '')",
        "CREATE VIEW report AS SELECT * FROM v3_plans",
    )
    before = database_hash(postgresql_url), schema_dump(postgresql_url)

    with pytest.raises(
        CommandError, match=r"effective_profile_snapshot.* is used by view public.report"
    ):
        roll_back(postgresql_url, M4_003)

    assert (database_hash(postgresql_url), schema_dump(postgresql_url)) == before


def test_rule_of_a_table_that_uses_the_snapshots_is_named_as_a_rule(postgresql_url: str):
    migrate(postgresql_url, M8_001)
    run(
        postgresql_url,
        "CREATE TABLE own (a text)",
        "CREATE RULE log AS ON INSERT TO own"
        " DO ALSO SELECT effective_profile_snapshot FROM v3_plans",
        "CREATE MATERIALIZED VIEW counted AS SELECT effective_profile_snapshot FROM v3_plans",
    )

    with pytest.raises(
        CommandError,
        match=r"is used by rule log on table public.own, view public.counted; drop that first",
    ):
        roll_back(postgresql_url, M4_003)


def test_triggers_that_fire_for_every_plan_are_named_first(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
):
    migrate(postgresql_url, M4_003)
    run(
        postgresql_url,
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN new.updated_at := 'touched'; RETURN new; END$$",
        "CREATE TRIGGER touch BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE TRIGGER roots AFTER UPDATE OF root_plan_id ON v3_plans"
        " FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE TRIGGER other AFTER UPDATE OF attempt ON v3_plans"
        " FOR EACH ROW EXECUTE FUNCTION touch()",
    )

    for step in (
        lambda: migrate(postgresql_url, M8_001),
        lambda: roll_back(postgresql_url, M4_003),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "alembic.evolution"):
            step()
        assert "will fire for every row that is written: roots, touch;" in caplog.text


def test_ids_of_another_type_and_collation_find_their_snapshots_by_an_index(postgresql_url: str):
    migrate(postgresql_url, M4_003)
    columns = ("plan_id", "parent_plan_id", "root_plan_id")
    changes = ", ".join(f'ALTER {column} TYPE TEXT COLLATE "C"' for column in columns)
    run(postgresql_url, f"ALTER TABLE v3_plans {changes}")
    migrate(postgresql_url, M8_001)
    run(
        postgresql_url,
        "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at,"
        " effective_profile_snapshot) SELECT 'an id longer than a ULID ' || n, 'a', '', '', '[1]'"
        " FROM generate_series(1, 10) n",
    )

    roll_back(postgresql_url, M4_003)

    plan = run(
        postgresql_url,
        "SET enable_seqscan = off",
        "EXPLAIN SELECT 1 FROM v3_plans t WHERE NOT EXISTS"
        " (SELECT 1 FROM v3_plans_snapshot_archive a WHERE a.plan_id = t.plan_id)",
    )
    assert "uq_v3_plans_snapshot_archive_plan_id" in str(plan)
    migrate(postgresql_url, M8_001)
    kept = "SELECT count(*) FROM v3_plans WHERE effective_profile_snapshot = '[1]'"
    assert run(postgresql_url, kept) == [(10,)]


@pytest.mark.parametrize("engine", ENGINES)
def test_snapshot_column_of_another_shape_gets_the_specified_one(engine: str, tmp_path: Path):
    with database_at(M8_001, engine, tmp_path) as url:
        wanted = schema_dump(url)
        roll_back(url, M4_003)
        run(
            url,
            "ALTER TABLE v3_plans ADD COLUMN effective_profile_snapshot TEXT",
            "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
            " VALUES ('01', 'a', '', '')",
        )

        migrate(url, M8_001)

        found, expected = dict.fromkeys(schema_dump(url)), dict.fromkeys(wanted)
        if engine == "sqlite":  # where a text says the same in another order of words
            found, expected = ([entry[:3] for entry in dump] for dump in (found, expected))
        assert found == expected
        assert run(url, "SELECT effective_profile_snapshot FROM v3_plans") == [("{}",)]
        with pytest.raises(IntegrityError):
            run(url, "UPDATE v3_plans SET effective_profile_snapshot = NULL")
