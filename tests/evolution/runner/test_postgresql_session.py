"""The session of a run is configured for it, and the caller's own is given back as it was."""

from __future__ import annotations

import asyncio

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from cleveragents_plans import open_async_engine, open_engine
from cleveragents_plans.schema import chain_config
from support.online import client
from support.revisions import HEAD, M4_003


def on(connection: object, *x: str) -> Config:
    config = chain_config(extra=x)
    config.attributes["connection"] = connection
    return config


def version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def settings(connection: Connection) -> dict[str, str]:
    # Those of plpgsql are there from its first use on.
    query = "SELECT name, setting FROM pg_settings WHERE name !~ '^plpgsql'"
    rows = connection.exec_driver_sql(query).all()
    connection.rollback()
    return {row[0]: row[1] for row in rows}


ENGINES = {
    "as SQLAlchemy makes it": create_engine,
    "as open_engine makes it": open_engine,
    "in SERIALIZABLE": lambda url: create_engine(url, isolation_level="SERIALIZABLE"),
    "in autocommit": lambda url: create_engine(url, isolation_level="AUTOCOMMIT"),
}


@pytest.fixture(params=ENGINES)
def engine(request, postgresql_url):
    engine = ENGINES[request.param](postgresql_url)
    yield engine
    engine.dispose()


def test_engine_of_the_caller_is_migrated_and_its_pool_keeps_no_session_of_the_run(engine):
    with engine.connect() as connection:
        before = settings(connection)

    command.upgrade(on(engine), M4_003)
    command.upgrade(on(engine), "head")

    with engine.connect() as connection:
        assert settings(connection) == before
        assert version(connection) == HEAD


def test_connection_of_the_caller_is_migrated_and_its_session_restored(engine):
    with engine.connect() as connection:
        connection.exec_driver_sql("SET lock_timeout = '7s'")
        connection.exec_driver_sql("SET work_mem = '5MB'")
        connection.commit()
        before, level = settings(connection), connection.get_isolation_level()
        autocommit = connection.connection.driver_connection.autocommit

        command.upgrade(on(connection), "head")

        assert not connection.in_transaction()
        assert settings(connection) == before
        assert connection.get_isolation_level() == level
        assert connection.connection.driver_connection.autocommit == autocommit
        assert version(connection) == HEAD


def test_session_of_the_caller_is_restored_after_a_failure(engine):
    with engine.connect() as connection:
        before = settings(connection)

        with pytest.raises(CommandError, match="'no_such'; known"):
            command.upgrade(on(connection), "no_such")

        assert settings(connection) == before
        locks = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert connection.exec_driver_sql(locks).scalar() == 0


def test_revision_is_refused_in_a_transaction_of_the_caller_before_any_change(postgresql_url):
    engine = create_engine(postgresql_url)
    with engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql("CREATE TABLE theirs (id int)")

        with pytest.raises(CommandError, match=r"hand over a connection that is in none"):
            command.upgrade(on(connection), "head")

        assert transaction.is_active
        assert version(connection) is None
        assert inspect(connection).has_table("theirs")
    engine.dispose()


def test_commands_that_run_no_revision_work_in_a_transaction_of_the_caller(
    postgresql_url, capsys: pytest.CaptureFixture[str]
):
    engine = create_engine(postgresql_url)
    command.upgrade(on(engine), "head")
    with engine.connect() as connection, connection.begin() as transaction:
        query = "SELECT name, setting FROM pg_settings WHERE name !~ '^plpgsql'"
        before = connection.exec_driver_sql(query).all()
        command.current(on(connection), check_heads=True)
        command.upgrade(on(connection), "head")  # nothing to do
        command.stamp(on(connection), M4_003)
        assert version(connection) == M4_003
        assert connection.exec_driver_sql(query).all() == before
        assert transaction.is_active
        transaction.rollback()

    with engine.connect() as connection:
        assert version(connection) == HEAD
    assert HEAD in capsys.readouterr().out
    engine.dispose()


@pytest.mark.parametrize("make_engine", [create_async_engine, open_async_engine])
def test_connection_of_asyncio_is_migrated_by_run_sync(postgresql_url, make_engine):
    async def upgraded() -> str | None:
        engine = make_engine(postgresql_url)
        async with engine.connect() as connection:
            await connection.run_sync(lambda sync: command.upgrade(on(sync), "head"))
            found = await connection.run_sync(version)
        await engine.dispose()
        return found

    assert asyncio.run(upgraded()) == HEAD


def test_tables_are_made_in_the_schema_that_is_named(postgresql_url):
    with client(postgresql_url) as connection:
        connection.execute('CREATE SCHEMA "Plans of %s"')
    engine = create_engine(postgresql_url)

    command.upgrade(on(engine, "schema=Plans of %s"), "head")
    command.downgrade(on(engine, "schema=Plans of %s"), M4_003)

    schemas = inspect(engine)
    assert "v3_plans" in schemas.get_table_names("Plans of %s")
    assert "alembic_version" in schemas.get_table_names("Plans of %s")
    assert schemas.get_table_names("public") == []
    engine.dispose()


def test_schema_that_does_not_exist_is_refused(postgresql_url):
    engine = create_engine(postgresql_url)
    with pytest.raises(CommandError, match="there is no schema 'elsewhere'"):
        command.upgrade(on(engine, "schema=elsewhere"), "head")
    engine.dispose()


def schemas_of_plans(url):
    engine = create_engine(url)
    query = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'v3_plans'"
    with engine.connect() as connection:
        found = connection.exec_driver_sql(query).scalars().all()
    engine.dispose()
    return found


@pytest.mark.parametrize("schema", ["pg_catalog", "information_schema", "pg_temp", "pg_toast"])
def test_schema_of_postgresql_itself_is_refused(postgresql_url, schema):
    engine = create_engine(postgresql_url)
    for revise in (command.upgrade, lambda config, _: command.current(config)):
        with pytest.raises(CommandError, match=f"the schema would be {schema}, .* was changed$"):
            revise(on(engine, f"schema={schema}"), "head")
    engine.dispose()
    assert schemas_of_plans(postgresql_url) == []


@pytest.mark.parametrize("path", ["pg_temp,public", "pg_temp"])
def test_search_path_that_begins_with_temporary_tables_is_refused(postgresql_url, path):
    engine = create_engine(postgresql_url, connect_args={"options": f"-csearch_path={path}"})
    with pytest.raises(CommandError, match=r"would be pg_temp_\d+, the schema of temporary tables"):
        command.upgrade(on(engine), "head")
    engine.dispose()
    assert schemas_of_plans(postgresql_url) == []


def test_tables_behind_those_that_are_temporary_are_found(postgresql_url):
    engine = create_engine(postgresql_url)
    command.upgrade(on(engine), "head")
    engine.dispose()
    path = {"options": "-csearch_path=pg_temp,public"}
    engine = create_engine(postgresql_url, connect_args=path)
    command.downgrade(on(engine), M4_003)
    engine.dispose()
    assert schemas_of_plans(postgresql_url) == ["public"]


def test_search_path_without_a_schema_is_refused(postgresql_url):
    engine = create_engine(postgresql_url, connect_args={"options": "-csearch_path=nowhere"})
    with pytest.raises(CommandError, match=r"search path \(nowhere\) has no schema that exists"):
        command.upgrade(on(engine), "head")
    engine.dispose()
