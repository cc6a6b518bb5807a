"""Which database a run is for: what names it, and what happens when two names differ."""

from __future__ import annotations

import configparser
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from alembic.config import Config
from sqlalchemy import URL, Connection, Engine
from sqlalchemy.pool import StaticPool

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.runner.connecting import connect
from cleveragents_plans.evolution.runner.libpq_environment import named_by_environment
from cleveragents_plans.evolution.settings import Settings, given_options
from cleveragents_plans.evolution.sqlite.pragmas import is_in_memory
from cleveragents_plans.evolution.sqlite.writable_file import require_write_mode


class DatabaseNotNamed(EvolutionError):
    """
    What should name the database is empty, or cannot be read, or is not of a kind that can be used.

    Attributes:
        source: Where it was found.
    """

    def __init__(self, source: str, found: str, expected: str) -> None:
        super().__init__(f"{source} {found}; expected {expected}; nothing was changed")
        self.source = source


class FileMissing(EvolutionError):
    """
    There is no file at the path of a SQLite database, and none is to be created.

    Attributes:
        target: What the database is called.
    """

    def __init__(self, target: str) -> None:
        super().__init__(
            f"there is no file at {target}; check the path, or create one with "
            f"`cleveragents-plans upgrade --create --url {shlex.quote(target)}` (alembic upgrade "
            "creates it unasked); nothing was changed"
        )
        self.target = target


class TwoDatabases(EvolutionError):
    """
    Two places name a database, and not the same one.

    Attributes:
        named: What each of them names, without passwords, and where it was found.
    """

    def __init__(self, named: Sequence[str]) -> None:
        found = " and ".join(named)
        super().__init__(
            f"two databases are named: {found}; expected one: remove the other, or name the "
            "database with -x url=, which configuration and environment give way to; "
            "nothing was changed"
        )
        self.named: tuple[str, ...] = tuple(named)


@dataclass(frozen=True, slots=True)
class Application:
    """What a run must know of the application whose chain it runs."""

    #: Reads the URL of a database.
    read: Callable[[str | URL], URL]
    #: Writes it for people to read, without passwords.
    show: Callable[[URL], str]
    #: Makes an engine without a pool; on SQLite, foreign keys are off and BEGIN is IMMEDIATE.
    open: Callable[[URL], Engine]
    #: The URL where nothing names a database.
    default: str
    #: A name for a version table that the chain does not share with another one.
    version_table: str


@dataclass(frozen=True, slots=True)
class Target:
    """The database of a run."""

    url: URL
    #: What to call it in messages: no password in it.
    shown: str
    #: What the environment adds to the URL, or that nothing named it, in parentheses.
    note: str
    #: Whether nothing named it.
    is_default: bool
    #: An engine or a connection of the caller's.
    given: Engine | Connection | None
    open: Callable[[URL], Engine]

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite, and not PostgreSQL."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path | None:
        """The file of SQLite; None for a database in memory, and of PostgreSQL."""
        name = self.url.database
        if not self.is_sqlite or not name or is_in_memory(self.url):
            return None
        return Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)

    @contextmanager
    def connected(
        self, settings: Settings, *, creates: bool = False, writes: bool = False
    ) -> Iterator[Connection]:
        """
        Connect to it, to read it only unless it *writes*.

        A connection of the caller's is used as it is, and stays open. One from a pool does not go
        back: its session is configured for migrations, and has lost a progress handler of the
        application's on SQLite. A database in memory, and a `StaticPool`, have that one only.

        Args:
            settings: How long to wait for a server.
            creates: A file that is not there is created.
            writes: It is to be written to.

        Raises:
            EvolutionError: It is a file that cannot be used for that.
            ConnectionFailed: It cannot be reached, see `connect`.
        """
        if isinstance(self.given, Connection):
            yield self.given
            return
        if self.given is None and self.is_sqlite:
            self._refuse_unfit_file(creates, writes)
        engine = self.given or self.open(self.url)
        with connect(engine, self.shown, settings) as connection:
            try:
                yield connection
            finally:
                keeps = self.is_sqlite and (
                    self.file is None or isinstance(engine.pool, StaticPool)
                )
                if self.given and not keeps and not connection.invalidated:
                    connection.invalidate()

    def _refuse_unfit_file(self, creates: bool, writes: bool) -> None:
        file = self.file
        if file is None:
            raise EvolutionError(
                f"{self.shown} is a database in memory, which ends with this run; name a file, "
                "or hand over the engine that the application uses"
            )
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                # SQLite writes it first, and its name is longer.
                Path(f"{file}-journal").stat()
            mode = file.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            # Opening it would create an empty one.
            if not creates:
                raise FileMissing(self.shown) from None
            return
        except OSError as error:  # such as a folder that is closed to this user, or a long name
            raise EvolutionError(
                f"{self.shown} cannot be looked at ({error.strerror}); check the path and the "
                "rights on its folders; nothing was changed"
            ) from None
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise EvolutionError(
                f"{self.shown} is {what}; expected the path of a file; nothing was changed"
            )
        if writes:
            require_write_mode(file)


