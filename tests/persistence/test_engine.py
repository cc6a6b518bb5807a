"""Engines on which a transaction is a transaction."""

from __future__ import annotations

import asyncio
import os
import pickle
import shlex
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic.util import CommandError
from sqlalchemy import URL, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cleveragents_plans import (
    AsyncPlanRepository,
    LifecyclePlanModel,
    Plan,
    PlanRepository,
    PlansError,
)
from cleveragents_plans.cli import main
from cleveragents_plans.persistence import (
    DatabaseLocked,
    DatabaseMissing,
    DatabaseReadOnly,
    DatabaseUrlError,
    EncodingMismatch,
    SchemaMissing,
    database_url,
    open_async_engine,
    open_engine,
    read_only,
    without_password,
)
from cleveragents_plans.schema import create_schema
from support.autocommit import in_autocommit
from support.databases import database_at, migrate
from support.pooler import transaction_pooler
from support.proxy import tcp_proxy


@pytest.mark.parametrize("url", ["sqlite:///plans.db?timeout=secret"])
def test_parts_that_the_driver_refuses_are_refused(url):
    with pytest.raises(DatabaseUrlError, match="parts that its driver refuses") as caught:
        open_engine(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("timeout", ["nan", "inf", "1e300", "2147484", "-1"])
def test_time_that_sqlite_would_take_for_none_is_refused(timeout):
    expected = r"is .*; expected seconds from 0 to 2,147,483$"
    with pytest.raises(DatabaseUrlError, match="^timeout in the database URL " + expected):
        open_engine(f"sqlite:///plans.db?timeout={timeout}")
    with pytest.raises(DatabaseUrlError, match="^timeout in connect_args " + expected):
        open_engine("sqlite:///plans.db", connect_args={"timeout": float(timeout)})


@pytest.mark.parametrize(
    ("query", "connect_args", "milliseconds"),
    [
        ("", {}, 30_000),
        ("?timeout=5", {}, 5_000),
        ("?timeout=5", {"timeout": 2}, 2_000),
        ("", {"timeout": 2_147_483}, 2_147_483_000),
    ],
)
def test_time_that_sqlite_waits_is_the_one_that_was_named(
    query, connect_args, milliseconds, tmp_path
):
    engine = open_engine(f"sqlite:///{tmp_path}/plans.db{query}", connect_args=connect_args)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == milliseconds
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite:///plans.db", "postgresql://u:secret@h/d"])
def test_an_option_that_does_not_exist_is_named(url):
    with pytest.raises(TypeError, match="'colour'") as caught:
        open_engine(url, colour="red")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("opened", "url", "module", "package"),
    [
        (open_engine, "postgresql://u@h/d", "psycopg", r"'cleveragents-plans\[postgresql\]'"),
        (open_async_engine, "postgresql://u@h/d", "psycopg", r"'cleveragents-plans\[postgresql\]'"),
        (open_async_engine, "sqlite:///plans.db", "aiosqlite", r"'cleveragents-plans\[asyncio\]'"),
        (open_async_engine, "sqlite:///plans.db", "greenlet", r"'cleveragents-plans\[asyncio\]'"),
    ],
)
def test_a_driver_that_is_missing_is_named_with_what_to_install(
    monkeypatch, opened, url, module, package
):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(DatabaseUrlError, match=f"'{module}' is not installed; .* {package}$"):
        opened(url)


def test_another_driver_for_asyncio_is_refused():
    with pytest.raises(DatabaseUrlError, match=r"'postgresql\+asyncpg', which is not supported"):
        open_async_engine("postgresql+asyncpg://u@h/d")


def test_a_connection_keeps_foreign_keys_and_a_write_ahead_log(sqlite_url):
    engine = open_engine(sqlite_url)
    with engine.connect() as connection:
        found = [
            connection.scalar(text(f"PRAGMA {name}"))
            for name in ("foreign_keys", "journal_mode", "synchronous", "busy_timeout")
        ]
    engine.dispose()

    assert found == [1, "wal", 2, 30_000]


