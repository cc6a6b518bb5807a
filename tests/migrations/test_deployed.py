"""Databases that this chain did not create: whatever else is in them stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, make_url

from cleveragents_plans import open_engine
from support.databases import ENGINES, empty_database, migrate, roll_back
from support.rows import database_hash, schema_dump

FORMER = "m4_003_plan_env_columns"

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


def test_everything_that_it_does_not_know_stays_through_up_and_down(deployed: str):
    # As the former release wrote them: children knew their root.
    run(deployed, "UPDATE v3_plans SET root_plan_id = '01' WHERE plan_id <> '01'")
    rows, schema = database_hash(deployed), schema_dump(deployed)

    migrate(deployed, "head")
    between = schema_dump(deployed)
    roll_back(deployed, FORMER)

    assert database_hash(deployed) == rows
    assert schema_dump(deployed) == schema
    added = {entry[2] for entry in set(between) - set(schema)}
    assert added <= {
        "v3_plans",
        "effective_profile_snapshot",
        "root_plan_id",
        "automation_profile",
        "v3_plans_fill",
        "v3_plans_fill()",
        "v3_plans_root_of(character varying)",
        "v3_plans_root_plan_id_not_null",
        "v3_plans_automation_profile_not_null",
        "v3_plans_effective_profile_snapshot_not_null",
    }


def test_its_plans_get_their_roots_and_everything_around_them_goes_on_working(deployed: str):
    migrate(deployed, "head")

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
    with empty_database("postgresql-18", tmp_path) as url:
        migrate(url, "head")

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


def test_a_left_over_of_alembics_batch_mode_is_not_in_the_way(sqlite_url: str):
    migrate(sqlite_url, FORMER)
    run(
        sqlite_url,
        "CREATE TABLE _alembic_tmp_v3_plans (x)",
        "INSERT INTO _alembic_tmp_v3_plans VALUES (1)",
    )

    migrate(sqlite_url, "head")

    assert run(sqlite_url, "SELECT x FROM _alembic_tmp_v3_plans") == [(1,)]


def test_columns_that_are_there_already_are_left_with_their_values(postgresql_url: str):
    migrate(postgresql_url, FORMER)
    run(
        postgresql_url,
        "ALTER TABLE v3_plans ADD COLUMN effective_profile_snapshot TEXT NOT NULL DEFAULT '{}'",
        "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at,"
        " effective_profile_snapshot) VALUES ('01', 'a', '', '', '{\"a\":1}')",
    )

    migrate(postgresql_url, "head")

    assert run(postgresql_url, "SELECT effective_profile_snapshot FROM v3_plans") == [('{"a":1}',)]
