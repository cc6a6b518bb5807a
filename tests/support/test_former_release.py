"""The former release's database, as the tests of the migration make it, is what it says it is."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from support import former_release
from support.databases import migrate
from support.former_release import UnfitDatabaseError, true_roots, write_former_release
from support.former_rows import BLANK_PROFILES, DEEP, TEXTS, WIDE
from support.revisions import A5_004
from support.rows import database_hash

PLANS = 3_000
SCRIPT = Path(former_release.__file__)
NULLABLE = (
    *("parent_plan_id", "root_plan_id", "namespaced_name", "namespace", "definition_of_done"),
    *("strategy_actor", "execution_actor", "estimation_actor", "invariant_actor"),
    *("automation_profile", "changeset_id", "decision_root_id", "sandbox_refs_json"),
    *("validation_summary_json", "error_message", "error_details_json", "cost_actual_usd"),
    *("token_count_input", "token_count_output", "last_checkpoint_id", "tags_json", "created_by"),
    *("execution_environment", "execution_env_priority", "completed_at"),
)


def rows(url: str, query: str) -> list[tuple]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return found


def number(url: str, condition: str) -> int:
    return rows(url, f"SELECT count(*) FROM v3_plans p WHERE {condition}")[0][0]


PARENT = "SELECT * FROM v3_plans q WHERE q.plan_id = p.parent_plan_id"
ROOT = "SELECT * FROM v3_plans q WHERE q.plan_id = p.root_plan_id"
COUNTED = {
    "plans": "true",
    "roots": "parent_plan_id IS NULL AND root_plan_id IS NULL",
    "roots that name themselves": "parent_plan_id IS NULL AND root_plan_id = plan_id",
    "children with their root": "parent_plan_id IS NOT NULL AND root_plan_id IS NOT NULL",
    "children without a root": "parent_plan_id IS NOT NULL AND root_plan_id IS NULL",
    "detached from their parent": "parent_plan_id IS NULL AND root_plan_id <> plan_id",
    "parent does not exist": f"parent_plan_id IS NOT NULL AND NOT EXISTS ({PARENT})",
}
IMPURE = {"roots that name themselves", "children without a root"}


def test_counts_are_those_of_the_rows(empty_url):
    counts = write_former_release(empty_url, PLANS, also_tables=True)

    assert {kind: number(empty_url, condition) for kind, condition in COUNTED.items()} == {
        kind: counts[kind] for kind in COUNTED
    }
    for table in ("plan_projects", "plan_arguments", "plan_invariants", "correction_attempts"):
        assert rows(empty_url, f"SELECT count(*) FROM {table}") == [(counts[f"rows in {table}"],)]
    missing = 0 if empty_url.startswith("sqlite") else 1
    assert list(counts.values()).count(0) == missing
    assert counts["plans"] == PLANS


def test_kinds_of_rows_are_all_present(sqlite_url):
    write_former_release(sqlite_url, PLANS)

    for column in NULLABLE:
        assert 0 < number(sqlite_url, f"{column} IS NULL") < PLANS, column
    pairs = rows(sqlite_url, "SELECT DISTINCT phase, processing_state FROM v3_plans")
    assert len(pairs) == 22
    assert all(p == "apply" for p, state in pairs if state in ("applied", "constrained"))
    found = {value for (value,) in rows(sqlite_url, "SELECT automation_profile FROM v3_plans")}
    assert found > {None, *BLANK_PROFILES}
    assert {value for (value,) in rows(sqlite_url, "SELECT description FROM v3_plans")} >= {*TEXTS}
    wide = "SELECT count(*) FROM v3_plans GROUP BY parent_plan_id HAVING count(*) > 100"
    assert WIDE >= len(rows(sqlite_url, wide)) >= 2
    assert number(sqlite_url, f"plan_id < parent_plan_id AND EXISTS ({PARENT})") > 0
    children = " AND ".join(
        f"plan_id IN (SELECT plan_id FROM {table})"
        for table in ("plan_projects", "plan_arguments", "plan_invariants")
    )
    assert number(sqlite_url, children) > 0


def test_trees_are_mostly_shallow_and_some_are_deep(sqlite_url):
    write_former_release(sqlite_url, PLANS)
    links = dict(rows(sqlite_url, "SELECT plan_id, parent_plan_id FROM v3_plans"))

    depths = []
    for plan in links:
        here, depth = links[plan], 1
        while here in links:
            here, depth = links[here], depth + 1
        depths.append(depth)

    assert 40 <= max(depths) <= DEEP
    assert sum(depth <= 6 for depth in depths) > 0.5 * PLANS


def test_times_have_one_width_and_are_in_order(sqlite_url):
    write_former_release(sqlite_url, PLANS)
    shape = "____-__-__T__:__:__.______+00:00"

    for column in ("created_at", "updated_at", "completed_at"):
        assert number(sqlite_url, f"{column} NOT LIKE '{shape}'") == 0
    assert number(sqlite_url, "updated_at < created_at OR completed_at < created_at") == 0


def test_equal_seeds_give_equal_rows(tmp_path):
    hashes = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        url = f"sqlite:///{tmp_path / name}.db"
        write_former_release(url, 500, seed, also_tables=True)
        hashes.append(database_hash(url, without=["alembic_version", "actions"]))

    assert hashes[0] == hashes[1]
    assert not hashes[0].items() & hashes[2].items()


def test_pure_rows_are_only_those_that_the_former_release_wrote_itself(empty_url):
    counts = write_former_release(empty_url, PLANS, pure=True)

    assert {kind for kind in IMPURE if counts[kind] or number(empty_url, COUNTED[kind])} == set()
    assert number(empty_url, "trim(automation_profile) NOT LIKE '{%'") == 0
    assert number(empty_url, f"root_plan_id IS NOT NULL AND NOT EXISTS ({ROOT})") == 0
    assert counts["detached from their parent"] > 0


def test_true_root_is_the_highest_ancestor_unless_one_is_known(sqlite_url):
    write_former_release(sqlite_url, 0)
    _insert(sqlite_url, ("A", None, None), ("B", "A", None), ("C", "B", None))
    _insert(sqlite_url, ("D", "gone", None), ("E", "D", None))
    _insert(sqlite_url, ("F", None, "A"), ("G", "F", None), ("H", "B", "D"), ("I", "H", None))

    assert true_roots(sqlite_url) == dict(zip("ABCDEFGHI", "AAADDAADD", strict=True))


@pytest.mark.parametrize("links", [[("A", "A", None)], [("A", "B", None), ("B", "A", None)]])
def test_cycle_has_no_true_root(sqlite_url, links):
    write_former_release(sqlite_url, 0)
    _insert(sqlite_url, *links)

    with pytest.raises(ValueError, match="its own ancestor"):
        true_roots(sqlite_url)


def test_cycle_with_a_known_root_has_that_root(sqlite_url):
    write_former_release(sqlite_url, 0)
    _insert(sqlite_url, ("A", "B", "R"), ("B", "A", None))

    assert true_roots(sqlite_url) == {"A": "R", "B": "R"}


def test_database_with_plans_is_refused_and_left_unchanged(empty_url):
    write_former_release(empty_url, 50)
    before = database_hash(empty_url)

    with pytest.raises(UnfitDatabaseError, match="found plans; expected an empty database"):
        write_former_release(empty_url, 50, seed=1)

    assert database_hash(empty_url) == before


def test_database_at_another_revision_is_refused(empty_url):
    migrate(empty_url, A5_004)

    with pytest.raises(UnfitDatabaseError, match=f"found revision {A5_004}"):
        write_former_release(empty_url, 50)


def test_database_of_another_package_is_refused(sqlite_url):
    _run(sqlite_url, lambda connection: connection.execute("CREATE TABLE birds (name TEXT)"))

    with pytest.raises(UnfitDatabaseError, match=r"found other tables \(birds\)"):
        write_former_release(sqlite_url, 50)


def test_command_prints_what_it_wrote(sqlite_url):
    # By its path, as the README does.
    done = subprocess.run(
        [sys.executable, SCRIPT, "--url", sqlite_url, "--plans", "200", "--seed", "3",
         "--also-tables"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert {"plans 200", "rows in correction_attempts 10"} < {*lines}
    assert number(sqlite_url, "true") == 200


@pytest.mark.parametrize("again", [["--pure"], []])
def test_command_refuses_in_one_line(sqlite_url, again, capsys):
    write_former_release(sqlite_url, 20)
    capsys.readouterr()

    status = former_release.main(["--url", sqlite_url, *again])

    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("former_release: found plans; expected an empty database")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////no/such/folder/plans.db", "unable to open database file"),
        ("postgresql+psycopg://localhost:1/plans", "connection"),
        ("postgresql+asyncpg://localhost/plans", "asyncpg"),
        ("nothing at all", "Could not parse SQLAlchemy URL"),
    ],
)
def test_unreachable_database_is_reported_in_one_line(url, said, capsys):
    status = former_release.main(["--url", url])

    err = capsys.readouterr().err
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


def _insert(url: str, *links: tuple[str, str | None, str | None]) -> None:
    def insert(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO v3_plans (plan_id, parent_plan_id, root_plan_id, action_name,"
            " created_at, updated_at) VALUES (?, ?, ?, 'local/a', '', '')",
            links,
        )

    _run(url, insert)


def _run(url: str, change: Callable[[sqlite3.Connection], object]) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    change(connection)
    connection.commit()
    connection.close()
