"""What others have named is printed on one line, without control characters, and never whole."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.evolution.printable import MAX_MESSAGE, identifier, printable
from cleveragents_plans.evolution.reporting import console_logging, tell
from cleveragents_plans.evolution.runner.error_lines import in_one_line
from support.databases import ONE_OF_EACH, database_at, empty_database, migrate, roll_back
from support.revisions import M4_003, M8_001
from support.toys import execute

#: Clears the screen, sets the title of the window, begins a line of its own, and turns around.
ESCAPES = "\x1b[2J\x1b]0;owned\x07\nall is well\r\x9b1m\u202e"
ESCAPED = r"\x1b[2J\x1b]0;owned\x07\nall is well\r\x9b1m\u202e"
#: What SQL of both engines writes for a name.
NAME = f'"a{ESCAPES}"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 日本", "plain é 日本"),
        (ESCAPES, ESCAPED),
        ("a\x00b\udcff", r"a\x00b\udcff"),
        (b"\x00", r"b'\x00'"),
    ],
)
def test_text_is_escaped_only_where_it_cannot_be_printed(text: object, expected: str):
    assert printable(text) == expected


def test_text_that_is_long_keeps_its_beginning_and_its_end():
    said = printable("begin" + "x" * 60_000_000 + "the remedy")

    assert len(said) < MAX_MESSAGE
    assert said.startswith("begin")
    assert said.endswith("the remedy")
    assert "characters left out" in said


@pytest.mark.parametrize(
    ("name", "written"),
    [("plans_2", "plans_2"), ("Plans", '"Plans"'), ("user", '"user"'), ("2", '"2"'), ("", '""'),
     ('a"; DROP TABLE v3_plans; --', '"a""; DROP TABLE v3_plans; --"')],
)  # fmt: skip
def test_name_is_quoted_in_sql_unless_it_is_plain(name: str, written: str):
    assert identifier(name) == written


STATEMENTS = 'a"; DROP TABLE v3_plans; --'


def test_names_that_others_chose_are_quoted_in_sql_to_type(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    quoted = STATEMENTS.replace('"', '""')
    check = "ck_v3_plans_attempt"
    with database_at("head", "postgresql-18", tmp_path) as url:
        execute(
            url,
            f'CREATE SCHEMA "{quoted}"',
            f'CREATE TABLE "{quoted}".v3_plans (a int)',
            f'ALTER TABLE v3_plans RENAME CONSTRAINT {check} TO "{quoted}"',
            f'ALTER INDEX ix_v3_plans_created_at RENAME TO "{quoted}"',
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
            f'CREATE TRIGGER "{quoted}" BEFORE DELETE ON alembic_version EXECUTE FUNCTION f()',
        )
        capfd.readouterr()
        main(["verify", "--url", url])
        shown = capfd.readouterr().out

    for statement in (
        'DROP SCHEMA "{}"',
        f'ALTER TABLE v3_plans RENAME CONSTRAINT "{{}}" TO {check}',
        'ALTER INDEX "{}" RENAME TO ix_v3_plans_created_at',
        'DROP TRIGGER "{}" ON alembic_version',
    ):
        assert statement.format(quoted) in shown


def test_names_that_others_chose_are_quoted_in_commands_to_type(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    name = "a; rm -r x"
    with empty_database("postgresql-18", tmp_path) as url:
        execute(url, f'CREATE SCHEMA "{name}"', f'CREATE TABLE "{name}".v3_plans (a int)')
        assert main(["upgrade", "--url", url]) == 1

    assert f"give -x 'schema={name}', or" in capfd.readouterr().err


def test_errors_and_lines_of_the_log_have_no_control_characters(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    # Those of pytest count as the application's own.
    monkeypatch.setattr(logging.root, "handlers", [])
    error = EvolutionError(f"{ESCAPES} {'x' * 10_000}")
    with console_logging():
        logging.getLogger("alembic.evolution").warning("blocked by %s", ESCAPES)
        tell(f"database: {ESCAPES}")

    assert len(str(error)) < MAX_MESSAGE + 200
    assert str(error).startswith(ESCAPED)
    assert capfd.readouterr().err == f"blocked by {ESCAPED}\ndatabase: {ESCAPED}\n"


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_names_of_objects_are_escaped_for_people_and_exact_in_json(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at("head", engine, tmp_path) as url:
        execute(url, f"CREATE INDEX {NAME} ON v3_plans (description)")
        capfd.readouterr()

        main(["verify", "--url", url])
        shown = capfd.readouterr()
        main(["verify", "--url", url, "--json"])
        written = capfd.readouterr().out
        exact = json.loads(written)

    assert f"a{ESCAPED}" in shown.out
    assert (shown.out + shown.err).replace("\n", "").isprintable()
    assert any(f"a{ESCAPES}" in finding["subject"] for finding in exact["findings"])
    assert written.replace("\n", "").isprintable()


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_object_that_stops_a_revision_is_escaped_in_its_line(engine: str, tmp_path: Path):
    with database_at(M8_001, engine, tmp_path) as url:
        execute(url, f"CREATE VIEW {NAME} AS SELECT effective_profile_snapshot FROM v3_plans")

        with pytest.raises(EvolutionError) as refused:
            roll_back(url, M4_003)

    assert str(refused.value).isprintable()
    assert ESCAPED in str(refused.value)


@pytest.mark.parametrize("command", ["current", "status", "verify", "upgrade"])
@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("x'00ff'", r"b'\x00\xff', which is no revision"),
        ("12", "12, which is no revision"),
        ("NULL", "NULL, which is no revision"),
        ("''", "'', which is no revision"),
        ("'a' || char(0)", r"'a\x00'"),
        ("char(27) || '[2J' || char(10)", r"'\x1b[2J\n'"),
        ("hex(zeroblob(3000000))", "characters left out"),
        ("'m8_002_index_plans'", "'m8_002_index_plans' twice"),
    ],
)
def test_version_that_is_no_revision_is_named_with_what_mends_it(
    tmp_path: Path, version: str, said: str, command: str, capfd: pytest.CaptureFixture[str]
):
    file = tmp_path / "plans.db"
    url = f"sqlite:///{file}"
    migrate(url, "head")
    execute(
        url,
        "DROP TABLE alembic_version",
        "CREATE TABLE alembic_version (version_num)",
        "INSERT INTO alembic_version VALUES ('m8_002_index_plans')",
        f"INSERT INTO alembic_version VALUES ({version})",
    )
    capfd.readouterr()

    status = main([command, "--url", url])

    shown = capfd.readouterr()
    assert status in (1, 3)
    assert said in shown.out + shown.err
    assert len(shown.out + shown.err) < 5000
    assert (shown.out + shown.err).replace("\n", "").isprintable()

    assert main(["stamp", "--purge", "m8_002_index_plans", "--url", url]) == 0
    assert main(["verify", "--url", url]) == 0


def test_end_of_memory_is_one_line():
    expected = pytest.raises(EvolutionError, match="this process ran out of memory")
    with expected, in_one_line("plans.db"):
        raise MemoryError