def test_a_migrating_connection_leaves_the_journal_as_it_is(sqlite_url):
    engine = open_engine(sqlite_url, migrating=True)
    with engine.connect() as connection:
        found = [
            connection.scalar(text(f"PRAGMA {name}")) for name in ("foreign_keys", "journal_mode")
        ]

    assert found == [0, "delete"]


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_driver_in_autocommit_commits_and_rolls_back(tmp_path, autocommit):
    url = f"sqlite:///{tmp_path}/plans.db"
    migrate(url, "head")
    engine = open_engine(url, connect_args=in_autocommit(autocommit))
    for end in (Session.commit, Session.rollback):
        with Session(engine) as session:
            PlanRepository(session).add(Plan.create("local/sync"))
            end(session)
    engine.dispose()

    async def add() -> None:
        engine = open_async_engine(url, connect_args=in_autocommit(autocommit))
        for end in (AsyncSession.commit, AsyncSession.rollback):
            async with AsyncSession(engine) as session:
                await AsyncPlanRepository(session).add(Plan.create("local/async"))
                await end(session)
        await engine.dispose()

    asyncio.run(add())
    with closing(sqlite3.connect(tmp_path / "plans.db")) as driver:
        names = driver.execute("SELECT action_name FROM v3_plans ORDER BY 1").fetchall()
    assert names == [("local/async",), ("local/sync",)]


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
def test_listeners_of_every_engine_that_begin_transactions_are_served(tmp_path, begin):
    """https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#enabling-non-legacy-sqlite-transactional-modes-with-the-sqlite3-or-aiosqlite-driver"""

    def connected(driver, _record):
        driver.isolation_level = None

    def begun(connection):
        connection.exec_driver_sql(begin)

    async def add(engine) -> None:
        async with AsyncSession(engine) as session:
            await AsyncPlanRepository(session).add(Plan.create("local/async"))
            await session.commit()
        await engine.dispose()

    url = f"sqlite:///{tmp_path}/plans.db"
    event.listen(Engine, "connect", connected)
    event.listen(Engine, "begin", begun)
    try:
        migrate(url, "head")
        engine = open_engine(url)
        with Session(engine) as session:
            PlanRepository(session).add(Plan.create("local/sync"))
            session.commit()
        with Session(read_only(engine)) as session:
            assert PlanRepository(session).count() == 1
        engine.dispose()
        asyncio.run(add(open_async_engine(url)))
    finally:
        event.remove(Engine, "connect", connected)
        event.remove(Engine, "begin", begun)
    with closing(sqlite3.connect(tmp_path / "plans.db")) as driver:
        assert driver.execute("SELECT count(*) FROM v3_plans").fetchone() == (2,)


def test_a_schema_change_is_part_of_its_transaction(sqlite_url):
    engine = open_engine(sqlite_url)
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
        connection.rollback()
        tables = connection.scalar(text("SELECT count(*) FROM sqlite_schema"))
    engine.dispose()

    assert tables == 0


def test_a_writer_takes_its_turn_at_the_beginning_and_a_reader_does_not(sqlite_url):
    engine = open_engine(sqlite_url, connect_args={"timeout": 0})
    with (
        engine.connect() as writer,
        read_only(engine).connect() as reader,
        engine.connect() as late,
    ):
        writer.execute(text("CREATE TABLE t (a INTEGER)"))
        assert reader.scalar(text("SELECT count(*) FROM sqlite_schema")) == 0
        with pytest.raises(DatabaseLocked, match=r"^database is locked: .* for 0 s, .*read_only"):
            late.execute(text("SELECT 1"))
        writer.commit()
    engine.dispose()


