"""What a SQLite table makes of values that no row has yet, found before anything is written."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.evolution import check_insertable
from cleveragents_plans.evolution.sqlite.written_values import RowRefused
from support.former_release import write_former_release
from support.rebuilds import execute, rebuilding
from support.reshaping import reshape

#: What refuses a bare name, and accepts JSON and NULL; how it is named.
REFUSING = {
    "CHECK": ("CHECK (json_valid(profile))", "the CHECK (json_valid(profile)) of toy"),
    "index": ("CREATE INDEX ix_toy ON toy (json_extract(profile, '$.x'))", "the index ix_toy"),
    "virtual column": ("x TEXT AS (json_extract(profile, '$.x'))", "the generated column x"),
    "stored column": ("x TEXT AS (json_extract(profile, '$.x')) STORED", "the generated column x"),
    "trigger": (
        "CREATE TRIGGER tr AFTER INSERT ON toy BEGIN"
        " INSERT INTO log VALUES (json_extract(new.profile, '$.x')); END",
        "the trigger tr",
    ),
    "trigger of an update": (
        "CREATE TRIGGER tr BEFORE UPDATE OF profile ON toy WHEN NOT json_valid(new.profile)"
        " BEGIN SELECT RAISE(ABORT, 'no JSON'); END",
        "the trigger tr",
    ),
    "trigger of a deletion": (
        "CREATE TRIGGER tr AFTER DELETE ON toy BEGIN"
        " INSERT INTO log VALUES (json_extract(old.profile, '$.x')); END",
        "the trigger tr",
    ),
    "trigger that rolls back": (
        "CREATE TRIGGER tr AFTER INSERT ON toy WHEN NOT json_valid(new.profile)"
        " BEGIN SELECT RAISE(ROLLBACK, 'no JSON'); END",
        "the trigger tr",
    ),
    "trigger that leaves rows out": (
        "CREATE TRIGGER tr BEFORE INSERT ON toy WHEN NOT json_valid(new.profile)"
        " BEGIN SELECT RAISE(IGNORE); END",
        "the trigger tr",
    ),
    "trigger that writes a virtual table": (
        "CREATE TRIGGER tr AFTER INSERT ON toy BEGIN"
        " INSERT INTO words VALUES (json_extract(new.profile, '$.x')); END",
        "the trigger tr",
    ),
    "foreign key": ("REFERENCES names", "a foreign key to names"),
    "foreign key to a column": ("REFERENCES names (name)", "a foreign key to names"),
}


def toys(file: Path, of_profile: str = "", column: str = "", *after: str) -> None:
    execute(
        file,
        "CREATE TABLE names (name TEXT PRIMARY KEY)",
        "CREATE TABLE log (x TEXT)",
        "CREATE VIRTUAL TABLE words USING fts5(x)",
        f"CREATE TABLE toy (id TEXT PRIMARY KEY, root TEXT REFERENCES toy, profile TEXT"
        f" {of_profile}{', ' * bool(column)}{column})",
        *after,
    )


def check(file: Path) -> None:
    with rebuilding(file) as operation:
        check_insertable(
            operation.op,
            "toy",
            rows=[{"id": "'1'", "lacking": "1"}, {"id": "'1'", "profile": "'{}'"}],
            values={"root": "'1'", "profile": "'plain'", "also_lacking": "''"},
        )


@pytest.mark.parametrize("case", REFUSING)
def test_what_refuses_a_value_that_is_to_be_written_is_named(case: str, tmp_path: Path):
    file = tmp_path / "toys.db"
    made, name = REFUSING[case]
    if made.startswith("CREATE"):
        toys(file, "", "", made)
    elif "column" in case and "foreign" not in case:
        toys(file, "", made)
    else:
        toys(file, made)
    content = file.read_bytes()

    with pytest.raises(RowRefused, match="would refuse profile = 'plain'") as caught:
        check(file)

    assert name in str(caught.value)
    assert "root" not in str(caught.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    "trigger",
    [
        "BEFORE INSERT ON toy BEGIN SELECT RAISE(ABORT, 'closed'); END",
        "BEFORE INSERT ON toy BEGIN SELECT RAISE(ROLLBACK, 'closed'); END",
        "BEFORE DELETE ON toy BEGIN SELECT RAISE(ABORT, 'kept'); END",
        "AFTER INSERT ON toy BEGIN INSERT INTO log VALUES (own(new.profile)); END",
        "AFTER INSERT ON toy BEGIN INSERT INTO gone VALUES (new.profile); END",
    ],
)
def test_trigger_that_refuses_the_former_row_too_is_not_judged(trigger: str, tmp_path: Path):
    file = tmp_path / "toys.db"
    toys(file, "", "", f"CREATE TRIGGER tr {trigger}")

    check(file)


@pytest.mark.timeout(120)  # without a limit it goes on until the memory is full
def test_trigger_that_never_ends_is_not_judged(tmp_path: Path):
    file = tmp_path / "toys.db"
    endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"
    toys(file, "", "", f"CREATE TRIGGER tr AFTER INSERT ON toy BEGIN {endless}; END")

    check(file)


def test_what_accepts_the_value_is_accepted(tmp_path: Path):
    file = tmp_path / "toys.db"
    toys(
        file,
        "CHECK (profile <> '') REFERENCES names",
        "x TEXT AS (CASE WHEN json_valid(profile) THEN profile ->> '$.x' END)",
        "INSERT INTO names VALUES ('plain')",
        "CREATE INDEX ix_toy ON toy (lower(profile)) WHERE profile IS NOT NULL",
        "CREATE TRIGGER tr AFTER INSERT ON toy BEGIN INSERT INTO log VALUES (new.profile); END",
    )

    check(file)

    assert execute(file, "SELECT * FROM log") == execute(file, "SELECT * FROM toy") == []


@pytest.mark.parametrize("known", ["IN names", "IN (SELECT name FROM names)"])
def test_trigger_that_reads_other_tables_is_warned_of(
    known: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The copy has no rows of them, so that it may accept the value in the file."""
    file = tmp_path / "toys.db"
    toys(
        file,
        "",
        "",
        "INSERT INTO names VALUES ('plain')",
        f"CREATE TRIGGER tr AFTER INSERT ON toy WHEN new.profile > '' AND NOT new.profile {known}"
        " BEGIN SELECT RAISE(ABORT, 'unknown'); END",
    )

    with caplog.at_level(logging.WARNING, "alembic.evolution"):
        check(file)

    assert "toy has the trigger tr, which refuses profile = 'plain'" in caplog.text


