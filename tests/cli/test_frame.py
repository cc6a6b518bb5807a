"""The command line as such: usage, exit statuses, options, what it needs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from cleveragents_plans.cli import main
from cleveragents_plans.cli.program import program
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.settings import Settings
from support.databases import ONE_OF_EACH, ROOT, database_at, empty_database
from support.revisions import HEAD, M4_003, M8_002


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "Commands:"),
        (["upgrad"], "No such command 'upgrad'."),
        (["upgrade", "--ulr", "x"], "No such option"),
        (["upgrade", "-1x"], "No such option"),
        (["downgrade"], "Missing argument 'REVISION'"),
        (["stamp"], "Missing argument 'REVISION...'"),
    ],
)
def test_usage_error_is_status_2_and_goes_to_standard_error(
    typed: list[str], told: str, capfd: pytest.CaptureFixture[str]
):
    assert main(typed) == ExitStatus.USAGE

    out, err = capfd.readouterr()
    assert told in err
    assert out == ""


def test_usage_error_is_an_event_of_level_error(capfd: pytest.CaptureFixture[str]):
    assert main(["throttle", "pauze"]) == ExitStatus.USAGE

    *_, last = capfd.readouterr().err.splitlines()
    assert "Z error   Invalid value: 'pauze'; expected pause, resume, or rows-per-second" in last


def test_help_lists_the_commands_and_the_exit_statuses(capfd: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0

    out, err = capfd.readouterr()
    assert all(name in out for name in program.commands)
    assert all(str(int(status)) in out for status in ExitStatus if status != 130)
    assert err == ""


def test_every_command_has_a_help_text_and_describes_its_options():
    for name, command in program.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, (name, parameter.name)


@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_help_names_every_setting_with_its_unit_its_meaning_and_its_default(
    command: str, capfd: pytest.CaptureFixture[str]
):
    assert main([command, "--help"]) == 0

    said = " ".join(capfd.readouterr().out.split())
    for each in fields(Settings):
        name, meaning = each.name.replace("_", "-"), each.metadata["meaning"]
        shown = f"--{name} {each.metadata['unit']} {meaning} (default: {each.default:g})."
        assert shown in said


def test_table_of_settings_names_every_setting_and_its_default():
    table = (ROOT / "docs" / "settings-and-locks.md").read_text()

    for each in fields(Settings):
        assert f"| `{each.name.replace('_', '-')}` | {each.default:g} |" in table


def test_setting_given_by_its_name_is_checked_as_by_x(
    sqlite_url: str, capfd: pytest.CaptureFixture[str]
):
    for typed in (["--lock-wait", "soon"], ["-x", "lock-wait=soon"]):
        assert main(["upgrade", "--url", sqlite_url, *typed]) == ExitStatus.REFUSED
        assert "lock-wait is 'soon'; expected a number" in capfd.readouterr().err

    both = ["--lock-wait", "5", "-x", "lock-wait=6"]
    assert main(["upgrade", "--url", sqlite_url, *both]) == ExitStatus.REFUSED
    assert "lock-wait is 'given twice, with values that differ'" in capfd.readouterr().err
    assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_version_table_and_confirmation_are_options(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with empty_database(engine, tmp_path) as url:
        own = ["--url", url, "--version-table", "plans_version", "-q"]
        assert main(["upgrade", "--create", *own]) == 0
        assert main(["current", *own]) == 0
        assert capfd.readouterr().out == f"{HEAD} (head)\n"
        assert main(["downgrade", "base", "--drop-plans", *own]) == 0
        assert main(["current", *own]) == 0
        assert capfd.readouterr().out == ""


def test_relative_revision_is_an_argument_and_no_option(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M8_002, "sqlite", tmp_path) as url:
        assert main(["downgrade", "-2", "--url", url, "-q"]) == 0
        assert main(["current", "--url", url, "-q"]) == 0

        assert capfd.readouterr().out == f"{M4_003}\n"


def test_lock_that_is_not_obtained_in_time_is_status_75(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        libpq = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(libpq) as client:
            client.execute("SELECT 1 FROM v3_plans")

            status = main(["upgrade", "--url", url, "--lock-wait", "0.2"])

    assert "no lock on public.v3_plans" in capfd.readouterr().err
    assert status == ExitStatus.AGAIN


def without_the_extra(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python where click and rich cannot be imported."""
    hide = "import sys; sys.modules.update(click=None, rich=None); "
    return subprocess.run(
        [sys.executable, "-c", hide + words[0], *words[1:]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_command_line_without_its_extra_says_what_to_install():
    run = "import runpy; runpy.run_module('cleveragents_plans', run_name='__main__')"

    done = without_the_extra(run, "upgrade")

    assert done.returncode == ExitStatus.REFUSED
    assert done.stdout == ""
    assert done.stderr == (
        "error: the module 'click' of the command line is not installed; "
        "run: pip install 'cleveragents-plans[cli]'\n"
    )


def test_library_and_migrations_need_no_command_line(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/plans.db"

    done = without_the_extra(
        "from cleveragents_plans import schema; schema.upgrade(sys.argv[1])", url
    )

    assert done.returncode == 0, done.stderr