def test_a_connection_writes_again_after_a_view_that_only_reads(sqlite_url):
    engine = open_engine(sqlite_url, pool_size=1, max_overflow=0)
    for view in (engine, read_only(engine), engine, read_only(engine)):
        with view.connect() as connection:
            writable = connection.scalar(text("PRAGMA query_only")) == 0
            assert writable == (view is engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
    engine.dispose()


@pytest.mark.parametrize("migrated_engine", ["sqlite"], indirect=True, scope="session")
def test_a_transaction_does_not_let_sqlite_compile_its_statements_anew(engine):
    compiled: list[object] = []

    def change(description: str) -> None:
        with Session(connection) as session, session.begin():
            repository = PlanRepository(session)
            repository.save(repository.get(plan.plan_id).edit(description=description))

    with engine.connect() as connection:  # a pool may give another one each time
        with Session(connection) as session, session.begin():
            plan = PlanRepository(session).add(Plan.create("a"))
        driver = connection.connection.driver_connection
        # SQLite asks for permission for each table and column when it compiles a statement.
        driver.set_authorizer(lambda *what: compiled.append(what) or sqlite3.SQLITE_OK)
        change("first")
        assert len(compiled) > 50
        compiled.clear()
        change("second")
        driver.set_authorizer(None)

    assert {what[0] for what in compiled} <= {sqlite3.SQLITE_TRANSACTION}


def test_a_reader_behind_a_writer_is_told_how_to_read_without_waiting(tmp_path):
    with database_at("head", "sqlite", tmp_path) as url:
        engine = open_engine(url, connect_args={"timeout": 0.05})
        other = open_async_engine(url, connect_args={"timeout": 0.05})

        async def read() -> int:
            async with AsyncSession(other) as session:
                return await AsyncPlanRepository(session).count()

        with Session(engine) as first, Session(engine) as second:
            assert PlanRepository(first).count() == 0
            with pytest.raises(DatabaseLocked) as caught:
                PlanRepository(second).count()
            with pytest.raises(DatabaseLocked):
                asyncio.run(read())
            with Session(read_only(engine)) as reader:
                assert PlanRepository(reader).count() == 0
        asyncio.run(other.dispose())
        engine.dispose()

    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, PlansError)
    assert isinstance(error, OperationalError)
    assert (error.waited, error.http_status) == (0.05, 503)
    assert str(error) == str(caught.value)
    assert str(error).isprintable()


def test_a_file_that_is_not_there_is_told_and_not_created_to_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = open_engine("sqlite:///typo.db")
    other = open_async_engine("sqlite:///typo.db")

    async def read() -> int:
        async with AsyncSession(read_only(other)) as session:
            return await AsyncPlanRepository(session).count()

    with (
        Session(read_only(engine)) as session,
        pytest.raises(DatabaseMissing, match=r"no file at '/.*typo.db'.*--create --url") as caught,
    ):
        PlanRepository(session).count()
    with pytest.raises(DatabaseMissing):
        asyncio.run(read())
    assert [*tmp_path.iterdir()] == []

    # What the message says to type is what helps.
    command = str(caught.value).partition(": cleveragents-plans ")[2]
    assert main(shlex.split(command)) == 0
    with Session(read_only(engine)) as session:
        assert PlanRepository(session).count() == 0
    assert asyncio.run(read()) == 0
    asyncio.run(other.dispose())
    engine.dispose()


@pytest.mark.parametrize("opened", [open_engine, create_engine])
def test_a_relative_path_is_that_of_the_folder_in_which_the_engine_was_opened(
    tmp_path, monkeypatch, opened
):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    create_schema("sqlite:///plans.db")
    engine = opened("sqlite:///plans.db")
    reading = read_only(engine)
    monkeypatch.chdir(other)

    with Session(reading) as session:
        assert PlanRepository(session).count() == 0
    create_schema("sqlite:///plans.db")
    engine.dispose()
    (tmp_path / "plans.db").unlink()
    with (
        Session(reading) as session,
        pytest.raises(DatabaseMissing, match=f"sqlite:///{tmp_path}/p"),
    ):
        PlanRepository(session).count()
    assert not (tmp_path / "plans.db").exists()


def test_a_folder_that_is_not_there_is_told(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'none' / 'plans.db'}")

    for view in (engine, read_only(engine)):
        with Session(view) as session, pytest.raises(DatabaseMissing, match="in a folder that"):
            PlanRepository(session).count()
    with pytest.raises(CommandError, match="cannot be opened"):
        create_schema(engine)