def json_only(sql: str) -> str:
    return sql.replace(
        "automation_profile TEXT", "automation_profile TEXT CHECK (json_valid(automation_profile))"
    )


def referring(sql: str) -> str:
    return sql.replace("automation_profile TEXT", "automation_profile TEXT REFERENCES profiles")


def computing(sql: str) -> str:
    return sql.replace(
        "automation_profile TEXT",
        "mine TEXT AS (json_extract(automation_profile, '$.x')), automation_profile TEXT",
    )


OF_PLANS = {
    "CHECK": {"edit": json_only},
    "index": {"after": ["CREATE INDEX mine ON v3_plans (json_extract(automation_profile, '$.x'))"]},
    "generated column": {"edit": computing},
    "trigger": {
        "after": [
            "CREATE TABLE log (x)",
            "CREATE TRIGGER mine AFTER INSERT ON v3_plans BEGIN"
            " INSERT INTO log VALUES (json_extract(new.automation_profile, '$.x')); END",
        ]
    },
    "foreign key": {
        "edit": referring,
        "after": [
            "CREATE TABLE profiles (profile TEXT PRIMARY KEY)",
            "INSERT INTO profiles SELECT DISTINCT automation_profile FROM v3_plans",
        ],
    },
}


@pytest.fixture(scope="module", params=["no plans", "profiles in JSON"])
def former(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose plans do not become ``balanced``."""
    file = tmp_path_factory.mktemp("former") / "plans.db"
    write_former_release(f"sqlite:///{file}", 20)
    if request.param == "no plans":
        children = ("plan_projects", "plan_arguments", "plan_invariants")
        execute(file, *(f"DELETE FROM {table}" for table in (*children, "v3_plans")))
    execute(file, """UPDATE v3_plans SET automation_profile = '{"x": 1}'""")
    return file


@pytest.mark.parametrize("case", OF_PLANS)
def test_plan_that_could_not_be_inserted_afterwards_stops_upgrade_and_preflight(
    former: Path, case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """The profile of a new plan is ``balanced``, which is no JSON."""
    file = tmp_path / "plans.db"
    reshape(former, file, **{"edit": str, "after": (), **OF_PLANS[case]})
    content, said = file.read_bytes(), "would refuse automation_profile = 'balanced'"

    assert main(["preflight", "-q", "--url", f"sqlite:///{file}"]) == 1
    assert said in capfd.readouterr().out
    assert main(["upgrade", "-q", "--url", f"sqlite:///{file}"]) == 1
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert file.read_bytes() == content
