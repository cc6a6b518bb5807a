"""PostgreSQL databases of unusual shape: up, down and up again, or refused before any change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from support import debian
from support.databases import ENGINES, chain, empty_database, migrate, roll_back
from support.former_release import true_roots
from support.revisions import HEAD, M4_003, M8_001
from support.rows import database_hash, schema_dump

SERVERS = [engine for engine in ENGINES if engine != "sqlite"]

COLUMNS = """\
  plan_id {id} NOT NULL,
  parent_plan_id {id},
  root_plan_id {id},
  automation_profile {profile},
  action_name TEXT NOT NULL DEFAULT 'local/tidy',
  description TEXT NOT NULL DEFAULT ''{more}"""

KEYS = (
    "ALTER TABLE v3_plans ADD CONSTRAINT pk_v3_plans PRIMARY KEY (plan_id)",
    "ALTER TABLE v3_plans ADD CONSTRAINT fk_v3_plans_parent_plan_id FOREIGN KEY (parent_plan_id)"
    " REFERENCES v3_plans (plan_id) ON DELETE SET NULL{deferred}",
    "ALTER TABLE v3_plans ADD CONSTRAINT fk_v3_plans_root_plan_id FOREIGN KEY (root_plan_id)"
    " REFERENCES v3_plans (plan_id) ON DELETE RESTRICT",
    "CREATE INDEX ix_v3_plans_root_plan_id ON v3_plans (root_plan_id)",
    "CREATE TABLE plan_notes (plan_id {id} NOT NULL REFERENCES v3_plans (plan_id)"
    " ON DELETE CASCADE, note TEXT)",
)

STAMP = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    f"INSERT INTO alembic_version VALUES ('{M4_003}')",
)

#: A forest of 400 plans, three levels deep, as the former release wrote it.
PLANS = """\
INSERT INTO v3_plans (plan_id, parent_plan_id, root_plan_id, automation_profile)
SELECT 'P' || lpad(n::text, 6, '0'),
       CASE WHEN n > 20 THEN 'P' || lpad((n / 20)::text, 6, '0') END,
       NULL,
       CASE n % 5 WHEN 0 THEN '{"profile_name":"ci","provenance":"plan"}' END
  FROM generate_series(1, 400) n"""

SHAPES: dict[str, dict[str, object]] = {
    "plain": {},
    "char(26)": {"id": "CHAR(26)"},
    "ids and profiles of a domain": {
        "before": ["CREATE DOMAIN ulid AS varchar(26) CHECK (length(VALUE) > 2)",
                   "CREATE DOMAIN profile AS text CHECK (VALUE <> 'forbidden')"],
        "id": "ulid",
        "profile": "profile",
    },
    "generated columns": {
        "more": ",\n  shout TEXT GENERATED ALWAYS AS (upper(action_name)) STORED,\n"
                "  is_child BOOLEAN GENERATED ALWAYS AS (parent_plan_id IS NOT NULL) STORED",
    },
    "an identity column and mixed-case columns": {
        "more": ',\n  "Number" INTEGER GENERATED ALWAYS AS IDENTITY,'
                ' "Mixed Case" TEXT DEFAULT \'"\'',
    },
    "deferred constraints": {"deferred": " DEFERRABLE INITIALLY DEFERRED"},
    "partitions by hash": {
        "options": " PARTITION BY HASH (plan_id)",
        "after_table": [
            f"CREATE TABLE v3_plans_{n} PARTITION OF v3_plans FOR VALUES"
            f" WITH (MODULUS 3, REMAINDER {n})" for n in range(3)
        ],
    },
    "an unlogged table": {"kind": "UNLOGGED ", "note": "UNLOGGED "},
    "row level security forced": {
        "after": ["ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY",
                  "ALTER TABLE v3_plans FORCE ROW LEVEL SECURITY",
                  "CREATE POLICY all_rows ON v3_plans USING (true) WITH CHECK (true)"],
    },
    "an INCLUDE index, a BRIN index and statistics": {
        "after": ["CREATE INDEX ix_odd ON v3_plans (action_name) INCLUDE (automation_profile)",
                  "CREATE INDEX ix_brin ON v3_plans USING brin (plan_id)",
                  "CREATE STATISTICS st_odd ON automation_profile, root_plan_id FROM v3_plans"],
    },
    "a fillfactor and a storage mode": {
        "after": ["ALTER TABLE v3_plans SET (fillfactor = 50, autovacuum_enabled = false)",
                  "ALTER TABLE v3_plans ALTER automation_profile SET STORAGE EXTERNAL"],
    },
    "a materialized view and a rule on a view": {
        "after": ["CREATE MATERIALIZED VIEW seen AS SELECT plan_id, root_plan_id FROM v3_plans",
                  "CREATE VIEW shown AS SELECT plan_id FROM v3_plans",
                  "CREATE RULE no_delete AS ON DELETE TO shown DO INSTEAD NOTHING"],
    },
    "dropped columns before": {
        "after": ["ALTER TABLE v3_plans ADD gone1 TEXT", "ALTER TABLE v3_plans ADD gone2 INT",
                  "ALTER TABLE v3_plans DROP gone1", "ALTER TABLE v3_plans DROP gone2"],
    },
}  # fmt: skip


# The server of the wheel is built without ICU, that of Debian with it.
ICU_SHAPES: dict[str, dict[str, object]] = {
    "text ids in an ICU collation": {"id": 'TEXT COLLATE "en-x-icu"'},
    "ids in a nondeterministic collation": {
        "before": ["CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2',"
                   " deterministic = false)"],
        "id": "TEXT COLLATE nocase",
    },
}  # fmt: skip


def run(url: str, *statements: str) -> list[tuple]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement.replace("%", "%%"))
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def build(url: str, shape: dict, *, plans: str = PLANS) -> None:
    names = {
        "id": shape.get("id", "VARCHAR(26)"),
        "profile": shape.get("profile", "TEXT"),
        "more": shape.get("more", ""),
        "deferred": shape.get("deferred", ""),
    }
    table = f"CREATE {shape.get('kind', '')}TABLE v3_plans (\n{COLUMNS.format(**names)}\n)"
    keys = [key.format(**names) for key in KEYS]
    if shape.get("note"):
        keys = [key.replace("CREATE TABLE plan_notes", "CREATE UNLOGGED TABLE plan_notes")
                for key in keys]  # fmt: skip
    run(
        url,
        *shape.get("before", ()),
        table + str(shape.get("options", "")),
        *shape.get("after_table", ()),
        *keys,
        *STAMP,
        plans,
        *shape.get("after", ()),
    )


def up_down_and_up(url: str) -> None:
    expected = true_roots(url)
    schema = schema_dump(url)

    migrate(url, M8_001)
    rows = dict(run(url, "SELECT plan_id, root_plan_id FROM v3_plans"))
    assert {key: str(root) for key, root in rows.items()} == expected
    ((gaps,),) = run(
        url,
        "SELECT count(*) FROM v3_plans WHERE automation_profile IS NULL"
        " OR effective_profile_snapshot <> '{}'",
    )
    assert gaps == 0
    up = database_hash(url)

    roll_back(url, M4_003)
    assert schema_dump(url) == schema

    migrate(url, M8_001)
    assert database_hash(url) == up


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.mark.parametrize("shape", SHAPES)
def test_table_of_an_unusual_shape_is_upgraded_downgraded_and_upgraded_again(url: str, shape: str):
    build(url, SHAPES[shape])

    up_down_and_up(url)


def test_partitioned_table_gets_no_index_and_is_refused_before_any_change(url: str):
    build(url, SHAPES["partitions by hash"])
    before = database_hash(url)

    assert "is partitioned" in " ".join(each.found for each in preflight(chain(url)).blocks)
    with pytest.raises(EvolutionError, match=r"is partitioned.*changed nothing"):
        migrate(url, HEAD)

    assert database_hash(url) == before


@pytest.mark.parametrize("shape", ICU_SHAPES)
def test_ids_in_an_icu_collation_are_upgraded_downgraded_and_upgraded_again(
    tmp_path: Path, shape: str
):
    debian.program("postgresql-15")
    with empty_database("postgresql-15", tmp_path) as url:
        build(url, ICU_SHAPES[shape])

        up_down_and_up(url)


ODD_IDS = {
    "quotes and backslashes": """E'it''s "' || n || '" \\\\ % :x'""",
    "spaces and line ends": "' ' || n || E' \\n'",
    "very long": "repeat('x', 2000) || n",
    "scripts": "'計画 ñ 🎉 ' || n",
    "the empty text": "CASE n WHEN 1 THEN '' ELSE n::text END",
    "comments": "'/* ' || n || ' -- '",
}


@pytest.mark.parametrize("ids", ODD_IDS)
def test_ids_that_are_no_ulids_get_their_roots(url: str, ids: str):
    plans = f"""\
