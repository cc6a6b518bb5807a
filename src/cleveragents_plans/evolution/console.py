"""
Standard error as a run writes to it: never an error, and never a wait.

It can be closed, or have no file behind it (a service, ``pythonw``). Its reader can go away
(``2>&1 | head``) or stop reading (Ctrl-S, a pager, a log collector that hangs), and then a
plain write fails, or blocks the run with whatever it has locked.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol, Self

# What the last lines may wait for a reader that has stopped, in seconds.
_PATIENCE = 1.0


class Stream(Protocol):
    """What is asked of a stream; the rest (``isatty``, ``fileno``) may be missing."""

    def write(self, text: str, /) -> object:
        """Write *text*."""


class Console:
    """
    A stream to which a thread of its own writes.

    Args:
        stream: The stream; standard error, unless it is given. None where there is none.
    """

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or sys.stderr
        self._texts: SimpleQueue[str | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, daemon=True)
        with suppress(RuntimeError):  # where there can be no more threads, this one writes
            self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait, for a moment, until all is written."""
        self._texts.put(None)
        if self._writer.ident is None:
            self._write_all()
        else:
            self._writer.join(_PATIENCE)

    def write(self, text: str) -> None:
        """Write *text* as soon as the stream takes it."""
        self._texts.put(text)

    def flush(self) -> None:
        """Do nothing: each text is handed on at once. `logging.StreamHandler` calls it."""

    @property
    def behind(self) -> bool:
        """Whether texts wait for the stream to take them."""
        return not self._texts.empty()

    @property
    def is_terminal(self) -> bool:
        """Whether the stream is a terminal, on which a line can be drawn again."""
        try:
            return bool(self._stream.isatty())  # type: ignore[union-attr]
        except Exception:  # of whatever an application put in its place
            return False

    @property
    def columns(self) -> int:
        """The width of the terminal, as it is now."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns  # type: ignore[union-attr]
        except Exception:  # of whatever an application put in its place
            columns = 0
        # Serial lines and some containers have a terminal of no width.
        return columns or shutil.get_terminal_size().columns

    def _write_all(self) -> None:
        while (text := self._texts.get()) is not None:
            try:
                self._write(text)
            except Exception:  # noqa: S112  # standard error is closed
                continue

    def _write(self, text: str) -> None:
        stream = self._stream
        encoding = getattr(stream, "encoding", None) or "utf-8"
        shown = text.encode(encoding, "backslashreplace")
        try:
            file = stream.fileno()  # type: ignore[union-attr]
        except Exception:
            stream.write(shown.decode(encoding))
            getattr(stream, "flush", lambda: None)()
            return
        # Past Python's buffer: what stays there when the reader is gone makes the exit status
        # of the process 120, and a thread that is stopped while it holds it makes it abort.
        while shown:
            shown = shown[os.write(file, shown) :]
