"""A server that is not there yet is waited for; one that refuses the connection is not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from support import postgres
from support.databases import empty_database
from support.proxy import tcp_proxy


def refusal(capfd: pytest.CaptureFixture[str], *typed: str) -> tuple[int, str]:
    status = main(["upgrade", "--log", "plain", *typed])
    err = capfd.readouterr().err
    (line,) = (each for each in err.splitlines() if each.startswith("error: "))
    return status, line


def test_database_that_does_not_exist_is_refused_with_the_command_that_creates_it(
    postgresql_url: str, capfd: pytest.CaptureFixture[str]
):
    url = make_url(postgresql_url).set(database="no such")
    begun = time.monotonic()

    status, line = refusal(
        capfd, "--url", url.render_as_string(hide_password=False), "--create",
        "--wait-for-db", "600",
    )  # fmt: skip

    assert status == ExitStatus.REFUSED
    assert "an upgrade creates tables and no database, with --create neither" in line
    assert f"createdb -h {url.query['host']} -U postgres -- 'no such'` first" in line
    assert time.monotonic() - begun < 300


def test_role_that_does_not_exist_is_refused_at_once(
    postgresql_url: str, capfd: pytest.CaptureFixture[str]
):
    url = postgresql_url.replace("postgres@", "nosuchrole@")

    status, line = refusal(capfd, "--url", url, "--wait-for-db", "600")

    assert status == ExitStatus.REFUSED
    assert "nosuchrole" in line


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_server_that_does_not_come_is_waited_for_and_status_69(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    for url in (f"postgresql://me@127.0.0.1:{free_port()}/d", "postgresql://me@nowhere.invalid/d"):
        limits = ("--wait-for-db", "0.6", "--report-every", "0.1")
        status = main(["upgrade", "--log", "plain", "--url", url, *limits])

        assert status == ExitStatus.UNREACHABLE
        assert (
            f"connecting to {url.replace('postgresql', 'postgresql+psycopg')} (0:0" in caplog.text
        )
        assert (
            " elapsed); connection failed" in caplog.text
            or " elapsed); failed to res" in caplog.text
        )
        assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")
        caplog.clear()


#: Answers as a server that starts, in a language of its own, in a process of its own: what libpq
#: asks of it, it asks under Python's lock.
STARTING = """\
import socket
fields = b"SFATAL\\0VFATAL\\0C57P03\\0MDas Datenbanksystem startet\\0\\0"
answer = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        with client:
            while len(sent := client.recv(4096)) == 8:  # asks for encryption
                client.sendall(b"N")
            if sent:
                client.sendall(answer)
"""


def test_server_that_is_starting_is_waited_for(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    command = [sys.executable, "-c", STARTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            port = int(server.stdout.readline())
            status = main(
                ["upgrade", "--url", f"postgresql://me@127.0.0.1:{port}/d", "--wait-for-db", "1",
                 "--report-every", "0.1"]
            )  # fmt: skip
        finally:
            server.kill()

    assert status == ExitStatus.UNREACHABLE
    assert " elapsed); connection failed" in caplog.text
    assert "Das Datenbanksystem startet" in caplog.text


def test_run_goes_on_when_the_server_is_there(tmp_path: Path):
    with empty_database("postgresql-18", tmp_path) as url:
        socket_folder = Path(str(make_url(url).query["host"])) / ".s.PGSQL.5432"
        with tcp_proxy(url) as proxy:
            given = make_url(proxy.url)
        assert socket_folder.exists()
        run = subprocess.Popen(
            [sys.executable, "-m", "cleveragents_plans", "upgrade", "--url",
             given.render_as_string(hide_password=False), "--wait-for-db", "120",
             "--report-every", "0.1"],
            stderr=subprocess.PIPE, text=True, env=os.environ,
        )  # fmt: skip
        with run:
            assert run.stderr
            for line in run.stderr:
                if "Connection refused" in line:
                    break
            with tcp_proxy(url, port=given.port or 0):
                _, err = run.communicate(timeout=120)

    assert run.returncode == 0, err
    assert "m8_002_index_plans" in err


def test_server_without_room_counts_as_one_that_is_not_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with empty_database("postgresql-18", tmp_path) as url:
        server = postgres.server("postgresql-18")
        name = make_url(url).database
        server.execute(f'CREATE ROLE narrow LOGIN; ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        try:
            status, line = refusal(capfd, "--url", url.replace("postgres@", "narrow@"))
        finally:
            server.execute("DROP ROLE narrow")

    assert status == ExitStatus.UNREACHABLE
    assert "too many connections" in line