INSERT INTO v3_plans (plan_id, parent_plan_id)
SELECT {ODD_IDS[ids]}, (SELECT {ODD_IDS[ids]} FROM (SELECT n / 2 AS n WHERE n > 3) above)
  FROM generate_series(1, 60) n"""
    build(url, {"id": "TEXT"}, plans=plans)

    up_down_and_up(url)


def test_descriptions_of_a_megabyte_are_left_alone(url: str):
    build(url, {})
    run(
        url,
        "UPDATE v3_plans SET description = repeat(md5(plan_id), 32768) WHERE plan_id <= 'P000040'",
    )

    up_down_and_up(url)


def test_upgrade_works_in_a_mixed_case_schema(url: str):
    name = make_url(url).database
    run(
        url, 'CREATE SCHEMA "Mixed Case"', f'ALTER DATABASE "{name}" SET search_path = "Mixed Case"'
    )
    build(url, {})

    up_down_and_up(url)

    assert run(url, "SELECT schemaname FROM pg_tables WHERE tablename = 'v3_plans'") == [
        ("Mixed Case",)
    ]


def test_foreign_key_that_a_client_checks_late_does_not_break_a_batch(url: str):
    build(url, {"deferred": " DEFERRABLE INITIALLY DEFERRED"})
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO v3_plans (plan_id, parent_plan_id) VALUES ('Z1', 'Z0')")
        )
        connection.execute(text("INSERT INTO v3_plans (plan_id) VALUES ('Z0')"))
    engine.dispose()

    up_down_and_up(url)


EVENT_TRIGGER = (
    "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
    " $$BEGIN RAISE EXCEPTION 'no ALTER TABLE today'; END$$",
    "CREATE EVENT TRIGGER forbid ON ddl_command_start WHEN TAG IN ('ALTER TABLE')"
    " EXECUTE FUNCTION forbid()",
)
REFUSED: dict[str, tuple[list[str], str]] = {
    "its row type in another table": (
        ["CREATE TABLE uses (plan v3_plans)"],
        "v3_plans is the type of public.uses.plan, so that PostgreSQL adds no column to it",
    ),
    "its row type in an array of a composite type": (
        ["CREATE TYPE pair AS (one v3_plans, n int)", "CREATE TABLE uses (plans pair[])"],
        "v3_plans is the type of public.uses.plans",
    ),
    "an event trigger that forbids ALTER TABLE": (
        list(EVENT_TRIGGER), r"\(no ALTER TABLE today\)",
    ),
    "a type that it is made of": (
        ["DO $$BEGIN EXECUTE (SELECT format('CREATE TYPE plan AS (%s)', string_agg(format('%I %s',"
         " attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)) FROM pg_attribute"
         " WHERE attrelid = 'v3_plans'::regclass AND attnum > 0); END$$",
         "ALTER TABLE v3_plans OF plan"],
        "v3_plans is made of the type public.plan, so that PostgreSQL adds no column to it, "
        "and drops none; run ALTER TABLE public.v3_plans NOT OF; nothing was changed",
    ),
    "1,600 columns": (
        ["ALTER TABLE v3_plans " + ", ".join(f"ADD c{n} int" for n in range(1594))],
        "has or had 1600 columns, and PostgreSQL allows 1600",
    ),
    "1,600 columns, some of them dropped": (
        ["ALTER TABLE v3_plans " + ", ".join(f"ADD c{n} int" for n in range(1594)),
         "ALTER TABLE v3_plans DROP c1, DROP c2, DROP c3"],
        "has or had 1600 columns",
    ),
    "a rule on UPDATE": (
        ["CREATE RULE never AS ON UPDATE TO v3_plans DO INSTEAD NOTHING"],
        "v3_plans has rules that would be run instead of, or beside, each UPDATE: never",
    ),
    "a foreign table that inherits": (
        ["CREATE EXTENSION file_fdw", "CREATE SERVER far FOREIGN DATA WRAPPER file_fdw",
         "CREATE FOREIGN TABLE archived () INHERITS (v3_plans) SERVER far"
         " OPTIONS (filename '/dev/null', format 'csv')"],
        "v3_plans is inherited by the foreign table public.archived: PostgreSQL alters that, but "
        "not the table of the other server; run ALTER TABLE public.archived NO INHERIT "
        "public.v3_plans for the time of this run",
    ),
    "a column of a range of its rows": (
        ["CREATE TYPE plans AS RANGE (subtype = v3_plans)", "CREATE TABLE odd (held plans)"],
        "v3_plans is the type of public.odd.held, so that PostgreSQL adds no column to it",
    ),
    "a column of the row type of a table that inherits": (
        ["CREATE TABLE kid () INHERITS (v3_plans)", "CREATE TABLE odd (held kid)"],
        "v3_plans is the type of public.odd.held, so that PostgreSQL adds no column to it",
    ),
    "keys of citext": (
        ["CREATE EXTENSION citext",
         "DO $$DECLARE k record; BEGIN FOR k IN SELECT conrelid::regclass AS t, conname FROM"
         " pg_constraint WHERE contype = 'f' LOOP"
         " EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', k.t, k.conname); END LOOP; END$$",
         *(f"ALTER TABLE v3_plans ALTER {name} TYPE citext"
           for name in ("plan_id", "parent_plan_id", "root_plan_id"))],
        "v3_plans has plan_id of the type public.citext, whose equality a run does not look up, "
        "so that parents would be missed; change its type to text",
    ),
    "an index over a part of the profile": (
        ["CREATE INDEX odd ON v3_plans ((automation_profile::jsonb ->> 'profile_name'))"],
        r"v3_plans has the index odd, which would refuse automation_profile = 'balanced' "
        r"\(PostgreSQL says: invalid input syntax for type json\); drop it",
    ),
    "a partial index": (
        ["CREATE INDEX odd ON v3_plans (plan_id) WHERE parent_plan_id IS NULL"
         " AND (automation_profile::jsonb ->> 'profile_name') = 'ci'"],
        "v3_plans has the index odd, which would refuse automation_profile = 'balanced'",
    ),
    "a stored generated column": (
        ["ALTER TABLE v3_plans ADD odd TEXT GENERATED ALWAYS AS"
         " (automation_profile::jsonb ->> 'profile_name') STORED"],
        "v3_plans has the generated column odd, which would refuse automation_profile = 'balanced'",
    ),
    "the condition of a trigger": (
        ["CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
         "CREATE TRIGGER odd BEFORE INSERT OR UPDATE ON v3_plans FOR EACH ROW"
         " WHEN (new.plan_id <> ')' AND (new.automation_profile::jsonb ->> 'profile_name') = 'ci')"
         " EXECUTE FUNCTION odd()"],
        "v3_plans has the trigger odd, which would refuse automation_profile = 'balanced'",
    ),
    "a foreign key of the profile": (
        ["CREATE TABLE odd (profile text PRIMARY KEY)",
         "INSERT INTO odd SELECT DISTINCT automation_profile FROM v3_plans"
         " WHERE automation_profile IS NOT NULL",
         "ALTER TABLE v3_plans ADD CONSTRAINT odd FOREIGN KEY (automation_profile) REFERENCES odd"],
        "v3_plans has the foreign key odd, which would refuse automation_profile = 'balanced': "
        "public.odd has no such row; insert it there, or drop the foreign key",
    ),
    "a view of its name": (
        ["ALTER TABLE v3_plans RENAME TO plans", "CREATE VIEW v3_plans AS SELECT * FROM plans"],
        "v3_plans is a view; expected a table",
    ),
}  # fmt: skip


@pytest.mark.parametrize("found", REFUSED)
def test_what_would_stop_a_run_half_way_is_refused_before_any_change(url: str, found: str):
    statements, message = REFUSED[found]
    build(url, {})
    run(url, *statements)
    before = schema_dump(url), database_hash(url)

    with pytest.raises(EvolutionError, match=message) as refused:
        migrate(url, M8_001)

    assert "\n" not in str(refused.value)
    assert "nothing was changed" in str(refused.value)
    assert (schema_dump(url), database_hash(url)) == before
    with pytest.raises(EvolutionError, match=r"."):
        migrate(url, M8_001)
    assert run(url, "SELECT obj_description('alembic_version'::regclass, 'pg_class')") == [(None,)]


REFUSED_BY_A_DOWNGRADE = {
    "a CHECK of the profile": (
        ["ALTER TABLE v3_plans ADD CONSTRAINT odd CHECK (automation_profile IS NOT NULL)"],
        "the CHECK odd of v3_plans would refuse root_plan_id = NULL and automation_profile = NULL; "
        "let it pass, or drop it",
    ),
    "a CHECK of the root": (
        ["ALTER TABLE v3_plans ADD CONSTRAINT odd CHECK (root_plan_id IS NOT NULL)"],
        "the CHECK odd of v3_plans would refuse root_plan_id = NULL",
    ),
    "a CHECK of a table that inherits": (
        ["CREATE TABLE kid (CONSTRAINT odd CHECK (root_plan_id IS NOT NULL)) INHERITS (v3_plans)"],
        "the CHECK odd of public.kid would refuse root_plan_id = NULL",
    ),
    "a stored generated column": (
        ["ALTER TABLE v3_plans ADD odd TEXT GENERATED ALWAYS AS"
         " (lower(automation_profile)) STORED NOT NULL"],
        "v3_plans has the generated column odd, which would refuse root_plan_id = NULL and "
        r"automation_profile = NULL \(it is NOT NULL\); drop it",
    ),
    "a generated column over others, too": (
        ["ALTER TABLE v3_plans ADD odd TEXT GENERATED ALWAYS AS"
         " (coalesce(parent_plan_id, root_plan_id)) STORED NOT NULL"],
        "v3_plans has the generated column odd, which would refuse root_plan_id = NULL and ",
    ),
}  # fmt: skip
PASSED_BY_A_DOWNGRADE = [
    "CONSTRAINT odd CHECK (automation_profile <> 'none')",
    "odd TEXT GENERATED ALWAYS AS (coalesce(root_plan_id, plan_id)) STORED NOT NULL",
    "odd TEXT GENERATED ALWAYS AS"
    " (CASE WHEN parent_plan_id IS NULL THEN plan_id ELSE root_plan_id END) STORED NOT NULL",
    "odd TEXT GENERATED ALWAYS AS (automation_profile) STORED",
    """ "a %(b)s ""c"" 'd'" TEXT DEFAULT 'x' NOT NULL""",
]


@pytest.mark.parametrize("found", REFUSED_BY_A_DOWNGRADE)
def test_what_would_stop_a_downgrade_half_way_is_refused_before_any_change(url: str, found: str):
    statements, message = REFUSED_BY_A_DOWNGRADE[found]
    build(url, {})
    migrate(url, M8_001)
    run(url, *statements)
    before = schema_dump(url), database_hash(url)

    with pytest.raises(EvolutionError, match=message) as refused:
        roll_back(url, M4_003)

    assert "nothing was changed" in str(refused.value)
    assert (schema_dump(url), database_hash(url)) == before


@pytest.mark.parametrize("added", PASSED_BY_A_DOWNGRADE)
def test_what_takes_the_values_of_the_former_release_lets_a_downgrade_pass(url: str, added: str):
    build(url, {})
    migrate(url, M8_001)
    run(url, f"ALTER TABLE v3_plans ADD {added}")

    roll_back(url, M4_003)
    migrate(url, M8_001)


def test_rows_of_a_table_that_inherits_do_not_block_a_downgrade(url: str):
    build(url, {})
    migrate(url, M8_001)
    run(
        url,
        "CREATE TABLE kid () INHERITS (v3_plans)",
        "INSERT INTO kid SELECT * FROM ONLY v3_plans WHERE parent_plan_id IS NULL",
    )

    assert preflight(chain_config(url), M4_003).blocks == ()
    roll_back(url, M4_003)


WARNED = {
    "a unique index over an expression": (
        ["CREATE UNIQUE INDEX odd ON v3_plans ((coalesce(root_plan_id, plan_id)), plan_id)"],
        "v3_plans has the unique index odd, over root_plan_id, which is written",
    ),
    "a foreign key of the roots": (
        ["CREATE TABLE odd (id varchar(26) PRIMARY KEY)",
         "INSERT INTO odd SELECT plan_id FROM v3_plans",
         "ALTER TABLE v3_plans ADD CONSTRAINT odd FOREIGN KEY (root_plan_id) REFERENCES odd"],
        "v3_plans has the foreign key odd, over a column that is written",
    ),
    "a foreign key to the profile": (
        ["ALTER TABLE v3_plans ADD CONSTRAINT u UNIQUE (automation_profile, plan_id)",
         "CREATE TABLE odd (p text, id varchar(26), CONSTRAINT odd FOREIGN KEY (p, id)"
         " REFERENCES v3_plans (automation_profile, plan_id))"],
        "v3_plans has the foreign key odd of public.odd to it, over a column that is written",
    ),
    "a unique index": (
        ["ALTER TABLE v3_plans ADD CONSTRAINT odd UNIQUE (root_plan_id, plan_id)"],
        "v3_plans has the unique index odd, over root_plan_id, which is written",
    ),
}  # fmt: skip


@pytest.mark.parametrize("found", WARNED)
def test_keys_that_may_refuse_what_is_written_are_warned_of(
    url: str, found: str, caplog: pytest.LogCaptureFixture
):
    statements, message = WARNED[found]
    build(url, {})
    run(url, *statements)

    up_down_and_up(url)

    assert message in caplog.text


def test_virtual_column_that_cannot_be_read_any_more_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with empty_database("postgresql-18", tmp_path) as url:
        build(url, {})
        run(
            url,
            "ALTER TABLE v3_plans ADD odd TEXT GENERATED ALWAYS AS"
            " (automation_profile::jsonb ->> 'profile_name') VIRTUAL",
        )
        migrate(url, M8_001)

    assert "v3_plans has the generated column odd, which cannot be read any more" in caplog.text


def test_row_that_a_foreign_key_of_the_profile_refers_to_lets_the_run_pass(url: str):
    build(url, {})
    run(url, *REFUSED["a foreign key of the profile"][0], "INSERT INTO odd VALUES ('balanced')")

    migrate(url, M8_001)


def test_check_that_is_not_enforced_refuses_nothing(tmp_path: Path):
    with empty_database("postgresql-18", tmp_path) as url:
        build(url, {})
        run(
            url,
            "ALTER TABLE v3_plans ADD CONSTRAINT a CHECK (automation_profile <> 'balanced')"
            " NOT ENFORCED",
            "ALTER TABLE v3_plans ADD CONSTRAINT b CHECK (action_name = 'none') NOT ENFORCED",
        )

        up_down_and_up(url)


@pytest.mark.parametrize("profile", ["JSONB", "JSON", "INTEGER", "VARCHAR(5)", "BYTEA", "BOOLEAN"])
def test_column_that_cannot_hold_the_name_of_a_profile_is_refused(url: str, profile: str):
    build(url, {"profile": profile}, plans="INSERT INTO v3_plans (plan_id) VALUES ('P1')")
    before = schema_dump(url), database_hash(url)

    with pytest.raises(EvolutionError, match=r"PostgreSQL .*; nothing was changed$") as refused:
        migrate(url, M8_001)

    assert "\n" not in str(refused.value)
    assert (schema_dump(url), database_hash(url)) == before


def test_event_trigger_is_found_before_a_downgrade_too(url: str):
    build(url, {})
    migrate(url, M8_001)
    run(url, *EVENT_TRIGGER)
    before = schema_dump(url), database_hash(url)

    with pytest.raises(EvolutionError, match=r"no ALTER TABLE today.*nothing was changed"):
        roll_back(url, M4_003)

    assert (schema_dump(url), database_hash(url)) == before
    run(url, "DROP EVENT TRIGGER forbid")
    roll_back(url, M4_003)


RECORD = (
    "CREATE TABLE changes (tag text)",
    "CREATE FUNCTION record() RETURNS event_trigger LANGUAGE plpgsql AS"
    " $$BEGIN INSERT INTO changes VALUES (tg_tag); END$$",
    "CREATE EVENT TRIGGER record ON ddl_command_end EXECUTE FUNCTION record()",
)


def test_event_trigger_that_records_finds_its_table_by_the_search_path_of_the_role(url: str):
    build(url, {})
    run(url, *RECORD, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")

    migrate(url, M8_001)
    roll_back(url, M4_003)
    migrate(url, M8_001)

    tags = {tag for (tag,) in run(url, "SELECT DISTINCT tag FROM changes")}
    assert {"CREATE FUNCTION", "CREATE TRIGGER", "ALTER TABLE", "DROP TRIGGER"} <= tags


def test_event_trigger_that_counts_on_a_schema_of_other_roles_is_refused(url: str):
    build(url, {})
    run(url, *RECORD, "GRANT CREATE ON SCHEMA public TO PUBLIC")

    with pytest.raises(
        EvolutionError, match=r'relation "changes" does not exist.*event trigger'
    ) as refused:
        migrate(url, M8_001)

    assert "nothing was changed" in str(refused.value)
    run(url, "ALTER FUNCTION record() SET search_path = public")
    migrate(url, M8_001)
    assert run(url, "SELECT count(*) > 0 FROM changes") == [(True,)]
