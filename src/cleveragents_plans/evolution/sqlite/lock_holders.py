"""Which processes hold locks on a SQLite file, as far as Linux tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# Bytes that SQLite locks: PENDING, RESERVED and SHARED of a file with a rollback journal
# (https://www.sqlite.org/lockingv3.html); WRITE, CHECKPOINT and RECOVER of the shared memory of a
# write-ahead log (https://www.sqlite.org/walformat.html#locks), whose readers are of no concern.
_FILE_LOCKS = range(0x40000000, 0x40000000 + 512)
_LOG_LOCKS = range(120, 123)
#: Seconds after which a process that still holds a lock is no client that writes a row.
HELD = 0.5


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A process that holds a lock on the file."""

    pid: int
    #: The name of its program; None if that is not shown to us.
    program: str | None
    #: Whether it writes, or is about to.
    writes: bool

    def __str__(self) -> str:
        if self.pid == os.getpid():
            return "another connection of this process"
        program = f" ({self.program})" if self.program else ""
        return f"pid {self.pid}{program}, which {'writes to' if self.writes else 'reads'} it"


def lock_holders(file: Path) -> list[LockHolder]:
    """
    Find the processes that keep *file* from being written, by the locks that they hold.

    Read from ``/proc/locks``; empty where there is no such thing, and for processes of other
    containers or machines.
    """
    shared_memory = Path(f"{file}-shm")
    logged = shared_memory.exists()
    locked, bytes_ = (shared_memory, _LOG_LOCKS) if logged else (file, _FILE_LOCKS)
    found: dict[int, bool] = {}
    with suppress(OSError):  # no Linux, or the file is gone by now
        for pid, writes, first, last in _locks_on(locked):
            if first < bytes_.stop and last >= bytes_.start and (writes or not logged):
                found[pid] = found.get(pid, False) or writes
    return [LockHolder(pid, _program(pid), writes) for pid, writes in sorted(found.items())]


def open_elsewhere(file: Path) -> list[LockHolder]:
    """
    Find the other processes that have *file* open and have read or written its write-ahead log.

    Until it closes the file each of them has a shared lock on the file itself, which keeps its
    journal from being changed; see `lock_holders` for what cannot be seen.
    """
    with suppress(OSError):  # no Linux, or the file is gone by now
        pids = {pid for pid, _, first, _ in _locks_on(file) if first in _FILE_LOCKS}
        return [LockHolder(pid, _program(pid), False) for pid in sorted(pids - {os.getpid()})]
    return []


def _locks_on(file: Path) -> Iterator[tuple[int, bool, int, int]]:
    status = file.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for line in (_PROC / "locks").read_text().splitlines():
        # 1: POSIX  ADVISORY  WRITE 4711 fe:00:131074 1073741825 1073741825
        _, kind, _, mode, pid, place, first, last = line.replace("EOF", "-1").split()[:8]
        on, _, inode = place.rpartition(":")
        if kind != "POSIX" or inode != str(status.st_ino):
            continue
        # Some file systems have another device here than programs see.
        if on == device or _has_open(int(pid), file):
            yield int(pid), mode == "WRITE", int(first), int(last) if last != "-1" else 2**63


def _has_open(pid: int, file: Path) -> bool:
    with suppress(OSError):
        return any(one.samefile(file) for one in (_PROC / str(pid) / "fd").iterdir())
    return False


def _program(pid: int) -> str | None:
    # Not its arguments: they can hold passwords. Linux cuts the name, even inside of a character.
    with suppress(OSError):
        comm = (_PROC / str(pid) / "comm").read_bytes()
        return comm.decode(errors="backslashreplace").strip() or None
    return None
