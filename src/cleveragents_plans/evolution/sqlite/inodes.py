"""
Inodes: a file system may have room, and none for one more file.

SQLite makes files beside the database (https://www.sqlite.org/tempfiles.html), and says of one that
it cannot make only that it cannot be opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.sqlite.pragmas import file_of, journal_mode


class NoInodeFree(EvolutionError):
    """
    The file system has no inode for a file that SQLite makes.

    Attributes:
        folder: Where it would be.
    """

    def __init__(self, folder: Path, what: str, remedy: str) -> None:
        super().__init__(
            f"no inode is free in {folder}, where SQLite has {what}: {remedy}, and run the same "
            "command again; nothing was changed"
        )
        self.folder = folder


def has_inode(folder: Path) -> bool:
    """Tell whether one more file may be in *folder*; many file systems have no limit."""
    found = os.statvfs(folder)
    return found.f_files == 0 or found.f_favail > 0


def require_inode(connection: Connection) -> None:
    """
    Refuse to write where the journal of the file cannot be made.

    Raises:
        NoInodeFree: It is not there, and there is no inode for it.
    """
    file = file_of(connection)
    if not file.name:
        return
    journal = Path(f"{file}-{'wal' if journal_mode(connection) == 'wal' else 'journal'}")
    if not journal.exists() and not has_inode(file.parent):
        raise NoInodeFree(file.parent, "its journal", "delete files there (`df -i` counts them)")
