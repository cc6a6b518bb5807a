"""``verify`` as it is typed: what it prints, where, and its exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from support.broken import A, B, C, break_database, store_family
from support.databases import ONE_OF_EACH, database_with, url_option
from support.json_output import validated
from support.revisions import HEAD

OWN_ROOT = f"UPDATE v3_plans SET root_plan_id = plan_id WHERE plan_id = '{B}'"


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_sound_database_is_status_0_and_says_what_was_looked_at(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_with(store_family, engine, tmp_path) as url:
        capfd.readouterr()
        status = main(["verify", "--url", url, "-q"])

    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert (status, err) == (ExitStatus.DONE, "")
    assert re.match(rf"database  {re.escape(url[:6])}.*, (SQLite 3|PostgreSQL 18)\.\d+", lines[0])
    assert lines[1:] == [f"revision  {HEAD} (head)", "plans     5; each can be read", "", "sound"]


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_fault_is_status_3_and_names_plans_and_remedy(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_with(store_family, engine, tmp_path) as url:
        break_database(url, [OWN_ROOT, "CREATE INDEX mine ON v3_plans (created_by)"])
        status = main(["verify", "--url", url, "-q"])

    out, _ = capfd.readouterr()
    assert status == ExitStatus.FOUND
    assert "fault  root-own  v3_plans.root_plan_id  in 1 row\n" in out
    assert f"       plans: {B}\n" in out
    assert f"to mend it: run `cleveragents-plans verify --repair roots {url_option(url)}`" in out
    assert "note   index-extra  v3_plans.mine" in out
    assert out.endswith("\n2 faults, 1 note\n")  # the child's root is another than that of B now


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_plans_that_cannot_be_read_are_counted(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_with(store_family, engine, tmp_path) as url:
        break_database(
            url,
            [f"UPDATE v3_plans SET tags_json = '[1]' WHERE plan_id IN ('{A}', '{B}')",
             f"UPDATE v3_plans SET effective_profile_snapshot = '[1]' WHERE plan_id = '{C}'"],
        )  # fmt: skip
        assert main(["verify", "--url", url, "-q"]) == ExitStatus.FOUND
        whole = capfd.readouterr().out
        assert main(["verify", "--quick", "--url", url, "-q"]) == ExitStatus.DONE
        quick = capfd.readouterr().out

    assert "\nplans     5; 3 of them cannot be read\n" in whole
    assert "\nplans     5; none was read\n" in quick


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_json_is_as_its_schema_says(engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with database_with(store_family, engine, tmp_path) as url:
        sound = main(["verify", "--url", url, "--json", "--fingerprint", "-q"])
        good = validated(capfd.readouterr().out)
        break_database(url, [OWN_ROOT])
        found = main(["verify", "--url", url, "--json", "--quick", "--plans", "1", "-q"])
        bad = validated(capfd.readouterr().out)

    assert (sound, found) == (ExitStatus.DONE, ExitStatus.FOUND)
    assert (good["sound"], good["plans"], good["findings"]) == (True, 5, [])
    assert re.fullmatch(r"[0-9a-f]{32}", good["fingerprint"])
    assert good["database"]["revisions"] == [HEAD]
    assert (bad["sound"], bad["read_plans"], bad["fingerprint"]) == (False, False, None)
    first = bad["findings"][0]
    assert (first["kind"], first["plan_ids"], first["total"]) == ("root-own", [B], 1)


def test_number_of_plans_that_are_named_can_be_chosen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_with(store_family, "sqlite", tmp_path) as url:
        break_database(url, ["UPDATE v3_plans SET tags_json = '{'"])
        main(["verify", "--url", url, "-q", "--plans", "1"])

    assert f"plans: {A} and 4 more" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("url", "status", "told"),
    [
        ("sqlite:///{folder}/none.db", ExitStatus.REFUSED, "there is no file at"),
        ("sqlite:///{folder}/notes.txt", ExitStatus.REFUSED, "file is not a database"),
        ("postgresql://me:s3cret@127.0.0.1:1/plans", ExitStatus.UNREACHABLE, "cannot be opened"),
        ("mysql://me:s3cret@h/plans", ExitStatus.REFUSED, "which is not supported"),
    ],
)
def test_database_that_cannot_be_read_is_one_line_and_is_not_created(
    url: str, status: int, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "notes.txt").write_text("Buy milk. " * 200)

    assert main(["verify", "--url", url.format(folder=tmp_path)]) == status

    out, err = capfd.readouterr()
    assert told in err
    assert (out, err.count("\n"), "s3cret" in err) == ("", 1, False)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["schema", "version-table"])
def test_schema_and_version_table_that_are_not_there_are_refused(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_with(store_family, "postgresql-18", tmp_path) as url:
        status = main(["verify", "--url", url, f"--{name}", "nowhere", "-q"])

    out, err = capfd.readouterr()
    if name == "schema":
        assert (status, out) == (ExitStatus.REFUSED, "")
        assert "there is no schema 'nowhere'" in err
    else:
        assert status == ExitStatus.FOUND
        assert "give -x version-table=alembic_version" in out


def typed(url: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cleveragents_plans", "verify", "--url", url, *options],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def on_terminal(url: str, **environment: str) -> str:
    """Give what it writes where standard output is a terminal."""
    main_end, other_end = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "cleveragents_plans", "verify", "-q", "--url", url],
        stdout=other_end, stderr=subprocess.DEVNULL, check=False,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", **environment},
    )  # fmt: skip
    os.close(other_end)
    with os.fdopen(main_end, "rb") as output:
        return output.read1(100_000).decode()  # type: ignore[union-attr]


@pytest.mark.slow
def test_output_is_coloured_and_wrapped_on_a_terminal_only(tmp_path: Path):
    with database_with(store_family, "sqlite", tmp_path) as url:
        break_database(url, [OWN_ROOT])

        piped = typed(url, "-q").stdout
        terminal = on_terminal(url)
        plain = on_terminal(url, NO_COLOR="1")
        narrow = typed(url, "-q", COLUMNS="40").stdout

    assert "\x1b[" not in piped
    assert piped == narrow
    assert max(map(len, piped.splitlines())) > 60
    assert not any(line.endswith(" ") for line in piped.splitlines())
    assert "\x1b[1;31mfault" in terminal
    assert re.search("\x1b\\[[0-9;]*3[0-9]m", plain) is None
    width = max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in plain.splitlines())
    assert width <= 60


@pytest.mark.slow
def test_reader_that_leaves_does_not_change_the_exit_status(tmp_path: Path):
    with database_with(store_family, "sqlite", tmp_path) as url:
        break_database(url, [OWN_ROOT])
        program = f"{sys.executable} -m cleveragents_plans verify {url_option(url)}"
        script = f"set -o pipefail; {program} 2>&- | true; {program} | head -1"

        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == ExitStatus.FOUND
    assert done.stdout.startswith("database  ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_output_that_the_encoding_cannot_hold_is_escaped(tmp_path: Path):
    with database_with(store_family, "sqlite", tmp_path) as url:
        break_database(url, ["ALTER TABLE v3_plans ADD COLUMN größe TEXT"])

        done = typed(url, "-q", PYTHONIOENCODING="ascii")

    assert r"column-extra  v3_plans.gr\xf6\xdfe" in done.stdout
    assert done.returncode == ExitStatus.DONE


def test_schema_in_the_package_is_that_of_the_reports():
    from cleveragents_plans.cli.json_schema import FILE, json_schema

    wanted = (
        "python -m cleveragents_plans.cli.json_schema > src/cleveragents_plans/cli/" + FILE.name
    )
    assert json.loads(FILE.read_text()) == json_schema(), f"run: {wanted}"
