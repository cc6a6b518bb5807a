"""Many databases in one run: each is tried, and the run ends as the worst of them did."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cleveragents_plans.cli import jobs, main
from cleveragents_plans.cli.statuses import ExitStatus, worst
from support.broken import libpq
from support.databases import database_at, empty_database
from support.json_output import validated
from support.online import client
from support.revisions import HEAD, M4_003, M8_001
from support.waiting import wait_until

PROGRAM = [sys.executable, "-m", "cleveragents_plans"]


@contextmanager
def tenants(folder: Path, number: int) -> Iterator[str]:
    """Make a database with so many schemas, each with empty tables at m4_003."""
    with empty_database("postgresql-18", folder) as url:
        script = script_of(url)
        with client(url) as connection:
            for each in range(number):
                name = f"tenant_{each:02}"
                connection.execute(f"CREATE SCHEMA {name}; SET search_path = {name}")
                connection.execute(script.replace("tenant_xx", name))
        yield url


@cache
def script_of(url: str) -> str:
    done = subprocess.run(
        [*PROGRAM, "upgrade", M4_003, "--sql", "--schema", "tenant_xx", "--url", url],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def ran(capfd: pytest.CaptureFixture[str], *typed: str) -> tuple[int, dict[str, Any]]:
    capfd.readouterr()
    status = main([*typed, "--json", "-q"])
    report = validated(capfd.readouterr().out)
    assert report["status"] == status
    return status, report


def by_schema(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["schema_name"]: each for each in report["members"]}


def files(folder: Path, number: int) -> list[str]:
    return [f"sqlite:///{folder}/{each:03}.db" for each in range(number)]


def urls_of(named: list[str]) -> list[str]:
    return [word for url in named for word in ("--url", url)]


def version(url: str) -> str:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        stored: str = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        return stored


@pytest.mark.fault
def test_forty_schemas_are_upgraded_and_the_broken_ones_say_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with tenants(tmp_path, 40) as url:
        with client(url) as connection:
            connection.execute("DROP TABLE tenant_03.v3_plans CASCADE")
            connection.execute("CREATE ROLE fleet_stranger")
            connection.execute("ALTER TABLE tenant_04.plan_invariants OWNER TO fleet_stranger")
            note = f"[unfinished upgrade of {M8_001}]"
            connection.execute(f"COMMENT ON TABLE tenant_05.alembic_version IS '{note}'")
            connection.execute(f"UPDATE tenant_06.alembic_version SET version_num = '{HEAD}'")
            connection.execute("CREATE SCHEMA tenant_without_plans")
            connection.execute("CREATE SCHEMA other; CREATE TABLE other.v3_plans ()")
        each = ["--url", url, "--each-schema", "tenant_%", "--jobs", "2"]
        try:
            before, found = ran(capfd, "status", *each)
            status, report = ran(capfd, "upgrade", *each)
            after, left = ran(capfd, "status", *each)
        finally:
            with client(url) as connection:
                connection.execute("DROP OWNED BY fleet_stranger; DROP ROLE fleet_stranger")

    members = by_schema(found)
    assert [*members] == [f"tenant_{each:02}" for each in range(40)]
    assert (before, members["tenant_05"]["status"]) == (ExitStatus.UNFINISHED,) * 2
    assert members["tenant_00"]["report"]["state"] == "behind"

    assert status == ExitStatus.REFUSED
    broken = {name: it for name, it in by_schema(report).items() if it["status"]}
    assert sorted(broken) == ["tenant_03", "tenant_04", "tenant_06"]
    assert (
        "and of its tables only plan_arguments, plan_invariants, plan_projects are left"
        in broken["tenant_03"]["result"]
    )
    assert "fleet_stranger" in broken["tenant_04"]["result"]
    assert f"cleveragents-plans stamp --purge {M4_003}" in broken["tenant_06"]["result"]
    done = by_schema(report)["tenant_39"]["report"]
    assert (done["before"], done["after"], done["schema_name"]) == ([M4_003], [HEAD], "tenant_39")

    assert after == ExitStatus.FOUND
    states = {name: it["report"]["state"] for name, it in by_schema(left).items()}
    assert {name for name, state in states.items() if state != "ready"} == {*broken}


@pytest.mark.slow
def test_two_hundred_files_are_upgraded_and_the_broken_ones_say_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    named = files(tmp_path, 200)
    with database_at("head", "sqlite", tmp_path):
        for url in named:
            shutil.copyfile(tmp_path / "plans.db", url.removeprefix("sqlite:///"))
    with database_at(M4_003, "sqlite", tmp_path):
        for url in named[::20]:
            shutil.copyfile(tmp_path / "plans.db", url.removeprefix("sqlite:///"))
    (tmp_path / "020.db").write_text("Buy milk. " * 300)
    (tmp_path / "040.db").unlink()
    (tmp_path / "060.db").chmod(0o444)
    (tmp_path / "080.db").write_bytes((tmp_path / "080.db").read_bytes()[:8192])

    with closing(sqlite3.connect(tmp_path / "100.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, report = ran(
            capfd, "upgrade", "--jobs", "2", "--migration-lock-wait", "0.5", *urls_of(named)
        )

    assert status == ExitStatus.REFUSED
    broken = {Path(it["url"]).stem: it for it in report["members"] if it["status"]}
    assert sorted(broken) == ["020", "040", "060", "080", "100"]
    assert "file is not a database" in broken["020"]["result"]
    assert "there is no file at" in broken["040"]["result"]
    assert "is read-only" in broken["060"]["result"]
    assert broken["080"]["status"] == ExitStatus.REFUSED
    assert "is still locked after" in broken["100"]["result"]
    assert broken["100"]["status"] == ExitStatus.AGAIN
    assert {version(url) for url in named if Path(url).stem not in broken} == {HEAD}
    assert not (tmp_path / "040.db").exists()


@pytest.fixture
def two_files(tmp_path: Path) -> list[str]:
    named = files(tmp_path, 2)
    with database_at(M4_003, "sqlite", tmp_path):
        for url in named:
            shutil.copyfile(tmp_path / "plans.db", url.removeprefix("sqlite:///"))
    return named


def test_one_line_for_each_and_a_table_are_for_people(
    two_files: list[str], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    missing = two_files[0].replace("000", "none")

    status = main(["upgrade", *urls_of([two_files[0], missing, two_files[1]])])

    lines = [*capfd.readouterr().out.splitlines()]
    assert status == ExitStatus.REFUSED
    assert lines[0].split() == ["database", "exit", "upgrade"]
    assert lines[1].startswith(f"{two_files[0]}")
    assert f"0     {M4_003} -> {HEAD}; 0 rows written, longest exclusive lock" in lines[1]
    assert "1     there is no file at" in lines[2]
    assert lines[-1] == "3 databases, 1 with a status other than 0"
    assert f"1 of 3: {two_files[0]}: {M4_003} -> {HEAD}; 0 rows" in caplog.text
    assert f"2 of 3: {missing}: there is no file at" in caplog.text


@pytest.mark.slow
def test_relative_revision_and_settings_are_passed_on(
    two_files: list[str], capfd: pytest.CaptureFixture[str]
):
    ran(capfd, "upgrade", M8_001, *urls_of(two_files), "-x", "report-every=5")

    status, report = ran(
        capfd, "downgrade", "-1", *urls_of(two_files), "--lock-wait", "soon", "--jobs", "2"
    )
    assert status == ExitStatus.REFUSED
    assert all("lock-wait is 'soon'" in each["result"] for each in report["members"])

    status, report = ran(capfd, "downgrade", "-1", *urls_of(two_files), "--lock-wait", "5")
    assert status == ExitStatus.DONE
    assert [each["report"]["after"] for each in report["members"]] == [[M4_003]] * 2


def test_verify_looks_at_each(two_files: list[str], capfd: pytest.CaptureFixture[str]):
    with closing(sqlite3.connect(two_files[1].removeprefix("sqlite:///"))) as connection:
        connection.execute("DROP TABLE plan_arguments")

    status, report = ran(capfd, "verify", "--quick", *urls_of(two_files))

    assert status == ExitStatus.FOUND
    assert [each["status"] for each in report["members"]] == [0, ExitStatus.FOUND]
    assert report["members"][0]["result"].startswith("sound")
    assert report["members"][1]["result"] == "2 faults: table-missing, version"


@pytest.mark.slow
def test_password_is_in_no_list_of_processes_and_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with tenants(tmp_path, 2) as url:
        secret = url.replace("postgres@", "postgres:s3cret@")
        with psycopg.connect(libpq(url)) as blocker:
            blocker.execute("LOCK TABLE tenant_00.v3_plans IN ACCESS SHARE MODE")
            run = started(
                "upgrade", "--each-schema", "tenant%", "--report-every", "0.2", DATABASE_URL=secret
            )
            said = waiting(run, 1)
            (worker,) = children(run.pid)
            arguments = Path(f"/proc/{worker}/cmdline").read_text()
        out, err = run.communicate(timeout=120)

    assert run.returncode == 0, err
    assert "fleet_worker" in arguments
    assert "s3cret" not in arguments + said + out + err
    assert "tenant_00: waiting for a lock on tenant_00.v3_plans" in said


@pytest.mark.parametrize(
    ("typed", "told", "status"),
    [
        (["--url", "sqlite:///a.db", "--url", "sqlite:///./a.db"], "is named twice", 2),
        (["--url", "postgresql://a@h/d", "--url", "postgres://b:x@h:5432/d"], "named twice", 2),
        (["--url", "sqlite:///a.db", "--each-schema", "t%"], "SQLite has no schemas", 1),
        (["--url", "sqlite:///a.db", "--url", "mysql://h/d"], "'mysql', which is not supp", 1),
        (["--url", "sqlite:///a.db", "--url", ""], "is empty; expected the URL", 1),
        (["--each-schema", "t%", "--schema", "x"], "--schema or --each-schema, not both", 2),
        (["--each-schema", "t%", "-x", "schema=x"], "--schema or --each-schema, not both", 2),
        (
            ["--each-schema", "t%", "-x", "url=sqlite:///a.db"],
            "name the databases by --url only",
            2,
        ),
        (["--each-schema", "t%", "--sql"], "--sql is for one database", 2),
        (["--each-schema", "!t%"], "name those that are meant as well", 2),
        (["--each-schema", "t\\"], "ends with a backslash", 2),
        (["--jobs", "0", "--url", "a"], "0 is not in the range", 2),
    ],
)
def test_names_and_options_that_do_not_fit_are_refused_before_anything(
    typed: list[str],
    told: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    assert main(["upgrade", "--create", *typed]) == status
    assert told in capfd.readouterr().err
    assert [*tmp_path.iterdir()] == []


@pytest.fixture(scope="module")
def five_tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Schemas tenant_00 to tenant_03, and !odd; each has tables at m4_003."""
    with tenants(tmp_path_factory.mktemp("tenants"), 5) as url:
        with client(url) as connection:
            connection.execute('ALTER SCHEMA tenant_04 RENAME TO "!odd"')
        yield url


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ([r"tenant\_01"], ["tenant_01"]),
        (["tenant_%", "!tenant_02"], ["tenant_00", "tenant_01", "tenant_03"]),
        (["!tenant_%1", "%", "!%_00"], ["!odd", "tenant_02", "tenant_03"]),
        (["tenant_00", r"\!odd"], ["!odd", "tenant_00"]),
        (["%", "!!odd"], ["tenant_00", "tenant_01", "tenant_02", "tenant_03"]),
    ],
)
def test_schemas_are_chosen_by_several_patterns_and_left_out_by_others(
    five_tenants: str, patterns: list[str], chosen: list[str], capfd: pytest.CaptureFixture[str]
):
    each = [word for pattern in patterns for word in ("--each-schema", pattern)]

    status, report = ran(capfd, "status", "--url", five_tenants, *each)

    assert status == ExitStatus.FOUND
    assert [*by_schema(report)] == chosen


