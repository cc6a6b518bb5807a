"""Rows are written in small batches, none is forgotten, and none is written twice."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time

import pytest
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import BackfillStuck, WrongDialect
from support.online import client, meanwhile, revision, script

ROWS = 3000
NEEDS = "t.word IS NULL OR t.word LIKE 'old%:x'"
UPDATE = """\
WITH b AS MATERIALIZED (
  SELECT id FROM toy t WHERE {batch} AND (t.word IS NULL OR t.word LIKE 'old%:x')
   ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE toy t SET word = '{"a": "100%"}'::text, writes = writes + 1 FROM b WHERE b.id = t.id"""


def fill(op, **changed):
    return op.backfill("toy", **{"key": "id", "needs": NEEDS, "update": UPDATE, **changed})


def one_value(url, query):
    with client(url) as connection:
        return connection.execute(query.encode()).fetchone()[0]


@pytest.fixture
def url(postgresql_url):
    with client(postgresql_url) as connection:
        connection.execute(
            "CREATE TABLE toy (id text PRIMARY KEY, word text, writes int NOT NULL DEFAULT 0)"
        )
        connection.execute(
            f"INSERT INTO toy SELECT lpad(g::text, 9, '0') FROM generate_series(1, {ROWS}) g"
        )
    return postgresql_url


def test_every_row_that_needs_it_is_written_once(url):
    with client(url) as connection:
        connection.execute("UPDATE toy SET word = 'mine' WHERE id < '000000011'")
        connection.execute("UPDATE toy SET word = 'old 1:x' WHERE id = '000000100'")

    with revision(url) as op:
        assert fill(op) == ROWS - 10

    assert one_value(url, "SELECT count(*) FROM toy WHERE writes = 1") == ROWS - 10
    assert one_value(url, "SELECT count(*) FROM toy WHERE word = 'mine'") == 10
    assert one_value(url, "SELECT min(word) FROM toy WHERE writes = 1") == '{"a": "100%"}'


def test_a_second_run_writes_nothing(url):
    with revision(url) as op:
        fill(op)

    with revision(url) as op:
        assert fill(op) == 0


def test_an_empty_table_is_no_trouble(url):
    with client(url) as connection:
        connection.execute("TRUNCATE toy")

    with revision(url) as op:
        assert fill(op) == 0


def test_the_session_is_left_as_it_was(url):
    with revision(url) as op:
        fill(op)

        assert op.get_bind().exec_driver_sql("SHOW enable_hashjoin").scalar() == "on"
        assert op.get_bind().exec_driver_sql("SHOW lock_timeout").scalar() == "0"


def test_rows_that_others_lock_are_left_for_a_later_pass(url, caplog):
    other = client(url, autocommit=False)
    other.execute("SELECT 1 FROM toy WHERE id BETWEEN '000000500' AND '000000599' FOR UPDATE")

    def let_go():
        time.sleep(1.5)
        done.append(one_value(url, "SELECT count(*) FROM toy WHERE writes = 1"))
        other.rollback()

    done = []
    with caplog.at_level(logging.WARNING), meanwhile(let_go), revision(url, report_every=0.5) as op:
        assert fill(op) == ROWS

    assert done == [ROWS - 100]
    assert f"pid {other.info.backend_pid}" in caplog.text
    assert "100 rows of toy are locked by others" in caplog.text
    assert one_value(url, "SELECT count(*) FROM toy WHERE writes = 1") == ROWS
    other.close()


def test_a_statement_that_cannot_skip_waits_for_no_client_either(url):
    other = client(url, autocommit=False)
    other.execute("SELECT 1 FROM toy WHERE id = '000000500' FOR UPDATE")

    def let_go():
        time.sleep(1)
        other.rollback()

    with meanwhile(let_go), revision(url) as op:
        update = "UPDATE toy t SET word = 'x', writes = writes + 1 WHERE {batch} AND word IS NULL"
        assert fill(op, update=update) == ROWS
    other.close()


def test_it_gives_up_on_rows_that_stay_locked_and_names_them(url):
    with client(url, autocommit=False) as other:
        other.execute("SELECT 1 FROM toy WHERE id = '000000500' FOR UPDATE")
        with pytest.raises(BackfillStuck) as stuck, revision(url, lock_wait=1) as op:
            fill(op)
        pid = other.info.backend_pid

    assert stuck.value.left == 1
    assert stuck.value.keys == ("000000500",)
    assert stuck.value.waited >= 1
    assert pid in [blocker.pid for blocker in stuck.value.blockers]
    assert one_value(url, "SELECT count(*) FROM toy WHERE writes = 1") == ROWS - 1


def test_an_error_in_the_statement_is_not_tried_again(url):
    with pytest.raises(DBAPIError, match="no_such_table"), revision(url) as op:
        fill(op, update="UPDATE no_such_table t SET word = 'x' WHERE {batch}")


def test_rows_that_need_it_are_found_wherever_they_are(url):
    with client(url) as connection:
        connection.execute(
            "UPDATE toy SET word = 'mine' WHERE id NOT IN ('000000001', '000002999')"
        )

    with revision(url) as op:
        assert fill(op) == 2


def test_the_key_may_be_a_number_or_a_uuid(url):
    with client(url) as connection:
        connection.execute("CREATE TABLE n (id bigint PRIMARY KEY, word text)")
        connection.execute("INSERT INTO n SELECT g - 500 FROM generate_series(1, 1000) g")
        connection.execute('CREATE TABLE "U" ("Key" uuid PRIMARY KEY, word text)')
        connection.execute('INSERT INTO "U" SELECT gen_random_uuid() FROM generate_series(1, 1000)')

    for table, key in (("n", "id"), ("U", "Key")):
        with revision(url) as op:
            update = f'UPDATE "{table}" t SET word = 1 WHERE {{batch}} AND word IS NULL'
            assert op.backfill(table, key=key, needs="t.word IS NULL", update=update) == 1000


def test_a_statement_may_do_something_else_than_update(url):
    with client(url) as connection:
        connection.execute("CREATE TABLE archive (id text PRIMARY KEY)")

    with revision(url) as op:
        done = fill(
            op,
            needs="NOT EXISTS (SELECT FROM archive a WHERE a.id = t.id)",
            update="INSERT INTO archive SELECT id FROM toy t WHERE {batch} "
            "AND NOT EXISTS (SELECT FROM archive a WHERE a.id = t.id)",
        )

    assert done == ROWS
    assert one_value(url, "SELECT count(*) FROM archive") == ROWS


def test_the_table_is_vacuumed_on_the_way(url):
    with client(url) as connection:
        connection.execute(
            "INSERT INTO toy SELECT lpad(g::text, 9, '0') FROM generate_series(10001, 25000) g"
        )
    vacuums = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'toy'"

    with revision(url) as op:
        fill(op)

    deadline = time.monotonic() + 5
    # After every 5,000 rows of the 15,000 or more: the last may fall behind the end.
    while one_value(url, vacuums) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert one_value(url, vacuums) in (2, 3)


def test_it_can_be_slowed_down(url):
    begun = time.monotonic()
    with revision(url, rows_per_second=2000) as op:
        fill(op)

    assert 1.4 < time.monotonic() - begun < 10


def run_slowly(url):
    with revision(url, rows_per_second=1000) as op:
        fill(op)


def test_a_run_that_was_killed_is_continued_with_what_is_left(url):
    process = multiprocessing.get_context("spawn").Process(target=run_slowly, args=(url,))
    process.start()
    written = "SELECT count(*) FROM toy WHERE writes > 0"
    deadline = time.monotonic() + 30
    while one_value(url, written) < 300 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while (
        one_value(url, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        > 1
    ):
        time.sleep(0.02)
    before = one_value(url, written)
    assert 300 <= before < ROWS

    with revision(url) as op:
        assert fill(op) == ROWS - before

    assert one_value(url, "SELECT count(*) FROM toy WHERE writes = 1") == ROWS


def test_offline_the_statement_is_written_once_for_all_rows(url):
    with script() as (op, written):
        assert fill(op) == 0

    with client(url) as connection:
        connection.execute(written.getvalue().encode())
    assert one_value(url, 'SELECT count(*) FROM toy WHERE word = \'{"a": "100%"}\'') == ROWS


def test_another_dialect_is_refused(url):
    with script("sqlite") as (op, _), pytest.raises(WrongDialect, match="backfill"):
        fill(op)
