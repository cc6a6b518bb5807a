"""The tables as the chain makes them: it is run on an empty database in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sqlalchemy import StaticPool, create_engine

from cleveragents_plans.persistence import Base
from cleveragents_plans.schema.migration import upgrade
from cleveragents_plans.verification.sqlite_tables import sqlite_tables
from cleveragents_plans.verification.tables import Table


@cache
def expected_tables(revision: str) -> dict[str, Table]:
    """
    Describe the tables of this package as *revision* leaves them.

    Those of PostgreSQL are the same, but for triggers.
    """
    engine = create_engine("sqlite://", poolclass=StaticPool)
    try:
        with _unlogged():
            upgrade(engine, revision)
        with engine.connect() as connection:
            return sqlite_tables(connection, Base.metadata.tables, {})
    finally:
        engine.dispose()


@contextmanager
def _unlogged() -> Iterator[None]:
    # "Running upgrade" would be read as that of the database that is looked at.
    loggers = [
        logging.getLogger(name) for name in logging.root.manager.loggerDict if "alembic" in name
    ]
    former = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, former, strict=True):
            logger.disabled = disabled
