"""A run ends within moments of a signal, says how to go on, and leaves nothing locked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import NullPool

from cleveragents_plans.evolution.runner.interruption import interruptible
from cleveragents_plans.persistence import open_engine
from support.databases import ENGINES, ROOT, empty_database, migrate
from support.faults import execute, models
from support.online import client
from support.revisions import M4_003, M8_001
from support.waiting import wait_until

pytestmark = pytest.mark.slow  # real processes

SERVERS = ENGINES[1:2]  # signals do not depend on the version of the server
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
#: Seconds in which a run has to end; on an idle machine it is one.
MOMENT = 60.0


def _default_actions() -> None:
    # A shell switches Ctrl-C off for what it runs in the background, nohup SIGHUP; tests too.
    for number in STATUS:
        signal.signal(number, signal.SIG_DFL)


class Run:
    """A process that migrates; *arguments* are Python's."""

    def __init__(self, *arguments: str, before: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_default_actions,
        )
        self.said = ""
        self._guard = threading.Timer(240, self.process.kill)
        self._guard.daemon = True
        self._guard.start()

    def wait_for(self, words: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if words in line:
                return
        raise AssertionError(f"{words!r} was not said in: {self.said}")

    def wait_until_busy(self) -> None:
        """Wait until the process has computed for a moment: until it is in its statement."""
        begun = self._ticks()
        while self._ticks() < begun + os.sysconf("SC_CLK_TCK") // 4:
            assert self.process.poll() is None, self.said
            time.sleep(0.02)

    def _ticks(self) -> int:
        # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def end(self, number: signal.Signals, pid: int | None = None) -> None:
        """Send the signal, and kill the process if it goes on."""
        os.kill(pid or self.process.pid, number)
        try:
            self.said += self.process.communicate(timeout=MOMENT)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.said += self.process.communicate()[1]
        self._guard.cancel()


def upgrade(url: str, *settings: str, before: tuple[str, ...] = ()) -> Run:
    extra = [word for setting in settings for word in ("-x", setting)]
    return Run("-m", "cleveragents_plans", "upgrade", "--url", url, *extra, before=before)


def assert_ended_by(run: Run, number: signal.Signals) -> None:
    assert run.process.returncode == STATUS[number], run.said
    assert "Traceback" not in run.said
    assert run.said.splitlines()[-1].endswith(
        f": interrupted by {number.name}; to go on, run the same command again: it does what is "
        "left to do"
    )


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Keep a run waiting."""
    engine = open_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        sqlite = engine.dialect.name == "sqlite"
        connection.exec_driver_sql(
            "SELECT 1" if sqlite else "LOCK TABLE v3_plans IN ACCESS SHARE MODE"
        )
        yield


@pytest.mark.fault
@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
@pytest.mark.parametrize("engine", ["sqlite", *SERVERS])
def test_run_that_waits_for_a_lock_ends_at_a_signal(
    engine: str, tmp_path: Path, number: signal.Signals
):
    with empty_database(engine, tmp_path) as url:
        migrate(url, M4_003)
        with locked(url):
            run = upgrade(url)
            run.wait_for("waiting")

            run.end(number)
            assert_ended_by(run, number)

        migrate(url, M8_001)


@pytest.fixture(params=SERVERS)
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with models(request.param, 200).copy("gaps", tmp_path) as url:
        yield url


def test_run_ends_between_two_batches(former: str):
    run = upgrade(former, "rows-per-second=10", "report-every=0.2")
    run.wait_for(" of 2")  # in the first rest

    run.end(signal.SIGTERM)
    assert_ended_by(run, signal.SIGTERM)

    migrate(former, M8_001)


def test_statement_that_is_running_is_cancelled(former: str):
    execute(
        former,
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'",
        "CREATE TRIGGER dawdle BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    run = upgrade(former)
    with client(former) as connection:
        asleep = (
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            " AND datname = current_database()"
        )
        wait_until(lambda: connection.execute(asleep).fetchone() or run.process.poll() is not None)
        assert run.process.poll() is None, run.end(signal.SIGKILL)

        run.end(signal.SIGTERM)
        assert_ended_by(run, signal.SIGTERM)

        # Nothing of it goes on in the server, which would be for ten minutes.
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        wait_until(lambda: connection.execute(sessions).fetchone() == (1,))


def test_connecting_to_a_server_that_does_not_answer_ends_at_a_signal():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = upgrade(f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/plans")
        with silent.accept()[0]:
            time.sleep(0.5)

            run.end(signal.SIGTERM)
            assert_ended_by(run, signal.SIGTERM)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-18"])
def test_process_1_of_a_container_ends_at_sigterm(engine: str, tmp_path: Path):
    unprivileged = () if os.geteuid() == 0 else ("--map-root-user",)
    with empty_database(engine, tmp_path) as url:
        migrate(url, M4_003)
        with locked(url):
            run = upgrade(url, before=("unshare", *unprivileged, "--pid", "--kill-child"))
            run.wait_for("waiting")
            unshare = run.process.pid
            child = int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text())
            assert "1" in Path(f"/proc/{child}/status").read_text().split("NSpid:")[1].split()[1]

            run.end(signal.SIGTERM, child)
            assert_ended_by(run, signal.SIGTERM)


one_server = pytest.mark.parametrize("postgresql_url", SERVERS, indirect=True)

PROGRAM = """\
import signal, sys
from alembic import command
from cleveragents_plans.schema import chain_config

def own(*_):
    print("the program's own handler", file=sys.stderr)
    raise {raised}

{install}
try:
    command.upgrade(chain_config(sys.argv[1]), "head")
except Exception as error:
    print("an error of the run", type(error), file=sys.stderr)
except BaseException as error:
    print("raised", repr(error), file=sys.stderr)
    raise
finally:
    print("handlers", [signal.getsignal(n) for n in (1, 2, 15)], file=sys.stderr)
"""


@one_server
@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, "KeyboardInterrupt()"), (signal.SIGTERM, "SystemExit(143)")],
)
def test_program_that_migrates_ends_as_python_programs_do(
    postgresql_url: str, number: signal.Signals, raised: str
):
    migrate(postgresql_url, M4_003)
    with locked(postgresql_url):
        run = Run("-c", PROGRAM.format(install="", raised="None"), postgresql_url)
        run.wait_for("waiting")

        run.end(number)

    assert f"raised {raised}" in run.said
    assert f"interrupted by {number.name}; to go on" in run.said
    # Python ends itself by SIGINT where nothing handles KeyboardInterrupt.
    assert run.process.returncode in (-number, STATUS[number])
    assert (
        "handlers [<Handlers.SIG_DFL: 0>, <built-in function default_int_handler>,"
        " <Handlers.SIG_DFL: 0>]" in run.said
    )


@one_server
def test_program_keeps_its_own_handler(postgresql_url: str):
    migrate(postgresql_url, M4_003)
    own = PROGRAM.format(install="signal.signal(signal.SIGTERM, own)", raised="SystemExit(7)")
    with locked(postgresql_url):
        run = Run("-c", own, postgresql_url)
        run.wait_for("waiting")
        run.end(signal.SIGTERM)

    assert "the program's own handler" in run.said
    assert "raised SystemExit(7)" in run.said
    assert run.process.returncode == 7


@one_server
def test_signal_that_is_ignored_stays_so(postgresql_url: str):
    # As nohup does, so that a run survives the terminal.
    migrate(postgresql_url, M4_003)
    own = PROGRAM.format(install="signal.signal(signal.SIGHUP, signal.SIG_IGN)", raised="None")
    with locked(postgresql_url):
        run = Run("-c", own, postgresql_url)
        run.wait_for("waiting")
        os.kill(run.process.pid, signal.SIGHUP)
        time.sleep(1)
        assert run.process.poll() is None

        run.end(signal.SIGTERM)

    assert run.process.returncode == 143


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_alembics_own_script_ends_in_the_same_way(former: str, number: signal.Signals):
    with locked(former):
        run = Run("-m", "alembic", "-c", str(ROOT / "alembic.ini"), "-x", f"url={former}",
                  "upgrade", "head")  # fmt: skip
        run.wait_for("waiting")

        run.end(number)
        assert_ended_by(run, number)


def test_run_in_another_thread_installs_nothing():
    found: list[object] = []

    def migrating() -> None:
        with interruptible("the database", command_line=True):
            found.extend(map(signal.getsignal, STATUS))

    before = [signal.getsignal(number) for number in STATUS]
    thread = threading.Thread(target=migrating)
    thread.start()
    thread.join()

    assert found == before


AT_THE_END = """\
import atexit, gc, sys
from cleveragents_plans.cli import main
from cleveragents_plans.schema import upgrade

atexit.register(lambda: print(gc.get_freeze_count(), "objects are kept out of the last collection"))
{action}
"""


@pytest.mark.parametrize(
    ("action", "frozen"),
    [("main(['status', '--url', sys.argv[1]])", True), ("upgrade(sys.argv[1])", False)],
    ids=["program", "library"],
)
def test_process_that_does_nothing_else_ends_without_collecting_garbage(
    action: str, frozen: bool, tmp_path: Path
):
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END.format(action=action), f"sqlite:///{tmp_path}/plans.db"],
        capture_output=True,
        text=True,
        check=True,
    )

    count = int(done.stdout.splitlines()[-1].split()[0])
    assert (count > 100_000) is frozen


def test_signal_that_a_callback_swallowed_ends_the_run():
    def swallow() -> None:
        # As SQLite does in a function of SQL, and Python in a destructor.
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        raise ZeroDivisionError("user-defined function raised exception")

    with pytest.raises(SystemExit) as ended, interruptible("the database", command_line=True):
        swallow()

    assert ended.value.code == 143


class OwnTimeout(Exception):
    """What a handler of the application raises."""


def raised_at(event: int) -> bool:
    """
    Raise where Python could call a handler for the *event*-th time, and tell whether it came to it.

    That is where a function begins and where one of C has ended
    (https://docs.python.org/3/library/sys.html#sys.setprofile).
    """
    left = event

    def profile(_frame: object, kind: str, function: object) -> None:
        nonlocal left
        left -= kind != "return" and function is not sys.setprofile
        if left == 0:
            raise OwnTimeout

    sys.setprofile(profile)
    try:
        with interruptible("the database", command_line=False):
            pass
    except OwnTimeout:
        return True
    finally:
        sys.setprofile(None)
    return False


def wakeup_fd() -> int:
    former = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(former)
    return former


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python closes some
@pytest.mark.parametrize("of_event_loop", [False, True])
def test_handlers_are_restored_wherever_a_handler_of_the_application_raises(of_event_loop: bool):
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    with reader, writer:
        if of_event_loop:
            signal.set_wakeup_fd(writer.fileno())
        before = [signal.getsignal(number) for number in STATUS], wakeup_fd()
        threads = [*Path("/proc/self/task").iterdir()]
        event = 1
        try:
            while raised_at(event):
                after = [signal.getsignal(number) for number in STATUS], wakeup_fd()
                assert (event, *after) == (event, *before)
                wait_until(lambda: [*Path("/proc/self/task").iterdir()] == threads)
                event += 1
        finally:
            signal.set_wakeup_fd(-1)

    assert event > 50


def test_error_without_a_signal_passes():
    with pytest.raises(ZeroDivisionError), interruptible("the database", command_line=True):
        raise ZeroDivisionError


ENDLESS = """\
import sys
from cleveragents_plans.cli import main
from cleveragents_plans.evolution.runner.version_state import VersionState

def run_for_ever(self, *_, **__):
    print("begun", file=sys.stderr, flush=True)
    self._connection.exec_driver_sql(
        "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    )

VersionState.check = VersionState.require_fit = run_for_ever
sys.exit(main([*{command!r}.split(), "--url", {url!r}]))
"""


@pytest.mark.fault
@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["status", "preflight", "upgrade"])
def test_statement_in_which_sqlite_calls_nothing_ends_at_a_signal(
    sqlite_url: str, command: str, number: signal.Signals
):
    """As in ``PRAGMA quick_check`` and ``SELECT count(*)``, which take long in large files only."""
    migrate(sqlite_url, M8_001)
    rarely = (
        "import cleveragents_plans.evolution.sqlite.callbacks as c; c._INSTRUCTIONS = 2**31 - 1"
    )
    run = Run("-c", f"{rarely}\n{ENDLESS.format(command=command, url=sqlite_url)}")
    run.wait_for("begun")
    run.wait_until_busy()

    run.end(number)

    assert_ended_by(run, number)


def test_statement_ends_at_a_signal_though_the_program_has_a_timeout_for_sockets(sqlite_url: str):
    migrate(sqlite_url, M8_001)
    rarely = (
        "import socket; socket.setdefaulttimeout(0.05);"
        "import cleveragents_plans.evolution.sqlite.callbacks as c; c._INSTRUCTIONS = 2**31 - 1"
    )
    run = Run("-c", f"{rarely}\n{ENDLESS.format(command='upgrade', url=sqlite_url)}")
    run.wait_for("begun")
    run.wait_until_busy()

    run.end(signal.SIGTERM)

    assert_ended_by(run, signal.SIGTERM)
    assert "Traceback" not in run.said


def test_handler_of_a_program_is_called_when_a_statement_has_ended(sqlite_url: str):
    """It may go on afterwards, so that nothing is interrupted for it."""
    migrate(sqlite_url, M8_001)
    code = f"""
import os, signal, sqlite3, threading
from cleveragents_plans.evolution.runner.interruption import interruptible
from cleveragents_plans.evolution.sqlite import callbacks

handled = []
signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
callbacks._INSTRUCTIONS = 2**31 - 1
driver = sqlite3.connect({sqlite_url.removeprefix("sqlite:///")!r})
sender = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
with interruptible("the file", command_line=True), callbacks.interruptible(driver):
    sender.start()
    counted = driver.execute(
        "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 5000000)"
        " SELECT count(*) FROM c"
    ).fetchone()[0]
    sender.join()
print(counted, len(handled))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=MOMENT * 4
    )

    assert done.stdout == "5000000 1\n"


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["current", "status", "verify", "verify --repair roots"])
def test_statement_that_reads_a_file_ends_at_a_signal(
    sqlite_url: str, command: str, number: signal.Signals
):
    migrate(sqlite_url, M8_001)
    run = Run("-c", ENDLESS.format(command=command, url=sqlite_url))
    run.wait_for("begun")
    run.wait_until_busy()

    run.end(number)

    assert_ended_by(run, number)
