"""Databases in the state in which an operator finds them, and a look at what became of them."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from alembic import command
from robot.api.deco import keyword, library
from robot.libraries.BuiltIn import BuiltIn
from sqlalchemy import URL, NullPool, make_url, text
from sqlalchemy.orm import Session

from cleveragents_plans import (
    BUILT_IN_PROFILES,
    Plan,
    PlanRepository,
    database_url,
    new_ulid,
    open_engine,
    without_password,
)
from cleveragents_plans.schema import chain_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from support import postgres  # noqa: E402  found by the path that was set above
from support.former_release import true_roots, write_former_release  # noqa: E402  by that path
from support.rows import database_hash, schema_dump  # noqa: E402  by that path

_PLANS = 2_000
_NOW = "2026-03-14T00:05:32.000000+00:00"


@library(scope="GLOBAL", listener="SELF")
class DatabaseLibrary:
    """
    One database at a time, made new for each test and dropped after it.

    What takes long to make is made once in a run, and copied.
    """

    def __init__(self) -> None:
        self._beside: URL | None = None
        self._programs = ""
        self._folder: TemporaryDirectory[str] | None = None
        self._url: URL | None = None
        self._templates: dict[str, URL] = {}
        self._remembered: tuple[Any, Any] | None = None
        self._roots: dict[str, str] = {}

    def close(self) -> None:
        """Drop what was kept to be copied; called at the end of the run."""
        for url in self._templates.values():
            self._drop(url)

    @keyword
    def choose_databases(self, engine: str, named: str | None, folder: str) -> None:
        """
        Say where databases are made.

        Beside the one that the URL *named* names; without it in *folder* if *engine* is
        `sqlite`, else on a server of the kind *engine*, started for the run.
        """
        if named:
            self._beside = database_url(named)
        elif engine == "sqlite":
            self._beside = URL.create("sqlite", database=str(Path(folder) / "plans.db"))
        else:
            self._beside = database_url(postgres.server(engine).url())
            self._programs = str(postgres.server(engine).binaries)

    @keyword
    def make_empty_database(self) -> str:
        """Make a database in which there is nothing; give its URL."""
        self._url = self._create(None)
        return _text(self._url)

    @keyword
    def make_deployed_database(self, rows: str) -> str:
        """
        Make a database as the former release left it, full of plans; give its URL.

        The *rows* are `pure`, those that this release wrote itself, or `all` that are found
        in use. The tables of two other packages are there as well.
        """
        if rows not in self._templates:
            self._templates[rows] = self._create(None)
            with redirect_stderr(StringIO()):
                write_former_release(
                    _text(self._templates[rows]),
                    _PLANS,
                    seed=1,
                    pure=rows == "pure",
                    also_tables=True,
                )
        self._url = self._create(self._templates[rows])
        self._roots = true_roots(_text(self._url))
        return _text(self._url)

    @keyword
    def make_new_database(self) -> str:
        """Make a database of this release without plans; give its URL."""
        if "new" not in self._templates:
            self._templates["new"] = self._create(None)
            config = chain_config(_text(self._templates["new"]))
            with redirect_stderr(StringIO()):
                command.upgrade(config, "head")
        self._url = self._create(self._templates["new"])
        return _text(self._url)

    @keyword
    def go_on_with(self, url: str) -> None:
        """Drop the database of the test; from here on it is that of *url*."""
        if make_url(url).database != self._here().database:
            self._drop(self._here())
        self._url = database_url(url)

    @keyword
    def folder_of_the_database(self) -> str:
        """Give the folder of the file, or one in which nothing is yet; it goes with the test."""
        if self._here().get_backend_name() == "sqlite":
            return str(Path(str(self._here().database)).parent)
        if self._folder is None:
            self._folder = TemporaryDirectory()
        return self._folder.name

    @keyword
    def engine_of_the_database(self) -> str:
        """Give `sqlite` or `postgresql`."""
        return self._here().get_backend_name()

    @keyword
    def programs_of_the_server(self) -> str:
        """Give the folder of pg_dump and its like; empty where they are in the path already."""
        return self._programs

    @keyword
    def make_file(self, content: str, writable: bool = True) -> str:
        """Make a file that is no database; give the URL that an operator takes it for."""
        file = Path(BuiltIn().get_variable_value("${OUTPUT_DIR}")) / f"file_{uuid4().hex[:12]}.db"
        file.write_text(content)
        if not writable:
            file.chmod(0o444)
        self._url = URL.create("sqlite", database=str(file))
        return _text(self._url)

    @keyword
    def name_as_shown(self, url: str) -> str:
        """Write *url* as an operator reads it, without a password."""
        return without_password(database_url(url))

    @keyword
    def drop_database(self) -> None:
        """Drop the database of the test, if it made one."""
        if self._url is not None:
            self._drop(self._url)
            self._url = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @keyword
    def only_on(self, engine: str) -> None:
        """Skip the test on other engines than *engine*."""
        found = self._beside.get_backend_name() if self._beside else "none"
        if found != engine:
            BuiltIn().skip(f"for {engine} only")  # shown in the report; the run for it executes it

    # What is in it

    @keyword
    def store_plans(self, profile: str) -> None:
        """Store a plan under *profile*, and a child of it."""
        root = Plan.create("refactor-auth", profile=profile)
        with self._session() as session, session.begin():
            PlanRepository(session).add_all([root, root.spawn()])

    @keyword
    def store_a_cycle_of_plans(self) -> None:
        """Store two plans, as the former release did, each of which is the parent of the other."""
        one, other = new_ulid(), new_ulid()
        insert = text(
            "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
            " VALUES (:plan, :part_of, 'local/build', :now, :now)"
        )
        link = text("UPDATE v3_plans SET parent_plan_id = :part_of WHERE plan_id = :plan")
        with self._session() as session, session.begin():
            session.execute(insert, {"plan": one, "part_of": None, "now": _NOW})
            session.execute(insert, {"plan": other, "part_of": one, "now": _NOW})
            session.execute(link, {"plan": one, "part_of": other})

    @keyword
    def detach_plans_without_their_parent(self) -> None:
        """Mend what `verify` finds in the deployed file, as it says; SQLite forbade no gap."""
        detach = text(
            "UPDATE v3_plans SET parent_plan_id = NULL"
            " WHERE parent_plan_id NOT IN (SELECT plan_id FROM v3_plans)"
        )
        with self._session() as session, session.begin():
            session.execute(detach)
        self._roots = true_roots(_text(self._here()))

    @keyword
    def stamp(self, revision: str) -> None:
        """Write down that the database is at *revision*, whatever it holds."""
        with self._session() as session, session.begin():
            session.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})

    # What became of it

    @keyword
    def remember(self) -> None:
        """Keep hashes of all rows of all tables, and the schema, for a later look."""
        self._remembered = self._state()

    @keyword
    def nothing_should_have_changed(self) -> None:
        """Fail unless all rows of all tables, and the schema, are those remembered."""
        rows, schema = self._remembered or ({}, [])
        rows_now, schema_now = self._state()
        changed = [name for name in {*rows, *rows_now} if rows.get(name) != rows_now.get(name)]
        changed += [str(entry) for entry in {*schema} ^ {*schema_now}]
        if changed:
            raise AssertionError(f"changed: {', '.join(changed)}")

    @keyword
    def no_row_should_have_changed(self) -> None:
        """Fail unless all rows are those remembered; a dump writes some CHECKs in other words."""
        self.only_should_have_changed()

    @keyword
    def only_should_have_changed(self, *tables: str) -> None:
        """Fail unless the rows of all tables but *tables* are those remembered."""
        rows, _ = self._remembered or ({}, [])
        rows_now, _ = self._state()
        changed = {name for name in {*rows, *rows_now} if rows.get(name) != rows_now.get(name)}
        if changed != set(tables):
            raise AssertionError(f"changed: {', '.join(sorted(changed))}")

    @keyword
    def every_plan_should_name_its_root(self) -> None:
        """Fail unless each plan has the root of its tree, found out before the upgrade."""
        with self._session() as session:
            found = dict(session.execute(text("SELECT plan_id, root_plan_id FROM v3_plans")).all())
        if found != self._roots:
            wrong = sum(found.get(plan) != root for plan, root in self._roots.items())
            raise AssertionError(f"{wrong} of {len(self._roots)} plans have another root")

    @keyword
    def every_plan_should_be_readable(self) -> None:
        """Fail unless the library can read every plan."""
        with self._session() as session:
            found = sum(1 for _ in PlanRepository(session).stream())
        if found != len(self._roots):
            raise AssertionError(f"{found} of {len(self._roots)} plans were read")

    @keyword
    def no_plan_should_have_a_snapshot(self) -> None:
        """Fail if a plan that was created before snapshots has one."""
        with self._session() as session:
            recorded = sum(
                bool(plan.effective_profile) for plan in PlanRepository(session).stream()
            )
        if recorded:
            raise AssertionError(f"{recorded} plans have a snapshots")

    @keyword
    def every_plan_should_have_the_snapshot_of(self, profile: str) -> None:
        """Fail unless the snapshot of each plan is that of *profile*."""
        with self._session() as session:
            found = [plan.effective_profile for plan in PlanRepository(session).stream()]
        if not found or found != [BUILT_IN_PROFILES[profile]] * len(found):
            raise AssertionError(f"snapshots: {found}")

    @keyword
    def former_release_should_read_every_plan(self) -> None:
        """Fail if a profile is not what the former release can parse: JSON, or nothing."""
        with self._session() as session:
            profiles = session.execute(text("SELECT automation_profile FROM v3_plans")).scalars()
            for profile in profiles.all():
                if profile is not None and profile.strip():
                    json.loads(profile)

    @keyword
    def database_should_be_at(self, revision: str) -> None:
        """Fail unless *revision* is written down in the database."""
        with self._session() as session:
            found = session.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        if found != [revision]:
            raise AssertionError(f"found {', '.join(found)}, expected {revision}")

    @keyword
    def database_should_hold_nothing(self) -> None:
        """Fail if anything but the empty version table is there: tables, triggers, functions."""
        left = [
            entry for entry in schema_dump(_text(self._here())) if entry[1] != "alembic_version"
        ]
        if left:
            raise AssertionError(f"found {left}")

    def _state(self) -> tuple[Any, Any]:
        url = _text(self._here())
        return database_hash(url), schema_dump(url)

    def _session(self) -> Session:
        return Session(open_engine(self._here(), poolclass=NullPool))

    def _here(self) -> URL:
        if self._url is None:
            raise AssertionError("the test has made no database yet")
        return self._url

    def _create(self, template: URL | None) -> URL:
        if self._beside is None:
            raise AssertionError("no engine was chosen: call Choose Databases first")
        name = f"plans_{uuid4().hex[:12]}"
        if self._beside.get_backend_name() == "sqlite":
            folder = Path(str(self._beside.database)).with_name(name)
            folder.mkdir()  # of its own: the page on restoring moves all of its files
            file = folder / "plans.db"
            if template is not None:
                shutil.copyfile(str(template.database), file)
            return self._beside.set(database=str(file))
        copied = f' TEMPLATE "{template.database}"' if template is not None else ""
        self._on_server(f'CREATE DATABASE "{name}"{copied}')
        return self._beside.set(database=name)

    def _drop(self, url: URL) -> None:
        if url.get_backend_name() == "sqlite":
            file = Path(str(url.database))
            if file.name == "plans.db":
                shutil.rmtree(file.parent)
            else:
                file.unlink()
        else:
            self._on_server(f'DROP DATABASE IF EXISTS "{url.database}" WITH (FORCE)')

    def _on_server(self, statement: str) -> None:
        assert self._beside is not None
        engine = open_engine(self._beside, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


def _text(url: URL) -> str:
    return make_url(url).render_as_string(hide_password=False)
