"""A connection that cannot be made, is lost, or falls silent is reported in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from support.databases import SERVERS, migrate
from support.online import client
from support.revisions import M4_003, M8_001

TESTS = Path(__file__).parents[2]
# In a network of its own, whose only interface is switched off while the run waits: nothing is
# answered any more, and nothing is closed.
SILENCE = """\
import subprocess, sys
from support.proxy import tcp_proxy

def loopback(state):
    subprocess.run(["ip", "link", "set", "lo", state], check=True)

loopback("up")
with tcp_proxy(sys.argv[1]) as proxy:
    url = proxy.url + sys.argv[2]
    run = subprocess.Popen(
        [sys.executable, "-m", "cleveragents_plans", "upgrade", "--url", url],
        stderr=subprocess.PIPE, text=True,
    )
    said = ""
    for line in run.stderr:
        said += line
        if "waiting" in line:
            break
    loopback("down")
    # TCP itself would wait for a quarter of an hour.
    try:
        said += run.communicate(timeout=90)[1]
    except subprocess.TimeoutExpired:
        run.kill()
        said += run.communicate()[1] + "it did not end"
    print(run.returncode, said)
"""
KEEPALIVES = "?keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=3000"


@pytest.mark.parametrize("postgresql_url", SERVERS[:1], indirect=True)
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("hunter2", "invalid command-line argument for server process: ***"),
        ("-c sslpassword=hunter2", 'unrecognized configuration parameter "sslpassword"'),
        ("--my.key=hunter2 -c work_mem=much", '"work_mem": "much"'),
        ("-c work_mem=hunter2,my.pass=hunter2", "***"),
    ],
)
def test_options_of_the_environment_are_quoted_without_what_may_be_a_secret(
    postgresql_url: str,
    options: str,
    shown: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PGOPTIONS", options)
    monkeypatch.setenv("PGPASSWORD", "hunter2")

    status = main(["current", "--url", postgresql_url])

    out, err = capfd.readouterr()
    assert status == ExitStatus.REFUSED
    assert shown in err
    assert "hunter2" not in out + err


# What TCP does depends on no version of the server.
@pytest.mark.slow
@pytest.mark.parametrize("postgresql_url", SERVERS[:1], indirect=True)
def test_network_that_falls_silent_ends_the_run_in_one_line(postgresql_url: str):
    migrate(postgresql_url, M4_003)
    unprivileged = () if os.geteuid() == 0 else ("--map-root-user",)
    with client(postgresql_url, autocommit=False) as blocker:
        blocker.execute("LOCK TABLE v3_plans IN ACCESS SHARE MODE")

        done = subprocess.run(
            ["unshare", *unprivileged, "--net", sys.executable, "-c", SILENCE,
             postgresql_url, KEEPALIVES],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip

    status, said = done.stdout.split(maxsplit=1)
    assert int(status) not in (0, -9), done.stdout
    assert "Traceback" not in said
    assert " was lost (" in said.strip().splitlines()[-1]
    migrate(postgresql_url, M8_001)
