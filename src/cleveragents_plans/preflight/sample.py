"""
A sample of a SQLite file, on which a run is really made, in a temporary database of SQLite's own.

That is a database without a name: SQLite keeps it in memory, and in a temporary file where it is
large, which goes with the connection (https://www.sqlite.org/inmemorydb.html#temp_db).
"""

from __future__ import annotations

import logging
import math
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.settings import given_options
from cleveragents_plans.evolution.sqlite.table import RebuildRefused
from cleveragents_plans.evolution.sqlite.tokens import fold, quote
from cleveragents_plans.schema.chain import chain_config

# So many parts of a table are copied, each with rows that follow one another, and each in a
# transaction of its own, so that no writer waits for more than one of them.
_PARTS = 20


# What only the connections of an application have, which register it.
_LACKING = re.compile(r"(no such|unknown) (function|collation sequence)")

# What SQLite says of a statement and of values; not of the disk, of damage, or of an interruption.
_OF_VALUES = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}


class FunctionMissing(EvolutionError):
    """
    The table has what needs a function, or a collation, that only its application has.

    Attributes:
        name: The table, or what it has.
    """

    def __init__(self, name: str, found: str) -> None:
        super().__init__(
            f"{name} cannot be created in a copy: {found}, which only connections of the "
            "application have; drop it, and create it again after the run, or migrate from the "
            "application, with an engine that registers it; nothing was changed"
        )
        self.name = name


@dataclass(frozen=True, slots=True)
class SampleRun:
    """A run on a sample."""

    #: Rows of the table that was sampled.
    rows: int
    seconds: float
    #: Bytes by which the file of the sample grew, those that are free in it included.
    grown: int


def run_on_sample(
    file: Path, config: Config, direction: str, revision: str, table: str, rows: int
) -> SampleRun:
    """
    Make a run on a sample of *file*, which is read in transactions of some milliseconds.

    Args:
        file: The file.
        config: That of the run, with its options.
        direction: ``upgrade`` or ``downgrade``.
        revision: Where the run leads.
        table: The table of which *rows* rows are copied; of other tables as large a share.
        rows: How many; 0 copies the schema and the version only.

    Raises:
        EvolutionError: The run refuses, or would: see `FunctionMissing`.
    """
    # What was given by -x, but for what names the database. It reports nothing of its own.
    given = {**given_options(config), "report-every": "86400"}
    extra = [f"{name}={value}" for name, value in given.items() if name != "url"]
    with closing(sqlite3.connect("", isolation_level=None, uri=True)) as driver:
        copied = _copy(driver, file, table, rows, {"alembic_version", *_version_tables(config)})
        engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool)
        there = chain_config(extra=extra, level=None)
        before = _bytes(driver)
        with _quietly(), engine.connect() as there.attributes["connection"]:
            begun = time.perf_counter()
            run = command.upgrade if direction == "upgrade" else command.downgrade
            run(there, revision)
            seconds = time.perf_counter() - begun
            grown = _bytes(driver) - before
        engine.dispose()
        return SampleRun(copied, seconds, grown)


@contextmanager
def _quietly() -> Iterator[None]:
    """
    Let a run log its warnings only: its steps would read like those of the file.

    What another thread logs meanwhile, that the preflight is still at work, is written.
    """
    here = threading.get_ident()

    def is_worth_telling(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.thread != here

    handlers = [*logging.getLogger("alembic").handlers, *logging.root.handlers]
    for handler in handlers:
        handler.addFilter(is_worth_telling)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_worth_telling)


def _bytes(driver: sqlite3.Connection) -> int:
    query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    found: int = driver.execute(query).fetchone()[0]
    return found


def _version_tables(config: Config) -> list[str]:
    found = given_options(config).get("version-table")
    return [found] if found else []


