"""Indexes are created and dropped beside readers and writers, and never left INVALID unsaid."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from alembic.operations import Operations
from sqlalchemy import text

from cleveragents_plans.evolution import create_index, drop_index
from cleveragents_plans.evolution.errors import OperationRefused, RunningRevision, running_revision
from cleveragents_plans.evolution.postgresql import indexes
from cleveragents_plans.evolution.postgresql.index_names import FoundIndex
from cleveragents_plans.evolution.postgresql.indexes import DuplicateRows, IndexNotBuilt
from cleveragents_plans.evolution.under_way import look
from support.online import client, meanwhile, revision, script
from support.toys import execute, structure
from support.waiting import wait_until

INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
# Its colon and its percent sign mean nothing to SQLAlchemy or the driver.
WHERE = "word LIKE 'a:b%' OR word <> '%(x)s'"


def create(op: Operations) -> None:
    create_index(op, "ix_toy_word", "toy", ["word", text("size DESC")], where=WHERE)


def drop(op: Operations) -> None:
    drop_index(op, "ix_toy_word", "toy")


def definition(url: str) -> str:
    query = (
        "SELECT sql FROM sqlite_master WHERE name = 'ix_toy_word'"
        if url.startswith("sqlite")
        else "SELECT pg_get_indexdef(to_regclass('ix_toy_word'))"
    )
    return execute(url, query)[0][0]


def hold_snapshot(url: str, *more: str):
    """A client whose transaction is older than what comes."""
    other = client(url, autocommit=False)
    other.execute("SET application_name = 'nightly report'")
    for statement in ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1", *more):
        other.execute(statement.encode())
    return other


def test_an_index_is_made_as_it_is_written(toy_url: str):
    with revision(toy_url) as op:
        create(op)

    assert "size DESC" in definition(toy_url)
    assert "a:b%" in definition(toy_url)


def test_create_index_can_be_unique_on_an_expression(toy_url: str):
    with revision(toy_url) as op:
        create_index(op, "uq_toy_word", "toy", [text("lower(word)")], unique=True)

    with pytest.raises(Exception, match=r"(?i)unique"):
        execute(toy_url, "INSERT INTO toy (id, word, size) VALUES (-1, 'WORD 1', 1)")


def test_create_index_of_another_schema_stands_beside_its_table(server_url: str):
    execute(server_url, "CREATE SCHEMA other", "CREATE TABLE other.toy (id int, word text)")
    with revision(server_url) as op:
        create_index(op, "ix_toy_word", "toy", ["word"], schema="other")
        create_index(op, "ix_toy_word", "toy", ["word"], schema="other")
    found = execute(server_url, "SELECT schemaname FROM pg_indexes WHERE indexname = 'ix_toy_word'")
    assert found == [("other",)]

    with revision(server_url) as op:
        drop_index(op, "ix_toy_word", "toy", schema="other")

    assert not execute(server_url, "SELECT FROM pg_indexes WHERE indexname = 'ix_toy_word'")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"table": "toys"}, r"there is no table toys; is toy meant\?"),
        ({"columns": ["wort"]}, r"toy has no column wort; is word meant\?"),
        ({"name": "box"}, "box is the name of the table .*box"),
        ({"name": "ix_toy_size"}, "ix_toy_size is the name of an.*size"),
        ({"mistaken": 1}, "ix_toy_word cannot be made .*mistaken"),
        ({"postgresql_mistaken": 1}, "ix_toy_word cannot be made .*postgresql_mistaken"),
    ],
)
def test_create_index_refuses_a_mistake_in_one_line(toy_url: str, changed: dict, message: str):
    execute(toy_url, "CREATE INDEX ix_toy_size ON toy (size)")
    before = structure(toy_url)
    given = {"name": "ix_toy_word", "table": "toy", "columns": ["word"], **changed}
    reset = running_revision.set(RunningRevision("m9_001_toys"))

    with revision(toy_url) as op, pytest.raises(OperationRefused, match=message) as refused:
        create_index(op, given.pop("name"), given.pop("table"), given.pop("columns"), **given)

    running_revision.reset(reset)
    assert str(refused.value).startswith("m9_001_toys: create_index: ")
    assert "\n" not in str(refused.value)
    assert structure(toy_url) == before


@pytest.mark.parametrize("where", ["size >", "sise > 1", "word > 1", "now() > now()"])
def test_create_index_refuses_a_condition_that_does_not_parse(server_url: str, where: str):
    before = structure(server_url)

    with revision(server_url) as op, pytest.raises(OperationRefused, match="PostgreSQL refuses"):
        create_index(op, "ix_toy_word", "toy", ["word"], where=where)

    assert structure(server_url) == before


def test_create_index_accepts_an_equal_one_of_another_name_only_if_asked(toy_url: str):
    execute(
        toy_url, 'CREATE INDEX by_word ON "toy" (  word )', "CREATE INDEX by_size ON toy (size)"
    )
    before = structure(toy_url)

    with revision(toy_url) as op:
        create_index(op, "ix_toy_word", "toy", ["word"], use_equal=True)
    assert structure(toy_url) == before
    with revision(toy_url) as op:
        create_index(op, "uq_toy_word", "toy", ["word"], unique=True, use_equal=True)
        create_index(op, "ix_toy_word", "toy", ["word"])

    assert len(structure(toy_url)) == len(before) + 2


def test_drop_index_keeps_one_that_is_defined_otherwise_where_it_is_told_which(
    toy_url: str, caplog: pytest.LogCaptureFixture
):
    execute(toy_url, "CREATE INDEX ix_toy_size ON toy (size) WHERE size > 1")
    before = structure(toy_url)

    with revision(toy_url) as op:
        drop_index(op, "ix_toy_size", "toy", ["size"])
        drop_index(op, "ix_toy_size", "toy", ["size", "word"], where="size > 1")
        drop_index(op, "ix_toy_size", "toy", ["size"], where="size > 1", unique=True)
    assert structure(toy_url) == before
    assert caplog.text.count("ix_toy_size is kept: it is ") == 3
    with revision(toy_url) as op:
        drop_index(op, "ix_toy_size", "toy", ["size"], where="size > 1")

    assert len(structure(toy_url)) == len(before) - 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("box", "box is the table .*box"),
        ("ix_box_label", "ix_box_label is an index of .*box"),
        ("uq_toy_word", "uq_toy_word belongs to the constraint"),
    ],
)
def test_drop_index_refuses_what_is_no_index_of_the_table(server_url: str, name: str, message: str):
    execute(
        server_url,
        "CREATE INDEX ix_box_label ON box (label)",
        "ALTER TABLE toy ADD CONSTRAINT uq_toy_word UNIQUE (word)",
    )
    before = structure(server_url)

    with (
        revision(server_url) as op,
        pytest.raises(
            OperationRefused, match=message.replace("index of .*box", "index of another table")
        ),
    ):
        drop_index(op, name, "toy")

    assert structure(server_url) == before


def test_drop_index_refuses_what_is_no_index_of_the_table_on_sqlite(sqlite_url: str):
    execute(
        sqlite_url,
        "CREATE TABLE toy (id INTEGER, word TEXT UNIQUE)",
        "CREATE TABLE box (id INTEGER)",
        "CREATE INDEX ix_box_id ON box (id)",
    )
    for name in ("box", "ix_box_id", "sqlite_autoindex_toy_1"):
        with revision(sqlite_url) as op, pytest.raises(OperationRefused, match=name):
            drop_index(op, name, "toy")


def test_an_old_snapshot_is_named_while_the_index_waits_for_it(
    server_url: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "alembic.evolution")
    other = hold_snapshot(server_url)

    def end_when_named():
        try:
            wait_until(lambda: "waiting for old snapshots; waiting for pid" in caplog.text)
        finally:
            other.close()

    with meanwhile(end_when_named), revision(server_url, report_every=0.2) as op:
        create(op)

    assert "building the index ix_toy_word" in caplog.text
    assert "nightly report (idle in transaction for" in caplog.text
    assert "SELECT 1" in caplog.text
    assert not execute(server_url, INVALID)


def test_session_that_an_index_waits_for_is_named_as_what_the_run_waits_for(server_url: str):
    other = hold_snapshot(server_url)
    seen: list[str | None] = []

    def end_when_named():
        try:
            seen.append(wait_until(lambda: look().waiting_for))
        finally:
            other.close()

    with meanwhile(end_when_named), revision(server_url, report_every=0.2) as op:
        create(op)

    (told,) = seen
    assert told
    assert told.startswith("waits for pid ")
    assert "nightly report (idle in transaction" in told
    assert look().waiting_for is None


@pytest.mark.parametrize("report_every", [0.2, 60], ids=["told before", "never told before"])
def test_an_index_that_waits_for_too_long_is_dropped_and_the_session_is_named(
    server_url: str, report_every: float
):
    before = structure(server_url)
    with (
        hold_snapshot(server_url),
        revision(server_url, lock_wait=1, report_every=report_every) as op,
        pytest.raises(
            IndexNotBuilt, match=r"waited for: pid \d+ nightly report .*was dropped"
        ) as e,
    ):
        create(op)

    assert e.value.blockers[0].application == "nightly report"
    assert structure(server_url) == before


def test_a_prepared_transaction_is_named_too(server_url: str):
    other = client(server_url, autocommit=False)
    other.execute("UPDATE toy SET size = 0 WHERE id = 1")
    other.execute("PREPARE TRANSACTION 'half_done'")
    try:
        with (
            revision(server_url, lock_wait=1, report_every=0.2) as op,
            pytest.raises(IndexNotBuilt, match=r"prepared transaction for \d+ s: half_done"),
        ):
            create(op)
    finally:
        other.rollback()
        other.autocommit = True
        other.execute("ROLLBACK PREPARED 'half_done'")
        other.close()


def test_an_invalid_index_that_cannot_be_dropped_is_said_and_dropped_by_the_next_run(
    server_url: str, caplog: pytest.LogCaptureFixture
):
    with (
        hold_snapshot(server_url, "SELECT FROM toy LIMIT 1"),
        revision(server_url, lock_wait=0.5, report_every=0.2) as op,
        pytest.raises(IndexNotBuilt, match=r"the INVALID index public.ix_toy_word is left"),
    ):
        create(op)
    assert execute(server_url, INVALID) == [("ix_toy_word",)]

    with revision(server_url) as op:
        create(op)

    assert "ix_toy_word is INVALID" in caplog.text
    assert not execute(server_url, INVALID)
    assert "a:b%" in definition(server_url)


def test_drop_index_drops_an_invalid_one(server_url: str):
    before = structure(server_url)
    with (
        hold_snapshot(server_url, "SELECT FROM toy LIMIT 1"),
        revision(server_url, lock_wait=0.5) as op,
        pytest.raises(IndexNotBuilt),
    ):
        create(op)

    with revision(server_url) as op:
        drop(op)

    assert structure(server_url) == before


def test_an_invalid_index_that_another_session_is_building_is_waited_for(server_url: str):
    holder = hold_snapshot(server_url)
    builder = client(server_url)
    statement = f"CREATE INDEX CONCURRENTLY ix_toy_word ON toy (word, size DESC) WHERE {WHERE}"
    building = threading.Thread(target=builder.execute, args=(statement.encode(),))
    building.start()
    wait_until(lambda: execute(server_url, INVALID))
    filenode = execute(server_url, "SELECT relfilenode FROM pg_class WHERE relname = 'ix_toy_word'")
    waits = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE '%LOCK TABLE public.toy%'"
    )

    def let_it_end():
        try:
            wait_until(lambda: execute(server_url, waits))
        finally:
            holder.close()

    with meanwhile(let_it_end), revision(server_url) as op:
        create(op)
    building.join()
    builder.close()

    assert not execute(server_url, INVALID)
    query = "SELECT relfilenode FROM pg_class WHERE relname = 'ix_toy_word'"
    assert execute(server_url, query) == filenode, "it was taken as it is"


def test_an_index_that_rows_refuse_is_not_left_invalid(server_url: str):
    before = structure(server_url)

    with (
        revision(server_url) as op,
        pytest.raises(
            DuplicateRows, match=r"uq_toy_size; the INVALID index was dropped"
        ) as refused,
    ):
        create_index(op, "uq_toy_size", "toy", ["size"], unique=True)

    assert "(size)=" not in str(refused.value), "what rows hold is not for logs"
    assert structure(server_url) == before


def test_name_that_another_session_commits_while_the_index_waits_for_it_is_refused(server_url: str):
    other = client(server_url, autocommit=False)
    other.execute("CREATE INDEX ix_toy_word ON box (label)")
    waiting = "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"

    def commit_when_it_waits() -> None:
        wait_until(lambda: execute(server_url, waiting))
        other.commit()

    with (
        meanwhile(commit_when_it_waits),
        revision(server_url) as op,
        pytest.raises(OperationRefused, match="ix_toy_word is the name of an index of another"),
    ):
        create(op)
    other.close()


def test_invalid_index_of_another_table_that_takes_the_name_just_before_the_build_is_left(
    server_url: str, monkeypatch: pytest.MonkeyPatch
):
    execute(server_url, "INSERT INTO box VALUES (3, 'one')")
    real_find = indexes.find_index

    def find_and_be_late(*arguments: Any) -> FoundIndex | None:
        monkeypatch.setattr(indexes, "find_index", real_find)
        found = real_find(*arguments)
        with client(server_url) as other, pytest.raises(Exception, match="could not create unique"):
            other.execute("CREATE UNIQUE INDEX CONCURRENTLY ix_toy_word ON box (label)")
        return found

    monkeypatch.setattr(indexes, "find_index", find_and_be_late)

    with (
        revision(server_url) as op,
        pytest.raises(OperationRefused, match="ix_toy_word is the name of an index of another"),
    ):
        create(op)

    assert execute(server_url, INVALID) == [("ix_toy_word",)]


def test_progress_of_a_build_is_logged(server_url: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "alembic.evolution")
    # What a sequence holds is seen in a snapshot of before, too.
    execute(
        server_url,
        "CREATE SEQUENCE told",
        "CREATE FUNCTION dawdle(id int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN"
        " WHILE id = 500 AND NOT (SELECT is_called FROM public.told) LOOP"
        " PERFORM pg_sleep(0.02); END LOOP; RETURN true; END $$",
    )

    def go_on_when_told():
        try:
            wait_until(lambda: " % (" in caplog.text)
        finally:
            execute(server_url, "SELECT nextval('told')")

    with meanwhile(go_on_when_told), revision(server_url, report_every=0.05) as op:
        create_index(op, "ix_toy_word", "toy", ["word"], where="public.dawdle(id)")

    assert "building index" in caplog.text


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_offline_a_plain_index_is_printed(dialect: str):
    with script(dialect) as (op, written):
        create(op)
        drop(op)

    printed = " ".join(written.getvalue().split())
    assert "CONCURRENTLY" not in printed
    table = "toy" if dialect == "sqlite" else "public.toy"
    assert (
        f"CREATE INDEX ix_toy_word ON {table} (word, size DESC) WHERE word LIKE 'a:b%'" in printed
    )
    assert "'%(x)s'" in printed
    assert "DROP INDEX IF EXISTS" in printed


def test_an_index_that_came_from_a_dump_is_the_same_index(server_url: str):
    """The server reads what it wrote, and writes it with other casts."""
    where = "CAST(word AS varchar(99)) NOT IN ('a:b', 'c%')"

    def dump_and_restore() -> tuple[str, str]:
        before = definition(server_url)
        with client(server_url) as connection:
            connection.execute("DROP INDEX ix_toy_word")
            connection.execute(before.encode())
        return before, definition(server_url)

    with revision(server_url) as op:
        create_index(op, "ix_toy_word", "toy", ["size"], where=where)
    before, after = dump_and_restore()
    assert before != after
    assert dump_and_restore() == (after, after)

    with revision(server_url) as op:
        create_index(op, "ix_toy_word", "toy", ["size"], where=where)
    assert definition(server_url) == after
    with revision(server_url) as op:
        drop_index(op, "ix_toy_word", "toy", columns=["size"], where=where)
    assert definition(server_url) is None
