"""Whatever stands in a row, it is read as exactly that, or the row is named as corrupt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, selectinload

from cleveragents_plans import LifecyclePlanModel, PlanRepository
from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    Phase,
    PlanIdentity,
    ProcessingState,
)
from cleveragents_plans.persistence import (
    CorruptPlanRow,
    NoLaterVersion,
    NotARoot,
    PlanArgumentModel,
    PlanInvariantModel,
    PlanNotFound,
    PlanProjectModel,
)
from cleveragents_plans.persistence.mapping import child_rows, plan_row
from support.databases import ONE_OF_EACH
from support.plans import AWKWARD, a_plan, texts, ulid

MODELS = {
    "v3_plans": LifecyclePlanModel,
    "plan_projects": PlanProjectModel,
    "plan_arguments": PlanArgumentModel,
    "plan_invariants": PlanInvariantModel,
}
# A child row with another plan_id is another plan's.
COLUMNS = [
    (table, column.key)
    for table, model in MODELS.items()
    for column in model.__table__.columns
    if (column.key, table == "v3_plans") != ("plan_id", False)
]
MIDDLE = ulid(2)
# Where a rule about two columns is broken, either may be named.
TOGETHER = [{"phase", "processing_state"}, {"plan_id", "parent_plan_id", "root_plan_id"}]

# As SQL: NULL, numbers, blobs (some are the bytes of a word or of JSON), broken text.
SQL_VALUES = [
    "NULL",
    "0",
    "1",
    "-1",
    "4",
    "7",
    "1.5",
    "-0.0",
    "1e400",
    "-1e400",
    "2147483647",
    "9223372036854775807",
    "''",
    "'x'",
    "'0'",
    "'true'",
    "x''",
    "x'ff'",
    "x'7b7d'",
    "x'5b5d'",
    "x'31'",
    "x'616374696f6e'",
    "x'6170706c79'",
    "x'6170706c696564'",
    "x'6f76657272696465'",
    "x'62616c616e636564'",
    "x'7b2270726f66696c655f6e616d65223a226369227d'",
    "CAST(x'ff'AS/**/TEXT)",
    "CAST(x'7bff7d'AS/**/TEXT)",
    "CAST(x'610062'AS/**/TEXT)",
]
TEXTS = [
    *("{", "{}", "[]", "[1]", '["a"]', '[""]', '["\\u0000"]', '["\\ud800"]', '{"a": NaN}', "null"),
    *('{"a": "\\u0000"}', '{"a":1e999}', "true", "1", '"x"', "NaN", "Infinity", "-0", "0.0", "1.0"),
    *("action", "Action", "ACTION", "apply", "applied", "queued", "constrained", "cancelled"),
    *("fallback", "Override", "plan", "global", "balanced", '{"profile_name":"ci"}'),
    *('{"profile_name":"ci","provenance":"x"}', '{"profile_name":1}'),
    *(ulid(1), ulid(2), ulid(3), ulid(9), ulid(2).lower(), "01j0000000000000000000000a", "I" * 26),
    *("2026-03-14T00:05:32.000000+00:00", "2026-03-14T00:05:32+00:00", "2026-03-14 00:05:32"),
    *("2026-03-14T00:05:32.000000Z", "2026-03-14T00:05:32.000000+01:00", "2026-03-14"),
    *("1773446732", "x" * 27, "x" * 255, "x" * 256, "a/b/c", "a b", *AWKWARD),
]


@pytest.fixture
def broken(migrated_engine: Engine) -> Iterator[Session]:
    """A session that may write anything, on three plans, the second of which has everything."""
    with Session(migrated_engine) as session:
        if migrated_engine.dialect.name == "sqlite":
            session.execute(text("PRAGMA ignore_check_constraints = ON"))
            session.execute(text("PRAGMA defer_foreign_keys = ON"))
        else:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            for table, model in MODELS.items():
                for constraint in model.__table__.constraints:
                    if type(constraint).__name__ == "CheckConstraint":
                        session.execute(
                            text(f"ALTER TABLE {table} DROP CONSTRAINT {constraint.name}")
                        )
        PlanRepository(session).add_all([full(1), full(2), full(3)])
        yield session
        if migrated_engine.dialect.name == "sqlite":
            session.execute(text("PRAGMA ignore_check_constraints = OFF"))


def full(number: int):
    top = ulid(1)
    place = {"parent_plan_id": top, "root_plan_id": top} if number > 1 else {}
    return a_plan(
        number,
        identity=PlanIdentity(plan_id=ulid(number), **place),
        phase=Phase.APPLY,
        processing_state=ProcessingState.APPLIED,
        effective_profile_snapshot=BUILT_IN_PROFILES["balanced"].snapshot(),
        **dict.fromkeys(("namespaced_name", "namespace", "description", "error_message"), "x"),
        tags=["a"],
        sandbox_refs=["b"],
        validation_summary={"a": 1},
        error_details={"a": 1},
        cost_actual_usd=1.5,
        token_count_input=1,
        execution_env_priority="override",
        completed_at=a_plan().created_at,
        project_links=[{"project_name": "p", "alias": "a"}, {"project_name": "q", "alias": "b"}],
        arguments={"x": 1, "y": [1]},
        invariants=[{"text": "dry"}, {"text": "whole"}],
    )


def write(
    session: Session,
    table: str,
    column: str,
    value: str,
    plan_id: str = MIDDLE,
    **parameters: Any,
) -> bool:
    """Put *value*, an SQL expression, into one plan; say whether the database took it."""
    last = "" if table == "v3_plans" else " AND position = 1"
    try:
        with session.begin_nested():
            session.execute(
                text(f"UPDATE {table} SET {column} = {value} WHERE plan_id = '{plan_id}'{last}"),
                parameters,
            )
    except (DBAPIError, UnicodeEncodeError):
        return False
    return True


def check(session: Session, table: str, column: str, shown: str) -> None:
    """The second plan reads as what is there, or is named; the others are listed either way."""
    told: list[CorruptPlanRow] = []
    read = {plan.plan_id: plan for plan in PlanRepository(session).list(on_corrupt=told.append)}

    assert read.pop(ulid(1)) == full(1), shown
    assert read.pop(ulid(3)) == full(3), shown
    assert len(read) + len(told) == 1, shown
    for corrupt in told:
        names = next((each for each in TOGETHER if column in each), {column})
        assert corrupt.column in {f"{table}.{name}" for name in names}, shown
        assert (corrupt.plan_id == MIDDLE) or (table, column) == ("v3_plans", "plan_id"), shown
        assert re.search(" should | can | expected |^expected |Value error, ", corrupt.reason)
        assert corrupt.column in str(corrupt)
    for plan in read.values():
        # Decodable, or it would not have been read.
        last = "" if table == "v3_plans" else " AND position <> 0"
        stored = session.execute(
            text(f"SELECT {column} FROM {table} WHERE plan_id = :it{last}"), {"it": plan.plan_id}
        ).scalar_one()
        assert same(written(plan, table, column), stored, column), (shown, stored)


def written(plan, table: str, column: str) -> Any:
    if table == "v3_plans":
        return plan_row(plan)[column]
    return getattr(child_rows(plan), table.removeprefix("plan_"))[1][column]


def same(mine: Any, stored: Any, column: str) -> bool:
    if column.endswith("_json"):
        if stored is not None and mine is None:  # an empty array is NULL when it is written
            return json.loads(stored) == []
        return stored is mine or repr(json.loads(stored, object_pairs_hook=sorted)) == repr(
            json.loads(mine, object_pairs_hook=sorted)
        )
    if column in ("created_at", "updated_at", "completed_at") and mine is not None:
        return datetime.fromisoformat(stored) == datetime.fromisoformat(mine)
    if column == "automation_profile":
        return name_in(mine) == name_in(stored)
    if column == "position":  # the order counts; a row may have been taken out
        return type(stored) is int and stored >= 0
    if isinstance(mine, float):  # 0.0 is written for -0.0, which is equal
        return type(stored) is float and mine == stored
    if isinstance(mine, bool) and type(stored) is int:
        return int(mine) == stored
    return repr(mine) == repr(stored)


def name_in(profile: str) -> str:
    try:
        found = json.loads(profile)
    except ValueError:
        return profile
    return found if isinstance(found, str) else found["profile_name"]


@pytest.mark.fault
@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda each: each)
def test_a_value_is_read_as_it_is_or_named(broken: Session, table: str, column: str):
    taken = 0
    for value in [*SQL_VALUES, *(("text", each) for each in TEXTS)]:
        with broken.begin_nested() as savepoint:
            literal, parameters = (
                (value, {}) if isinstance(value, str) else (":it", {"it": value[1]})
            )
            if write(broken, table, column, literal, **parameters):
                taken += 1
                check(broken, table, column, repr(value))
            savepoint.rollback()
    assert taken > 2


ANYTHING = (
    texts()
    | st.binary()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
)


@pytest.mark.slow
@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=st.sampled_from(COLUMNS), value=ANYTHING)
def test_any_value_is_read_as_it_is_or_named(broken: Session, place, value):
    with broken.begin_nested() as savepoint:
        if write(broken, *place, ":it", it=value):
            check(broken, *place, repr(value))
        savepoint.rollback()


# What is odd in a plan that waits for work, or is in work, and keeps no other from it.
FALSY = ["NULL", "0", "0.0", "-0.0", "false", "''", "' '", "'0'", "'{}'", "'[]'", "x''"]
EXTREMES = ["-2147483648", "2147483647", "9223372036854775807", "1e308", "1e400", "'x'"]
TIMES = [
    *("9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59.999998+00:00"),
    *("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999-12:00"),
    *("0001-01-01T00:00:00.000000+00:00", "0001-01-01T00:00:00+14:00"),
    *("2016-12-31T23:59:60.000000+00:00", "2026-12-31T24:00:00.000000+00:00"),
    *("0000-01-01T00:00:00.000000+00:00", "9999-12-31T24:00:00.000000+00:00"),
]
DEEP = [
    *("[" * depth + "]" * depth for depth in (100, 101, 250, 10_000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (100, 101, 250, 10_000)),
    *(f'{{"a":{"9" * 5000}}}', '{"a":1e999}', '""'),
]
IDS = [ulid(12), ulid(12).lower(), ulid(11).lower()]


def odd_values(column: str) -> list[str]:
    kinds = {"_at": TIMES, "json": DEEP, "snapshot": DEEP, "profile": DEEP, "_id": IDS}
    texts = [each for end, held in kinds.items() if column.endswith(end) for each in held]
    return [*FALSY, *EXTREMES, *(f"'{each}'" for each in texts)]


@pytest.fixture
def waiting(broken: Session) -> Session:
    """That session, on three queued plans and three stalled ones besides."""
    PlanRepository(broken).add_all(
        a_plan(
            number,
            processing_state="processing" if number > 13 else "queued",
            **dict.fromkeys(("namespaced_name", "namespace", "error_message"), "x"),
            project_links=[{"project_name": name, "alias": name} for name in "pq"],
            arguments={"x": 1, "y": [1]},
            invariants=[{"text": "dry"}, {"text": "whole"}],
        )
        for number in range(11, 17)
    )
    return broken


def check_queue(session: Session, column: str, odd: int, shown: str) -> None:
    """Plan *odd* is handed out or named; the others are handed out, and are alone in work."""
    told: list[CorruptPlanRow] = []
    plans = PlanRepository(session)
    before = in_work(session)
    begun = plans.claim(limit=20, on_corrupt=told.append)
    claimed = {plan.plan_id for plan in begun}
    # What was written in the future has not been left alone for any time.
    stalled = {plan.plan_id for plan in begun if plan.updated_at < datetime.now(UTC)}
    assert claimed >= {ulid(number) for number in (11, 12, 13) if number != odd}, shown
    assert in_work(session) == before + len(claimed), shown
    with session.begin_nested():
        requeued = plans.requeue_stalled(not_touched_for=timedelta(0), on_corrupt=told.append)
    again = {plan.plan_id for plan in requeued}
    assert again >= stalled | {ulid(number) for number in (14, 15, 16) if number != odd}, shown
    assert in_work(session) == before + len(claimed) - len(again), shown
    if column not in ("plan_id", "processing_state", "phase", "updated_at"):  # which say what waits
        assert told or ulid(odd) in again, shown
    for corrupt in told:
        assert (corrupt.column in str(corrupt)) or isinstance(corrupt, NoLaterVersion), shown


def check_reads(session: Session, odd: int, shown: str) -> None:
    """Every method that reads gives what can be read, or an error of the package."""
    plans, plan_id = PlanRepository(session), ulid(odd)
    others = {ulid(number) for number in (1, 2, 3, *range(11, 17)) if number != odd}
    assert {plan.plan_id for plan in plans.list(on_corrupt="skip")} >= others, shown
    assert {plan.plan_id for plan in plans.stream(on_corrupt="skip", order="newest")} >= others
    assert plans.get_many(others, on_corrupt="skip").keys() >= others, shown
    assert plans.count() == 9
    plans.count_by("phase", "processing_state", "namespace", "action", "created_by", "root")
    for read in (
        lambda: plans.get(plan_id),
        lambda: plans.tree(plan_id, on_corrupt="skip"),
        lambda: plans.tree(plan_id),
        lambda: plans.tree_summary(plan_id),
        lambda: plans.children(plan_id),
        lambda: plans.ancestors(plan_id),
        lambda: plans.list(limit=3),
        lambda: [*plans.stream()],
    ):
        with suppress(CorruptPlanRow, PlanNotFound, NotARoot):
            read()


def in_work(session: Session) -> int:
    of_state = text("SELECT count(*) FROM v3_plans WHERE processing_state = 'processing'")
    return session.execute(of_state).scalar_one()


@pytest.mark.fault
@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda each: each)
def test_an_odd_value_keeps_no_other_plan_from_being_taken_or_read(
    waiting: Session, table: str, column: str
):
    for value in odd_values(column):
        for odd in (12, 15):
            with waiting.begin_nested() as savepoint:
                if write(waiting, table, column, value.replace(":", "\\:"), ulid(odd)):
                    check_reads(waiting, odd, value[:99])
                    check_queue(waiting, column, odd, value[:99])
                savepoint.rollback()


@pytest.mark.fault
@pytest.mark.parametrize("migrated_engine", ONE_OF_EACH, indirect=True, scope="session")
@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=st.sampled_from(COLUMNS), value=ANYTHING, odd=st.sampled_from([12, 15]))
def test_any_value_keeps_no_other_plan_from_being_taken_or_read(
    waiting: Session, place, value, odd
):
    with waiting.begin_nested() as savepoint:
        if write(waiting, *place, ":it", ulid(odd), it=value):
            check_reads(waiting, odd, repr(value))
            check_queue(waiting, place[1], odd, repr(value))
        savepoint.rollback()


# What is falsy is soonest taken for what is missing.
@pytest.mark.parametrize("column", ["plan_id", "parent_plan_id", "root_plan_id", "updated_at"])
@pytest.mark.parametrize("value", ["", "9999-12-31T23:59:59.999999+00:00"])
def test_a_falsy_or_last_value_keeps_no_other_plan_from_being_taken(
    waiting: Session, column: str, value: str
):
    for odd in (12, 15):
        with waiting.begin_nested() as savepoint:
            if write(waiting, "v3_plans", column, ":it", ulid(odd), it=value):
                check_reads(waiting, odd, value)
                check_queue(waiting, column, odd, value)
            savepoint.rollback()


def test_the_error_says_what_was_found_and_what_to_do(broken: Session):
    write(broken, "v3_plans", "updated_at", "'yesterday'")

    with pytest.raises(CorruptPlanRow) as caught:
        PlanRepository(broken).get(MIDDLE)

    assert (caught.value.plan_id, caught.value.found) == (MIDDLE, "yesterday")
    assert str(caught.value) == (
        f"plan '{MIDDLE}' cannot be read: v3_plans.updated_at holds 'yesterday' (expected a time "
        "like 2026-03-14T00:05:32.000000+00:00); repair the row or restore it from a backup"
    )


SENTENCES = [
    ("token_count_input", "-1", "-1 (Input should be greater than or equal to 0)"),
    ("attempt", "0", "0 (Input should be greater than or equal to 1)"),
    ("reversion_count", "4", "4 (Input should be less than or equal to 3)"),
    ("cost_actual_usd", "-1", "-1.0 (Input should be greater than or equal to 0)"),
    (
        "phase",
        "'Action'",
        "'Action' (Input should be 'action', 'strategize', 'execute' or 'apply')",
    ),
    (
        "action_name",
        "'a b'",
        "'a b' (Input should be a name: [[server:]namespace/]name, of letters",
    ),
    ("namespace", "'a/b'", "'a/b' (Input should be a namespace: [server:]namespace, of letters"),
    ("parent_plan_id", "'x'", "'x' (Input should be a ULID: 26 characters of Crockford base 32"),
    ("parent_plan_id", f"'{MIDDLE}'", f"(Value error, plan {MIDDLE} cannot be its own parent)"),
    ("phase", "'execute'", "(Value error, a plan is applied in the apply phase only, not in exec"),
    ("parent_plan_id", "''", "'' (Input should be a ULID: 26 characters of Crockford base 32"),
    ("effective_profile_snapshot", "'[]'", "found list [], expected a JSON object)"),
    ("tags_json", "'[1]'", "'[1]' (expected a JSON array of strings, or NULL)"),
    ("validation_summary_json", "'{'", "'{' (expected a JSON object, or NULL: not JSON at $"),
]


@pytest.mark.parametrize(("column", "value", "said"), SENTENCES)
def test_the_error_is_a_sentence(broken: Session, column: str, value: str, said: str):
    assert write(broken, "v3_plans", column, value)

    with pytest.raises(CorruptPlanRow) as caught:
        PlanRepository(broken).get(MIDDLE)

    assert re.match(rf"plan '{MIDDLE}' cannot be read: v3_plans\.\w+ holds ", str(caught.value))
    assert said in str(caught.value)
    assert str(caught.value).endswith("); repair the row or restore it from a backup")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("char(0)", "neither NUL characters"),
        ("CAST(x'ff' AS TEXT)", "that are no UTF-8"),
        ("x'41'", "a valid string"),
    ],
)
@pytest.mark.parametrize("migrated_engine", ["sqlite"], indirect=True, scope="session")
def test_text_that_only_sqlite_keeps_is_named(broken: Session, value: str, said: str):
    assert write(broken, "v3_plans", "description", value)

    with pytest.raises(CorruptPlanRow, match=rf"description holds .* \(.*{said}.*\); repair"):
        PlanRepository(broken).get(MIDDLE)


@pytest.mark.parametrize(
    ("column", "value"),
    [("effective_profile_snapshot", "'{'"), ("tags_json", "'{'"), ("created_at", "'yesterday'")],
)
def test_a_row_that_was_broken_since_it_was_read_is_not_written_over(
    broken: Session, column: str, value: str
):
    repository = PlanRepository(broken)
    plan = repository.get(MIDDLE)
    assert write(broken, "v3_plans", column, value)

    with pytest.raises(CorruptPlanRow, match=rf"v3_plans\.{column} holds"):
        repository.save(plan.edit(description="new"))

    # To delete it, nothing but its place and version is read.
    repository.delete(plan)
    assert len(repository.list()) == 2


@pytest.mark.parametrize(
    ("table", "column"), [("v3_plans", "description"), ("plan_arguments", "value_json")]
)
@pytest.mark.parametrize("migrated_engine", ["sqlite"], indirect=True, scope="session")
def test_text_that_is_none_is_named_when_its_plan_is_saved(
    broken: Session, table: str, column: str
):
    repository = PlanRepository(broken)
    plan = repository.get(MIDDLE)
    assert write(broken, table, column, "CAST(x'ff' AS TEXT)")

    with pytest.raises(CorruptPlanRow, match=rf"{table}\.{column} holds"):
        repository.save(plan.edit(description="new"))
    repository.delete(plan)
    assert len(repository.list()) == 2


def test_a_long_value_is_shown_in_part(broken: Session):
    write(broken, "v3_plans", "tags_json", ":it", it="x" * 10_000)

    with pytest.raises(CorruptPlanRow) as caught:
        PlanRepository(broken).get(MIDDLE)

    assert len(str(caught.value)) < 500
    assert len(caught.value.found) == 10_000


def test_a_state_that_the_phase_does_not_have_is_named_as_found(broken: Session):
    write(broken, "v3_plans", "phase", "'execute'")

    with pytest.raises(CorruptPlanRow) as caught:
        PlanRepository(broken).get(MIDDLE)

    assert (caught.value.column, caught.value.found) == ("v3_plans.processing_state", "applied")


def test_row_objects_tell_the_same(broken: Session):
    write(broken, "plan_invariants", "source", "'nobody'")
    relations = (
        selectinload(each.class_attribute) for each in LifecyclePlanModel.__mapper__.relationships
    )
    row = broken.get(LifecyclePlanModel, MIDDLE, options=relations)

    with pytest.raises(CorruptPlanRow) as caught:
        row.to_domain()

    assert (caught.value.column, caught.value.found) == ("plan_invariants.source", "nobody")


def test_two_equal_aliases_are_named(broken: Session):
    if broken.get_bind().dialect.name == "sqlite":
        pytest.skip("a UNIQUE constraint cannot be ignored on SQLite")
    broken.execute(text("ALTER TABLE plan_projects DROP CONSTRAINT uq_plan_projects_plan_id_alias"))
    write(broken, "plan_projects", "alias", "'a'")

    with pytest.raises(CorruptPlanRow, match="two projects have the alias 'a'") as caught:
        PlanRepository(broken).get(MIDDLE)

    assert caught.value.column == "plan_projects"
