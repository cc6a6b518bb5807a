"""The site as `make docs` builds it, served on loopback, and a browser to open it with."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.databases import ROOT


def require(*packages: str) -> None:
    """
    Skip the tests of a module where packages of the extra `dev` are missing; fail on CI.

    So an environment that was made before the extra named them still runs the other tests.
    """
    if os.environ.get("CI") != "true":
        for package in packages:
            pytest.importorskip(package, reason=f"needs {package}: make .venv/dev.installed")


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site into *folder*, where a warning is an error."""
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(folder.with_name("doctrees"))]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve *folder*; yield its URL."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