def test_schema_that_is_left_out_stays_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with tenants(tmp_path, 3) as url:
        status, report = ran(
            capfd, "upgrade", "--url", url, "--each-schema", "%", "--each-schema", "!tenant_01"
        )
        with client(url) as connection:
            query = "SELECT version_num FROM {}.alembic_version"
            versions = [
                connection.execute(query.format(f"tenant_0{each}")).fetchone() for each in range(3)
            ]

    assert (status, [*by_schema(report)]) == (ExitStatus.DONE, ["tenant_00", "tenant_02"])
    assert versions == [(HEAD,), (M4_003,), (HEAD,)]


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        (["tenants_%"], "no schema like 'tenants_%' with v3_plans"),
        (["%", "ghost"], "no schema like 'ghost' with v3_plans"),
        # Misspelt, it would leave nothing out.
        (["%", "!tenat_01"], "no schema like '!tenat_01' with v3_plans"),
        (["tenant_%", "!tenant_%"], "no schema like 'tenant_%', '!tenant_%' with v3_plans"),
    ],
)
def test_pattern_that_matches_nothing_is_refused_with_the_nearest(
    five_tenants: str, patterns: list[str], told: str, capfd: pytest.CaptureFixture[str]
):
    each = [word for pattern in patterns for word in ("--each-schema", pattern)]

    status = main(["upgrade", "--url", five_tenants, *each])

    err = capfd.readouterr().err
    assert status == ExitStatus.REFUSED
    assert told in err
    assert "of 5 that have: " in err
    assert err.count("\n") == 1