_URL = "the attribute url (--url)"


def find_target(config: Config, application: Application) -> Target:
    """
    Tell which database *config* names.

    First comes what names it for this run: ``-x url=``, and the attributes ``connection``
    (an engine or a connection) and ``url`` of the configuration. Then comes what stands in
    files and in the environment: ``sqlalchemy.url``, and the variable ``DATABASE_URL``. Two
    names of one rank must name the same database. Last comes the default.

    Raises:
        TwoDatabases: They do not.
        DatabaseNotNamed: A name is empty, or cannot be read.
    """
    given = config.attributes.get("connection")
    for names in (_of_this_run(config, given), _standing(config)):
        urls = {
            source: application.read(_not_empty(source, name)) for source, name in names.items()
        }
        if len(set(urls.values())) > 1:
            raise TwoDatabases([f"{application.show(url)} by {name}" for name, url in urls.items()])
        for url in urls.values():
            if {*names} & {"-x url", _URL}:  # for commands in messages, which name it again
                config.attributes["shown_url"] = application.show(url)
            note = "" if url.get_backend_name() == "sqlite" else named_by_environment(url)
            return Target(url, application.show(url), note, False, given, application.open)
    url = application.read(application.default)
    note = f" (the default, in {Path.cwd()}; name another by DATABASE_URL)"
    return Target(url, application.show(url), note, True, None, application.open)


def _of_this_run(config: Config, given: Any) -> dict[str, str | URL]:
    names: dict[str, Any] = {
        "-x url": given_options(config).get("url"),
        _URL: config.attributes.get("url"),
    }
    if given is not None:
        if not isinstance(given, Connection | Engine):
            raise DatabaseNotNamed(
                "the attribute connection",
                f"is of the type {type(given).__name__}",
                "a Connection or an Engine of SQLAlchemy (of asyncio: `await "
                "cleveragents_plans.schema.upgrade(engine)`, or what run_sync() gives)",
            )
        names["the attribute connection"] = given.engine.url
    return {source: name for source, name in names.items() if name is not None}


def _standing(config: Config) -> dict[str, str | URL]:
    try:
        configured = config.get_main_option("sqlalchemy.url")
    except configparser.InterpolationError:  # whose message has the password in it
        raise DatabaseNotNamed(
            "sqlalchemy.url", "has a % that stands alone", "%% for each % of the URL"
        ) from None
    names = {"sqlalchemy.url": configured, "DATABASE_URL": os.environ.get("DATABASE_URL")}
    return {source: name for source, name in names.items() if name is not None}


def _not_empty(source: str, name: str | URL) -> str | URL:
    if isinstance(name, str) and not name.strip():
        raise DatabaseNotNamed(source, "is empty", "the URL of a database, or that it is not set")
    return name
