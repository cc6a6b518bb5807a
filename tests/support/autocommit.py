"""The driver's `autocommit`, which Python 3.12 brought, for tests on 3.11, too."""

from __future__ import annotations

import sqlite3
import sys
from typing import Any


class Python312Connection(sqlite3.Connection):
    """
    A connection that commits, and begins, as one of Python 3.12 does by its ``autocommit``.

    https://docs.python.org/3/library/sqlite3.html#transaction-control-via-the-autocommit-attribute
    """

    _autocommit: bool | int = -1

    @property
    def autocommit(self) -> bool | int:
        """True, False, or -1 for what Python 3.11 does."""
        return self._autocommit

    @autocommit.setter
    def autocommit(self, value: bool | int) -> None:
        if value is True and self.in_transaction:
            self.execute("COMMIT")
        if value is False:
            self.isolation_level = None
            if not self.in_transaction:
                self.execute("BEGIN")
        self._autocommit = value

    def commit(self) -> None:
        """Commit, unless in autocommit; begin again, if the driver does."""
        self._end(super().commit)

    def rollback(self) -> None:
        """Roll back, unless in autocommit; begin again, if the driver does."""
        self._end(super().rollback)

    def _end(self, end: Any) -> None:
        if self._autocommit is not True:
            end()
        if self._autocommit is False:
            self.execute("BEGIN")


def in_autocommit(autocommit: bool) -> dict[str, Any]:
    """Give the ``connect_args`` of SQLAlchemy for a driver with *autocommit*."""
    if sys.version_info >= (3, 12):
        return {"autocommit": autocommit}

    class Connection(Python312Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.autocommit = autocommit

    return {"factory": Connection}