def test_pattern_may_match_in_one_of_several_databases_only(
    five_tenants: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with tenants(tmp_path, 1) as other:
        each = ["--url", five_tenants, "--url", other, "--each-schema", "tenant_%"]
        status, report = ran(capfd, "status", *each, "--each-schema", "!tenant_03")
        refused = main(["status", *each, "--each-schema", "!tenant_07"])
        said = capfd.readouterr().err
        left, partly = ran(capfd, "status", *each, "--each-schema", "!tenant_00")

    names = [member["schema_name"] for member in report["members"]]
    assert (status, names) == (
        ExitStatus.FOUND,
        ["tenant_00", "tenant_01", "tenant_02", "tenant_00"],
    )
    assert refused == ExitStatus.REFUSED
    assert "there is no schema like '!tenant_07'" in said
    assert left == ExitStatus.REFUSED
    assert [member["status"] for member in partly["members"]] == [3, 3, 3, 1]


def test_server_that_is_not_there_does_not_stop_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with tenants(tmp_path, 1) as url:
        status, report = ran(
            capfd, "status", "--each-schema", "%", "--url", "postgresql://me@127.0.0.1:1/d",
            "--url", url,
        )  # fmt: skip

    assert [each["status"] for each in report["members"]] == [69, 3]
    assert status == ExitStatus.FOUND


def test_worst_status_is_that_of_a_signal_then_what_a_person_must_mend():
    order = [143, 2, 1, 4, 3, 69, 75, 0]

    for place in range(len(order)):
        assert worst(reversed(order[place:])) == order[place]


def started(
    *typed: str, program: Sequence[str] = PROGRAM, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*program, *typed],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def waiting(run: subprocess.Popen[str], number: int) -> str:
    """Read what *run* says until so many jobs wait for a lock."""
    assert run.stderr
    said, names = "", set()
    for line in run.stderr:
        said += line
        if ": waiting for a lock on " in line:
            names.add(line.split(": waiting")[0])
        if len(names) == number:
            return said
    raise AssertionError(said)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for tasks in found for each in tasks.read_text().split()]


