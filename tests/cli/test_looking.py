"""``tree``, ``show``, ``plans`` and ``profiles``: for people who look, at any revision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.console import Console
from sqlalchemy import NullPool, create_engine

from cleveragents_plans.cli import main
from cleveragents_plans.cli.plans import _STYLES
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.domain import BUILT_IN_PROFILES, ProcessingState
from support.broken import A, B, C, D, E, break_database, libpq, store_family
from support.databases import ONE_OF_EACH, database_at, database_with, empty_database
from support.former_release import write_former_release
from support.json_output import validated
from support.plans import ulid
from support.revision_database import RevisionDatabase
from support.revisions import HEAD, M4_003, M8_002

CORRUPT = f"UPDATE v3_plans SET tags_json = '[1]' WHERE plan_id = '{A}'"


@pytest.fixture(params=ONE_OF_EACH)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with database_with(store_family, request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=ONE_OF_EACH)
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Plans of the former release, which has no roots yet."""
    with database_at(M4_003, request.param, tmp_path) as url:
        database = RevisionDatabase(url)
        database.plan(A)
        database.plan(B, parent=A)
        database.plan(C, parent=B)
        yield url


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str]) -> Any:
    def typed(url: str, *words: str, status: int = ExitStatus.DONE) -> str:
        capfd.readouterr()
        assert main([*words, "-q", "--url", url]) == status
        return capfd.readouterr().out

    return typed


@pytest.fixture
def found(typed: Any) -> Any:
    def found(url: str, *words: str, status: int = ExitStatus.DONE) -> Any:
        return validated(typed(url, *words, "--json", status=status))

    return found


def test_tree_shows_plans_under_their_parents_and_detached_ones_last(family: str, typed: Any):
    lines = typed(family, "tree", C).splitlines()

    assert [re.sub("  local.*", "", line) for line in lines] == [
        A, f"└── {B}", f"    └── {C}", E, "", "4 plans",
    ]  # fmt: skip
    assert lines[0] == f"{A}  local/lint  action/queued"
    assert lines[3].endswith("  detached")


def test_tree_is_found_before_roots_are_filled_in(former: str, found: Any):
    report = found(former, "tree", B)

    assert (report["top"], report["total"]) == (A, 3)
    assert [each["plan_id"] for each in report["plans"]] == [A, B, C]
    assert {each["root_plan_id"] for each in report["plans"]} == {None}


def test_tree_of_a_cycle_ends(family: str, typed: Any):
    break_database(family, [f"UPDATE v3_plans SET parent_plan_id = '{C}' WHERE plan_id = '{A}'"])

    shown = typed(family, "tree", B)

    assert shown.endswith("\n3 plans\n")
    assert all(shown.count(plan) == 1 for plan in (A, B, C))


def test_tree_says_how_many_plans_are_not_shown(family: str, typed: Any):
    shown = typed(family, "tree", A, "--limit", "2")

    assert shown.splitlines()[-1] == "4 plans; 2 more are not shown, see --limit"
    assert shown.count("local/lint") == 2


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_deep_tree_is_drawn(engine: str, tmp_path: Path, typed: Any):
    with database_at("head", engine, tmp_path) as url:
        database = RevisionDatabase(url)
        for number in range(1, 301):
            parent = ulid(number - 1) if number > 1 else None
            database.plan(ulid(number), parent=parent, root=ulid(1), profile="ci")

        shown = typed(url, "tree", ulid(300))

    assert shown.splitlines()[-1] == "300 plans"
    assert all(ulid(number) in shown for number in range(1, 301))


@pytest.mark.parametrize("command", ["tree", "show"])
def test_plan_that_is_not_stored_is_refused(
    command: str, family: str, capfd: pytest.CaptureFixture[str]
):
    assert main([command, "7" * 26, "--url", family]) == ExitStatus.REFUSED
    assert f"no plan '{'7' * 26}' is stored" in capfd.readouterr().err


def test_plan_is_shown_with_its_child_rows(family: str, typed: Any, found: Any):
    lines = typed(family, "show", A).splitlines()

    assert lines[0].split() == ["plan_id", A]
    for line in ("arguments depth = 3", "invariants keep the API (plan)",
                 "project_links local/api", "tags night", "allowed_steps begin"):  # fmt: skip
        assert line in [re.sub(" +", " ", each) for each in lines]
    report = found(family, "show", A.lower())
    assert report["plan"]["plan_id"] == A
    assert report["plan"]["arguments"] == {"depth": 3}
    assert [len(each["rows"]) for each in report["stored"]] == [1, 1, 1, 1]


