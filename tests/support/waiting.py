"""Wait for a state, never for a moment: a machine may be slow, or fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")

#: Seconds after which a state is not waited for any more.
LIMIT = 120


def wait_until(holds: Callable[[], _Found]) -> _Found:
    """Wait until *holds* gives something true; give it."""
    until = time.monotonic() + LIMIT
    while not (found := holds()):
        assert time.monotonic() < until, f"it did not come to that in {LIMIT} s"
        time.sleep(0.02)
    return found
