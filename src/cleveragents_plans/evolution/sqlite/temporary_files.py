"""
The folder in which SQLite has its temporary files (https://www.sqlite.org/tempfiles.html).

It sorts the entries of a new index there, once they do not fit into its cache; the disk of the
database may have room, and that folder none.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.sqlite.inodes import NoInodeFree, has_inode
from cleveragents_plans.evolution.sqlite.pragmas import file_of, number

# What SQLite answers where a file has no room, or no place; as numbers, like all extended codes.
_OF_THE_DISK: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
#: Bytes of a database whose indexes SQLite sorts in its cache.
_IN_CACHE: Final = 1_000_000
# The journal, its folder, and some temporary ones; those of the statement are closed by now.
_FILES_OF_A_STATEMENT: Final = 8
_IN_MEMORY: Final = 2  # of PRAGMA temp_store
_VARIABLES: Final = ("SQLITE_TMPDIR", "TMPDIR")
_FOLDERS: Final = ("/var/tmp", "/usr/tmp", "/tmp", ".")  # noqa: S108  # SQLite's, in its order
_NONE_WRITABLE: Final = (
    "SQLite found no folder for its temporary files that this process can write to; set "
    "SQLITE_TMPDIR to one"
)


class NoTemporaryFiles(EvolutionError):
    """
    SQLite has no place for its temporary files, or too little.

    Attributes:
        folder: Where they go; None is nowhere.
    """

    def __init__(self, folder: Path | None, found: str) -> None:
        super().__init__(f"{found}, and run the same command again; nothing was changed")
        self.folder = folder


def temporary_folder() -> Path | None:
    """Find the folder that SQLite takes; None where it finds none, and raises an I/O error."""
    named = (os.environ.get(name) for name in _VARIABLES)
    for folder in (*filter(None, named), *_FOLDERS):
        if Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder).absolute()
    return None


def require_temporary_files(connection: Connection, table: str) -> None:
    """
    Refuse to make the indexes of *table* where SQLite cannot sort their entries.

    Raises:
        NoTemporaryFiles: No folder can be written to, or the largest index is larger than what is
            free there.
        NoInodeFree: No file can be made there.
    """
    if not _sorts_in_files(connection):
        return
    folder = temporary_folder()
    if folder is None:
        raise NoTemporaryFiles(None, _NONE_WRITABLE)
    require_temporary_inode(connection)
    size = number(connection, "page_count") * number(connection, "page_size")
    free = shutil.disk_usage(folder).free
    if free >= size:  # nothing has to be added up
        return
    try:
        needed = connection.exec_driver_sql(_LARGEST, (table,)).scalar() or 0
    except DBAPIError:  # SQLite was built without dbstat
        needed = size
    if needed > free:
        raise NoTemporaryFiles(
            folder,
            f"{free / 1e6:,.1f} MB are free in {folder}, where SQLite has its temporary files, and "
            f"to make an index of {table} needs about {needed / 1e6:,.1f} MB; make room there, or "
            "set SQLITE_TMPDIR to another folder",
        )


def require_temporary_inode(connection: Connection) -> None:
    """
    Refuse to make indexes where SQLite cannot make a temporary file.

    Raises:
        NoInodeFree: There is no inode for one.
    """
    folder = temporary_folder() if _sorts_in_files(connection) else None
    if folder is not None and not has_inode(folder):
        remedy = "delete files there (`df -i` counts them), or set SQLITE_TMPDIR to another folder"
        raise NoInodeFree(folder, "its temporary files", remedy)


def _sorts_in_files(connection: Connection) -> bool:
    size = number(connection, "page_count") * number(connection, "page_size")
    in_memory = number(connection, "temp_store") == _IN_MEMORY
    return not in_memory and size >= _IN_CACHE and bool(file_of(connection).name)


def remedy_of_disk_error(error: object) -> str | None:
    """
    Say what to do about an *error* of the driver that is one of a disk; None is of another kind.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in _OF_THE_DISK:
        return None
    if code == sqlite3.SQLITE_CANTOPEN and not _may_open_files():
        return "this process may have too few files open; raise its limit (`ulimit -n`)"
    folder = temporary_folder()
    if folder is None:
        return _NONE_WRITABLE
    free = f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free"
    return (
        "look whether the disk of the database has room and a free inode (`df -i`), and that of "
        f"SQLite's temporary files: {free if has_inode(folder) else 'no inode is free'} in "
        f"{folder} now (SQLITE_TMPDIR names another folder)"
    )


def _may_open_files() -> bool:
    """Tell whether this process may have as many more files open as a statement needs."""
    opened: list[int] = []
    try:
        while len(opened) < _FILES_OF_A_STATEMENT:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    finally:
        for each in opened:
            os.close(each)
    return True


_LARGEST = """\
SELECT sum(s.pgsize) FROM main.sqlite_master m JOIN dbstat('main', 1) s ON s.name = m.name
 WHERE m.tbl_name = ? COLLATE NOCASE AND m.type = 'index' GROUP BY m.name ORDER BY 1 DESC LIMIT 1"""