def test_plan_of_the_former_release_is_shown(former: str, found: Any):
    report = found(former, "show", C)

    assert report["problem"] is None
    assert report["plan"]["automation_profile"]["profile_name"] == "balanced"
    assert report["stored"][0]["rows"][0]["root_plan_id"] is None


def test_row_that_cannot_be_read_is_shown_as_it_is_stored(family: str, typed: Any, found: Any):
    break_database(family, [CORRUPT])

    shown = typed(family, "show", A, status=ExitStatus.FOUND)
    report = found(family, "show", A, status=ExitStatus.FOUND)

    assert "v3_plans.tags_json holds '[1]'" in shown
    assert re.search(r"^tags_json +\[1\]$", shown, re.MULTILINE)
    assert report["plan"] is None
    assert report["stored"][0]["rows"][0]["tags_json"] == "[1]"


def test_stored_text_that_is_no_utf_8_is_escaped(tmp_path: Path, typed: Any, found: Any):
    with database_with(store_family, "sqlite", tmp_path) as url:
        break_database(
            url, [f"UPDATE v3_plans SET description = CAST(x'ff' AS TEXT) WHERE plan_id = '{A}'"]
        )

        assert r"\udcff" in typed(url, "show", A, status=ExitStatus.FOUND)
        (row,) = found(url, "show", A, status=ExitStatus.FOUND)["stored"][0]["rows"]

    assert row["description"] == r"'\udcff'"


def test_control_characters_reach_no_terminal(family: str, typed: Any):
    escape = "\x1b]0;title\x07"
    break_database(
        family,
        [f"UPDATE v3_plans SET description = '{escape}', action_name = 'local/a{escape}' "
         f"WHERE plan_id = '{A}'"],
    )  # fmt: skip

    for words in (["plans"], ["tree", A]):
        assert "\x1b" not in typed(family, *words)
    assert "\x1b" not in typed(family, "show", A, status=ExitStatus.FOUND)
    assert "\x1b" not in typed(family, "verify", status=ExitStatus.FOUND)


#: Ids, an action, a name and a state in which a terminal would find orders.
CONTROL = "a\x1b[31mred"
CONTROL_WRITTEN = r"a\x1b[31mred"
BELOW = "b\u202e\x07"