def test_the_command_of_a_missing_schema_makes_it(sqlite_url, capsys):
    engine = open_engine(sqlite_url)
    with Session(engine) as session, pytest.raises(SchemaMissing) as caught:
        PlanRepository(session).count()
    engine.dispose()

    command = str(caught.value).partition("run: cleveragents-plans ")[2]
    assert main(shlex.split(command)) == 0
    with Session(engine) as session:
        assert PlanRepository(session).count() == 0
    engine.dispose()


# What a database lacks


def test_a_database_without_a_schema_is_told_with_the_command_that_makes_it(empty_url):
    engine = open_engine(empty_url)
    uses = [
        lambda session: PlanRepository(session).list(),
        lambda session: PlanRepository(session).add(Plan.create("a")),
        lambda session: PlanRepository(session).save(Plan.create("a")),
        lambda session: PlanRepository(session).delete_tree(Plan.create("a").plan_id),
        lambda session: session.scalars(select(LifecyclePlanModel)).all(),
    ]
    for use in uses:
        with Session(engine) as session, pytest.raises(SchemaMissing) as caught:
            use(session)
        assert "v3_plans" in caught.value.reason
        assert str(caught.value).endswith(
            f"run: cleveragents-plans upgrade --url '{caught.value.url}'"
        )
        assert make_url(caught.value.url) == database_url(engine.url)
        assert str(caught.value).isprintable()
    engine.dispose()


@pytest.mark.parametrize("behind_asyncio", [False, True])
def test_a_search_path_without_the_tables_is_named(tmp_path, behind_asyncio):
    def use(url: str) -> None:
        engine = open_engine(url)
        try:
            with Session(engine) as session:
                PlanRepository(session).list()
        finally:
            engine.dispose()

    async def use_behind_asyncio(url: str) -> None:
        engine = open_async_engine(url)
        try:
            async with AsyncSession(engine) as session:
                await session.run_sync(lambda it: PlanRepository(it).list())
        finally:
            await engine.dispose()

    with database_at("head", "postgresql-18", tmp_path) as url:
        url += "&options=-c%20search_path%3Delsewhere"
        with pytest.raises(SchemaMissing) as caught:
            asyncio.run(use_behind_asyncio(url)) if behind_asyncio else use(url)

    assert caught.value.search_path == "elsewhere"
    assert "; search_path is 'elsewhere': if the tables are in another schema" in str(caught.value)


def test_a_database_of_the_former_release_is_told_the_same(tmp_path, request):
    with database_at("m4_003_plan_env_columns", "sqlite", tmp_path) as url:
        engine = open_engine(url)
        with Session(engine) as session, pytest.raises(SchemaMissing, match="snapshot"):
            PlanRepository(session).list()
        engine.dispose()


def test_a_missing_schema_is_told_behind_asyncio(empty_url):
    async def use() -> None:
        engine = open_async_engine(empty_url)
        try:
            async with AsyncSession(engine) as session:
                await session.run_sync(lambda it: PlanRepository(it).list())
        finally:
            await engine.dispose()

    with pytest.raises(SchemaMissing, match="run: cleveragents-plans upgrade"):
        asyncio.run(use())


def test_a_mistake_of_the_caller_stays_what_the_database_says(migrated_url):
    engine = open_engine(migrated_url)
    for wrong in ("SELECT colour FROM v3_plans", "SELECT v3_plans.colour FROM v3_plans", "TABLE x"):
        with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(text(wrong))
        assert not isinstance(caught.value, PlansError)
    engine.dispose()


def test_the_password_is_not_shown_with_the_command():
    error = SchemaMissing("no such table", without_password(make_url("postgres://u:secret@h/d")))

    assert "secret" not in str(error)


# Encodings


