"""What an operator types, and what comes back: one line that says what to do."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from alembic.util import CommandError

from cleveragents_plans import schema
from cleveragents_plans.cli import main
from cleveragents_plans.cli.program import program
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.settings import MAX_SECONDS, Settings
from cleveragents_plans.persistence.parameters import MAX_LIMIT
from support.broken import store_family
from support.databases import (
    ONE_OF_EACH,
    ROOT,
    database_at,
    database_with,
    migrate,
    url_option,
)
from support.revisions import CHAIN, HEAD, M4_003
from support.rows import database_hash, schema_dump

TEXT_PARAMETERS = [
    (name, parameter)
    for name, command in program.commands.items()
    for parameter in command.params
    if parameter.type is click.STRING
]


@pytest.mark.parametrize(
    ("name", "parameter"), TEXT_PARAMETERS, ids=lambda it: getattr(it, "name", it)
)
def test_argument_of_bytes_that_are_no_text_is_refused_in_one_line(
    name: str, parameter: click.Parameter, capfd: pytest.CaptureFixture[str]
):
    text = "sqlite:///x\udcff.db" if parameter.name == "url" else "a\udcff"
    needed = [
        "pause" for each in program.commands[name].params if each.required and each is not parameter
    ]
    is_option = isinstance(parameter, click.Option)
    arguments = [parameter.opts[0], text, *needed] if is_option else [text]

    status = main([name, *arguments])

    (line,) = [each for each in capfd.readouterr().err.splitlines() if "bytes that are" in each]
    assert re.match(r"error: |[-\d]{10}T[:.\d]{12}Z error   ", line)
    assert status in (1, 2)


NUMBERS = [
    (name, parameter.opts[0])
    for name, command in program.commands.items()
    for parameter in command.params
    if isinstance(parameter.type, click.IntRange | click.FloatRange)
]


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "1e300", str(2**31), str(2**63 - 1)])
@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_number_out_of_its_range_is_refused(
    name: str, option: str, number: str, capfd: pytest.CaptureFixture[str]
):
    needed = ["id" for each in program.commands[name].params if each.required]

    assert main([name, f"{option}={number}", *needed]) == ExitStatus.USAGE
    assert f"Invalid value for '{option}': " in capfd.readouterr().err


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_largest_numbers_are_taken(engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    settings = {each.name: each.metadata["most"] for each in fields(Settings)}
    if engine == "sqlite":
        del settings["max_replica_lag"]
    given = [f"--{name.replace('_', '-')}={most}" for name, most in settings.items()]

    with database_at(M4_003, engine, tmp_path) as url:
        assert main(["preflight", "--url", url, *given]) == 0
        assert main(["upgrade", "--url", url, *given]) == 0
        assert main(["status", "--url", url, "--wait", str(MAX_SECONDS)]) == 0
        assert main(["plans", "--url", url, "--limit", str(MAX_LIMIT)]) == 0
        assert main(["verify", "--url", url, "--plans", str(MAX_LIMIT)]) == 0

    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, parameter.opts[0])
        for name, command in program.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag)
    ],
)
def test_option_of_one_value_that_is_given_twice_is_refused(
    name: str, option: str, capfd: pytest.CaptureFixture[str]
):
    needed = ["pause" for each in program.commands[name].params if each.required]

    status = main([name, option, "1", f"{option}=2", *needed])

    assert status == ExitStatus.USAGE
    assert f"{option} is given 2 times, and takes one value" in capfd.readouterr().err


SECRET = "s3cret%40word"

each_bad_url = pytest.mark.parametrize(
    ("url", "told", "expected"),
    [
        (f"postgresql://me:{SECRET}@host:5x/plans", "cannot be read; expected sqlite:///", 1),
        (f"me:{SECRET}", "cannot be read; expected sqlite:///", 1),
        ("", "is empty; expected the URL of a database", 1),
        (f"mysql://me:{SECRET}@host/plans", "'mysql', which is not supported", 1),
        (f"postgresql+psycopg2://me:{SECRET}@host/plans", "which is not supported", 1),
        (f"postgresql://me:{SECRET}@127.0.0.1:1/plans", "cannot be opened", 69),
        (f"postgres:///plans?host=/nowhere&password={SECRET}", "cannot be opened", 69),
        ("sqlite:////nowhere/at/all/plans.db", "cannot be opened", 69),
    ],
)


@each_bad_url
def test_url_that_cannot_be_used_is_refused_in_one_line_without_its_password(
    url: str, told: str, expected: int, capfd: pytest.CaptureFixture[str]
):
    status = main(["upgrade", "--create", "--log", "plain", "--url", url])

    out, err = capfd.readouterr()
    complaint = [line for line in err.splitlines() if not line.startswith("database: ")]
    assert status == expected
    assert len(complaint) == 1
    assert told in complaint[0]
    assert "s3cret" not in out + err


def test_password_is_not_shown_by_a_run_that_succeeds(
    postgresql_url: str, capfd: pytest.CaptureFixture[str]
):
    url = postgresql_url.replace("postgres@", f"postgres:{SECRET}@") + f"&sslpassword={SECRET}"

    status = main(["upgrade", "--url", url])

    out, err = capfd.readouterr()
    assert status == 0
    assert " database: postgresql+psycopg://postgres:***@" in err.splitlines()[0]
    assert "s3cret" not in out + err


def test_file_that_is_no_database_is_left_unchanged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    file = tmp_path / "notes.txt"
    file.write_text("Buy milk. " * 200)

    for command in (["upgrade"], ["downgrade", "base"], ["current"]):
        assert main([*command, "--url", f"sqlite:///{file}"]) == 1
        assert "file is not a database; check the path" in capfd.readouterr().err

    assert file.read_text() == "Buy milk. " * 200
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_read_only_file_is_left_unchanged(sqlite_url: str, capfd: pytest.CaptureFixture[str]):
    migrate(sqlite_url, M4_003)
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    file.chmod(0o444)
    before = hashlib.sha256(file.read_bytes()).digest()

    status = main(["upgrade", "--url", sqlite_url])

    assert status == 1
    assert "is read-only" in capfd.readouterr().err
    assert hashlib.sha256(file.read_bytes()).digest() == before


@pytest.mark.filterwarnings("error")
def test_parameter_of_a_file_that_nobody_would_read_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    url = f"sqlite:///{tmp_path}/plans.db?mode=ro"
    monkeypatch.chdir(tmp_path)

    for command in ("preflight", "upgrade --create", "status", "plans", "current", "verify"):
        assert main([*command.split(), "--url", url]) == ExitStatus.REFUSED
        (line,) = capfd.readouterr().err.splitlines()
        assert "has a parameter (mode) that is read only of a path with file:" in line
    assert not [*tmp_path.iterdir()]


def test_read_only_connection_is_refused_in_one_line(
    sqlite_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(sqlite_url, M4_003)
    read_only = sqlite_url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"

    assert main(["upgrade", "--url", read_only]) == 1
    assert "opens the file to be read only (mode=ro)" in capfd.readouterr().err


def test_database_at_an_unknown_revision_is_refused(
    migrated_url: str, capfd: pytest.CaptureFixture[str]
):
    run = sql_runner(migrated_url)
    run("UPDATE alembic_version SET version_num = 'z9_999_tomorrow'")
    before = database_hash(migrated_url), schema_dump(migrated_url)

    for command in (["upgrade"], ["downgrade", "base"], ["current"]):
        assert main([*command, "--url", migrated_url]) == 1
        assert "'z9_999_tomorrow', which this release does not know" in capfd.readouterr().err

    assert (database_hash(migrated_url), schema_dump(migrated_url)) == before


def test_unknown_revision_is_refused_with_the_known_ones(
    sqlite_url: str, capfd: pytest.CaptureFixture[str]
):
    assert main(["upgrade", "no_such", "--create", "--url", sqlite_url]) == 1
    assert f"'no_such'; known: {', '.join(reversed(CHAIN))}" in capfd.readouterr().err


NO_REVISIONS = ["", " ", "@", "head@", "+", "m8@-1", "head+1", ":", "\n", "x" * 10_000]
NO_REVISIONS += ["+" + "9" * 5000, "heads@-1", f"{M4_003}-99"]


@pytest.mark.parametrize("command", [["upgrade"], ["downgrade"], ["stamp"], ["preflight"]])
@pytest.mark.parametrize("text", NO_REVISIONS, ids=lambda text: text[:20])
def test_text_that_is_no_revision_is_refused_in_one_line(
    text: str, command: list[str], sqlite_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(sqlite_url, M4_003)
    before = schema_dump(sqlite_url), database_hash(sqlite_url)
    option = [f"--down={text}"] if command == ["preflight"] else ["-q", "--", text]
    capfd.readouterr()

    status = main([*command, "--url", sqlite_url, *option])

    (line,) = capfd.readouterr().err.splitlines()
    assert status == ExitStatus.REFUSED
    assert " error   " in line
    assert len(line) < 600
    assert (schema_dump(sqlite_url), database_hash(sqlite_url)) == before


@pytest.mark.parametrize("engine", ONE_OF_EACH)
@pytest.mark.parametrize("text", ["", "@"])
def test_revision_that_is_empty_is_refused_with_the_known_ones(
    text: str, engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    expected = rf"Can't locate revision identified by '{text}'; known: {HEAD}, .*, head and base$"
    with database_at(M4_003, engine, tmp_path) as url:
        for call in (schema.upgrade, schema.downgrade):
            with pytest.raises(CommandError, match=expected):
                call(url, text)
        capfd.readouterr()
        assert main(["preflight", f"--down={text}", "--url", url]) == ExitStatus.REFUSED
        assert re.search(expected, capfd.readouterr().err.rstrip())
        assert main(["stamp", text, "-q", "--url", url]) == ExitStatus.REFUSED
        assert re.search(expected, capfd.readouterr().err.rstrip())


@pytest.mark.parametrize("revision", [None, 5, ["head"]])
@pytest.mark.parametrize("call", [schema.upgrade, schema.downgrade])
def test_revision_that_is_no_text_is_refused_in_one_line(call: Any, revision: Any, tmp_path: Path):
    with pytest.raises(CommandError, match=r"the revision is .*; expected its id, head or base"):
        call(f"sqlite:///{tmp_path}/plans.db", revision)

    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "arguments",
    [["upgrade", ""], ["upgrade", ":head"], ["upgrade", "a:b:c"], ["downgrade", "head:@"]],
)
def test_script_of_no_revision_is_refused_before_its_first_line(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
):
    url = "postgresql://127.0.0.1:1/plans"

    assert main([*arguments, "--sql", "-q", "--url", url]) == ExitStatus.REFUSED
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_downgrade_to_what_is_not_below_says_what_it_would_take(
    sqlite_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(sqlite_url, M4_003)
    capfd.readouterr()

    assert main(["downgrade", "-q", HEAD, "--url", sqlite_url]) == ExitStatus.REFUSED

    err = capfd.readouterr().err
    assert "a downgrade to an earlier one (`cleveragents-plans status` shows where" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
@pytest.mark.parametrize(
    "command", [["upgrade"], ["downgrade", "base"], ["stamp", HEAD], ["current"], ["status"]]
)
def test_file_that_is_named_and_not_there_is_not_created_unasked(
    command: list[str],
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    url = form.format(tmp_path / "a plan.db")
    assert main([*command, "--url", url]) == 1
    monkeypatch.setenv("DATABASE_URL", url)
    assert main(command) == 1

    refusals = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(refusals) == 2
    assert all("there is no file" in line and "upgrade --create" in line for line in refusals)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_file_that_is_named_is_created_with_create(form: str, tmp_path: Path):
    url = form.format(tmp_path / "plans.db")

    assert main(["upgrade", "--create", "--url", url]) == 0
    assert main(["current", "--check-heads", "--url", url]) == 0


def test_alembic_and_the_library_create_the_file_that_is_named(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/first.db"
    subprocess.run(
        [sys.executable, "-m", "alembic", "-c", ROOT / "alembic.ini", "-x", f"url={url}",
         "upgrade", "head"],
        check=True, capture_output=True,
    )  # fmt: skip
    schema.upgrade(f"sqlite:///{tmp_path}/second.db")

    assert sorted(each.name for each in tmp_path.iterdir()) == ["first.db", "second.db"]


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_run_ends_with_what_was_done_and_what_to_do_next(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_with(store_family, engine, tmp_path) as url:
        assert main(["downgrade", M4_003, "--url", url]) == 0
        down = capfd.readouterr().err.splitlines()
        assert main(["upgrade", "--url", url]) == 0
        up = capfd.readouterr().err.splitlines()
        assert main(["upgrade", "--url", url]) == 0
        again = capfd.readouterr().err.splitlines()

    # On PostgreSQL each of the five plans, and its snapshot on the way to or from the archive.
    written = {"sqlite": 5, "postgresql-18": 10}[engine]
    for lines, change in ((down, f"{HEAD} -> {M4_003}"), (up, f"{M4_003} -> {HEAD}")):
        assert lines[-2].endswith(change)
        assert re.search(
            rf"{written} rows written, longest exclusive lock (\d+ ms|\d\.\d s); to check the "
            rf"result, run `cleveragents-plans verify {re.escape(url_option(url))}`$",
            lines[-1],
        )
    assert "already at" in again[-1]


def test_second_upgrade_says_that_there_is_nothing_to_do(
    empty_url: str, capfd: pytest.CaptureFixture[str]
):
    main(["upgrade", "--create", "--url", empty_url])
    first = capfd.readouterr().err

    status = main(["upgrade", "--create", "--url", empty_url])

    assert status == 0
    assert f"empty -> {HEAD}" in first
    assert f"already at {HEAD}, nothing to do" in capfd.readouterr().err


def test_default_database_is_in_the_current_folder_and_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    main(["upgrade", "--log", "plain"])

    assert capfd.readouterr().err.startswith("database: sqlite:///plans.db (the default, in ")
    assert (tmp_path / "plans.db").exists()


def test_url_given_to_the_command_overrides_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///environment.db")

    main(["upgrade", "--create"])
    main(["upgrade", "--create", "--url", "sqlite:///option.db"])
    main(["upgrade", "--create", "-x", "url=sqlite:///x.db"])

    files = sorted(file.name for file in tmp_path.glob("*.db"))
    assert files == ["environment.db", "option.db", "x.db"]


def test_setting_that_is_no_number_is_refused(sqlite_url: str, capfd: pytest.CaptureFixture[str]):
    assert main(["upgrade", "--url", sqlite_url, "-x", "lock-wait=soon"]) == 1
    assert "lock-wait is 'soon'; expected a number from 0 to 2,147,483" in capfd.readouterr().err


def test_current_prints_the_revision(migrated_url: str, capfd: pytest.CaptureFixture[str]):
    assert main(["current", "--url", migrated_url]) == 0
    assert capfd.readouterr().out.strip() == f"{HEAD} (head)"


def test_current_check_heads_fails_below_the_head(
    empty_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(empty_url, M4_003)
    assert main(["current", "--check-heads", "--url", empty_url]) == 1
    assert "not on all head revisions" in capfd.readouterr().err

    migrate(empty_url, "head")
    assert main(["current", "--check-heads", "--url", empty_url]) == 0


def test_alembic_prints_one_line_for_a_refusal(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", ROOT / "alembic.ini", "-x", "url=mysql://h/d",
         "upgrade", "head"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "'mysql', which is not supported" in done.stderr + done.stdout


@pytest.mark.slow
def test_wheel_carries_the_chain_and_runs_it_in_an_empty_folder(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    installed, folder = tmp_path / "installed", tmp_path / "empty"
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        names = set(archive.namelist())
    # The installed copy is not what coverage is measured of.
    kept = {
        name: value
        for name, value in os.environ.items()
        if "COVERAGE" not in name and name != "DATABASE_URL"
    }
    environment = {**kept, "PYTHONPATH": str(installed)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, cwd=folder,
            env=environment, check=False,
        )  # fmt: skip

    where = run("-c", "import cleveragents_plans; print(cleveragents_plans.__file__)").stdout
    upgrade = run("-m", "cleveragents_plans", "upgrade")
    (folder / "alembic.ini").write_text(
        "[alembic]\nscript_location = cleveragents_plans:migrations\npath_separator = os\n"
    )
    current = run("-m", "alembic", "current")
    downgrade = run("-m", "cleveragents_plans", "downgrade", M4_003)

    assert str(installed) in where
    assert {"cleveragents_plans/py.typed", "cleveragents_plans/specification.md"} <= names
    assert (upgrade.returncode, current.returncode, downgrade.returncode) == (0, 0, 0)
    assert HEAD in current.stdout
    with sqlite3.connect(folder / "plans.db") as connection:
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    assert version == M4_003


def test_names_used_in_the_readme_are_public():
    from cleveragents_plans import __all__ as public

    wanted = {"Plan", "LifecyclePlanModel", "AutomationProfile", "PlanRepository", "open_engine"}
    assert wanted <= set(public)
    assert len(public) == len(set(public))
    assert all(re.fullmatch(r"[A-Za-z_]+", name) for name in public)


def sql_runner(url: str):
    from sqlalchemy import NullPool

    from cleveragents_plans import open_engine

    def run(statement: str) -> None:
        with open_engine(url, poolclass=NullPool).begin() as connection:
            connection.exec_driver_sql(statement)

    return run


def test_alembic_ini_of_three_lines_finds_the_chain_of_a_checkout(tmp_path: Path):
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = cleveragents_plans:migrations\npath_separator = os\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=tmp_path, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plans.db").exists()


def test_editable_install_has_no_copy_of_the_chain():
    copies = [Path(folder) / "cleveragents_plans" / "migrations" for folder in sys.path]

    found = {copy.resolve() for copy in copies if copy.exists()}

    assert found == {ROOT / "migrations"}


def test_quiet_run_prints_nothing_but_errors(empty_url: str, capfd: pytest.CaptureFixture[str]):
    assert main(["upgrade", "-q", "--create", "--url", empty_url]) == 0
    assert main(["downgrade", "-q", "--url", empty_url, "m4_003_plan_env_columns"]) == 0
    assert "".join(capfd.readouterr()) == ""

    assert main(["upgrade", "-q", "--log", "plain", "--url", empty_url, "no_such"]) == 1
    assert capfd.readouterr().err.startswith("error: ")


def test_quiet_alembic_prints_nothing(sqlite_url: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-q", "-c", ROOT / "alembic.ini", "-x",
         f"url={sqlite_url}", "upgrade", "head"],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("", "")


def test_quiet_run_still_warns(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/plans.db"
    main(["upgrade", "-q", "--create", "--url", url, "m4_003_plan_env_columns"])
    main(["stamp", "-q", "--url", url, "m8_001_align_plans_schema"])

    done = subprocess.run(
        [sys.executable, "-m", "cleveragents_plans", "current", "-q", "--url", url],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip

    assert "the tables are not as that revision makes them" in done.stderr
    assert "database: " not in done.stderr
    assert done.stdout == "m8_001_align_plans_schema\n"