def require_ended(pid: int) -> None:
    """Wait until a process has ended; it may stay a zombie where no process reaps it."""

    def ended() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state == "Z"

    wait_until(ended)


@contextmanager
def blocked_tenants(folder: Path, number: int) -> Iterator[tuple[str, psycopg.Connection]]:
    """Make schemas whose tables another session reads, so that a run waits."""
    with tenants(folder, number) as url, psycopg.connect(libpq(url)) as blocker:
        for each in range(number):
            blocker.execute(f"LOCK TABLE tenant_{each:02}.v3_plans IN ACCESS SHARE MODE")
        yield url, blocker


EACH = ("--each-schema", "tenant%", "--report-every", "0.2")


@pytest.mark.slow
def test_signal_ends_what_is_under_way_and_says_what_is_left(tmp_path: Path):
    with blocked_tenants(tmp_path, 3) as (url, _):
        run = started("upgrade", "--json", "--jobs", "2", *EACH, DATABASE_URL=url)
        said = waiting(run, 2)
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=240)
        with client(url) as connection:
            # Those of a process that was killed would wait for their locks.
            query = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'cleverag%'"
            wait_until(lambda: not connection.execute(query).fetchall())

    report = validated(out)
    assert (run.returncode, report["status"]) == (143, 143), said + err
    assert [each["status"] for each in report["members"]] == [143, 143, None]
    assert "interrupted by SIGTERM" in report["members"][0]["result"]
    assert report["members"][2]["result"] == "not begun"
    assert "interrupted by SIGTERM; 1 not begun; to go on, run the same command again" in err


@pytest.mark.slow
def test_second_signal_kills_a_process_that_does_not_end(tmp_path: Path):
    with blocked_tenants(tmp_path, 1) as (url, _):
        run = started("upgrade", *EACH, DATABASE_URL=url)
        waiting(run, 1)
        (worker,) = children(run.pid)
        os.kill(worker, signal.SIGSTOP)
        until = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < until:
            run.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        run.communicate(timeout=240)

    assert run.returncode in (143, -signal.SIGTERM)  # a third one, while it ends
    require_ended(worker)


