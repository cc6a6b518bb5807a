"""The processor time that a server of PostgreSQL has used, its ended processes included."""

from __future__ import annotations

import os
from pathlib import Path

from support.postgres import PostgresServer


def cpu_seconds(server: PostgresServer) -> float:
    """Add up what its processes have used, in seconds; Linux only."""
    first = int((server.data / "postmaster.pid").read_text().split()[0])
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in brackets, may hold blanks.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        own = sum(map(int, fields[11:13]))
        if int(folder.name) == first:
            ticks += own + sum(map(int, fields[13:15]))  # of its children that have ended
        elif int(fields[1]) == first:
            ticks += own
    return ticks / os.sysconf("SC_CLK_TCK")
