"""The migrated table is the specified one, but for what the errata list says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool, create_engine, inspect
from sqlalchemy.types import Double, Float, TypeEngine

from support.revisions import CHAIN, M4_003, M8_001

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "specification.md").read_text(encoding="utf-8")
INI = ROOT / "alembic.ini"


class Difference(NamedTuple):
    what: str
    of: str
    specified: str
    here: str


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


DEVIATIONS: list[dict[str, Any]] = tomllib.loads(block("toml"))["deviation"]
LISTED = {
    Difference(entry["what"], of, entry["specified"], entry["here"]): entry["since"]
    for entry in DEVIATIONS
    for of in entry["of"]
}
RENAMED = {listed.specified: listed.here for listed in LISTED if listed.what == "name"}


class Table(NamedTuple):
    """What can be said about a table in the same words on every engine."""

    name: str
    columns: dict[str, dict[str, str]]
    rules: set[tuple[str, str]]


def table(connection: Connection, name: str) -> Table:
    about = inspect(connection)
    key = about.get_pk_constraint(name)["constrained_columns"]
    references = dict(references_of(connection, name))
    columns = {
        column["name"]: {
            "type": in_one_word(column["type"]),
            # SQLite lets a key that is not an integer be NULL, which no schema means.
            "null": "NULL" if column["nullable"] and column["name"] not in key else "NOT NULL",
            "default": re.sub(r"::[a-z ]+$", "", column["default"] or "none"),
            "reference": references.get(column["name"], "none"),
            "primary key": str(key.index(column["name"]) + 1) if column["name"] in key else "none",
        }
        for column in about.get_columns(name)
    }
    rules = {("check", str(check["name"])) for check in about.get_check_constraints(name)}
    rules |= {("unique", str(unique["name"])) for unique in about.get_unique_constraints(name)}
    rules |= {("index", str(index["name"])) for index in about.get_indexes(name)}
    return Table(name, columns, rules)


def references_of(connection: Connection, name: str) -> Iterator[tuple[str, str]]:
    if connection.dialect.name == "sqlite":
        # The inspector overlooks the actions of a reference that stands beside its column.
        rows = connection.exec_driver_sql(f"PRAGMA foreign_key_list({name})").mappings()
        found = [
            (row["from"], row["table"], row["to"], row["on_delete"], row["on_update"])
            for row in rows
        ]
    else:
        found = [
            (
                *reference["constrained_columns"],
                reference["referred_table"],
                *reference["referred_columns"],
                reference["options"].get("ondelete"),
                reference["options"].get("onupdate"),
            )
            for reference in inspect(connection).get_foreign_keys(name)
        ]
    for column, other, target, delete, update in found:
        words = target if other == name else f"{other}.{target}"
        for event, does in (("DELETE", delete), ("UPDATE", update)):
            words += f" ON {event} {does}" if does not in (None, "NO ACTION") else ""
        yield column, words


def in_one_word(kind: TypeEngine[Any]) -> str:
    # SQLite's REAL and PostgreSQL's DOUBLE PRECISION are the same eight bytes.
    return "REAL" if isinstance(kind, Float | Double) else str(kind)


def differences(specified: Table, here: Table) -> set[Difference]:
    found = set()
    if specified.name != here.name:
        found.add(Difference("table", specified.name, specified.name, here.name))
    known = set()
    for name, wanted in specified.columns.items():
        ours = name if name in here.columns else RENAMED.get(name, name)
        known.add(ours)
        if ours not in here.columns:
            found.add(Difference("column", name, "present", "absent"))
            continue
        if ours != name:
            found.add(Difference("name", name, name, ours))
        for what, said in wanted.items():
            if said != here.columns[ours][what]:
                found.add(Difference(what, name, said, here.columns[ours][what]))
    for name in here.columns.keys() - known:
        found.add(Difference("column", name, "absent", "present"))
    for what, name in here.rules - specified.rules:
        found.add(Difference(what, name, "absent", "present"))
    for what, name in specified.rules - here.rules:
        found.add(Difference(what, name, "present", "absent"))
    return found


def differences_at(url: str) -> set[Difference]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        here = table(connection, "v3_plans")
    engine.dispose()
    return differences(specified_table(), here)


def specified_table() -> Table:
    return made(block("sql"))


def made(ddl: str) -> Table:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.exec_driver_sql(ddl)
        (name,) = inspect(connection).get_table_names()
        found = table(connection, name)
    engine.dispose()
    return found


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
