"""The chain of revisions of this package, for Alembic and for chains of applications."""

from __future__ import annotations

import argparse
import atexit
import logging
import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import MetaData, Table
from sqlalchemy.schema import SchemaItem

from cleveragents_plans.domain.errors import shown
from cleveragents_plans.evolution.runner import environment
from cleveragents_plans.evolution.runner.runs import RUNS
from cleveragents_plans.evolution.runner.target import Application
from cleveragents_plans.persistence import (
    Base,
    DatabaseUrlError,
    database_url,
    open_engine,
    without_password,
)

#: Where a downgrade keeps snapshots.
ARCHIVE: Final = "v3_plans_snapshot_archive"

#: What a run must know of this package.
APPLICATION: Final = Application(
    read=database_url,
    show=without_password,
    open=partial(open_engine, migrating=True),
    default="sqlite:///plans.db",
    version_table="plans_version",
)


def run_environment(*metadata: MetaData) -> None:
    """
    Run the Alembic command that runs the calling ``env.py``.

    Which database: ``-x url=``, or the attributes ``url`` and ``connection`` of the
    configuration; else ``sqlalchemy.url`` of the configuration, or the variable
    ``DATABASE_URL``; else ``sqlite:///plans.db`` in the current folder. Two names of one
    rank must name the same database.

    Args:
        metadata: Further models that ``alembic check`` compares with, in an application whose
            chain holds the revisions of this package beside its own.

    Raises:
        CommandError: With one line that says what was found and what to do.
    """
    try:
        environment.run_environment([Base.metadata, *metadata], APPLICATION)
    except DatabaseUrlError as error:
        raise CommandError(str(error)) from None


def chain_config(
    url: str | None = None, *, extra: Sequence[str] = (), level: int | None = logging.INFO
) -> Config:
    """
    Configure Alembic for the chain of this package.

    Args:
        url: The database; without it see `run_environment`.
        extra: What ``alembic -x`` takes, as ``["lock-wait=60"]``.
        level: What is written to standard error, as a level of logging: all events, with a
            bar on a terminal, or warnings. None is nothing; what is logged is not lost.
    """
    config = Config(
        stdout=sys.stdout,
        cmd_opts=argparse.Namespace(x=list(extra)),
        attributes={"program": "cleveragents-plans", "level": level},
    )
    if url is not None:
        config.attributes["url"] = url
    config.set_main_option("script_location", str(chain_location()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def chain_location() -> Path:
    """
    Find the folder of the chain, which is a part of the package.

    Alembic reads revisions as files. Where the package is in a zip, they are copied into a
    temporary folder, which is removed when the process ends.

    Raises:
        CommandError: The installation lacks them.
    """
    found = files("cleveragents_plans") / "migrations"
    if not (found / "env.py").is_file():
        raise CommandError(
            "this installation has no migrations (cleveragents_plans/migrations); expected them "
            "as files beside the modules of the package: install the wheel, or add them to the "
            "data of the bundle"
        )
    if isinstance(found, Path):
        return found
    folder = TemporaryDirectory(prefix="cleveragents_plans")
    atexit.register(folder.cleanup)
    _copy(found, Path(folder.name) / "migrations")
    return Path(folder.name) / "migrations"


def check_names(**names: object) -> None:
    """
    Refuse names of tables and schemas that no database can have.

    Raises:
        CommandError: One is no text, is empty, or has NUL or a lone surrogate in it.
    """
    for what, name in names.items():
        if name is None:
            continue
        text = name if isinstance(name, str) else ""
        if not text.strip() or any(each == "\0" or "\ud800" <= each <= "\udfff" for each in text):
            raise CommandError(f"{what} is {shown(name)}; expected a name; nothing was changed")


def include_object(
    item: SchemaItem,
    name: str | None,
    type_: Literal[
        "schema",
        "table",
        "column",
        "index",
        "unique_constraint",
        "foreign_key_constraint",
        "check_constraint",
    ],
    reflected: bool,
    compare_to: SchemaItem | None,
) -> bool:
    """
    Leave the tables of this package alone, in an application's own ``--autogenerate``.

    It is an argument of Alembic's: ``context.configure(include_object=include_object)`` in the
    ``env.py`` of a chain of the application. Tables of this package that are in the database,
    and version tables of any name, are not compared, unless the models of the application
    have them as well. Without it they would be dropped.
    """
    if type_ != "table" or not reflected or compare_to is not None:
        return True
    columns = [column.name for column in item.columns] if isinstance(item, Table) else []
    return name not in (*Base.metadata.tables, ARCHIVE, RUNS) and columns != ["version_num"]


def _copy(source: Traversable, target: Path) -> None:
    target.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            _copy(entry, target / entry.name)
        else:
            (target / entry.name).write_bytes(entry.read_bytes())
