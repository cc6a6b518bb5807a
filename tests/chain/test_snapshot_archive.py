"""Snapshots that wait in the archive go back to the plans whose they are, and to no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cleveragents_plans.evolution import ColumnArchive, EvolutionError, check_archive
from cleveragents_plans.evolution.postgresql import locks
from support.databases import ENGINES, SERVERS, database_at
from support.online import revision
from support.revision_database import RevisionDatabase, plan_id
from support.revisions import M4_003, M8_001
from support.rows import schema_dump

ARCHIVE = "v3_plans_snapshot_archive"
SNAPSHOT = '{"name":"odd"}'
A, B, C, D = map(plan_id, range(1, 5))
ARCHIVE_ALL = "UPDATE v3_plans SET effective_profile_snapshot = :s"


@pytest.fixture(params=ENGINES)
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RevisionDatabase]:
    """A database of the former release that holds three plans."""
    with database_at(M4_003, request.param, tmp_path) as url:
        database = RevisionDatabase(url)
        for key in (A, B, C):
            database.plan(key)
        yield database


def test_plan_that_was_created_anew_gets_no_snapshot_of_the_former_one(former: RevisionDatabase):
    former.upgrade(M8_001)
    former.run(ARCHIVE_ALL, s=SNAPSHOT)

    former.downgrade(M4_003)
    former.run(f"DELETE FROM v3_plans WHERE plan_id = '{B}'")
    former.plan(B)
    former.run(f"UPDATE v3_plans SET created_at = '2027-01-01T00:00:00' WHERE plan_id = '{B}'")
    former.run(f"UPDATE v3_plans SET updated_at = '2027-01-01T00:00:00' WHERE plan_id = '{C}'")
    former.upgrade(M8_001)

    expected = {A: SNAPSHOT, B: "{}", C: SNAPSHOT}
    assert former.column("effective_profile_snapshot") == expected
    assert ARCHIVE not in {entry[1] for entry in schema_dump(former.url)}


@pytest.mark.parametrize("engine", SERVERS)
def test_plan_whose_id_changes_during_a_downgrade_keeps_its_snapshot(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    renaming = [f"UPDATE v3_plans SET plan_id = '{D}' WHERE plan_id = '{B}'",
                f"UPDATE v3_plans SET plan_id = '{B}' WHERE plan_id = '{C}'"]  # fmt: skip
    real_take = locks.take_lock

    with database_at(M8_001, engine, tmp_path) as url:
        database = RevisionDatabase(url)
        for key in (A, B, C):
            database.plan(key)
            database.run(f"{ARCHIVE_ALL} WHERE plan_id = '{key}'", s=f'{{"name":"{key}"}}')

        def take_after_the_backfill(*arguments: Any) -> None:
            if database.run("SELECT FROM pg_trigger WHERE tgname = 'v3_plans_unfill'"):
                while renaming:
                    database.run(renaming.pop(0))
            real_take(*arguments)

        monkeypatch.setattr(locks, "take_lock", take_after_the_backfill)
        database.downgrade(M4_003)
        monkeypatch.undo()
        assert not renaming
        archived = database.run(f"SELECT plan_id FROM {ARCHIVE} ORDER BY 1")
        database.upgrade(M8_001)

        assert archived == [(A,), (B,), (D,)]
        assert database.column("effective_profile_snapshot") == {
            key: f'{{"name":"{former}"}}' for key, former in ((A, A), (B, C), (D, B))
        }


def test_snapshots_are_restored_where_plans_have_no_time_of_creation(former: RevisionDatabase):
    # The table of another application: the child tables of this chain are not there.
    for name in ("plan_projects", "plan_arguments", "plan_invariants"):
        former.run(f"DROP TABLE {name}")
    former.run("ALTER TABLE v3_plans DROP COLUMN created_at")
    former.upgrade(M8_001)
    former.run(ARCHIVE_ALL, s=SNAPSHOT)

    former.downgrade(M4_003)
    former.upgrade(M8_001)

    assert set(former.column("effective_profile_snapshot").values()) == {SNAPSHOT}


@pytest.mark.parametrize(
    "other", [f"CREATE TABLE {ARCHIVE} (a int)", f"CREATE VIEW {ARCHIVE} AS SELECT 1 AS plan_id"]
)
def test_other_table_of_the_name_of_the_archive_is_refused_before_any_change(
    former: RevisionDatabase, other: str
):
    former.run(other)
    before = schema_dump(former.url)

    taken = rf"{ARCHIVE} .*; rename (it, and drop it only if nothing in it is ne|or drop it; the)"
    with pytest.raises(EvolutionError, match=taken):
        former.upgrade(M8_001)

    assert schema_dump(former.url) == before
    former.run(f"DROP {'VIEW' if 'VIEW' in other else 'TABLE'} {ARCHIVE}")
    former.upgrade(M8_001)
    former.run(ARCHIVE_ALL, s=SNAPSHOT)
    former.run(other)
    with pytest.raises(EvolutionError, match=taken):
        former.downgrade(M4_003)
    assert set(former.column("effective_profile_snapshot").values()) == {SNAPSHOT}


@pytest.mark.parametrize(
    ("added", "statement"),
    [(f"TRIGGER audit AFTER DELETE ON {ARCHIVE} BEGIN SELECT 1; END", 'DROP TRIGGER "audit"'),
     (f"UNIQUE INDEX times ON {ARCHIVE} (created_at)", 'DROP INDEX "times"')],
)  # fmt: skip
def test_what_was_added_to_the_archive_of_a_file_is_named_with_the_statement_that_removes_it(
    added: str, statement: str, tmp_path: Path
):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        database = RevisionDatabase(url)
        database.plan(A)
        database.upgrade(M8_001)
        database.run(ARCHIVE_ALL, s=SNAPSHOT)
        database.downgrade(M4_003)
        database.run(f"CREATE {added}")

        with pytest.raises(EvolutionError, match=f"; expected none; run {statement}; the rev"):
            database.upgrade(M8_001)

        database.run(statement)
        database.upgrade(M8_001)
        assert database.column("effective_profile_snapshot") == {A: SNAPSHOT}


@pytest.mark.parametrize(
    "other",
    ["INDEX {} ON {} (plan_id)", "UNIQUE INDEX {} ON {} (created_at)",
     "UNIQUE INDEX {} ON {} (plan_id, created_at)", "UNIQUE INDEX {} ON {} (lower(plan_id))",
     "UNIQUE INDEX {} ON {} (plan_id) WHERE plan_id > ''"],
)  # fmt: skip
def test_other_index_of_the_archive_is_refused_before_any_change(
    former: RevisionDatabase, other: str
):
    index = f"uq_{ARCHIVE}_plan_id"
    former.upgrade(M8_001)
    former.run(f"{ARCHIVE_ALL} WHERE plan_id = '{B}'", s=SNAPSHOT)
    former.downgrade(M4_003)
    former.run(f"DROP INDEX {index}")
    former.run(f"CREATE {other.format(index, ARCHIVE)}")
    before = schema_dump(former.url)

    with pytest.raises(EvolutionError, match=f"needs an index {index}, which is the name of some"):
        former.upgrade(M8_001)

    assert schema_dump(former.url) == before
    former.run(f"DROP INDEX {index}")
    former.upgrade(M8_001)
    assert former.column("effective_profile_snapshot") == {A: "{}", B: SNAPSHOT, C: "{}"}


def test_archive_of_a_table_that_was_renamed_is_not_to_be_dropped(former: RevisionDatabase):
    former.upgrade(M8_001)
    former.run(ARCHIVE_ALL, s=SNAPSHOT)
    former.downgrade(M4_003)
    former.run("ALTER TABLE v3_plans RENAME TO renamed")
    archive = ColumnArchive(
        ARCHIVE,
        table="v3_plans",
        key="plan_id",
        column="effective_profile_snapshot",
        empty_value="'{}'",
        identity=("created_at",),
    )

    with (
        pytest.raises(EvolutionError, match="give it its name back, otherwise rename") as refused,
        revision(former.url) as op,
    ):
        check_archive(op, archive, exists=True)

    assert "drop" not in str(refused.value)
