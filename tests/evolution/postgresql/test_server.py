"""What a run needs of the server and of its session is made sure of before anything is changed."""

from __future__ import annotations

import random
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine, make_url

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.server import (
    RightsMissing,
    ServerReadOnly,
    SessionReplicates,
    configure_session,
)
from cleveragents_plans.evolution.runner.migration_lock import migration_lock
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from support import postgres
from support.databases import SERVERS, empty_database, migrate
from support.online import client
from support.revisions import M4_003, M8_001


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """An empty database on one server."""
    with empty_database("postgresql-18", tmp_path) as url:
        yield url


def tables(url: str) -> list[str]:
    with client(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [name for (name,) in rows]


def refused(url: str, kind: type[CommandError], revision: str = "head") -> str:
    """Say with what an upgrade is refused, which changes nothing."""
    with pytest.raises(kind) as error:
        migrate(url, revision)
    told = str(error.value)
    assert "\n" not in told
    assert told.endswith("; nothing was changed")
    return told


@pytest.mark.slow
def test_standby_is_refused(server: postgres.PostgresServer):
    url = server.create_database()
    migrate(url, M4_003)
    with server.replica() as standby:
        name = make_url(url).database or ""

        told = refused(standby.url(name), ServerReadOnly)
        current = subprocess.run(
            [sys.executable, "-m", "cleveragents_plans", "current", "--url", standby.url(name)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip

    assert "is a standby" in told
    assert "connect to the primary" in told
    assert M4_003 in current.stdout


@pytest.mark.parametrize(
    ("statement", "source"),
    [
        ("ALTER DATABASE {database} SET default_transaction_read_only = on", "database"),
        ("ALTER ROLE postgres IN DATABASE {database} SET default_transaction_read_only = on",
         "database user"),
    ],
)  # fmt: skip
def test_read_only_setting_is_refused(url: str, statement: str, source: str):
    with client(url) as connection:
        connection.execute(statement.format(database=make_url(url).database).encode())

    told = refused(url, ServerReadOnly)

    assert f"default_transaction_read_only is on; it comes from: {source})" in told
    assert tables(url) == []


@pytest.mark.parametrize("place", ["DATABASE {database}", "ROLE postgres IN DATABASE {database}"])
def test_session_that_writes_as_a_replica_is_refused(url: str, place: str):
    migrate(url, M4_003)
    place = place.format(database=make_url(url).database)
    with client(url) as connection:
        connection.execute(f"ALTER {place} SET session_replication_role = replica".encode())

    told = refused(url, SessionReplicates)
    assert "session_replication_role is replica for this run (it comes from: database" in told
    blocks = preflight(chain_config(url, level=None), None).blocks
    assert [block.found for block in blocks] == [told]

    with client(url) as connection:
        connection.execute(f"ALTER {place} SET session_replication_role = local".encode())
    migrate(url, M8_001)


@pytest.fixture
def roles(postgresql_url: str) -> Iterator[tuple[str, str]]:
    """A role that may create tables, and one that may not."""
    owner, app = (f"{name}_{uuid.uuid4().hex[:8]}" for name in ("owner", "app"))
    grant(
        postgresql_url,
        f"CREATE ROLE {owner} LOGIN",
        f"CREATE ROLE {app} LOGIN",
        "REVOKE CREATE ON SCHEMA public FROM public",
        f"GRANT CREATE ON SCHEMA public TO {owner}",
    )
    yield owner, app
    grant(postgresql_url, f"DROP OWNED BY {owner}, {app}", f"DROP ROLE {owner}, {app}")


def as_role(url: str, role: str) -> str:
    return make_url(url).set(username=role).render_as_string(hide_password=False)


def grant(url: str, *statements: str) -> None:
    with client(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def type_grants(url: str, told: str) -> None:
    """Type as a superuser what a refusal advises to grant."""
    advised = re.search(r"(GRANT .*?) first; nothing was changed", told)
    assert advised is not None, told
    grant(url, *advised[1].split(" and "))


def test_role_that_cannot_become_the_owner_is_refused(postgresql_url: str, roles: tuple[str, str]):
    owner, app = roles
    migrate(as_role(postgresql_url, owner), M4_003)

    told = refused(as_role(postgresql_url, app), RightsMissing)
    assert f"the role {app} cannot become {owner}, who owns public." in told
    assert f"; run it as {owner} or as a superuser, or GRANT {owner} TO {app}" in told

    # What it says helps.
    type_grants(postgresql_url, told)
    migrate(as_role(postgresql_url, app), "head")


def test_owner_who_cannot_log_in_is_not_advised_to_run_it(
    postgresql_url: str, roles: tuple[str, str]
):
    owner, app = roles
    migrate(as_role(postgresql_url, owner), M4_003)
    grant(postgresql_url, f"ALTER ROLE {owner} NOLOGIN")

    told = refused(as_role(postgresql_url, app), RightsMissing)

    assert f"; run it as a superuser, or GRANT {owner} TO {app}" in told


def test_role_that_does_not_inherit_the_rights_of_the_owner_is_refused(
    postgresql_url: str, roles: tuple[str, str]
):
    owner, app = roles
    migrate(as_role(postgresql_url, owner), M4_003)
    grant(postgresql_url, f"ALTER ROLE {app} NOINHERIT", f"GRANT {owner} TO {app}")

    told = refused(as_role(postgresql_url, app), RightsMissing)

    assert f"the role {app} may not read and write public." in told
    assert f"; run it as {owner}, or GRANT {owner} TO {app}" in told
    type_grants(postgresql_url, told)
    migrate(as_role(postgresql_url, app), "head")


def test_role_that_only_acts_as_an_owner_who_cannot_log_in_is_told_how(postgresql_url: str):
    """The name of the owner is one that SQL, options and the shell each write in another way."""
    part = uuid.uuid4().hex[:8]
    owner, app = f"Plans' \\ owner_{part}", f"App {part}"
    grant(
        postgresql_url,
        f'CREATE ROLE "{owner}" NOLOGIN',
        f'CREATE ROLE "{app}" LOGIN NOINHERIT',
        f'GRANT "{owner}" TO "{app}"',
        f'ALTER SCHEMA public OWNER TO "{owner}"',
    )
    url = as_role(postgresql_url, app)
    upgrade = [sys.executable, "-m", "cleveragents_plans", "upgrade", "--url", url]
    try:
        migrate(postgresql_url, M4_003)
        for table in tables(postgresql_url):
            grant(postgresql_url, f'ALTER TABLE {table} OWNER TO "{owner}"')
        told = refused(url, RightsMissing)
        options, _ = told.split("; run it with ")[1].split(", or GRANT ")
        command = f"{options} {shlex.join([*upgrade, M8_001])}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        type_grants(postgresql_url, told)
        migrate(url, "head")
    finally:
        grant(
            postgresql_url,
            "ALTER SCHEMA public OWNER TO postgres",
            f'REASSIGN OWNED BY "{owner}" TO postgres',
            f'DROP OWNED BY "{owner}", "{app}"',
            f'DROP ROLE "{owner}", "{app}"',
        )


def test_owner_that_has_revoked_its_rights_is_told_to_grant_them(
    postgresql_url: str, roles: tuple[str, str]
):
    owner, _ = roles
    migrate(as_role(postgresql_url, owner), M4_003)
    grant(as_role(postgresql_url, owner), f"REVOKE UPDATE ON v3_plans FROM {owner}")

    told = refused(as_role(postgresql_url, owner), RightsMissing)

    assert f"the role {owner} may not read and write public.v3_plans" in told
    assert f"; GRANT SELECT, UPDATE ON public.v3_plans TO {owner} first; nothing was " in told
    grant(as_role(postgresql_url, owner), f"GRANT SELECT, UPDATE ON v3_plans TO {owner}")
    migrate(as_role(postgresql_url, owner), "head")


def test_owner_that_may_not_create_objects_in_the_schema_is_refused(
    postgresql_url: str, roles: tuple[str, str]
):
    owner, _ = roles
    migrate(as_role(postgresql_url, owner), M4_003)
    grant(postgresql_url, f"REVOKE CREATE ON SCHEMA public FROM {owner}")

    # A superuser acts as the owner, too.
    for role in (owner, "postgres"):
        told = refused(as_role(postgresql_url, role), RightsMissing)
        assert f"the role {owner} owns public." in told
        assert f"GRANT CREATE ON SCHEMA public TO {owner} first" in told


def test_role_that_may_not_create_tables_is_refused(postgresql_url: str, roles: tuple[str, str]):
    _, app = roles

    told = refused(as_role(postgresql_url, app), RightsMissing)

    assert f"the role {app} may not create tables in the schema public" in told
    assert tables(postgresql_url) == []


@pytest.fixture
def tablespace(postgresql_url: str) -> Iterator[str]:
    """A tablespace in which only superusers may create objects."""
    name = f"fast_{uuid.uuid4().hex[:8]}"
    in_place = "SET allow_in_place_tablespaces = on"
    grant(postgresql_url, in_place, f"CREATE TABLESPACE {name} LOCATION ''")
    yield name
    grant(postgresql_url, f"DROP TABLESPACE {name}")


def test_default_tablespace_in_which_the_owner_may_not_create_objects_is_refused(
    postgresql_url: str, roles: tuple[str, str], tablespace: str
):
    owner, _ = roles
    migrate(as_role(postgresql_url, owner), M4_003)

    for role in (owner, "postgres"):
        url = f"{as_role(postgresql_url, role)}&options=-c%20default_tablespace%3D{tablespace}"
        told = refused(url, RightsMissing)
        assert f"the role {owner} may not create objects in the tablespace {tablespace}" in told
        assert f"GRANT CREATE ON TABLESPACE {tablespace} TO {owner}, or set default_t" in told

    migrate(as_role(postgresql_url, owner), "head")


def test_default_tablespace_is_refused_before_the_first_table(
    postgresql_url: str, roles: tuple[str, str], tablespace: str
):
    _, app = roles
    grant(postgresql_url, f"GRANT CREATE ON SCHEMA public TO {app}")
    url = f"{as_role(postgresql_url, app)}&options=-c%20default_tablespace%3D{tablespace}"

    told = refused(url, RightsMissing)

    assert f"the role {app} may not create objects in the tablespace {tablespace}" in told
    assert tables(postgresql_url) == []


def test_one_session_all_along_has_the_lock_until_it_gives_it_back(postgresql_url: str):
    engine = create_engine(postgresql_url, poolclass=NullPool)
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with engine.connect() as connection:
        with migration_lock(connection, ["public"]), client(postgresql_url) as other:
            assert other.execute(held).fetchone() == (1,)
        with client(postgresql_url) as other:
            assert other.execute(held).fetchone() == (0,)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[postgres.PostgresServer]:
    """A server of its own, which can be reached by TCP and be followed."""
    # An address that no other process uses, so that the usual port is free.
    address = f"127.{random.randrange(1, 255)}.{random.randrange(255)}.{random.randrange(1, 255)}"
    own = postgres.PostgresServer(
        postgres.binaries()[request.param],
        {"listen_addresses": address, "wal_level": "logical"},
        within=postgres.memory_folder(),
    )
    with (own.data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 127.0.0.0/8 trust\n")
    own.execute("SELECT pg_reload_conf()")
    yield own
    own.close()


def test_a_session_depends_on_nothing_and_ends_soon_after_its_client_has_died(
    server: postgres.PostgresServer,
):
    wanted = {
        "statement_timeout": "0",
        "idle_session_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "default_transaction_isolation": "read committed",
        "row_security": "off",
        "check_function_bodies": "on",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
    }
    with client(server.url()) as connection:
        (address,) = connection.execute("SHOW listen_addresses").fetchone() or ("",)
    options = ("idle_session_timeout=50s", "statement_timeout=50s", "check_function_bodies=off")
    engine = create_engine(
        f"postgresql+psycopg://postgres@{address}/postgres",
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"options": " ".join(f"-c {each}" for each in options)},
    )
    with engine.connect() as connection:
        configure_session(connection)

        found = connection.exec_driver_sql("SELECT name, setting FROM pg_settings").all()
        assert {name: value for name, value in found if name in wanted} == wanted


def test_sessions_choose_plans_whatever_is_set_for_the_database(postgresql_url: str):
    name = make_url(postgresql_url).database
    odd = ("enable_indexscan = off", "enable_seqscan = off", "random_page_cost = 1000000")
    grant(postgresql_url, *(f'ALTER DATABASE "{name}" SET {each}' for each in odd))
    changed = (
        "SELECT name FROM pg_settings WHERE setting <> boot_val"
        " AND (name LIKE 'enable_%' OR name LIKE '%_page_cost')"
    )
    with client(postgresql_url) as connection:
        assert len(connection.execute(changed.encode()).fetchall()) == len(odd)

    engine = create_engine(postgresql_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        configure_session(connection)
        of_a_run = run(connection, changed).all()
    with read_database(chain_config(postgresql_url), "verify") as database:
        of_a_look = run(database.connection, changed).all()

    assert (of_a_run, of_a_look) == ([], [])
