"""Refuse to copy a table that the disk has no room for, before anything is changed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.sqlite.pragmas import file_of, journal_mode, number

log: Final = logging.getLogger("alembic.evolution")


class DiskTooSmall(EvolutionError):
    """
    The disk has less room than a copy of a table takes.

    Attributes:
        table: The table.
        folder: Where the file is.
        needed: Bytes that the copy takes, at its peak.
        free: Bytes that are free.
    """

    def __init__(self, table: str, folder: Path, needed: int, free: int) -> None:
        super().__init__(
            f"{free / 1e6:,.1f} MB of disk space are free in {folder}, and the copy of {table} "
            f"needs about {needed / 1e6:,.1f} MB; make room there and run the same command again; "
            "nothing was changed"
        )
        self.table = table
        self.folder = folder
        self.needed = needed
        self.free = free


def require_disk_space(connection: Connection, table: str, journal: str | None = None) -> int:
    """
    Refuse to copy *table* if the disk has no room for the copy.

    Where SQLite was built without ``dbstat``, which tells the size of a table, the size of the
    whole file is taken for it, and there is a warning only.

    Args:
        connection: The file.
        table: The table.
        journal: The ``journal_mode`` that the file will have; None is the present one.

    Returns:
        Bytes that are needed at most; 0 in memory.

    Raises:
        DiskTooSmall: Less is free than `disk_space_needed`.
    """
    file = file_of(connection)
    if not file.name:
        return 0
    free = shutil.disk_usage(file.parent).free
    # To add up its pages is to read them all, while a writer may have to wait. Where there is room
    # for a copy of the whole file, nothing needs to be added up.
    needed = disk_space_needed(connection, None, journal)
    if free >= needed:
        return needed
    needed = disk_space_needed(connection, table, journal)
    if free >= needed:
        return needed
    if _size(connection, table) is not None:
        raise DiskTooSmall(table, file.parent, needed, free)
    log.warning(
        "%.1f MB of disk space are free in %s, and the copy of %s may need up to %.1f MB; if they "
        "are not enough, nothing is changed",
        free / 1e6,
        file.parent,
        table,
        needed / 1e6,
    )
    return needed


def disk_space_needed(connection: Connection, table: str | None, journal: str | None = None) -> int:
    """
    Estimate how many bytes of disk space a copy of *table* needs at its peak; None is all tables.

    *journal* is the ``journal_mode`` that the file will have; None is the present one.

    The file grows by the new table. A write-ahead log takes all that is written, and is copied
    into the file at the end. The old pages are freed; with ``secure_delete`` they are
    overwritten, and so stand in the journal or in the log as well, as do those which
    ``auto_vacuum = FULL`` moves when it truncates the file before the end.
    """
    page, unused = number(connection, "page_size"), unused_bytes(connection)
    size = _size(connection, table) if table is not None else None
    if size is None:
        size = number(connection, "page_count") * page - unused
    truncated = number(connection, "auto_vacuum") == 1
    overwritten = truncated or number(connection, "secure_delete") == 1
    needed = size if overwritten else 0
    logged = (journal or journal_mode(connection)) == "wal"
    if logged:
        needed += size
    if not (logged and truncated):
        needed += max(size - unused, 0)
    # Rows get a little longer.
    return needed * 21 // 20


def unused_bytes(connection: Connection) -> int:
    """Tell how many bytes of the file are in pages that hold nothing."""
    return number(connection, "freelist_count") * number(connection, "page_size")


def _size(connection: Connection, table: str) -> int | None:
    """Add up the pages of *table* and its indexes; None where SQLite cannot."""
    try:
        return connection.exec_driver_sql(_SIZE, (table,)).scalar()
    except DBAPIError:
        return None


_SIZE = """\
SELECT sum(s.pgsize) FROM main.sqlite_master m JOIN dbstat('main', 1) s ON s.name = m.name
 WHERE m.tbl_name = ? COLLATE NOCASE AND m.type IN ('table', 'index')"""
