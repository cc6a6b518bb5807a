import os
import threading
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter, ValidationError

from cleveragents_plans.domain import Invariant, Level, PlanIdentity, ProjectLink, new_ulid
from cleveragents_plans.domain.types import (
    Label,
    Name,
    Namespace,
    Reference,
    Text,
    Usd,
    UtcDatetime,
    full_name,
    namespace_of,
)

ROOT = "01J0000000000000000000000A"
CHILD = "01J0000000000000000000000B"


def read(kind, value):
    return TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "ok\udfff"])
@pytest.mark.parametrize("kind", [Text, Label, Name, Reference])
def test_text_that_no_database_holds_is_refused_in_words(kind, value):
    with pytest.raises(ValidationError, match="neither NUL characters nor lone surrogates"):
        read(kind, value)


def test_text_in_json_is_held_to_the_same_rules():
    with pytest.raises(ValidationError, match="neither NUL"):
        TypeAdapter(Text).validate_json(r'"\u0000"')
    with pytest.raises(ValidationError):
        TypeAdapter(Text).validate_json(r'"\ud800"')


@pytest.mark.parametrize("value", [3, b"bytes", None])
def test_value_that_is_no_text_is_refused(value):
    with pytest.raises(ValidationError, match="valid string"):
        read(Text, value)


def test_text_keeps_every_other_character():
    every = "".join(map(chr, (*range(1, 0xD800), *range(0xE000, 0x110000))))

    assert read(Text, every) == every


def test_length_is_counted_in_characters():
    assert read(Label, "é" * 255) == "é" * 255
    with pytest.raises(ValidationError, match="at most 255 characters"):
        read(Label, "é" * 256)
    with pytest.raises(ValidationError, match="at most 26 characters"):
        read(Reference, "a" * 27)


@pytest.mark.parametrize("name", ["a", "refactor-auth", "team/a_1", "srv:team/a", "équipe/été"])
def test_a_name_may_have_a_namespace_and_a_server(name):
    assert read(Name, name) == name


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b/c", "srv:a", "/a", "a/", ":t/a", "a.b", "a\n", "a\n/b"]
)
def test_a_name_of_another_shape_is_refused(name):
    with pytest.raises(ValidationError, match=r"a name: \[\[server:\]namespace/\]name"):
        read(Name, name)


def test_a_namespace_of_another_shape_is_refused():
    assert read(Namespace, "srv:team") == "srv:team"
    with pytest.raises(ValidationError, match="a namespace: "):
        read(Namespace, "a/b")


@pytest.mark.parametrize(
    ("name", "full", "namespace"),
    [
        ("refactor-auth", "local/refactor-auth", "local"),
        ("team/refactor", "team/refactor", "team"),
        ("srv:team/refactor", "srv:team/refactor", "team"),
    ],
)
def test_a_name_without_a_namespace_is_local(name, full, namespace):
    assert full_name(name) == full
    assert namespace_of(name) == namespace


def test_a_plan_without_a_parent_is_its_own_root():
    assert PlanIdentity(plan_id=ROOT).root_plan_id == ROOT
    assert PlanIdentity(plan_id=ROOT, root_plan_id=None).root_plan_id == ROOT


def test_a_child_needs_a_root():
    with pytest.raises(ValidationError, match="a child plan needs the root of its tree"):
        PlanIdentity(plan_id=CHILD, parent_plan_id=ROOT)


def test_a_plan_is_not_its_own_parent():
    with pytest.raises(ValidationError, match="cannot be its own parent"):
        PlanIdentity(plan_id=ROOT, parent_plan_id=ROOT, root_plan_id=ROOT)


def test_a_child_that_an_earlier_release_gave_itself_as_root_is_readable():
    child = PlanIdentity(plan_id=CHILD, parent_plan_id=ROOT, root_plan_id=CHILD)

    assert child.root_plan_id == CHILD


def test_an_id_is_kept_in_upper_case():
    assert PlanIdentity(plan_id=ROOT.lower()).plan_id == ROOT


