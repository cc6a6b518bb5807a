"""Databases in SQL_ASCII: bytes that are no UTF-8 hide no row but their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    Column,
    Engine,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cleveragents_plans import CorruptPlanRow, Plan, PlanRepository
from cleveragents_plans.persistence import open_async_engine, open_engine
from support.bouncers import pgbouncer
from support.broken import libpq
from support.databases import SERVERS
from support.encodings import database_in
from support.plans import a_root, ulid

WRITTEN = "déjà € 漢 \U0001f600"


@pytest.fixture(scope="module", params=SERVERS)
def migrated(request: pytest.FixtureRequest) -> Iterator[str]:
    with database_in("SQL_ASCII", request.param) as url:
        yield url


@pytest.fixture
def url(migrated: str) -> Iterator[str]:
    yield migrated
    with psycopg.connect(libpq(migrated)) as connection:
        connection.execute("TRUNCATE v3_plans CASCADE")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    yield engine
    engine.dispose()


def store(engine: Engine, *numbers: int) -> list[Plan]:
    plans = [
        a_root(number, description=WRITTEN, tags=[WRITTEN], arguments={WRITTEN: WRITTEN})
        for number in numbers
    ]
    with Session(engine) as session, session.begin():
        PlanRepository(session).add_all(plans)
    return plans


def spoil(url: str, change: str, *numbers: int) -> None:
    """Write bytes that are no UTF-8 into the rows of these plans."""
    with psycopg.connect(libpq(url), client_encoding="SQL_ASCII") as connection:
        connection.execute("SET session_replication_role = replica")
        for number in numbers:
            connection.execute(f"{change} WHERE plan_id = '{ulid(number)}'".encode("latin-1"))


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("UPDATE v3_plans SET description = 'd\xe9j\xe0 \\377'", "v3_plans.description"),
        ("UPDATE v3_plans SET tags_json = '[\"\xff\"]'", "v3_plans.tags_json"),
        ("UPDATE plan_arguments SET value_json = '\"\xff\"'", "plan_arguments.value_json"),
    ],
)
def test_bytes_that_are_no_utf_8_are_a_corrupt_row_of_their_plan(
    url: str, engine: Engine, change: str, column: str
):
    one, _, three = store(engine, 1, 2, 3)
    spoil(url, change, 2)

    told: list[CorruptPlanRow] = []
    with Session(engine) as session:
        repository = PlanRepository(session)
        with pytest.raises(CorruptPlanRow) as caught:
            repository.get(ulid(2))
        assert repository.list(on_corrupt="skip") == (one, three)
        assert repository.list(on_corrupt=told.append) == (one, three)
        assert repository.get(ulid(3)) == three
        assert repository.get_many([ulid(1), ulid(2)], on_corrupt="skip") == {ulid(1): one}
        assert repository.claim(limit=3, on_corrupt="skip")[0].plan_id == ulid(1)
    for error in (caught.value, *told):
        assert (error.plan_id, error.column.removesuffix("[0]")) == (ulid(2), column)
        assert str(error).isprintable()
    assert len(told) == 1


def test_pages_and_claims_go_on_after_an_id_that_is_no_utf_8(url: str, engine: Engine):
    one, _, _, four = store(engine, 1, 2, 3, 4)
    for number in (2, 3):
        broken = f"E'01\\xff{number}'"
        spoil(url, f"UPDATE v3_plans SET plan_id = {broken}, root_plan_id = {broken}", number)
    with Session(engine) as session:
        repository = PlanRepository(session)
        after, pages = None, []
        while not pages or after:
            pages.append(repository.list(limit=1, after=after, on_corrupt="skip"))
            after = pages[-1].next_cursor
        assert [plan for page in pages for plan in page] == [one, four]
        assert len(pages) == 4
        taken = repository.claim(limit=1, on_corrupt="skip")
        taken += repository.claim(limit=1, on_corrupt="skip")
    assert [plan.plan_id for plan in taken] == [ulid(1), ulid(4)]


def test_names_and_statements_are_utf_8(url: str, engine: Engine):
    plain = MetaData()
    table = Table(
        "größe", plain, Column("schlüssel", String, primary_key=True), Column("a", String)
    )
    plain.create_all(engine)
    try:
        with engine.begin() as connection:
            connection.execute(
                insert(table), [{"schlüssel": WRITTEN, "a": "1"}, {"schlüssel": "2", "a": ""}]
            )
            connection.execute(insert(table).values({"schlüssel": "3", "a": None}))
            found = connection.execute(select(table).where(table.c.schlüssel == WRITTEN)).mappings()
            assert [*found] == [{"schlüssel": WRITTEN, "a": "1"}]
            streamed = connection.execute(
                text("SELECT schlüssel FROM größe WHERE schlüssel <> 'é' ORDER BY 1"),
                execution_options={"yield_per": 1},
            )
            assert [row.schlüssel for row in streamed] == ["2", "3", WRITTEN]
            array = connection.execute(text("SELECT CAST(:it AS text[])"), {"it": [WRITTEN, "é"]})
            assert array.scalar_one() == [WRITTEN, "é"]
        with pytest.raises(Exception, match="größe2"), engine.connect() as connection:
            connection.execute(text("SELECT FROM größe2"))
    finally:
        plain.drop_all(engine)


def test_asyncio_reads_any_bytes_too(url: str, engine: Engine):
    one, _ = store(engine, 1, 2)
    spoil(url, "UPDATE v3_plans SET description = '\xff'", 2)

    async def work() -> tuple[Any, str]:
        engine = open_async_engine(url)
        async with AsyncSession(engine) as session:
            page = await session.run_sync(lambda it: PlanRepository(it).list(on_corrupt="skip"))
            streamed = await session.stream(text("SELECT 'é' AS ü, CAST(:ä AS text)"), {"ä": "ß"})
            row = (await streamed.all())[0]
        await engine.dispose()
        return page, row.ü + row[1]

    assert asyncio.run(work()) == ((one,), "éß")


def test_pooler_gives_each_client_its_own_encoding(url: str, engine: Engine):
    (one,) = store(engine, 1)
    store(engine, 2)
    spoil(url, "UPDATE v3_plans SET description = '\xff'", 2)
    with pgbouncer(url, "transaction", default_pool_size=2) as via:
        mine = open_engine(f"{via}&prepare_threshold=none")
        plain = create_engine(
            via, connect_args={"client_encoding": "utf8", "prepare_threshold": None}
        )
        # Two sessions of the server, which two clients have in turn.
        with Session(mine) as first, plain.connect() as other, Session(mine) as second:
            for _ in range(3):
                for session in (first, second):
                    assert PlanRepository(session).list(on_corrupt="skip") == (one,)
                    encoding = other.execute(text("SHOW client_encoding")).scalar_one()
                    assert encoding == "UTF8"
                    session.rollback()
                    other.rollback()
        mine.dispose()
        plain.dispose()


@pytest.mark.parametrize("named", ["UTF8", "SQL_ASCII"])
def test_texts_are_read_whichever_of_both_encodings_the_url_names(url: str, named: str):
    engine = open_engine(f"{url}&client_encoding={named}")
    plans = store(engine, 1)
    with Session(engine) as session:
        assert PlanRepository(session).list() == (*plans,)
    engine.dispose()


def test_another_encoding_that_the_url_names_stays(url: str):
    engine = open_engine(f"{url}&client_encoding=latin1")
    with engine.connect() as connection:
        assert connection.execute(text("SHOW client_encoding")).scalar_one() == "LATIN1"
    engine.dispose()
