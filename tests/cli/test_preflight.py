"""``preflight`` as it is typed: what it prints, its exit status, and whom it names."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.persistence import Base
from cleveragents_plans.preflight import sessions
from support.broken import break_database, libpq
from support.databases import ONE_OF_EACH, database_at, database_with, url_option
from support.former_release import write_former_release
from support.json_output import validated
from support.revisions import CHAIN, M4_003, M8_001, M8_002
from support.rows import database_hash, schema_dump

PENDING = CHAIN[CHAIN.index(M4_003) + 1 :]


def preflight(url: str, capfd: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    capfd.readouterr()
    code = main(["preflight", "-q", "--url", url, *options])
    out, err = capfd.readouterr()
    assert err == ""
    return code, out


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_ready_database_is_status_0_and_stays_as_it_is(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, engine, tmp_path) as url:
        before = database_hash(url), schema_dump(url), sorted(tmp_path.iterdir())
        code, out = preflight(url, capfd)
        report = validated(preflight(url, capfd, "--json")[1])
        assert (database_hash(url), schema_dump(url), sorted(tmp_path.iterdir())) == before

    assert code == ExitStatus.DONE
    assert f"upgrade   {', '.join(PENDING)}\n" in out
    assert out.endswith("\nready\n")
    assert (report["ready"], report["found"]["blocks"]) == (True, [])
    assert report["found"]["steps"] == PENDING


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_refusal_is_status_1_with_what_to_do(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, engine, tmp_path) as url:
        break_database(url, [f"UPDATE alembic_version SET version_num = '{M8_002}'"])
        code, out = preflight(url, capfd)
        report = validated(preflight(url, capfd, "--json")[1])

    assert code == ExitStatus.REFUSED
    assert "\nBLOCKS    alembic_version says" in out
    assert f"run `cleveragents-plans stamp --purge {M4_003} {url_option(url)}`" in out
    assert out.endswith("\nnot ready, 1 block, exit status 1\n")
    assert [block["remedy"] for block in report["found"]["blocks"]] == [None]


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_downgrade_can_be_looked_at(engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with database_at("head", engine, tmp_path) as url:
        code, out = preflight(url, capfd, "--down", M4_003)
        wrong = main(["preflight", "-q", "--url", url, "--down", "zzz"])

    assert code == ExitStatus.DONE
    assert f"downgrade  {', '.join(reversed(PENDING))}\n" in out
    assert wrong == ExitStatus.REFUSED
    assert capfd.readouterr().err.count("\n") == 1


def test_idle_transaction_is_named_with_what_ends_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "MIN_AGE", 0.0)
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        with psycopg.connect(libpq(url), application_name="night-report") as client:
            client.execute("SELECT count(*) FROM v3_plans")
            pid = client.info.backend_pid
            code, out = preflight(url, capfd)
        after, _ = preflight(url, capfd)

    assert (code, after) == (ExitStatus.REFUSED, ExitStatus.DONE)
    assert f"\nBLOCKS    pid {pid} night-report, user postgres, idle in transaction, open 0:" in out
    assert f"wait, or: SELECT pg_terminate_backend({pid})\n" in out


#: It sets the title of the window, and turns what follows around.
ESCAPES = "\x1b]0;owned\x07\x9b31m\u202e"
ESCAPED = r"\x1b]0;owned\x07\x9b31m\u202e"


def test_query_of_another_session_reaches_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "MIN_AGE", 0.0)
    with (
        database_at(M4_003, "postgresql-18", tmp_path) as url,
        psycopg.connect(libpq(url)) as client,
    ):
        client.execute(f"SELECT count(*) FROM v3_plans /* {ESCAPES} */".encode())
        code, out = preflight(url, capfd)
        exact = preflight(url, capfd, "--json")[1]

    assert code == ExitStatus.REFUSED
    assert ESCAPED in " ".join(out.split())
    assert (out + exact).replace("\n", "").isprintable()
    assert ESCAPES in validated(exact)["found"]["blocks"][0]["found"]


def test_transaction_that_has_just_begun_blocks_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "MIN_AGE", 3600.0)
    with database_at(M4_003, "postgresql-18", tmp_path) as url, psycopg.connect(libpq(url)) as one:
        one.execute("SELECT count(*) FROM v3_plans")
        code, _ = preflight(url, capfd)

    assert code == ExitStatus.DONE


def test_old_snapshot_elsewhere_is_named_because_indexes_wait_for_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "MIN_AGE", 0.0)
    with database_at(M8_001, "postgresql-18", tmp_path) as url, psycopg.connect(libpq(url)) as one:
        one.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        one.execute("SELECT 1 FROM pg_class")
        pid = one.info.backend_pid
        code, out = preflight(url, capfd)

    assert code == ExitStatus.REFUSED
    assert f"BLOCKS    pid {pid}" in out
    assert ", snapshot: SELECT 1 FROM pg_class" in out


def test_session_of_another_role_says_how_it_can_be_seen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "MIN_AGE", 0.0)
    role = "preflight_clerk"
    make = f"DO $$BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN OTHERS THEN NULL; END$$"
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        tables = [*Base.metadata.tables, "alembic_version"]
        break_database(
            url, [make, f"GRANT ALL ON SCHEMA public TO {role}",
                  *(f"ALTER TABLE {table} OWNER TO {role}" for table in tables)],
        )  # fmt: skip
        with psycopg.connect(libpq(url)) as other:
            other.execute("SELECT count(*) FROM v3_plans")
            pid = other.info.backend_pid
            code, out = preflight(url.replace("postgres@", f"{role}@"), capfd)

    assert code == ExitStatus.REFUSED
    assert f"BLOCKS    pid {pid}" in out
    assert "GRANT pg_read_all_stats" in out


WRITER = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
    "c.execute('BEGIN IMMEDIATE'); print('ready', flush=True); sys.stdin.read()"
)


def test_process_that_writes_to_the_file_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, "sqlite", tmp_path) as url, subprocess.Popen(
        [sys.executable, "-c", WRITER, url.removeprefix("sqlite:///")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        code, out = preflight(url, capfd)

    assert code == ExitStatus.REFUSED
    assert f"is in use: pid {writer.pid} (" in out
    assert f"wait, or end process {writer.pid}\n" in out


def test_name_of_a_process_reaches_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Linux cuts it after 15 bytes, which may be inside of a character."""
    name = "\x1b]0;é\x9b\u202eabcé".encode()
    named = f"open('/proc/self/comm', 'wb').write({name!r}); {WRITER}"
    with database_at(M4_003, "sqlite", tmp_path) as url, subprocess.Popen(
        [sys.executable, "-c", named, url.removeprefix("sqlite:///")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        code, out = preflight(url, capfd)
        exact = preflight(url, capfd, "--json")[1]

    assert code == ExitStatus.REFUSED
    assert rf"pid {writer.pid} (\x1b]0;é\x9b\u202eabc\xc3)" in out
    assert (out + exact).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("url", "status", "told"),
    [
        ("sqlite:///{folder}/none.db", ExitStatus.REFUSED, "there is no file at"),
        ("sqlite:///{folder}/notes.txt", ExitStatus.REFUSED, "file is not a database"),
        ("postgresql://me:s3cret@127.0.0.1:1/plans", ExitStatus.UNREACHABLE, "cannot be opened"),
    ],
)
def test_database_that_cannot_be_read_is_one_line_and_is_not_created(
    url: str, status: int, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "notes.txt").write_text("Buy milk. " * 200)

    assert main(["preflight", "--url", url.format(folder=tmp_path)]) == status

    out, err = capfd.readouterr()
    assert told in err
    assert (out, err.count("\n"), "s3cret" in err) == ("", 1, False)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_damaged_file_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        file = Path(url.removeprefix("sqlite:///"))
        bytes_ = bytearray(file.read_bytes())
        bytes_[4096:] = b"\xff" * (len(bytes_) - 4096)
        file.write_bytes(bytes_)
        code = main(["preflight", "-q", "--url", url])

    out, err = capfd.readouterr()
    assert (code, out, err.count("\n")) == (ExitStatus.REFUSED, "", 1)
    assert "malformed" in err or "damaged" in err


def test_rows_that_are_copied_and_changed_are_those_of_the_upgrade(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    query = "SELECT plan_id, root_plan_id, automation_profile FROM v3_plans ORDER BY plan_id"
    with database_at(M4_003, "sqlite", tmp_path) as url:
        write_former_release(url, 300)
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            before = connection.execute(query).fetchall()
            _, out = preflight(url, capfd)
            ended = main(["upgrade", M8_001, "--url", url])
            said = capfd.readouterr().err
            after = connection.execute(query).fetchall()

    pairs = [*zip(before, after, strict=True)]
    changed, roots, profiles = (
        sum(former[place] != new[place] for former, new in pairs) for place in (slice(None), 1, 2)
    )
    assert ended == ExitStatus.DONE
    assert 0 < roots < changed < 300
    assert (
        f"copies 300 rows of v3_plans, changes {changed} of them: "
        f"{roots} root_plan_id, {profiles} automation_profile "
    ) in " ".join(out.split())
    assert "300 rows written, longest exclusive lock" in said


def former(url: str) -> None:
    write_former_release(url, plans=60, pure=True)


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_warning_is_in_the_result_and_not_logged_besides(engine: str, tmp_path: Path):
    """That of the trial on a sample names another number of rows."""
    with database_with(former, engine, tmp_path, M4_003) as url:
        break_database(url, ["UPDATE v3_plans SET root_plan_id = NULL, parent_plan_id = 'gone'"])
        command = [sys.executable, "-m", "cleveragents_plans", "preflight", "--url", url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout.count("name a parent that does not exist") == 1
    assert "name a parent" not in done.stderr


def test_steps_of_the_trial_are_not_told_as_those_of_the_file(tmp_path: Path):
    with database_at("head", "sqlite", tmp_path) as url:
        command = [sys.executable, "-m", "cleveragents_plans", "preflight", "--down", M4_003]
        done = subprocess.run(
            [*command, "--url", url], capture_output=True, text=True, check=True, cwd=tmp_path
        )

    assert "Running" not in done.stderr


def break_with_function(url: str, *statements: str) -> None:
    """Run *statements* on a connection that has a function and a collation of its own."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as driver, driver:
        driver.create_function("fold", 1, lambda text: text, deterministic=True)
        driver.create_collation("german", lambda a, b: (a > b) - (a < b))
        for statement in statements:
            driver.execute(statement)


def test_function_that_only_the_application_has_stops_what_it_would_stop_and_no_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        break_with_function(
            url,
            "CREATE TABLE other (a CHECK (fold(a) <> ''))",
            "INSERT INTO other VALUES ('x')",
            "CREATE INDEX of_other ON other (fold(a))",
            "CREATE VIEW seen AS SELECT fold(plan_id) FROM v3_plans",
        )
        assert preflight(url, capfd)[0] == ExitStatus.DONE

        break_with_function(url, "CREATE INDEX folded ON v3_plans (fold(description))")
        code, out = preflight(url, capfd)
        refused = main(["upgrade", "-q", "--url", url])

    assert (code, refused) == (ExitStatus.REFUSED, ExitStatus.REFUSED)
    assert "BLOCKS    folded cannot be created in a copy: no such function: fold" in out
    assert "folded" in capfd.readouterr().err


@pytest.mark.parametrize("path", ["folder", "pipe", "/dev/null"])
@pytest.mark.parametrize("command", ["preflight", "status", "upgrade"])
def test_path_that_is_no_file_is_refused_in_one_line(
    path: str, command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    assert main([command, "-q", "--url", f"sqlite:///{tmp_path / path}"]) == ExitStatus.REFUSED

    said = capfd.readouterr().err
    what = "a directory" if path == "folder" else "no regular file"
    assert f"{Path(path).name} is {what}; expected the path of a file" in said
    assert said.count("\n") == 1


def test_file_that_its_mode_protects_blocks_in_the_words_of_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """The superuser could write to it."""
    with database_at(M4_003, "sqlite", tmp_path) as url:
        file = Path(url.removeprefix("sqlite:///"))
        file.chmod(0o444)
        capfd.readouterr()
        foreseen = main(["preflight", "-q", "--url", url])
        migrated = main(["upgrade", "-q", "--url", url])

    out, err = capfd.readouterr()
    expected = (
        f"{file} is read-only; if it is to be migrated, allow writing with `chmod u+w {file}`"
    )
    assert (foreseen, migrated) == (1, ExitStatus.REFUSED)
    assert expected in out
    assert expected in err


@pytest.mark.parametrize("parameter", ["mode=ro", "immutable=1", "immutable=ON", "immutable=02"])
def test_url_that_opens_the_file_to_be_read_only_is_refused(
    parameter: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        file = url.removeprefix("sqlite:///")
        named = f"sqlite:///file:{file}?{parameter}&uri=true"
        capfd.readouterr()
        foreseen = main(["preflight", "-q", "--url", named])
        migrated = main(["upgrade", "-q", "--url", named])
        shown = main(["status", "-q", "--url", named])

    out, err = capfd.readouterr()
    expected = f"the URL opens the file to be read only ({parameter}); leave that out of it"
    assert (foreseen, migrated, shown) == (1, ExitStatus.REFUSED, ExitStatus.FOUND)
    assert expected in out
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("parameter", ["mode=rw", "immutable=0", "immutable=off"])
def test_url_that_opens_the_file_to_be_written_is_ready(parameter: str, tmp_path: Path):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        named = f"sqlite:///file:{url.removeprefix('sqlite:///')}?{parameter}&uri=true"
        assert main(["preflight", "-q", "--url", named]) == 0
        assert main(["upgrade", "-q", "--url", named]) == 0


# A file can have the second, but its journal cannot have a name that is longer.
@pytest.mark.parametrize("name", ["n" * 300 + ".db", "n" * 250 + ".db", "loop"])
def test_path_that_cannot_be_looked_at_is_refused_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    url = f"sqlite:///{tmp_path / name}"

    one = main(["upgrade", "--create", "-q", "--url", url])
    several = main(["status", "-q", "--url", url, "--url", f"sqlite:///{tmp_path}/other.db"])

    assert (one, several) == (ExitStatus.REFUSED,) * 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert f"{name} cannot be looked at (" in line
    assert f"{name} cannot be looked at (" in out
    assert [*tmp_path.iterdir()] == [tmp_path / "loop"]
