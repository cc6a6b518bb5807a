"""
Whether a run may write to a SQLite file, and whether it still is the file at its path.

SQLite keeps the journal beside the path by which a file was opened, and the next process that
opens it rolls back what the journal says (https://www.sqlite.org/howtocorrupt.html): so a file that
has another path, or is opened without locks, can be torn by a run that is killed.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import AGAIN, EvolutionError, causes
from cleveragents_plans.evolution.sqlite.pragmas import file_of

_MOUNTS = Path("/proc/self/mountinfo")
# The open file descriptors of this process. Windows has none, and refuses to replace an open file.
_DESCRIPTORS = Path("/dev/fd")
# SQLITE_READONLY_DBMOVED, for which older drivers have no name.
_MOVED: Final = 1032
# SQLITE_READONLY: the system let SQLite open the file to be read only, as with `chattr +a`.
_READONLY: Final = 8
# Which file a connection has, as long as it is open, and its path in the URL.
_OPENED: Final = "evolution.opened_file"


class FileNotWritable(EvolutionError):
    """
    This process may not write to a SQLite file, or to its folder, where the journal goes.

    Attributes:
        path: The file or the folder.
    """

    def __init__(self, path: Path, *, by_mode: bool = False) -> None:
        found = (
            f"is read-only; if it is to be migrated, allow writing with `chmod u+w "
            f"{shlex.quote(str(path))}`"
            if by_mode
            else "is read-only for this user, and SQLite writes to the file and to its folder; "
            "allow that,"
        )
        super().__init__(f"{path} {found} and run the same command again; nothing was changed")
        self.path = path


class ConnectionReadOnly(EvolutionError):
    """The connection that was handed over is one to read only."""

    def __init__(self) -> None:
        super().__init__(
            "the connection that was handed over is set to read only (PRAGMA query_only is on, or "
            "it is one of read_only()); expected one that may write: switch that off, or hand over "
            "another engine; nothing was changed"
        )


class UrlUnfit(EvolutionError):
    """
    The URL of a SQLite file opens it to be read only, or without the locks that others take.

    Attributes:
        parameter: What of the URL says so.
    """

    def __init__(self, how: str, parameter: str) -> None:
        super().__init__(
            f"the URL opens the file {how} ({parameter}); leave that out of it; nothing was changed"
        )
        self.parameter = parameter


class FileHasOtherPlace(EvolutionError):
    """
    The journal of a SQLite file is not beside each name of the file.

    Attributes:
        file: The file.
    """

    def __init__(self, file: Path, found: str, remedy: str) -> None:
        super().__init__(
            f"{file} {found}, and SQLite keeps its journal beside the name that was opened: if "
            "the run were interrupted, a process that opens it by another name would find it "
            f"damaged; {remedy}, and run the same command again; nothing was changed"
        )
        self.file = file


class FileReplaced(EvolutionError):
    """
    The file at the path is not the one that the run has opened.

    Attributes:
        file: The path.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"{file} was replaced or deleted after it was opened, as by a restore or another link; "
            f"what is there now was not migrated; let nothing replace it meanwhile, and {AGAIN}"
        )
        self.file = file


def _is_on(value: str) -> bool:
    return value in ("on", "yes", "true") or bool(re.match("0*[1-9]", value))


_READ_ONLY = "to be read only"
_UNLOCKED = "without the locks by which SQLite keeps two writers apart"
# As SQLite reads the parameters of a URI (https://www.sqlite.org/uri.html), and booleans; each VFS
# that takes no locks, or others than those of `unix` (https://www.sqlite.org/vfs.html).
_UNFIT: Final[Mapping[str, tuple[str, Callable[[str], bool]]]] = {
    "mode": (_READ_ONLY, "ro".__eq__),
    "immutable": (_READ_ONLY, _is_on),
    "nolock": (_UNLOCKED, _is_on),
    "vfs": (
        _UNLOCKED,
        lambda value: value.endswith(("-none", "-dotfile", "-flock", "-namedsem", "-afp")),
    ),
}