def _copy(driver: sqlite3.Connection, file: Path, table: str, rows: int, whole: set[str]) -> int:
    address = f"{file.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as source:
        for pragma in ("page_size", "encoding", "auto_vacuum"):
            value = source.execute(f"PRAGMA {pragma}").fetchone()[0]
            driver.execute(f"PRAGMA {pragma} = {quote(str(value))}")
    driver.execute("PRAGMA foreign_keys = OFF")
    driver.execute("PRAGMA synchronous = OFF")
    driver.execute("PRAGMA legacy_alter_table = ON")  # views may name what is not there
    driver.execute("PRAGMA ignore_check_constraints = ON")  # rows that break one are copied, too
    driver.execute("ATTACH ? AS source", (address,))
    schema = driver.execute("SELECT type, name, sql, tbl_name FROM source.sqlite_master").fetchall()
    created = [*_created(schema)]
    stored = any(kind == "table" and fold(name) == fold(table) for kind, name, _, _ in created)
    fraction = _fraction(driver, table, rows) if stored else 1.0
    left_out: set[str] = set()
    for kind, name, sql, _ in created:
        if kind == "table":
            share = 1.0 if name in whole else fraction
            with _leaving_out(left_out, name, name, table):
                driver.execute(sql)
                for statement in _copying(driver, name, share):
                    driver.execute(statement)
    copied = 0
    if stored:
        copied = driver.execute(f"SELECT count(*) FROM main.{quote(table)}").fetchone()[0]
    for kind, name, sql, of in created:
        if kind != "table" and of not in left_out:
            with _leaving_out(left_out, name, of, table):
                driver.execute(sql)
    driver.execute("DETACH source")
    for pragma in ("legacy_alter_table", "ignore_check_constraints"):
        driver.execute(f"PRAGMA {pragma} = OFF")
    return copied


@contextmanager
def _leaving_out(left_out: set[str], name: str, of: str, table: str) -> Iterator[None]:
    """
    Leave out what *name* is *of* a table, if it needs a function of the application, or refuses
    rows that are stored, as after ``PRAGMA writable_schema``.

    Raises:
        FunctionMissing, RebuildRefused: It is of *table*: a run would be refused for the same
            reason.
    """
    try:
        yield
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in _OF_VALUES:
            raise
        if fold(of) == fold(table):
            if _LACKING.match(str(error)):
                raise FunctionMissing(name, str(error)) from error
            step = "copying the rows" if fold(name) == fold(table) else f"creating {name} again"
            raise RebuildRefused(table, f"{step} failed with `{error}`") from error
        left_out.add(name)


def _created(
    schema: list[tuple[str, str, str | None, str]],
) -> Iterator[tuple[str, str, str, str]]:
    """Give what a sample has: not virtual tables, and not what SQLite creates by itself."""
    virtual = [
        fold(name) for _, name, sql, _ in schema if fold(sql or "").startswith("create virtual")
    ]
    order = ("table", "index", "view", "trigger")
    for kind, name, sql, of in sorted(schema, key=lambda row: order.index(row[0])):
        shadow = any(fold(name) == each or fold(name).startswith(f"{each}_") for each in virtual)
        if sql is not None and not shadow and not fold(name).startswith("sqlite_"):
            yield kind, name, sql, of


def _fraction(driver: sqlite3.Connection, table: str, rows: int) -> float:
    first, last = _ends(driver, table)
    return min(1.0, rows / max(last - first, 1))


def _ends(driver: sqlite3.Connection, table: str) -> tuple[int, int]:
    # Two at once would be a scan: https://www.sqlite.org/optoverview.html#the_min_max_optimization
    least, most = (f"(SELECT {each}(rowid) FROM source.{quote(table)})" for each in ("min", "max"))
    query = f"SELECT coalesce({least}, 1) - 1, coalesce({most}, 0)"
    first, last = driver.execute(query).fetchone()
    return first, last


def _copying(driver: sqlite3.Connection, table: str, share: float) -> Iterator[str]:
    """Give the statements that copy a *share* of the rows of *table*, from several places of it."""
    info = driver.execute(f"PRAGMA source.table_xinfo({quote(table)})")
    columns = ", ".join(quote(row[1]) for row in info if row[6] == 0)
    insert = (
        f"INSERT INTO main.{quote(table)} ({columns}) SELECT {columns} FROM source.{quote(table)}"
    )
    if not share:
        return
    try:
        first, last = _ends(driver, table)
    except sqlite3.OperationalError:  # WITHOUT ROWID
        yield insert if share == 1 else f"{insert} LIMIT 4000"
        return
    width = (last - first) / _PARTS
    for part in range(_PARTS):
        low = first + round(part * width)
        high = min(low + math.ceil(width * share), first + round((part + 1) * width))
        yield f"{insert} WHERE rowid > {low} AND rowid <= {high}"
