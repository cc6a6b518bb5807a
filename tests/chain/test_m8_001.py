"""m8_001 fills in what the former release, or another program, left out of its rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import pairwise, permutations
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository, open_engine
from cleveragents_plans.evolution.postgresql import not_null
from support.databases import (
    ENGINES,
    ONE_OF_EACH,
    database_at,
    empty_database,
    migrate,
    roll_back,
)
from support.former_release import true_roots, write_former_release
from support.online import client
from support.revision_database import RevisionDatabase, plan_id
from support.revisions import A5_004, M4_003, M8_001
from support.rows import database_hash, schema_dump
from support.statements import dying_at

ARCHIVE = "v3_plans_snapshot_archive"
SNAPSHOT = '{"name":"odd","who":"söme böðy % :x"}'


A, B, C, D, E = map(plan_id, range(1, 6))


@pytest.fixture(params=ENGINES)
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RevisionDatabase]:
    """An empty database of the former release."""
    with database_at(M4_003, request.param, tmp_path) as url:
        yield RevisionDatabase(url)


def test_child_gets_the_root_of_its_tree_at_any_depth_and_age(former: RevisionDatabase):
    former.plan(E)
    former.plan(C, parent=E)  # older than its parent
    former.plan(D, parent=C)
    former.plan(B, parent=D)
    former.plan(A)

    former.upgrade(M8_001)

    assert former.column("root_plan_id") == {A: A, B: E, C: E, D: E, E: E}


def test_known_root_is_kept_and_inherited(former: RevisionDatabase):
    former.plan(A)
    former.plan(B, root=A)  # detached from a tree that it was created in
    former.plan(C, parent=B)
    former.plan(D, parent=A, root=D)  # as an earlier migration left children
    former.plan(E, parent=D)

    former.upgrade(M8_001)

    assert former.column("root_plan_id") == {A: A, B: A, C: A, D: D, E: D}


@pytest.mark.parametrize("blank", [None, "", "  ", " \t\r\n\x0b\x0c "])
def test_missing_or_blank_profile_becomes_the_default(former: RevisionDatabase, blank: str | None):
    former.plan(A, profile=blank)

    former.upgrade(M8_001)

    assert former.column("automation_profile") == {A: "balanced"}
    assert former.column("effective_profile_snapshot") == {A: "{}"}


PROFILES = [
    '{"profile_name": "ci", "provenance": "plan"}',
    '{"provenance": null, "profile_name": "trusted", "more": {"a": 1}}',
    '{ "profile_name": "',
    '{ "profile_name": "", "provenance": null }',
    '{ "profile_name": "a\\"b", "provenance": null }',
    '{ "profile_name": "tail", "provenance": null } ',
    "trusted",
    '"auto"',
    "{broken",
    "12",
    "π 100%",
    "élan",
    "3strikes",
    "-x",
    "12 x",
    "true",
    "-1.5e3",
    "[1",
    "a\tb",
    "e",
]


def test_other_profiles_are_kept_up_down_and_up_again(former: RevisionDatabase):
    profiles = {plan_id(number): profile for number, profile in enumerate(PROFILES)}
    for key, profile in profiles.items():
        former.plan(key, profile=profile)

    former.upgrade(M8_001)
    first = former.column("automation_profile")
    former.downgrade(M4_003)
    former.upgrade(M8_001)

    assert first == profiles
    assert former.column("automation_profile") == profiles


def test_profiles_can_be_read_by_the_former_release_after_a_downgrade(former: RevisionDatabase):
    former.plan(A)
    former.plan(B, profile='{"profile_name": "ci", "provenance": "plan"}')
    names = ("trusted", "élan", "3strikes", "-x", "true enough", "π 100%")
    for number, name in enumerate(names, 10):
        former.plan(plan_id(number), profile=name)

    former.upgrade(M8_001)
    former.downgrade(M4_003)

    found = {
        key: value and json.loads(value)
        for key, value in former.column("automation_profile").items()
    }
    assert found == {
        A: None,
        B: {"profile_name": "ci", "provenance": "plan"},
        **{
            plan_id(number): {"profile_name": name, "provenance": None}
            for number, name in enumerate(names, 10)
        },
    }


@pytest.mark.parametrize("strings", ["on", "off"])
def test_profile_that_is_written_during_a_downgrade_takes_the_same_form_for_each_client(
    postgresql_url: str, strings: str
):
    migrate(postgresql_url, M8_001)
    with dying_at("DROP COLUMN effective_profile_snapshot"):
        roll_back(postgresql_url, M4_003)

    profiles = ["night shift", "a\\b", "{", 'say "no"']
    with client(postgresql_url) as connection:
        connection.execute(f"SET standard_conforming_strings = {strings}".encode())
        for number, profile in enumerate(profiles):
            connection.execute(
                "INSERT INTO v3_plans (plan_id, automation_profile, action_name, created_at,"
                " updated_at) VALUES (%s, %s, 'local/tidy', '', '')",
                (plan_id(number), profile),
            )
        query = "SELECT automation_profile FROM v3_plans ORDER BY plan_id"
        stored = [text for (text,) in connection.execute(query)]

    assert stored == ['{ "profile_name": "night shift", "provenance": null }', *profiles[1:]]


def test_cycle_stops_the_upgrade_before_any_change_and_is_named(former: RevisionDatabase):
    former.plan(A)
    former.plan(B, parent=A)
    former.plan(C, parent=B)
    former.run(f"UPDATE v3_plans SET parent_plan_id = '{C}' WHERE plan_id = '{A}'")
    former.plan(D, parent=C)  # hangs below the cycle
    rows, schema = database_hash(former.url), schema_dump(former.url)

    with pytest.raises(CommandError, match="own ancestors") as refused:
        former.upgrade(M8_001)

    assert {A, B, C} <= set(str(refused.value).replace(";", " ").split())
    assert "\n" not in str(refused.value)
    assert (database_hash(former.url), schema_dump(former.url)) == (rows, schema)


@pytest.mark.parametrize("order", [*permutations((A, B, C, D))], ids="-".join)
@pytest.mark.parametrize("former", ONE_OF_EACH, indirect=True)
def test_cycle_is_found_in_any_order_of_its_keys(former: RevisionDatabase, order: tuple[str, ...]):
    former.plan(E)
    for plan in (A, B, C, D):
        former.plan(plan, parent=E)
    for plan, parent in pairwise((*order[1:], order[1])):
        former.run(f"UPDATE v3_plans SET parent_plan_id = '{parent}' WHERE plan_id = '{plan}'")
    former.run(f"UPDATE v3_plans SET parent_plan_id = '{order[1]}' WHERE plan_id = '{order[0]}'")

    with pytest.raises(CommandError, match="own ancestors") as refused:
        former.upgrade(M8_001)

    found = set(str(refused.value).replace(";", " ").split())
    assert found & {*order, E} == {*order[1:]}


def test_plan_that_is_its_own_parent_is_a_cycle(former: RevisionDatabase):
    former.plan(A)
    former.run("UPDATE v3_plans SET parent_plan_id = plan_id")

    with pytest.raises(CommandError, match=f"{A} -> {A}"):
        former.upgrade(M8_001)


def test_cycle_whose_plans_have_roots_stops_nothing(former: RevisionDatabase):
    former.plan(A, root=A)
    former.plan(B, parent=A)
    former.run(f"UPDATE v3_plans SET parent_plan_id = '{B}' WHERE plan_id = '{A}'")

    former.upgrade(M8_001)

    assert former.column("root_plan_id") == {A: A, B: A}


def test_root_is_the_highest_existing_ancestor_where_a_parent_is_missing(
    former: RevisionDatabase, caplog: pytest.LogCaptureFixture
):
    if not former.sqlite:
        former.run("ALTER TABLE v3_plans DROP CONSTRAINT fk_v3_plans_parent_plan_id")
    former.plan(B, parent=A)
    former.plan(C, parent=B)

    with caplog.at_level(logging.WARNING, "alembic.evolution"):
        former.upgrade(M8_001)

    assert former.column("root_plan_id") == {B: B, C: B}
    assert former.column("parent_plan_id") == {B: A, C: B}
    assert f"{B} (parent {A})" in caplog.text


def test_root_that_does_not_exist_is_kept_and_not_inherited(former: RevisionDatabase):
    if not former.sqlite:
        former.run("ALTER TABLE v3_plans DROP CONSTRAINT fk_v3_plans_root_plan_id")
    former.plan(A, root=E, profile="ci")
    former.plan(B, parent=A)
    former.plan(C, root=E)  # lacks its profile only

    former.upgrade(M8_001)

    assert former.column("root_plan_id") == {A: E, B: A, C: E}
    assert former.column("automation_profile") == {A: "ci", B: "balanced", C: "balanced"}


def test_plan_below_a_cycle_with_a_missing_root_stops_the_upgrade(
    tmp_path: Path,
):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        former = RevisionDatabase(url)
        former.plan(A, root=E)
        former.plan(B, root=E, parent=A)
        former.plan(C, parent=B)
        former.run(f"UPDATE v3_plans SET parent_plan_id = '{B}' WHERE plan_id = '{A}'")
        rows = database_hash(url)

        with pytest.raises(CommandError, match=r"own ancestors.*nothing was changed") as refused:
            former.upgrade(M8_001)

        assert "\n" not in str(refused.value)
        assert database_hash(url) == rows


def test_nulls_are_refused_after_the_upgrade_and_accepted_after_the_downgrade(
    former: RevisionDatabase,
):
    former.plan(A)
    former.upgrade(M8_001)
    gap = "UPDATE v3_plans SET {} = NULL"

    if former.sqlite:
        for column in ("root_plan_id", "automation_profile", "effective_profile_snapshot"):
            with pytest.raises(IntegrityError, match=f"NOT NULL.*{column}"):
                former.run(gap.format(column))
    former.downgrade(M4_003)
    former.run(gap.format("root_plan_id"), gap.format("automation_profile"))

    assert former.column("root_plan_id") == {A: None}


def test_snapshots_are_archived_while_the_former_release_runs(former: RevisionDatabase):
    for key in (A, B, C):
        former.plan(key)
    former.upgrade(M8_001)
    former.run(
        "UPDATE v3_plans SET effective_profile_snapshot = :s WHERE plan_id <> :c", s=SNAPSHOT, c=C
    )

    former.downgrade(M4_003)
    archived = former.run(f"SELECT plan_id, effective_profile_snapshot FROM {ARCHIVE} ORDER BY 1")
    former.run(f"DELETE FROM v3_plans WHERE plan_id = '{B}'")
    former.upgrade(M8_001)

    assert archived == [(A, SNAPSHOT), (B, SNAPSHOT)]
    assert former.column("effective_profile_snapshot") == {A: SNAPSHOT, C: "{}"}
    assert ARCHIVE not in {entry[1] for entry in schema_dump(former.url)}


def test_archive_is_not_created_for_empty_snapshots(former: RevisionDatabase):
    former.plan(A)
    before = schema_dump(former.url)

    former.upgrade(M8_001)
    former.downgrade(M4_003)

    assert schema_dump(former.url) == before


def test_rows_of_the_former_release_are_equal_after_up_and_down(former: RevisionDatabase):
    write_former_release(former.url, plans=3_000, seed=1, pure=True, also_tables=True)
    rows, schema = database_hash(former.url), schema_dump(former.url)

    former.upgrade(M8_001)
    former.downgrade(M4_003)

    assert database_hash(former.url) == rows
    assert schema_dump(former.url) == schema


def test_upgraded_rows_are_equal_after_down_and_up_and_have_their_true_roots(
    former: RevisionDatabase,
):
    write_former_release(former.url, plans=3_000, seed=2, also_tables=True)
    roots = true_roots(former.url)

    former.upgrade(M8_001)
    up, schema = database_hash(former.url), schema_dump(former.url)
    found = former.column("root_plan_id")
    former.downgrade(M4_003)
    former.upgrade(M8_001)

    assert found == roots
    assert database_hash(former.url) == up
    assert schema_dump(former.url) == schema


def test_other_tables_keep_their_rows_and_their_foreign_key_to_plans(former: RevisionDatabase):
    write_former_release(former.url, plans=300, seed=3, also_tables=True)
    before = database_hash(former.url)["correction_attempts"]
    engine = open_engine(former.url)

    for move, revision in (
        (former.upgrade, M8_001),
        (former.downgrade, M4_003),
        (former.upgrade, M8_001),
    ):
        move(revision)
        assert database_hash(former.url)["correction_attempts"] == before
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(text("UPDATE correction_attempts SET plan_id = 'missing'"))

    (plan,) = former.run(
        "SELECT plan_id FROM correction_attempts"
        " WHERE plan_id NOT IN (SELECT root_plan_id FROM v3_plans) LIMIT 1"
    )
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM v3_plans WHERE plan_id = :id"), {"id": plan[0]})
    engine.dispose()
    assert former.run("SELECT * FROM correction_attempts WHERE plan_id = :id", id=plan[0]) == []


def test_migrated_plans_are_read_as_plans(former: RevisionDatabase):
    write_former_release(former.url, plans=500, seed=4, pure=True)
    former.upgrade("head")  # what the library reads
    engine = open_engine(former.url)

    with Session(engine) as session:
        plans = list(PlanRepository(session).stream())
        rows = session.scalars(
            select(LifecyclePlanModel)
            .options(selectinload("*"))
            .order_by(LifecyclePlanModel.plan_id)
        ).all()

        assert len(plans) == 500
        assert [row.to_domain() for row in rows] == plans
        assert {plan.effective_profile for plan in plans} == {None}
    engine.dispose()


def test_snapshot_written_by_the_library_survives_a_downgrade(former: RevisionDatabase):
    former.upgrade("head")  # what the library writes
    engine = open_engine(former.url)
    with Session(engine) as session:
        plan = PlanRepository(session).add(Plan.create("local/tidy", profile="trusted"))
        session.commit()

    former.downgrade(M4_003)
    former.upgrade("head")

    with Session(engine) as session:
        assert PlanRepository(session).get(plan.plan_id) == plan
    engine.dispose()


def test_cycle_is_found_before_the_first_step_of_a_longer_upgrade(former: RevisionDatabase):
    former.downgrade(A5_004)
    former.plan(A)
    former.run("UPDATE v3_plans SET parent_plan_id = plan_id")
    before = database_hash(former.url), schema_dump(former.url)

    with pytest.raises(CommandError, match="own ancestors"):
        former.upgrade(M8_001)

    assert (database_hash(former.url), schema_dump(former.url)) == before


def test_not_null_in_the_form_for_servers_before_18_gives_the_same_schema_on_18(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with (
        empty_database("postgresql-18", tmp_path) as url,
        empty_database("postgresql-18", tmp_path) as other,
    ):
        migrate(url, M8_001)
        migrate(other, M4_003)
        RevisionDatabase(other).plan(A)

        monkeypatch.setattr(not_null, "_major", lambda _connection: 15)
        migrate(other, M8_001)

        assert schema_dump(other) == schema_dump(url)
