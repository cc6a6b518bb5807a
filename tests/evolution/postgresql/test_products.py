"""Servers that are not PostgreSQL are refused in one line; Aurora and Citus have their modes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import create_engine, make_url

from cleveragents_plans import open_async_engine
from cleveragents_plans.cli import main
from cleveragents_plans.evolution.postgresql.products import (
    ServerNotSupported,
    TablesDistributed,
    refuse_other_server,
)
from cleveragents_plans.evolution.postgresql.replica_lag import ReplicaLagHidden
from cleveragents_plans.schema import create_schema, current, upgrade
from support.databases import chain, database_at, empty_database, migrate
from support.online import client
from support.plans import ulid
from support.proxy import tcp_proxy
from support.revisions import HEAD, M4_003
from support.rows import schema_dump

COCKROACH = "CockroachDB CCL v26.3.1 (x86_64-pc-linux-gnu)"
YUGABYTE = "PostgreSQL 15.12-YB-2025.1.0.0-b0 on x86_64-pc-linux-gnu"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """An empty database on one server."""
    with empty_database("postgresql-18", tmp_path) as url:
        yield url


def run(url: str, *statements: str) -> None:
    with client(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def tables(url: str) -> list[str]:
    with client(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [name for (name,) in rows]


@contextmanager
def calling_itself(version: str, url: str) -> Iterator[str]:
    """Stand before a server of PostgreSQL, so that its version() says *version*."""

    def replaced(data: bytes) -> bytes:
        return re.sub(
            rb"PostgreSQL 18[^\0]*-bit", lambda found: version.encode().ljust(len(found[0])), data
        )

    with tcp_proxy(url, replaced) as proxy:
        yield proxy.url


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("PostgreSQL 13.22 on x86_64-pc-linux-gnu", "is PostgreSQL 13.22; expected PostgreSQL 14"),
        (COCKROACH, "is CockroachDB; expected PostgreSQL 14 or newer"),
        (YUGABYTE, "is YugabyteDB; "),
        ("PostgreSQL 8.0.2 on i686, Redshift 1.0.77", "is Amazon Redshift; "),
        ("PostgreSQL 12.12 (Greenplum Database 7.0)", "is Greenplum; "),
        ("PostgreSQL 14.4 (Apache Cloudberry 2.0.0)", "is Apache Cloudberry; "),
        ("PostgreSQL 16.3 compatible CedarDB v2026-01-22", "is CedarDB; "),
        ("PostgreSQL 9.5 on x86_64 (Materialize v26.1.0)", "is Materialize; "),
        ("CrateDB 5.6.0 (built 1a2b3c)", "is CrateDB; "),
        ("Unheard-of 3.1", "is 'Unheard-of 3.1"),
    ],
)
def test_other_products_are_refused(version: str, words: str):
    with pytest.raises(ServerNotSupported) as error:
        refuse_other_server(version, "shop")

    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_derivative_that_is_postgresql_is_accepted():
    refuse_other_server("PostgreSQL 15.2 (EnterpriseDB Advanced Server 15.2.0)", "shop")
    refuse_other_server("EnterpriseDB 16.1.0 on x86_64", "shop")
    refuse_other_server("PostgreSQL 19devel on x86_64", "shop")


async def created_by_async_engine(url: str) -> None:
    engine = open_async_engine(url)
    try:
        await create_schema(engine)
    finally:
        await engine.dispose()


CALLS: dict[str, Callable[[str], Any]] = {
    "alembic upgrade": lambda url: command.upgrade(chain(url), "head"),
    "alembic current": lambda url: command.current(chain(url)),
    "upgrade": upgrade,
    "current": current,
    "create_schema": create_schema,
    "create_schema, asyncio": lambda url: asyncio.run(created_by_async_engine(url)),
}
COMMANDS = {
    name: name.split()
    for name in (
        *("upgrade", "downgrade base", "preflight", "status", "verify", "verify --repair roots"),
        *("upgrade --each-schema %", "current", "stamp head", "history", "throttle pause", "spec"),
        *("plans", f"show {ulid(1)}", f"tree {ulid(1)}"),
    )
}


@pytest.mark.parametrize("version", [COCKROACH, YUGABYTE])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_refuses_another_product(url: str, version: str, call: Callable[[str], Any]):
    with calling_itself(version, url) as other, pytest.raises(CommandError) as error:
        call(other)

    told = str(error.value)
    assert re.search("is (CockroachDB|YugabyteDB); expected PostgreSQL 14 or newer: ", told)
    assert told.endswith("; nothing was changed")
    assert "\n" not in told
    assert tables(url) == []


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_every_command_refuses_another_product(
    url: str, words: list[str], capfd: pytest.CaptureFixture[str]
):
    with calling_itself(COCKROACH, url) as other:
        status = main([*words, "-q", "--url", other])

    out, err = capfd.readouterr()
    assert status == 1
    assert out == ""
    assert re.fullmatch(r".*error:? .* is CockroachDB; expected PostgreSQL 14 or newer: .*\n", err)
    assert tables(url) == []


# What Citus makes of them, as far as it is asked for.
CITUS = (
    'CREATE TABLE pg_dist_partition (logicalrelid regclass NOT NULL, partmethod "char" NOT NULL)',
    "CREATE TABLE pg_dist_schema (schemaid oid NOT NULL, colocationid int NOT NULL)",
    "ALTER TABLE pg_dist_partition SET SCHEMA pg_catalog",
    "ALTER TABLE pg_dist_schema SET SCHEMA pg_catalog",
)
DISTRIBUTED = {
    "the table public.v3_plans": (
        "INSERT INTO pg_dist_partition VALUES ('v3_plans', 'h')",
        "SELECT undistribute_table('public.v3_plans')",
    ),
    "the schema public": (
        "INSERT INTO pg_dist_schema VALUES ('public'::regnamespace, 1)",
        "SELECT citus_schema_undistribute('public')",
    ),
}


@pytest.mark.parametrize("what", DISTRIBUTED)
def test_tables_that_citus_distributes_are_refused_by_every_command(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    statement, remedy = DISTRIBUTED[what]
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        run(url, *CITUS, statement)
        before = schema_dump(url)

        with pytest.raises(TablesDistributed) as error:
            migrate(url, "head")
        with pytest.raises(TablesDistributed):
            create_schema(url)
        for words in COMMANDS.values():
            capfd.readouterr()
            assert main([*words, "-q", "--url", url]) == 1, words
            assert f"Citus distributes {what}, and has" in "".join(capfd.readouterr()), words

        assert schema_dump(url) == before

    told = str(error.value)
    assert f"run {remedy} first; nothing was changed" in told
    assert "\n" not in told


def test_local_tables_are_migrated_beside_those_that_citus_distributes(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        run(
            url,
            *CITUS,
            "CREATE SCHEMA tenant_b",
            "CREATE TABLE tenant_b.v3_plans (plan_id text)",
            "CREATE TABLE orders (id int)",
            "INSERT INTO pg_dist_partition VALUES ('orders', 'h'), ('tenant_b.v3_plans', 'n')",
            "INSERT INTO pg_dist_schema VALUES ('tenant_b'::regnamespace, 1)",
        )

        upgrade(url, schema="public")

        assert current(url, schema="public") == HEAD


AURORA = ("CREATE FUNCTION pg_catalog.aurora_version() RETURNS text LANGUAGE sql RETURN '17.4.1'",)


def test_aurora_is_migrated_as_postgresql_is(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        run(url, *AURORA)

        migrate(url, "head")

        assert current(url) == HEAD


def test_aurora_is_refused_with_a_limit_on_the_lag_that_it_does_not_show(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        run(url, *AURORA)

        with pytest.raises(ReplicaLagHidden, match=r"Amazon Aurora .*; nothing was changed$"):
            migrate(url, "head", "max-replica-lag=10s")

        assert current(url) == M4_003


def test_stub_speaks_for_the_server_that_it_stands_before(url: str):
    with calling_itself("PostgreSQL 18.0 elsewhere", url) as other:
        engine = create_engine(make_url(other))
        with engine.connect() as connection:
            said = connection.exec_driver_sql("SELECT version()").scalar_one()
        engine.dispose()

    assert said.startswith("PostgreSQL 18.0 elsewhere")
