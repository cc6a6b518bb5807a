"""Empty databases on every engine, and the chain that moves them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config

from support import postgres

ROOT = Path(__file__).parents[2]

#: Every engine that is tested here: the names are test ids.
ENGINES = ["sqlite", *postgres.binaries()]


@contextmanager
def empty_database(engine: str, folder: Path) -> Iterator[str]:
    """Make an empty database on *engine* (a file in *folder*, for SQLite); yield its URL."""
    if engine == "sqlite":
        yield f"sqlite:///{folder / 'plans.db'}"
        return
    server = postgres.server(engine)
    url = server.create_database()
    try:
        yield url
    finally:
        server.drop_database(url)


def chain(url: str, *extra: str) -> Config:
    """Configure Alembic as the checkout's ``alembic.ini`` does, for one database."""
    return Config(
        ROOT / "alembic.ini",
        attributes={"url": url},
        cmd_opts=argparse.Namespace(x=list(extra)),
    )


def migrate(url: str, revision: str, *extra: str) -> None:
    """Bring the database forward to *revision*."""
    command.upgrade(chain(url, *extra), revision)


def roll_back(url: str, revision: str, *extra: str) -> None:
    """Bring the database back to *revision*."""
    command.downgrade(chain(url, *extra), revision)
