"""Databases on every engine, empty or at a revision, and the chain that migrates them."""

from __future__ import annotations

import argparse
import atexit
import functools
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, make_url

from cleveragents_plans.persistence import open_engine
from cleveragents_plans.persistence.urls import database_url, without_password
from support import postgres

ROOT = Path(__file__).parents[2]

#: Every engine that is tested here: the names are test ids.
ENGINES = ["sqlite", *postgres.binaries()]


#: Those of them that are servers.
SERVERS = ENGINES[1:]

#: SQLite and the newest server: for what takes long and is the same on every server.
ONE_OF_EACH = ENGINES[:2]

_FOLDER = Path(tempfile.mkdtemp(prefix="templates", dir=postgres.memory_folder()))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@contextmanager
def migrating_connection(file: Path) -> Iterator[Connection]:
    """Connect to a SQLite *file* as a migration does."""
    engine = open_engine(f"sqlite:///{file}", migrating=True)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def of_role(url: str, role: str) -> str:
    """Give the URL of a server for another *role*."""
    return make_url(url).set(username=role).render_as_string()


@contextmanager
def empty_database(engine: str, folder: Path) -> Iterator[str]:
    """Make an empty database on *engine* (a file in *folder*, for SQLite); yield its URL."""
    with _database(engine, folder, None) as url:
        yield url


@contextmanager
def database_at(revision: str, engine: str, folder: Path) -> Iterator[str]:
    """
    Make a database as the chain leaves it at *revision*; yield its URL.

    The chain runs once in a process, on a database that is copied for every test.
    """
    with _database(engine, folder, _template(engine, revision)) as url:
        yield url


@contextmanager
def database_with(
    build: Callable[[str], None], engine: str, folder: Path, revision: str = "head"
) -> Iterator[str]:
    """
    Make a database at *revision* to which *build* has added what a test needs; yield its URL.

    That, too, happens once in a process.
    """
    with _database(engine, folder, _built(engine, revision, build)) as url:
        yield url


@contextmanager
def _database(engine: str, folder: Path, template: str | None) -> Iterator[str]:
    if engine == "sqlite":
        postgres.skip_if_left_out(engine)
        file = folder / "plans.db"
        if template is not None:
            shutil.copyfile(template.removeprefix("sqlite:///"), file)
        yield f"sqlite:///{file}"
        return
    server = postgres.server(engine)
    url = server.create_database(make_url(template).database if template else None)
    try:
        yield url
    finally:
        server.drop_database(url)


@functools.cache
def _built(engine: str, revision: str, build: Callable[[str], None]) -> str:
    template = _template(engine, revision)
    if engine == "sqlite":
        url = f"sqlite:///{_FOLDER}/{revision}-{build.__qualname__}.db"
        shutil.copyfile(template.removeprefix("sqlite:///"), url.removeprefix("sqlite:///"))
    else:
        url = postgres.server(engine).create_database(make_url(template).database)
    build(url)
    return url


@functools.cache
def _template(engine: str, revision: str) -> str:
    if engine == "sqlite":
        url = f"sqlite:///{_FOLDER}/{revision}.db"
    else:
        url = postgres.server(engine).create_database()
    migrate(url, revision)
    return url


def url_option(url: str) -> str:
    """Write ``--url`` as commands in messages have it."""
    return f"--url {shlex.quote(without_password(database_url(url)))}"


def chain(url: str, *extra: str) -> Config:
    """Configure Alembic as the checkout's ``alembic.ini`` does, for one database."""
    return Config(
        ROOT / "alembic.ini",
        attributes={"url": url},
        cmd_opts=argparse.Namespace(x=list(extra)),
    )


def migrate(url: str, revision: str, *extra: str) -> None:
    """Upgrade the database to *revision*."""
    command.upgrade(chain(url, *extra), revision)


def roll_back(url: str, revision: str, *extra: str) -> None:
    """Downgrade the database to *revision*."""
    command.downgrade(chain(url, *extra), revision)