@pytest.mark.slow
def test_database_under_way_is_finished_when_the_parent_is_killed(tmp_path: Path):
    with blocked_tenants(tmp_path, 2) as (url, blocker):
        run = started("upgrade", *EACH, DATABASE_URL=url)
        waiting(run, 1)
        (worker,) = children(run.pid)
        run.kill()
        run.wait()
        blocker.rollback()
        run.communicate(timeout=240)  # its end is that of the process that has its streams, too
        require_ended(worker)
        with client(url) as connection:
            (first,) = connection.execute("SELECT * FROM tenant_00.alembic_version").fetchone()
            (second,) = connection.execute("SELECT * FROM tenant_01.alembic_version").fetchone()

    assert (first, second) == (HEAD, M4_003)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (PROGRAM, "its process ended with -9 before the command did; run the same command again"),
        # Then the system does not say how a process ended.
        (["env", "--ignore-signal=CHLD", *PROGRAM], "its process ended before the command did; "),
    ],
    ids=["", "SIGCHLD ignored"],
)
def test_process_that_is_killed_ends_its_job_and_no_other(
    tmp_path: Path, program: list[str], said: str
):
    with blocked_tenants(tmp_path, 2) as (url, blocker):
        run = started("upgrade", "--json", *EACH, program=program, DATABASE_URL=url)
        waiting(run, 1)
        (worker,) = children(run.pid)
        os.kill(worker, signal.SIGKILL)
        blocker.rollback()
        out, err = run.communicate(timeout=240)

    report = validated(out)
    assert run.returncode == ExitStatus.AGAIN, err
    assert [each["status"] for each in report["members"]] == [75, 0]
    assert said in report["members"][0]["result"]


def test_line_that_python_prints_at_its_start_changes_nothing(
    tmp_path: Path,
    two_files: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "sitecustomize.py").write_text("print('tracing is on'); print(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    status, report = ran(capfd, "upgrade", *urls_of(two_files))

    assert status == 0, report
    assert [version(url) for url in two_files] == [HEAD, HEAD]


def test_processes_ignore_what_python_was_told_to_ignore(tmp_path: Path, two_files: list[str]):
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

    done = subprocess.run(
        [sys.executable, "-I", "-m", "cleveragents_plans", "upgrade", *urls_of(two_files)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("processes", [0, 1])
def test_process_that_cannot_be_started_leaves_its_databases_to_the_others(
    processes: int,
    two_files: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    left, start = [*range(processes)], jobs._start

    def start_few() -> subprocess.Popen[str]:
        if not left:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left.pop()
        return start()

    monkeypatch.setattr(jobs, "_start", start_few)

    status, report = ran(capfd, "upgrade", "--jobs", "2", *urls_of(two_files))

    if processes:
        assert status == 0, report
        assert [version(url) for url in two_files] == [HEAD, HEAD]
    else:
        assert status == ExitStatus.AGAIN
        assert [each["status"] for each in report["members"]] == [75, 75]
        assert "(Resource temporarily unavailable); run" in report["members"][0]["result"]


@pytest.mark.parametrize(
    "around", ["{} 2>&-", "{} >&-", "{} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"]
)
def test_reader_that_is_gone_changes_neither_what_is_done_nor_the_status(
    around: str, two_files: list[str]
):
    command = " ".join([*PROGRAM, "upgrade", *urls_of(two_files)])

    done = subprocess.run(["bash", "-c", around.format(command)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert [version(url) for url in two_files] == [HEAD, HEAD]


def test_run_of_one_database_has_a_report_of_its_own(
    two_files: list[str], capfd: pytest.CaptureFixture[str]
):
    assert main(["upgrade", "-q", "--json", "--url", two_files[0]]) == 0
    up = validated(capfd.readouterr().out)
    assert main(["downgrade", M4_003, "-q", "--json", "--url", two_files[0]]) == 0
    down = validated(capfd.readouterr().out)
    assert main(["upgrade", "--json", "--sql"]) == ExitStatus.USAGE

    assert json.dumps([up["before"], up["after"]]) == json.dumps([[M4_003], [HEAD]])
    assert (down["command"], down["before"], down["after"]) == ("downgrade", [HEAD], [M4_003])
    assert up["longest_lock_s"] > 0
