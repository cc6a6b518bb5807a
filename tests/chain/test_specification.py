"""The migrated table is the specified one (docs/specification.md), but for what the errata say."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine

from cleveragents_plans.schema.specification import (
    Difference,
    block,
    differences,
    errata,
    made,
    specified_table,
    table,
)
from support.revisions import CHAIN, M4_003, M8_001

ROOT = Path(__file__).resolve().parents[2]
INI = ROOT / "alembic.ini"


DEVIATIONS: list[dict[str, Any]] = tomllib.loads(block("toml"))["deviation"]
LISTED = {difference: erratum.since for difference, erratum in errata().items()}


def differences_at(url: str) -> set[Difference]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        here = table(connection, "v3_plans")
    engine.dispose()
    return differences(specified_table(), here)


@pytest.fixture(scope="module")
def by_revision(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Difference]]:
    """What differs at each revision, on the way up."""
    url = f"sqlite:///{tmp_path_factory.mktemp('chain') / 'plans.db'}"
    chain = Config(INI, attributes={"url": url})
    found = {}
    for revision in CHAIN:
        command.upgrade(chain, revision)
        found[revision] = differences_at(url)
    return found


def test_differences_from_the_specification_are_on_the_list(migrated_url):
    unlisted = differences_at(migrated_url) - LISTED.keys()

    assert sorted(unlisted) == []


def test_entries_on_the_list_are_still_differences(migrated_url):
    outdated = LISTED.keys() - differences_at(migrated_url)

    assert sorted(outdated) == []


def test_differences_are_listed_once():
    entries = [(entry["what"], of) for entry in DEVIATIONS for of in entry["of"]]

    assert sorted(entries) == sorted(set(entries))


def test_entries_have_six_facts_and_a_reason_in_words():
    facts = {"what", "of", "specified", "here", "since", "why"}

    for entry in DEVIATIONS:
        assert entry.keys() == facts, entry
        assert len(entry["why"].split()) >= 5, entry


@pytest.mark.parametrize("listed", sorted(LISTED), ids=lambda listed: f"{listed.what}:{listed.of}")
def test_difference_begins_with_the_revision_that_the_list_names(listed, by_revision):
    at = [revision for revision in CHAIN if listed in by_revision[revision]]

    assert at == CHAIN[CHAIN.index(LISTED[listed]) :]


def test_m8_001_closed_the_differences_that_are_on_no_list(by_revision):
    assert sorted(by_revision[M4_003] - LISTED.keys()) == [
        ("column", "effective_profile_snapshot", "present", "absent"),
        ("null", "automation_profile_name", "NOT NULL", "NULL"),
        ("null", "root_plan_id", "NOT NULL", "NULL"),
    ]
    assert sorted(by_revision[M8_001] - LISTED.keys()) == []


DETACH = "id ON DELETE SET NULL"
SAMPLE = """
CREATE TABLE x (
    id TEXT NOT NULL,
    up TEXT CONSTRAINT f REFERENCES x (id) ON DELETE SET NULL,
    phase TEXT NOT NULL DEFAULT 'action',
    cost REAL,
    note TEXT,
    PRIMARY KEY (id),
    CONSTRAINT c CHECK (cost > 0)
)
"""


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ("'action'", "'apply'", ("default", "phase", "'action'", "'apply'")),
        (" DEFAULT 'action'", "", ("default", "phase", "'action'", "none")),
        ("phase TEXT NOT NULL", "phase TEXT", ("null", "phase", "NOT NULL", "NULL")),
        ("note TEXT,", "", ("column", "note", "present", "absent")),
        ("note TEXT,", "note TEXT, more TEXT,", ("column", "more", "absent", "present")),
        ("note TEXT", "note VARCHAR(9)", ("type", "note", "TEXT", "VARCHAR(9)")),
        ("cost REAL", "cost INTEGER", ("type", "cost", "REAL", "INTEGER")),
        (
            "SET NULL",
            "CASCADE",
            ("reference", "up", DETACH, "id ON DELETE CASCADE"),
        ),
        (" ON DELETE SET NULL", "", ("reference", "up", DETACH, "id")),
        (
            "S x (id)",
            "S y (id)",
            ("reference", "up", DETACH, f"y.{DETACH}"),
        ),
        (
            "SET NULL,",
            "SET NULL ON UPDATE CASCADE,",
            ("reference", "up", DETACH, f"{DETACH} ON UPDATE CASCADE"),
        ),
        ("KEY (id)", "KEY (id, phase)", ("primary key", "phase", "none", "2")),
        ("CONSTRAINT c", "CONSTRAINT d", ("check", "c", "present", "absent")),
        ("KEY (id)", "KEY (id), CONSTRAINT u UNIQUE (note)", ("unique", "u", "absent", "present")),
        ("TABLE x", "TABLE z", ("table", "x", "x", "z")),
        ("PRIMARY KEY (id),", "", ("primary key", "id", "1", "none")),
    ],
)
def test_comparison_sees_every_kind_of_difference(old, new, seen):
    changed = SAMPLE.replace(old, new)

    assert seen in differences(made(SAMPLE), made(changed))


def test_comparison_finds_nothing_between_equal_tables():
    assert differences(made(SAMPLE), made(SAMPLE)) == set()
