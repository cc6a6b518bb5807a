"""Databases in SQL_ASCII: one name, statement or row that is no UTF-8 hides nothing but itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from cleveragents_plans import open_async_engine, schema
from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from support.broken import A, B, libpq, store_family
from support.databases import SERVERS
from support.encodings import database_in
from support.json_output import validated
from support.revisions import HEAD, M4_003, M8_001


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with database_in("SQL_ASCII", request.param) as url:
        yield url


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Any:
    def said(url: str, *words: str, status: int = ExitStatus.DONE) -> str:
        capfd.readouterr()
        assert main([*words, "-q", "--url", url]) == status
        out, err = capfd.readouterr()
        assert "\xff" not in out + err
        return " ".join((out + err).split())

    return said


def other_session(url: str) -> psycopg.Connection:
    return psycopg.connect(libpq(url), client_encoding="SQL_ASCII", autocommit=True)


def test_session_whose_statement_has_such_bytes_is_named_and_waited_for(url: str, said: Any):
    said(url, "downgrade", M8_001)
    said(url, "downgrade", M4_003)
    with other_session(url) as other:
        other.execute(b"BEGIN; LOCK TABLE v3_plans IN ACCESS SHARE MODE /* \xff\x1b[31m */")
        error = said(url, "upgrade", "-x", "lock-wait=1", status=ExitStatus.AGAIN)
        assert r"ACCESS SHARE MODE /* \xff\x1b[31m */" in error
        other.execute("ROLLBACK")
    said(url, "upgrade")


def test_view_whose_name_has_such_bytes_is_named(url: str, said: Any):
    with other_session(url) as other:
        other.execute(b'CREATE VIEW "v\xff\x1b" AS SELECT effective_profile_snapshot FROM v3_plans')
        named = r'is used by view public."v\udcff\x1b"; drop that first'
        assert named in said(url, "preflight", "--down", M4_003, status=1)
        assert named in said(url, "downgrade", M4_003, status=1)
        said(url, "status")
        other.execute(b'DROP VIEW "v\xff\x1b"')
    said(url, "downgrade", M4_003)


def test_row_with_such_bytes_is_named_and_hides_no_other(url: str, said: Any):
    store_family(url)
    with other_session(url) as other:
        other.execute(
            b"UPDATE v3_plans SET action_name = 'local/\xff' WHERE plan_id = '" + A.encode() + b"'"
        )

    found = said(url, "verify", status=ExitStatus.FOUND)
    assert r"v3_plans.action_name" in found
    assert A in found
    assert "1 fault" in found
    assert "5 plans: 5 queued" in said(url, "plans")
    assert r"local/\udcff" in said(url, "tree", A)
    assert r"v3_plans.action_name holds 'local/\udcff'" in said(
        url, "show", A, status=ExitStatus.FOUND
    )
    assert B in said(url, "show", B)


def test_names_with_such_bytes_are_in_json_too(url: str, said: Any):
    store_family(url)
    with other_session(url) as other:
        other.execute(b'ALTER TABLE v3_plans ADD CONSTRAINT "k\xff" CHECK (attempt > -5)')

    report = validated(said(url, "spec", "--json", status=ExitStatus.FOUND))
    assert r"k\udcff'" in str(report["differences"]).replace("\\\\", "\\")
    with other_session(url) as other:
        other.execute(b'ALTER TABLE v3_plans ADD COLUMN "c\xff" int')
    assert r"no UTF-8 (b'c\xff'): that of a column" in said(url, "show", A, status=1)
    report = validated(said(url, "verify", "--json"))
    assert r"c\udcff" in str(report["findings"]).replace("\\\\", "\\")


@pytest.fixture(params=SERVERS)
def empty(request: pytest.FixtureRequest) -> Iterator[str]:
    with database_in("SQL_ASCII", request.param, None) as url:
        yield url


def test_schema_with_other_letters_is_upgraded_by_asyncio_too(empty: str, said: Any):
    url = empty
    with other_session(url) as other:
        other.execute("CREATE SCHEMA größe".encode())
        other.execute("CREATE VIEW größe.größe AS SELECT 1 AS é".encode())
    said(url, "upgrade", M4_003, "--schema", "größe")
    engine = open_async_engine(url)

    async def work() -> str | None:
        await schema.upgrade(engine, schema="größe")
        found = await schema.current(engine, schema="größe", check_heads=True)
        await engine.dispose()
        return found

    assert asyncio.run(work()) == HEAD
    report = said(url, "history", "--schema", "größe", "--json")
    assert len(validated(report)["runs"]) == 2
    said(url, "verify", "--schema", "größe")
    said(url, "downgrade", "base", "--schema", "größe")
