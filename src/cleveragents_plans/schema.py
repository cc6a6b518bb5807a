"""The chain of revisions of this package, for programs that migrate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import MetaData

from cleveragents_plans.evolution.runner import environment
from cleveragents_plans.evolution.runner.target import Application
from cleveragents_plans.persistence import (
    Base,
    DatabaseUrlError,
    database_url,
    open_engine,
    without_password,
)

_APPLICATION = Application(
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
        environment.run_environment([Base.metadata, *metadata], _APPLICATION)
    except DatabaseUrlError as error:
        raise CommandError(str(error)) from None


def chain_location() -> Path:
    """Find the folder of the chain, which is a part of the package."""
    return Path(__file__).parent / "migrations"


def chain_config(
    url: str | None = None, *, extra: Sequence[str] = (), quiet: bool = False
) -> Config:
    """
    Configure Alembic for the chain of this package.

    Args:
        url: The database; without it see `run_environment`.
        extra: What ``alembic -x`` takes, as ``["lock-wait=60"]``.
        quiet: Print nothing but the result of a command; warnings are logged.
    """
    config = Config(
        stdout=sys.stdout,
        cmd_opts=argparse.Namespace(x=list(extra), quiet=quiet),
        attributes={"program": "cleveragents-plans"} | ({} if url is None else {"url": url}),
    )
    config.set_main_option("script_location", str(chain_location()).replace("%", "%%"))
    return config
