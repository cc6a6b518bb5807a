"""A table of plans without its key is refused before any change, and named by verify."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.util import CommandError

from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Kind, verify
from support.broken import break_database, store_family
from support.databases import (
    ONE_OF_EACH,
    SERVERS,
    database_at,
    database_with,
    migrate,
    roll_back,
)
from support.former_release import true_roots, write_former_release
from support.revisions import HEAD, M4_003, M8_001
from support.rows import database_hash, schema_dump

WITHOUT_KEY = "ALTER TABLE v3_plans DROP CONSTRAINT pk_v3_plans CASCADE"
# Of `pg_restore`, the sections pre-data and data.
WITHOUT_POST_DATA = """\
DO $$ DECLARE each record; BEGIN
  FOR each IN SELECT conrelid::regclass AS of, quote_ident(conname) AS name FROM pg_constraint
               WHERE contype IN ('p', 'u', 'f') AND connamespace = 'public'::regnamespace
               ORDER BY contype LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s CASCADE', each.of, each.name);
  END LOOP;
  FOR each IN SELECT indexrelid::regclass AS name FROM pg_index JOIN pg_class c ON c.oid = indrelid
               WHERE c.relnamespace = 'public'::regnamespace LOOP
    EXECUTE format('DROP INDEX %s', each.name);
  END LOOP;
END $$"""
#: What takes the key away, and what is said.
KEYLESS = {
    "a restore without its last section": (
        (WITHOUT_POST_DATA,),
        r"run ALTER TABLE public\.v3_plans ADD PRIMARY KEY \(plan_id\)",
    ),
    "an index that was not built": (
        (WITHOUT_KEY, "CREATE UNIQUE INDEX mine ON v3_plans (plan_id)",
         "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mine'::regclass"),
        r"no valid unique index covers alone; run ALTER TABLE public\.v3_plans ADD PRIMARY KEY",
    ),
    "an index of some rows": (
        (WITHOUT_KEY, "CREATE UNIQUE INDEX mine ON v3_plans (plan_id) WHERE phase = 'action'"),
        r"run ALTER TABLE public\.v3_plans ADD PRIMARY KEY \(plan_id\)",
    ),
    "a row without a key": (
        (WITHOUT_KEY, "ALTER TABLE v3_plans ALTER plan_id DROP NOT NULL",
         "CREATE UNIQUE INDEX mine ON v3_plans (plan_id)",
         "UPDATE v3_plans SET plan_id = NULL WHERE plan_id = (SELECT max(plan_id) FROM v3_plans)"),
        r"a row of public\.v3_plans has NULL for plan_id; .*ALTER COLUMN plan_id SET NOT NULL",
    ),
}  # fmt: skip
UNIQUE = "CREATE UNIQUE INDEX uq_v3_plans_plan_id ON v3_plans (plan_id)"


def store_former(url: str) -> None:
    write_former_release(url, plans=60, seed=7)


def without_key(url: str) -> None:
    """Copy the table of plans without its key."""
    if not url.startswith("sqlite"):
        break_database(url, [WITHOUT_KEY])
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        query = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'v3_plans'"
        ((text,),) = connection.execute(query)
    keyless = re.sub(r"CONSTRAINT pk_v3_plans PRIMARY KEY \(plan_id\),?", "", text, count=1)
    assert keyless != text
    break_database(
        url,
        [keyless.replace("v3_plans", "copied", 1), "INSERT INTO copied SELECT * FROM v3_plans",
         "DROP TABLE v3_plans", "ALTER TABLE copied RENAME TO v3_plans"],
    )  # fmt: skip


def refused(url: str, direction: str) -> str:
    """Run in *direction*, and give the one line that refuses it, as preflight says it, too."""
    before = database_hash(url), schema_dump(url)
    with pytest.raises(CommandError) as error:
        migrate(url, HEAD) if direction == "upgrade" else roll_back(url, M4_003)
    assert (database_hash(url), schema_dump(url)) == before
    ahead = preflight(chain_config(url), down=M4_003 if direction == "downgrade" else None)
    assert any(error.value.args[0].startswith(each.found[:60]) for each in ahead.blocks)
    said = str(error.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize(("statements", "told"), KEYLESS.values(), ids=KEYLESS)
@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_plans_without_a_key_refuse_the_run_before_any_change(
    direction: str, statements: tuple[str, ...], told: str, engine: str, tmp_path: Path
):
    build, at = (store_former, M4_003) if direction == "upgrade" else (store_family, HEAD)
    with database_with(build, engine, tmp_path, at) as url:
        break_database(url, statements)

        assert re.search(told, refused(url, direction))


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_plans_of_a_file_without_a_key_refuse_the_run_before_any_change(
    direction: str, tmp_path: Path
):
    build, at = (store_former, M4_003) if direction == "upgrade" else (store_family, HEAD)
    with database_with(build, "sqlite", tmp_path, at) as url:
        without_key(url)

        said = refused(url, direction)

        assert f"or run {UNIQUE}" in said
        break_database(url, [UNIQUE])
        migrate(url, HEAD) if direction == "upgrade" else roll_back(url, M4_003)


@pytest.mark.parametrize("engine", SERVERS)
def test_primary_key_is_all_that_a_restore_without_its_last_section_lacks_for_a_run(
    engine: str, tmp_path: Path
):
    with database_with(store_former, engine, tmp_path, M4_003) as url:
        roots = true_roots(url)
        break_database(url, [WITHOUT_POST_DATA, "ALTER TABLE public.v3_plans ADD PRIMARY KEY "
                             "(plan_id)"])  # fmt: skip

        migrate(url, HEAD)
        assert true_roots(url) == roots
        roll_back(url, M4_003)


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_unique_index_is_a_key(engine: str, tmp_path: Path):
    with database_with(store_former, engine, tmp_path, M4_003) as url:
        without_key(url)
        break_database(url, [UNIQUE])

        migrate(url, HEAD)


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_verify_names_the_missing_key_where_a_revision_is_unfinished(
    direction: str, engine: str, tmp_path: Path
):
    with database_at(M4_003, engine, tmp_path) as url:
        break_database(
            url,
            [WITHOUT_POST_DATA,
             f"COMMENT ON TABLE alembic_version IS '[unfinished {direction} of {M8_001}]'"],
        )  # fmt: skip
        with read_database(chain_config(url), "verify") as database:
            found = verify(database).findings

    assert found[0].kind == Kind.UNFINISHED
    missing = {each.subject: each.remedy for each in found}
    table = "v3_plans" if engine == "sqlite" else "public.v3_plans"
    added = f"ALTER TABLE {table} ADD CONSTRAINT pk_v3_plans PRIMARY KEY (plan_id)"
    assert missing["v3_plans.pk_v3_plans"].startswith(added)
    assert {"v3_plans.fk_v3_plans_root_plan_id", "plan_projects.pk_plan_projects"} <= {*missing}
    # What one end of the revision has, and the other has not, is no fault in between.
    assert not any("snapshot" in each or "queued" in each for each in missing)
    assert {each.kind for each in found} == {
        Kind.UNFINISHED, Kind.CONSTRAINT_MISSING, Kind.INDEX_MISSING,
    }  # fmt: skip