@pytest.mark.parametrize(
    "plan_id",
    ["", ROOT[1:], f"{ROOT}0", f"8{ROOT[1:]}", f"{ROOT}\n"]
    + [ROOT[:-1] + wrong for wrong in ("U", "i", "\u017f")],
)
def test_value_that_is_no_ulid_is_refused(plan_id):
    with pytest.raises(ValidationError, match="a ULID: 26 characters"):
        PlanIdentity(plan_id=plan_id)


@pytest.mark.parametrize("attempt", [0, 2**31, True, 1.0, "1"])
def test_an_attempt_is_a_number_from_one_that_fits_its_column(attempt):
    with pytest.raises(ValidationError):
        PlanIdentity(plan_id=ROOT, attempt=attempt)


def test_new_ids_are_ulids_that_grow():
    made = [new_ulid() for _ in range(5000)]

    assert made == sorted(set(made))
    assert PlanIdentity(plan_id=made[0]).plan_id == made[0]


def test_an_id_begins_with_the_time_in_milliseconds():
    before = int(datetime.now(UTC).timestamp() * 1000)
    made = new_ulid()

    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    time = sum(alphabet.index(char) * 32**place for place, char in enumerate(made[9::-1]))
    assert before <= time <= before + 60_000


def test_ids_grow_even_when_the_clock_goes_back(monkeypatch):
    before = new_ulid()
    monkeypatch.setattr("cleveragents_plans.domain.ulid.time_ns", lambda: 0)

    assert before < new_ulid() < new_ulid()


def test_threads_never_make_the_same_id():
    made = []
    threads = [
        threading.Thread(target=lambda: made.extend([new_ulid() for _ in range(1000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 4000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_makes_ids_of_its_own(monkeypatch):
    new_ulid()
    monkeypatch.setattr("cleveragents_plans.domain.ulid.time_ns", lambda: 0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(new_ulid() for _ in range(100)).encode())
        os._exit(0)
    ours = {new_ulid() for _ in range(100)}
    os.waitpid(child, 0)
    text = os.read(reading, 2600).decode()
    os.close(reading)
    os.close(writing)

    theirs = {text[start : start + 26] for start in range(0, 2600, 26)}
    assert len(theirs) == 100
    assert not ours & theirs


def test_times_are_kept_in_utc_with_their_microseconds():
    berlin = datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=ZoneInfo("Europe/Berlin"))
    kept = read(UtcDatetime, berlin)

    assert kept == berlin
    assert kept.tzinfo is UTC
    assert kept.isoformat() == "2026-07-01T10:00:00.123456+00:00"
    assert read(UtcDatetime, kept) is kept
    assert read(UtcDatetime, "2026-07-01T10:00:00.123456Z").tzinfo is UTC


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValidationError, match="timezone"):
        read(UtcDatetime, datetime(2026, 7, 1))  # noqa: DTZ001 - that is the point


def test_a_time_that_utc_cannot_say_is_refused():
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))

    with pytest.raises(ValidationError, match="no UTC equivalent"):
        read(UtcDatetime, early)


def test_a_cost_is_never_negative_not_even_nought():
    assert str(read(Usd, -0.0)) == "0.0"
    assert read(Usd, 2) == 2.0
    for wrong in (-0.01, float("nan"), float("inf"), True, "1"):
        with pytest.raises(ValidationError):
            read(Usd, wrong)


def test_an_invariant_is_the_plans_own_unless_said_otherwise():
    assert Invariant(text="keep the API").source is Level.PLAN
    assert Invariant(text="keep the API", source="global").source is Level.GLOBAL
    with pytest.raises(ValidationError, match="at least 1 character"):
        Invariant(text="")


def test_a_project_link_is_a_value():
    link = ProjectLink(project_name="local/api", alias="api")

    assert link == ProjectLink(project_name="local/api", alias="api", read_only=False)
    assert len({link, link.model_copy()}) == 1
    with pytest.raises(ValidationError, match="frozen"):
        link.alias = "other"
    with pytest.raises(ValidationError, match="extra"):
        ProjectLink(project_name="local/api", nickname="api")
