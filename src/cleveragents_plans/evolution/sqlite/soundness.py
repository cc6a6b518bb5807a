"""Refuse a damaged SQLite file before anything in it is changed."""

from __future__ import annotations

import logging
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.sqlite.pragmas import file_of, switched_on

log: Final = logging.getLogger("alembic.evolution")

# A value that breaks a rule of its column, and is stored as it should be, is no damage.
_ABOUT_VALUES = re.compile(r"(NULL|NUMERIC|TEXT|non-\w+) value in |CHECK constraint failed in ")
_ALL = 2**31 - 1


class FileDamaged(EvolutionError):
    """
    The bytes of a SQLite file are not what SQLite wrote.

    Attributes:
        file: The file.
        found: The first fault that SQLite found.
    """

    def __init__(self, file: Path, found: str) -> None:
        self.file = file
        self.found: str = " ".join(found.split())
        super().__init__(
            f"{file} is damaged ({self.found[:200]}); restore a backup, or recover what can be "
            f"read with `sqlite3 {shlex.quote(str(file))} .recover`; nothing was changed"
        )


def require_sound_file(connection: Connection, report_every: float) -> None:
    """
    Read the whole file behind *connection*, and refuse it if its structure is damaged.

    It takes as long as to read the file, and two seconds of processor time for a million plans
    (1.5 GB). A message is logged every *report_every* seconds. SQLite 3.40 calls no progress
    handler meanwhile: `callbacks.interrupt_statements` ends it.

    Raises:
        FileDamaged: ``PRAGMA quick_check`` found a fault.
    """
    file = file_of(connection)
    if not file.is_file() or not file.stat().st_size:
        return  # in memory, or new: SQLite counts a page from the beginning of the transaction
    begun = time.monotonic()
    with (
        report_damage(file),
        heartbeat(f"checking that {file} is not damaged", report_every),
        switched_on(connection, "ignore_check_constraints"),
    ):
        for (found,) in connection.exec_driver_sql(f"PRAGMA main.quick_check({_ALL})"):
            if found != "ok" and not _ABOUT_VALUES.match(found):
                raise FileDamaged(file, found)
    log.info("%s is not damaged; checked in %.1f s", file, time.monotonic() - begun)


@contextmanager
def report_damage(file: Path) -> Iterator[None]:
    """
    Turn an error of a statement that met damaged pages into one line.

    Raises:
        FileDamaged: A statement met them.
    """
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            raise FileDamaged(file, str(error.orig)) from error
        raise
