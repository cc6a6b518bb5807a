"""
A database of its own for each scenario whose tags ask for one; most need none.

`@database` is at the newest revision and stays there, `@former_database` is as the former
release left it.

    behave                                                  on SQLite
    behave -D engine=postgresql-18                          on a server made for the run
    behave -D database_url=postgresql://me@host/postgres    in new databases beside that one
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from behave import fixture, use_fixture
from behave.tag_matcher import ActiveTagMatcher
from sqlalchemy import URL, NullPool

from cleveragents_plans import database_url, open_engine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import databases, postgres
from support.revisions import M4_003

REVISIONS = {"database": "head", "former_database": M4_003}


class Databases:
    """Copies of databases that went through the chain once in the run."""

    def __init__(self, userdata: Mapping[str, str], folder: Path) -> None:
        self._named = userdata.get("database_url")
        self._server = userdata.get("engine", "sqlite")
        self._folder = folder
        self._templates: dict[str, URL] = {}
        self._spare: list[URL] = []
        #: Which kind of database it is, for tags such as `@use.with_engine=sqlite`.
        self.engine = (
            database_url(self._named).get_backend_name()
            if self._named
            else self._server.partition("-")[0]
        )

    def create(self, revision: str) -> URL:
        """Make a database at *revision*, without plans."""
        if revision == "head" and self._spare:
            return self._spare.pop()
        if revision not in self._templates:
            self._templates[revision] = self._create(None)
            databases.migrate(_text(self._templates[revision]), revision)
        return self._create(self._templates[revision])

    def release(self, url: URL, revision: str) -> None:
        """Drop a database, unless it can be emptied, which is faster, and used again."""
        if revision == "head" and self.engine == "postgresql":
            self._execute(url, "TRUNCATE v3_plans CASCADE")
            self._spare.append(url)
        else:
            self._drop(url)

    def close(self) -> None:
        """Drop what was kept."""
        for url in (*self._templates.values(), *self._spare):
            self._drop(url)

    @cached_property
    def _beside(self) -> URL:
        if self._named:
            return database_url(self._named)
        if self.engine == "sqlite":
            return URL.create("sqlite", database=str(self._folder / "plans.db"))
        return database_url(postgres.server(self._server).url())

    def _create(self, template: URL | None) -> URL:
        name = f"plans_{uuid4().hex[:12]}"
        if self.engine == "sqlite":
            file = Path(self._beside.database).with_name(f"{name}.db")
            if template is not None:
                shutil.copyfile(template.database, file)
            return self._beside.set(database=str(file))
        copied = f' TEMPLATE "{template.database}"' if template is not None else ""
        self._execute(self._beside, f'CREATE DATABASE "{name}"{copied}')
        return self._beside.set(database=name)

    def _drop(self, url: URL) -> None:
        if self.engine == "sqlite":
            for file in Path(url.database).parent.glob(f"{Path(url.database).name}*"):
                file.unlink()
        else:
            self._execute(self._beside, f'DROP DATABASE IF EXISTS "{url.database}" WITH (FORCE)')

    def _execute(self, url: URL, statement: str) -> None:
        engine = open_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


@fixture
def all_databases(context: Any) -> Iterator[None]:
    """What scenarios get their databases from."""
    with TemporaryDirectory() as folder:
        context.databases = Databases(context.config.userdata, Path(folder))
        yield
        context.databases.close()


@fixture
def database(context: Any, revision: str) -> Iterator[None]:
    """A database at *revision*, dropped with the scenario."""
    url = context.databases.create(revision)
    context.url = _text(url)
    context.engine = open_engine(url, poolclass=NullPool)
    yield
    context.databases.release(url, revision)


def before_all(context: Any) -> None:
    use_fixture(all_databases, context)
    context.active_tags = ActiveTagMatcher({"engine": context.databases.engine})


def before_scenario(context: Any, scenario: Any) -> None:
    tags = scenario.effective_tags
    if context.active_tags.should_skip_with_tags(tags):
        # Rules that only one engine has: behave runs once for each engine, and counts them.
        scenario.skip("for another engine")  # the run for that engine executes it
        return
    for tag in tags:
        if tag in REVISIONS:
            use_fixture(database, context, REVISIONS[tag])


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