@pytest.fixture
def encoded(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[URL]:
    """A migrated database of the encoding that the test names, on each server."""
    url = make_url(postgresql_url)
    name = f"{url.database}_{request.param.lower()}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(
            text(
                f"CREATE DATABASE {name} ENCODING '{request.param}' TEMPLATE template0"
                " LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        )
    encoded = url.set(database=name)
    migrate(encoded.render_as_string(hide_password=False), "head")
    yield encoded
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.mark.parametrize(
    ("encoded", "written"),
    [("SQL_ASCII", "déjà € 漢 \U0001f600"), ("LATIN1", "déjà"), ("EUC_JP", "漢字")],
    indirect=["encoded"],
)
def test_a_database_of_another_encoding_keeps_the_characters_that_it_has(encoded, written):
    engine = open_engine(encoded)
    with Session(engine) as session, session.begin():
        plan = PlanRepository(session).add(Plan.create("a", description=written))
    with Session(engine) as session:
        assert PlanRepository(session).get(plan.plan_id) == plan
    engine.dispose()


@pytest.mark.parametrize("encoded", ["LATIN1", "EUC_JP"], indirect=True)
def test_a_character_that_the_encoding_lacks_is_refused_in_one_line(encoded):
    engine = open_engine(encoded)
    with Session(engine) as session:
        with pytest.raises(EncodingMismatch, match=r"no equivalent in encoding.*UTF8$") as caught:
            PlanRepository(session).add(Plan.create("a", description="€ 😀"))
        assert str(caught.value).isprintable()
        session.rollback()
        assert PlanRepository(session).list() == ()
    engine.dispose()


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
def test_bytes_that_are_no_text_in_the_encoding_that_the_url_names_are_told_in_one_line(encoded):
    engine = open_engine(encoded.update_query_dict({"client_encoding": "EUC_JP"}))
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(Plan.create("a"))
    with psycopg.connect(encoded.set(drivername="postgresql").render_as_string(False)) as broken:
        broken.execute(b"UPDATE v3_plans SET description = E'\\xff'")

    with Session(engine) as session, pytest.raises(EncodingMismatch, match="0xff"):
        PlanRepository(session).list()
    engine.dispose()


# Poolers


def worked(url: str, rounds: int = 12) -> None:
    engine = open_engine(url)
    try:
        for _ in range(rounds):
            with Session(engine) as session, session.begin():
                PlanRepository(session).list(limit=1)
                PlanRepository(session).add(Plan.create("a"))
    finally:
        engine.dispose()


def test_a_pooler_in_transaction_mode_is_served_without_prepared_statements(tmp_path):
    with (
        database_at("head", "postgresql-18", tmp_path) as url,
        transaction_pooler(url) as pooled,
    ):
        worked(f"{pooled}&prepare_threshold=none")
        with pytest.raises(DBAPIError, match="prepared statement"):
            worked(pooled)


@pytest.mark.parametrize(("value", "kept"), [("none", None), ("None", None), ("0", 0), ("7", 7)])
def test_the_threshold_of_prepared_statements_is_set_by_the_url(tmp_path, value, kept):
    with database_at("head", "postgresql-18", tmp_path) as url:
        engine = open_engine(f"{url}&prepare_threshold={value}")
        with engine.connect() as connection:
            assert connection.connection.driver_connection.prepare_threshold == kept
        engine.dispose()


@pytest.mark.parametrize("value", ["off", "-1", "1.5", "x" * 500, "1&prepare_threshold=2"])
def test_another_threshold_is_refused(value):
    with pytest.raises(DatabaseUrlError, match=r"prepare_threshold .*; expected none, or") as it:
        open_engine(f"postgresql://u:secret@h/d?prepare_threshold={value}")

    assert "secret" not in str(it.value)
    assert len(str(it.value)) < 300


# Files that can only be read


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A SQLite file with one plan, in its default journal mode, as the chain leaves it."""
    with (
        database_at("head", "sqlite", tmp_path) as url,
        tempfile.TemporaryDirectory() as folder,  # that of pytest is shut to other users
    ):
        engine = open_engine(url)
        with Session(engine) as session, session.begin():
            PlanRepository(session).add(Plan.create("a"))
        engine.dispose()
        path = Path(folder, "plans.db")
        with closing(sqlite3.connect(tmp_path / "plans.db")) as source:
            source.execute("VACUUM INTO ?", (str(path),))
        yield path
        Path(folder).chmod(0o755)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", (1, 30, 10, 3, 60_000)),
        ("?keepalives_idle=7&tcp_user_timeout=5000", (1, 7, 10, 3, 5_000)),
        ("?keepalives=0", (0, None, None, None, 0)),
    ],
)
def test_a_migrating_connection_ends_when_the_network_falls_silent(postgresql_url, query, found):
    with tcp_proxy(postgresql_url) as proxy:
        engine = open_engine(proxy.url + query, migrating=True)
        with engine.connect() as connection:
            number = os.dup(connection.connection.driver_connection.fileno())
            with socket.socket(fileno=number) as sock:
                options = [
                    sock.getsockopt(socket.IPPROTO_TCP, option)
                    for option in (
                        socket.TCP_KEEPIDLE,
                        socket.TCP_KEEPINTVL,
                        socket.TCP_KEEPCNT,
                        socket.TCP_USER_TIMEOUT,
                    )
                ]
                keepalive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    assert keepalive == found[0]
    for have, want in zip(options, found[1:], strict=True):
        assert want in (None, have)


READS = """\
import sys
from sqlalchemy.orm import Session
from cleveragents_plans import PlanRepository, open_engine, read_only
with Session(read_only(open_engine(sys.argv[1]))) as session:
    print(len(PlanRepository(session).list()))
"""


def test_a_file_in_a_folder_that_cannot_be_written_says_how_it_is_read(file):
    folder = file.parent
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    folder.chmod(0o555)
    # The superuser could write all the same.
    weaker = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []

    def read(url: str) -> str:
        command = [*weaker, sys.executable, "-c", READS, url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout or done.stderr

    try:
        refused = read(f"sqlite:///{file}").splitlines()[-1]
        found = read(f"sqlite:///file:{file}?immutable=1&uri=true")
    finally:
        folder.chmod(0o755)

    assert "DatabaseReadOnly: nothing can be written" in refused
    assert "or, if no other process writes to the file, read it through read_only(" in refused
    assert found == "1\n"


def test_a_file_that_can_only_be_read_is_read(file):
    url = f"sqlite:///file:{file}?mode=ro&uri=true"
    engine = open_engine(url)
    with Session(read_only(engine)) as session:
        assert len(PlanRepository(session).list()) == 1
    with Session(engine) as session, pytest.raises(DatabaseReadOnly, match="readonly"):
        PlanRepository(session).add(Plan.create("b"))
    engine.dispose()

    async def read() -> int:
        engine = read_only(open_async_engine(url))
        async with AsyncSession(engine) as session:
            page = await session.run_sync(lambda it: PlanRepository(it).list())
        await engine.dispose()
        return len(page)

    assert asyncio.run(read()) == 1
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("statement", ["SELECT count(*) FROM v3_plans", "DELETE FROM v3_plans"])
def test_a_file_with_a_rollback_journal_is_read_beside_another_connection(file, statement):
    url = f"sqlite:///{file}"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute(statement).fetchall()  # a backup reads for minutes

        # An hour, for which nothing waits that only reads.
        engine = open_engine(url, connect_args={"timeout": 3600})
        with Session(read_only(engine)) as session:
            assert PlanRepository(session).count() == 1
            assert session.scalar(text("PRAGMA busy_timeout")) == 3_600_000
        engine.dispose()

        other.execute("ROLLBACK")
        assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with open_engine(url).connect() as later:
        assert later.scalar(text("PRAGMA journal_mode")) == "wal"


# Everything is imported before the rights to read it are given up.
READ = """
import os, sys
from sqlalchemy.orm import Session
from cleveragents_plans import PlanRepository, open_engine, read_only
open_engine("sqlite://").connect()
os.setgid(65534); os.setuid(65534)
with Session(read_only(open_engine(sys.argv[1]))) as session:
    print(len(PlanRepository(session).list()))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize(
    ("of_file", "of_folder"), [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)], ids=oct
)
def test_a_reader_without_the_right_to_write_reads(file, of_file, of_folder):
    file.chmod(of_file)
    file.parent.chmod(of_folder)

    done = subprocess.run(
        [sys.executable, "-c", READ, f"sqlite:///{file}"], capture_output=True, text=True
    )

    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
