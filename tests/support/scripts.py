"""What ``--sql`` prints, and psql that runs it."""

from __future__ import annotations

import subprocess
from contextlib import redirect_stdout
from io import StringIO

from alembic import command

from support import postgres
from support.broken import libpq
from support.databases import chain


def script(url: str, revisions: str, *, back: bool = False, stamp: bool = False) -> str:
    """Give the script of an upgrade, or of a downgrade or a stamp."""
    with redirect_stdout(StringIO()) as printed:
        act = command.stamp if stamp else command.downgrade if back else command.upgrade
        act(chain(url), revisions, sql=True)
    return printed.getvalue()


def run_psql(url: str, sql: str) -> subprocess.CompletedProcess[str]:
    """Run *sql* as the role of the URL, until something fails."""
    return subprocess.run(
        [postgres.binaries()["postgresql-18"] / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1",
         "-d", libpq(url), "-f", "-"],
        input=sql, capture_output=True, text=True, check=False,
    )  # fmt: skip