@pytest.fixture(params=ONE_OF_EACH)
def control(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A plan and another below it, both with control characters in their ids."""
    with database_at("head", request.param, tmp_path) as url:
        database = RevisionDatabase(url)
        database.plan(CONTROL, root=CONTROL, profile="balanced")
        database.plan(BELOW, parent=CONTROL, root=CONTROL, profile="balanced")
        yield url


def test_ids_with_control_characters_are_escaped_for_people(control: str, typed: Any):
    lines = typed(control, "tree", BELOW).splitlines()
    listed = typed(control, "plans", "--limit", "1")
    read = typed(control, "show", CONTROL, status=ExitStatus.FOUND)

    assert [line.split("  ")[0] for line in lines] == [
        CONTROL_WRITTEN, r"└── b\u202e\x07", "", "2 plans",
    ]  # fmt: skip
    assert listed.splitlines()[1].startswith(f"{CONTROL_WRITTEN}  ")
    assert CONTROL_WRITTEN in read
    assert all(each.isprintable() for each in (*lines, *listed.splitlines(), *read.splitlines()))


def test_ids_with_control_characters_are_exact_in_json(control: str, typed: Any, found: Any):
    break_database(control, ["UPDATE v3_plans SET root_plan_id = plan_id"])
    tree = found(control, "tree", CONTROL)
    listed = found(control, "plans")
    shown = found(control, "show", BELOW, status=ExitStatus.FOUND)
    (own,) = (
        finding
        for finding in found(control, "verify", status=ExitStatus.FOUND)["findings"]
        if finding["kind"] == "root-own"
    )

    assert (tree["top"], [each["plan_id"] for each in tree["plans"]]) == (CONTROL, [CONTROL, BELOW])
    assert [each["plan_id"] for each in listed["plans"]] == [CONTROL, BELOW]
    assert [each["parent_plan_id"] for each in listed["plans"]] == [None, CONTROL]
    assert [row["plan_id"] for row in shown["stored"][0]["rows"]] == [BELOW]
    assert own["plan_ids"] == [BELOW]
    for words in (["tree", CONTROL], ["plans"]):
        assert typed(control, *words, "--json").replace("\n", "").isprintable()


def test_pages_follow_an_id_with_control_characters(control: str, found: Any):
    first = found(control, "plans", "--limit", "1")
    second = found(control, "plans", "--limit", "1", "--after", first["next_cursor"])

    assert [each["plan_id"] for each in first["plans"] + second["plans"]] == [CONTROL, BELOW]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("sql", "written"), [("x'00ff'", r"b'\x00\xff'"), ("CAST(x'ff' AS TEXT)", r"'\udcff'")]
)
def test_ids_that_are_no_text_are_drawn_and_paged(
    sql: str, written: str, tmp_path: Path, typed: Any, found: Any
):
    with database_with(store_family, "sqlite", tmp_path) as url:
        below_root = f"UPDATE v3_plans SET root_plan_id = '{A}', parent_plan_id"
        break_database(
            url,
            [f"{below_root} = '{A}', plan_id = {sql} WHERE plan_id = '{C}'",
             f"{below_root} = {sql} WHERE plan_id = '{E}'"],
        )  # fmt: skip
        drawn = typed(url, "tree", E)
        pages: list[str] = []
        after: list[str] | None = []
        while after is not None:
            page = found(url, "plans", "--limit", "1", *after)
            pages += [each["plan_id"] for each in page["plans"]]
            after = ["--after", page["next_cursor"]] if page["next_cursor"] else None

    assert drawn.count(written) == 1
    assert len(pages) == len({*pages}) == 5
    assert written in pages


def test_plans_are_listed_and_counted(family: str, typed: Any, found: Any):
    lines = typed(family, "plans", "--order", "newest").splitlines()

    assert [line.split()[0] for line in lines[1:6]] == [E, D, C, B, A]
    assert lines[-1] == "5 plans: 5 queued"
    report = found(family, "plans")
    assert (report["total"], report["next_cursor"]) == (5, None)
    assert report["counts"] == [{"phase": "action", "processing_state": "queued", "plans": 5}]


def test_pages_follow_one_another(family: str, found: Any):
    first = found(family, "plans", "--limit", "3")
    second = found(family, "plans", "--limit", "3", "--after", first["next_cursor"])

    assert [each["plan_id"] for each in first["plans"] + second["plans"]] == [A, B, C, D, E]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--parent", A], [B]),
        (["--root", A, "--root", D], [A, B, C, D, E]),
        (["--tag", "night"], [A]),
        (["--project", "local/api"], [A]),
        (["--action", "lint", "--created-from", "2026-03-14T13:00:00+01:00"], [A, B, C, D, E]),
        (["--created-before", "2026-03-14T12:00:00Z"], []),
        (["--final"], []),
        (["--open", "--phase", "action", "--phase", "apply"], [A, B, C, D, E]),
        (["--processing-state", "errored"], []),
    ],
    ids=str,
)
def test_filters_are_those_of_the_repository(
    filters: list[str], expected: list[str], family: str, found: Any
):
    report = found(family, "plans", *filters)

    assert [each["plan_id"] for each in report["plans"]] == expected
    assert report["total"] == len(expected)


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        (["--phase", "dreaming"], "phase is 'dreaming'; expected"),
        (["--created-from", "yesterday"], "created-from is 'yesterday'; expected a time like"),
        (["--parent", "x"], "parent is 'x'; expected"),
        (["--after", "x"], "after is 'x'; expected the next_cursor"),
    ],
)
def test_filter_that_no_plan_can_pass_is_a_usage_error(
    filters: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_with(store_family, "sqlite", tmp_path) as url:
        capfd.readouterr()
        assert main(["plans", "--url", url, *filters]) == ExitStatus.USAGE

    out, err = capfd.readouterr()
    assert told in err
    assert (out, err.count("\n")) == ("", 1)


def test_plans_of_the_former_release_and_corrupt_rows_are_listed(former: str, found: Any):
    break_database(former, [f"UPDATE v3_plans SET updated_at = 'never' WHERE plan_id = '{B}'"])

    report = found(former, "plans")

    assert [each["updated_at"] == "never" for each in report["plans"]] == [False, True, False]


def test_tables_fit_a_terminal_of_80_columns(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    narrow = Console(width=80, highlight=False, markup=False, emoji=False)
    monkeypatch.setattr("cleveragents_plans.cli.output._console", lambda: narrow)
    with database_at(M4_003, "sqlite", tmp_path) as url:
        write_former_release(url, plans=60, pure=True)
        assert main(["upgrade", M8_002, "-q", "--url", url]) == 0
        assert main(["plans", "--url", url]) == 0
        plans = capfd.readouterr().out
        assert main(["history", "--url", url]) == 0
        history = capfd.readouterr().out

    assert max(map(len, (plans + history).splitlines())) <= 80
    written = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.search(rf"^\w{{26}}  \S+ +strategize/processing +{written}$", plans, re.MULTILINE)
    assert re.search(r" upgrade +m4_003  m8_002  done ", history)


@pytest.mark.parametrize("words", [["plans"], ["tree", A], ["show", A]])
def test_database_without_plans_is_refused(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    file = tmp_path / "other.db"
    file.touch()

    assert main([*words, "--url", f"sqlite:///{file}"]) == ExitStatus.REFUSED
    assert "has no table of plans; run `cleveragents-plans status --url " in capfd.readouterr().err


def test_profiles_are_those_that_are_built_in(capfd: pytest.CaptureFixture[str]):
    assert main(["profiles"]) == 0
    out = capfd.readouterr().out
    assert all(re.search(rf"^{name}  ", out, re.MULTILINE) for name in BUILT_IN_PROFILES)

    assert main(["profiles", "manual"]) == 0
    assert "approve_plan              1.00  ####################" in capfd.readouterr().out

    assert main(["profiles", "ci", "--json"]) == 0
    report = validated(capfd.readouterr().out)
    assert [each["name"] for each in report["profiles"]] == ["ci"]

    assert main(["profiles", "magic"]) == ExitStatus.REFUSED
    assert "magic" in capfd.readouterr().err


@pytest.mark.parametrize("schema", ["a%b:c", 'a%(b)s %% "c" ü'])
def test_every_command_runs_in_a_schema_whatever_its_name(schema: str, tmp_path: Path, typed: Any):
    quoted = schema.replace('"', '""')
    insert = (
        "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
        " VALUES (%s, %s, 'local/lint', %s, %s)"
    )
    with (
        empty_database("postgresql-18", tmp_path) as url,
        psycopg.connect(libpq(url), autocommit=True) as client,
    ):
        client.execute(f'CREATE SCHEMA "{quoted}"'.encode())

        def go(*words: str) -> str:
            return str(typed(url, *words, "--schema", schema))

        go("upgrade", M4_003)
        client.execute(f'SET search_path = "{quoted}"'.encode())
        for plan_id, parent in ((A, None), (B, A), (C, B)):
            client.execute(insert, (plan_id, parent, *["2026-03-14T00:05:32+00:00"] * 2))

        assert "ready" in go("preflight")
        go("upgrade")
        assert "3, 2 with a parent" in go("status")
        assert "sound" in go("verify")
        assert A in go("plans")
        assert B in go("tree", C)
        assert C in go("show", C)
        assert HEAD in go("history")
        go("spec")
        go("downgrade", M4_003)
        go("downgrade", "base", "-x", "drop-plans=yes")


@pytest.mark.parametrize("ended", ["", "soon", "2026-11-27T00:00:00"])
def test_history_lists_a_run_whose_end_is_no_time(ended: str, tmp_path: Path, typed: Any):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        with create_engine(url, poolclass=NullPool).begin() as connection:
            connection.exec_driver_sql("UPDATE evolution_runs SET ended_at = ?", (ended,))

        for command in ("history", "status"):
            status = ExitStatus.DONE if command == "history" else ExitStatus.FOUND
            assert M4_003 in typed(url, command, status=status)


@pytest.mark.parametrize("number", ["9e999", "-9e999", "1e308"])
def test_figures_of_a_run_that_are_no_numbers_are_left_out(number: str, tmp_path: Path, typed: Any):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        with create_engine(url, poolclass=NullPool).begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE evolution_runs SET outcome = 'running', eta_s = {number}, rate = {number}"
            )

        assert "running" in typed(url, "history")
        assert "running" in typed(url, "status", status=ExitStatus.FOUND)


def test_every_state_but_queued_looks_its_own_way():
    assert _STYLES.keys() == {*ProcessingState} - {ProcessingState.QUEUED}
