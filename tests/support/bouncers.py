"""Real poolers before a PostgreSQL server: PgBouncer in each mode, and Pgpool-II."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from support import debian

_PORT = 6432  # of local sockets, each in a folder of its own


@contextmanager
def pgbouncer(url: str, mode: str, **settings: str | int) -> Iterator[str]:
    """
    Start PgBouncer in *mode* before the server at *url*; yield the URL to connect to.

    *settings* are those of ``[pgbouncer]`` (https://www.pgbouncer.org/config.html).
    """
    program = debian.program("pgbouncer")
    given = make_url(url)
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pgb") as name:
        folder = Path(name)
        lines = {
            "pool_mode": mode,
            "unix_socket_dir": folder,
            "listen_port": _PORT,
            "auth_type": "any",
            "logfile": folder / "log",
            "ignore_startup_parameters": "extra_float_digits,options",
            **settings,
        }
        (folder / "ini").write_text(
            f"[databases]\n* = host={given.query['host']} user={given.username}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        _give(folder, user)
        process = subprocess.Popen(
            [program, "-q", folder / "ini"],
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        via = given.set(query={"host": str(folder), "port": str(_PORT)})
        try:
            _wait_for(via.render_as_string(hide_password=False), process)
            yield via.render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()


@contextmanager
def pgpool(url: str, replica: str) -> Iterator[str]:
    """
    Start Pgpool-II before a server and its replica; yield the URL to connect to.

    *url* names the database on the server, *replica* one on the replica. SELECTs go to the latter.
    """
    program = debian.program("pgpool2")
    given, other = make_url(url), make_url(replica)
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pgp") as name:
        folder = Path(name)
        lines = {
            "backend_clustering_mode": "streaming_replication",
            "listen_addresses": "",
            "port": _PORT,
            "socket_dir": folder,
            "pcp_socket_dir": folder,
            "pcp_listen_addresses": "",
            "pid_file_name": folder / "pid",
            "logdir": folder,
            "work_dir": folder,
            "backend_hostname0": given.query["host"],
            "backend_port0": 5432,
            "backend_weight0": 0,
            "backend_hostname1": other.query["host"],
            "backend_port1": 5432,
            "backend_weight1": 1,
            "sr_check_period": 1,
            "sr_check_user": "postgres",
            "num_init_children": 4,
            "load_balance_mode": "on",
        }
        (folder / "conf").write_text("".join(f"{key} = '{lines[key]}'\n" for key in lines))
        (folder / "pcp").touch()
        _give(folder, user)
        process = subprocess.Popen(
            [program, "-n", "-f", folder / "conf", "-F", folder / "pcp"],
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Its children are told by it, and outlive it when it is killed.
            process_group=0,
        )
        via = given.set(query={"host": str(folder), "port": str(_PORT)})
        try:
            _wait_for(via.render_as_string(hide_password=False), process)
            yield via.render_as_string(hide_password=False)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _give(folder: Path, user: str | None) -> None:
    if user is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(url.replace("+psycopg", ""), autocommit=True).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > until:
                raise
        time.sleep(0.05)
