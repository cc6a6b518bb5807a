"""ULIDs: ids of 128 bits that sort by the time they were made (https://github.com/ulid/spec)."""

from __future__ import annotations

import os
from collections.abc import Callable
from secrets import randbits
from threading import Lock
from time import time_ns

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _ulid_source() -> Callable[[], str]:
    lock = Lock()
    last = 0

    def forget() -> None:
        # A forked child must neither wait for its parent's lock nor repeat its ids.
        nonlocal lock, last
        lock, last = Lock(), 0

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)

    def next_ulid() -> str:
        nonlocal last
        with lock:
            now = time_ns() // 1_000_000 << 80 | randbits(80)
            last = max(now, last + 1)
            number = last
        return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -5, -5))

    return next_ulid


_next_ulid = _ulid_source()


def new_ulid() -> str:
    """Make a ULID that is greater than every one that this process made before."""
    return _next_ulid()
