"""create_schema makes what the chain makes, at once."""

from __future__ import annotations

import asyncio
import re

import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from cleveragents_plans import open_engine
from cleveragents_plans.schema import chain_config, create_schema, current, downgrade, upgrade
from support.databases import empty_database
from support.revisions import HEAD, M4_003
from support.rows import Entry, schema_dump
from support.statements import recorded


def test_created_schema_is_that_of_the_chain(empty_url, request, tmp_path):
    create_schema(empty_url)

    folder = tmp_path / "other"
    folder.mkdir()
    engine = request.node.callspec.params["empty_url"]
    with empty_database(engine, folder) as other:
        upgrade(other)
        created, chained = schema_dump(empty_url), schema_dump(other)
    if engine == "sqlite":  # whose texts say in another order what test_chain.py compares
        created, chained = ([entry[:3] for entry in dump] for dump in (created, chained))
    assert created == chained
    command.check(chain_config(empty_url))


def test_upgrade_of_a_created_schema_finds_nothing_to_do(empty_url):
    create_schema(empty_url)
    before = schema_dump(empty_url)

    assert current(empty_url, check_heads=True) == HEAD
    upgrade(empty_url)

    assert schema_dump(empty_url) == before
    downgrade(empty_url, M4_003)
    upgrade(empty_url)
    assert in_any_order(schema_dump(empty_url)) == in_any_order(before)


def in_any_order(dump: list[Entry]) -> list[Entry]:
    """Give *dump* without the order of columns: one that is added again is the last one."""
    return [
        (kind, table, name, ",".join(sorted(re.split(r",\s*|\n\)|\)$", text))))
        for kind, table, name, text in dump
        if kind != "column order"
    ]


def test_schema_that_is_there_stays(empty_url):
    create_schema(empty_url)
    create_schema(empty_url)
    assert current(empty_url) == HEAD

    downgrade(empty_url, M4_003)
    with pytest.raises(CommandError, match=r"the database is not empty .*run `cleveragents-plans"):
        create_schema(empty_url)
    assert current(empty_url) == M4_003


@pytest.mark.parametrize("make", [create_engine, open_engine])
def test_schema_is_created_in_memory_and_by_fewer_statements_than_the_chain_needs(make):
    engine = make("sqlite://")
    with recorded() as created:
        create_schema(engine)
    assert current(engine, check_heads=True) == HEAD
    engine.dispose()

    other = make("sqlite://")
    with recorded() as upgraded:
        upgrade(other)
    assert len(upgraded) > 2 * len(created)
    other.dispose()


def test_schema_is_created_in_the_transaction_of_the_caller(empty_url):
    engine = create_engine(empty_url, poolclass=NullPool)
    with engine.connect() as connection:
        transaction = connection.begin()
        if engine.dialect.name == "sqlite":  # the driver begins none for DDL
            connection.exec_driver_sql("BEGIN")
        create_schema(connection)
        transaction.rollback()

        assert current(connection) is None


def test_schema_is_created_by_an_async_engine():
    async def created():
        engine = create_async_engine("sqlite+aiosqlite://")
        await create_schema(engine)
        found = await current(engine, check_heads=True)
        await engine.dispose()
        return found

    assert asyncio.run(created()) == HEAD


def test_version_table_is_an_option(empty_url):
    create_schema(empty_url, version_table="plans_version")

    assert current(empty_url, version_table="plans_version", check_heads=True) == HEAD


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///file:/shared?uri=true&vfs=memdb", "in memory"),
        ("sqlite:///file::memory:?uri=true", "in memory"),
        ("mysql://u:secret@h/d", "not supported"),
    ],
)
def test_url_that_cannot_be_used_is_refused(url, found):
    with pytest.raises(CommandError, match=found) as refused:
        create_schema(url)
    assert "secret" not in str(refused.value)