def require_writable(connection: Connection) -> None:
    """
    Refuse the file of *connection* if a run cannot write to it, or not safely.

    Raises:
        UrlUnfit: Its URL opens it to be read only, or without locks.
        FileReplaced: The connection was made before the file was replaced.
        FileNotWritable: The file or its folder is read-only.
        FileHasOtherPlace: It has a second name, or is mounted without its folder.
    """
    for name, values in connection.engine.url.normalized_query.items():
        how, is_unfit = _UNFIT.get(name, ("", None))
        for value in values:
            if is_unfit and is_unfit(value.lower()):
                raise UrlUnfit(how, f"{name}={value}")
    file = file_of(connection)
    if not _is_open(_identity(file)):
        raise FileReplaced(file)
    require_write_mode(file)
    for path in (file.parent, file):
        if not os.access(path, os.W_OK):
            raise FileNotWritable(path)
    names = file.stat().st_nlink
    if names > 1:
        listed = f"find {shlex.quote(str(file.parent))} -xdev -samefile {shlex.quote(str(file))}"
        raise FileHasOtherPlace(
            file,
            f"has {names} names (hard links)",
            f"remove all but one of them (`{listed}` finds those below its folder)",
        )
    if _is_mounted(file):
        raise FileHasOtherPlace(
            file, "is mounted without its folder", "mount the folder in place of the file"
        )


def require_write_mode(file: Path) -> None:
    """
    Refuse a *file* whose mode is read-only, though the superuser could write to it.

    Raises:
        FileNotWritable: No bit of its mode allows it.
    """
    if not file.stat().st_mode & 0o222:
        raise FileNotWritable(file, by_mode=True)


@contextmanager
def report_replacement(connection: Connection) -> Iterator[Callable[[], None]]:
    """
    Turn what comes of a file that is no longer at its path into one line.

    SQLite writes to the file that it has opened, though another one may be at the path by now, or
    none; it looks when it begins a journal, and not when it commits.

    Yields:
        What refuses a transaction, before it is committed, if the file was replaced.

    Raises:
        ConnectionReadOnly: The connection is not to write.
        FileReplaced: It was.
        FileNotWritable: The connection could open it to be read only.
    """
    driver: Any = connection.connection.driver_connection
    # By the driver: SQLAlchemy would begin a transaction first.
    (query_only,) = driver.execute("PRAGMA query_only").fetchone()
    if query_only or connection.get_execution_options().get("read_only"):
        raise ConnectionReadOnly
    file = file_of(connection)
    if not file.name:  # in memory
        yield lambda: None
        return
    opened, named = connection.info.setdefault(_OPENED, _opened(connection, file))

    def require_in_place() -> None:
        for path in (file, named):
            if opened is None or _identity(path) != opened:
                raise FileReplaced(path)

    try:
        yield require_in_place
    except Exception as error:
        codes = {
            getattr(cause.orig, "sqlite_errorcode", 0)
            for cause in causes(error)
            if isinstance(cause, DBAPIError)
        }
        if _MOVED in codes:
            raise FileReplaced(file) from error
        if _READONLY in codes:
            raise FileNotWritable(file) from error
        require_in_place()
        raise


def _opened(connection: Connection, file: Path) -> tuple[tuple[int, int] | None, Path]:
    """
    Tell which *file* was opened, and its path in the URL, where SQLite has followed symbolic links.
    """
    opened, path = _identity(file), connection.engine.url.database or ""
    if path.startswith("file:"):
        path = unquote(urlsplit(path).path)
    with suppress(OSError):  # the working directory was deleted
        named = Path(path).absolute()  # now: the application may go to another folder
        if _identity(named) == opened:
            return opened, named
    return opened, file  # the application connects in its own way


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_open(identity: tuple[int, int] | None) -> bool:
    """Tell whether this process has a file open; in WAL mode SQLite does not look at its path."""
    try:
        descriptors = [int(path.name) for path in _DESCRIPTORS.iterdir()]
    except OSError:
        return True
    for descriptor in descriptors:
        with suppress(OSError):  # closed by now, as that of the folder itself
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) == identity:
                return True
    return False


def _is_mounted(file: Path) -> bool:
    """Tell whether a file is a mount point itself, which `os.path.ismount` does not see."""
    place = os.path.realpath(file)
    with suppress(OSError):  # no Linux
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw, with spaces as \040
        mounts = _MOUNTS.read_bytes().splitlines()
        return os.fsencode(place) in (_unescaped(line.split()[4]) for line in mounts)
    return False


def _unescaped(path: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path)
