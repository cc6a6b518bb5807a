"""Rows are written in small batches, none is forgotten, and none is written twice."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time

import pytest
from sqlalchemy import event, make_url

from cleveragents_plans.cli.statuses import ExitStatus, status_of
from cleveragents_plans.evolution import Trigger, run_in_batches, with_exclusive_lock
from cleveragents_plans.evolution.errors import BackfillNeverEnds, OperationRefused, WrongDialect
from cleveragents_plans.evolution.postgresql.conflicts import BackfillRefused
from cleveragents_plans.evolution.postgresql.stuck_backfills import BackfillStuck
from support.online import client, meanwhile, revision, script
from support.statements import recorded
from support.waiting import wait_until

ROWS = 3000
NEEDS = "t.word IS NULL OR t.word LIKE 'old%:x'"
UPDATE = """\
WITH b AS MATERIALIZED (
  SELECT id FROM public.toy t WHERE {batch} AND (t.word IS NULL OR t.word LIKE 'old%:x')
   ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE public.toy t SET word = '{"a": "100%"}'::text, writes = writes + 1
  FROM b WHERE b.id = t.id"""


def fill(op, **changed):
    return run_in_batches(op, "toy", **{"key": "id", "needs": NEEDS, "update": UPDATE, **changed})


def one_value(url, query):
    with client(url) as connection:
        return connection.execute(query.encode()).fetchone()[0]


WRITTEN = "SELECT count(*) FROM public.toy WHERE writes > 0"


def wait_for(caplog, words):
    wait_until(lambda: words in caplog.text)


def wait_until_last_is_written(url):
    """Wait, and read one row each time."""
    wait_until(lambda: one_value(url, "SELECT word FROM public.toy WHERE id = '000003000'"))


def wait_until_written(url, rows):
    wait_until(lambda: one_value(url, WRITTEN) >= rows)


@pytest.fixture
def url(postgresql_url):
    with client(postgresql_url) as connection:
        connection.execute(
            "CREATE TABLE toy (id text PRIMARY KEY, word text, writes int NOT NULL DEFAULT 0)"
        )
        connection.execute(
            f"INSERT INTO public.toy SELECT lpad(g::text, 9, '0') FROM generate_series(1, {ROWS}) g"
        )
    return postgresql_url


@pytest.fixture
def other(url):
    """A client that locks something."""
    with client(url, autocommit=False) as other:
        yield other


def test_every_row_that_needs_it_is_written_once(url):
    with client(url) as connection:
        connection.execute("UPDATE public.toy SET word = 'mine' WHERE id < '000000011'")
        connection.execute("UPDATE public.toy SET word = 'old 1:x' WHERE id = '000000100'")

    with revision(url) as op:
        assert fill(op) == ROWS - 10

    assert one_value(url, "SELECT count(*) FROM public.toy WHERE writes = 1") == ROWS - 10
    assert one_value(url, "SELECT count(*) FROM public.toy WHERE word = 'mine'") == 10
    assert one_value(url, "SELECT min(word) FROM public.toy WHERE writes = 1") == '{"a": "100%"}'


def test_plan_of_a_batch_is_made_once_for_all_keys(url):
    with recorded() as statements, revision(url) as op:
        fill(op)
        batches = "SELECT generic_plans, custom_plans FROM pg_prepared_statements" + (
            " WHERE statement LIKE 'WITH b AS MATERIALIZED%'"
        )
        plans = op.get_bind().exec_driver_sql(batches.replace("%", "%%")).all()

    assert sum(statement.startswith("WITH b AS") for statement in statements) > 6
    assert plans
    assert all(generic and not custom for generic, custom in plans)


def test_a_second_run_writes_nothing(url):
    with revision(url) as op:
        fill(op)

    with revision(url) as op:
        assert fill(op) == 0


def test_an_empty_table_is_no_trouble(url):
    with client(url) as connection:
        connection.execute("TRUNCATE public.toy")

    with revision(url) as op:
        assert fill(op) == 0


def test_the_session_is_left_as_it_was(url):
    with revision(url) as op:
        fill(op)

        assert op.get_bind().exec_driver_sql("SHOW enable_hashjoin").scalar() == "on"
        assert op.get_bind().exec_driver_sql("SHOW lock_timeout").scalar() == "0"


def test_rows_that_others_lock_are_left_for_a_later_pass(url, other, caplog):
    other.execute("SELECT 1 FROM toy WHERE id BETWEEN '000000500' AND '000000599' FOR UPDATE")

    def let_go():
        wait_until_written(url, ROWS - 100)
        wait_for(caplog, "100 rows of public.toy could not be written for")
        done.append(one_value(url, WRITTEN))
        other.rollback()

    done = []
    with caplog.at_level(logging.WARNING), meanwhile(let_go), revision(url, report_every=0.5) as op:
        assert fill(op) == ROWS

    assert done == [ROWS - 100]
    assert f"pid {other.info.backend_pid}" in caplog.text
    assert "100 rows of public.toy could not be written for" in caplog.text
    assert one_value(url, "SELECT count(*) FROM public.toy WHERE writes = 1") == ROWS


def rows_read(url):
    """How often a row of the table was read so far."""
    query = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'toy'"
    with client(url) as connection:
        # Sessions that have ended tell what they read a moment later.
        connection.execute("SELECT pg_stat_force_next_flush(), pg_sleep(0.5)")
        return connection.execute(query).fetchone()[0]


def test_table_is_not_read_again_and_again_for_one_row(url, other):
    with client(url) as connection:
        connection.execute("ALTER TABLE public.toy SET (autovacuum_enabled = off)")
    other.execute("SELECT 1 FROM public.toy WHERE id = '000001500' FOR UPDATE")
    before = rows_read(url)

    def let_go():
        wait_until_last_is_written(url)
        time.sleep(3)  # of passes for the one row
        other.rollback()

    with meanwhile(let_go), revision(url) as op:
        assert fill(op) == ROWS

    # Counted at both ends, looked at, locked, joined and written, and a batch once more.
    assert rows_read(url) - before < 12 * ROWS


def test_rows_inserted_behind_the_pass_are_written_too(url, other):
    other.execute("SELECT 1 FROM public.toy WHERE id = '000003000' FOR UPDATE")

    def come_in_behind():
        wait_until_written(url, ROWS - 1)
        other.execute("INSERT INTO public.toy VALUES ('000000000'), ('000001500a')")
        other.commit()

    with meanwhile(come_in_behind), revision(url) as op:
        assert fill(op) == ROWS + 2


def test_rows_that_are_locked_everywhere_are_remembered_in_bounded_memory(url, other):
    with client(url) as connection:
        connection.execute("INSERT INTO toy SELECT 'x' || g FROM generate_series(1, 12000) g")
    other.execute("SELECT 1 FROM public.toy WHERE right(id, 1) = '7' FOR UPDATE")

    def let_go():
        wait_until_written(url, (ROWS + 12_000) * 9 // 10)
        other.rollback()

    # Batches of a handful, so that nearly each of them misses a row.
    with meanwhile(let_go), revision(url, batch_ms=0.001, rows_per_second=0) as op:
        assert fill(op) == ROWS + 12_000

    assert one_value(url, "SELECT count(*) FROM public.toy WHERE writes = 1") == ROWS + 12_000


def test_blocker_of_the_table_that_is_written_to_is_named_too(url, other, caplog):
    with client(url) as connection:
        connection.execute("CREATE TABLE public.source AS SELECT id FROM public.toy")
        connection.execute("ALTER TABLE public.source ADD PRIMARY KEY (id)")
    other.execute("SELECT 1 FROM public.toy WHERE id = '000000500' FOR UPDATE")

    def let_go():
        wait_for(caplog, f"pid {other.info.backend_pid}")
        other.rollback()

    update = """\
WITH b AS (SELECT id FROM public.toy WHERE id IN (SELECT id FROM public.source t WHERE {batch})
            FOR UPDATE SKIP LOCKED),
     w AS (UPDATE public.toy SET writes = writes + 1 FROM b WHERE b.id = toy.id RETURNING toy.id)
DELETE FROM public.source s USING w WHERE s.id = w.id"""
    with caplog.at_level(logging.WARNING), meanwhile(let_go), revision(url, report_every=0.5) as op:
        done = run_in_batches(op, "source", key="id", needs="TRUE", update=update, vacuum="toy")

    assert done == ROWS
    assert f"pid {other.info.backend_pid}" in caplog.text


def test_a_long_vacuum_is_told(url, caplog):
    name = make_url(url).database
    with client(url) as connection:
        connection.execute(
            "INSERT INTO toy SELECT lpad(g::text, 9, '0') FROM generate_series(10001, 17000) g"
        )
        connection.execute(f'ALTER DATABASE "{name}" SET vacuum_cost_delay = 10'.encode())
        connection.execute(f'ALTER DATABASE "{name}" SET vacuum_cost_limit = 3'.encode())

    with caplog.at_level(logging.INFO), revision(url, report_every=0.1) as op:
        fill(op)

    assert "vacuuming public.toy (0:" in caplog.text


def test_quick_steps_are_not_reported(url, caplog):
    with caplog.at_level(logging.INFO), revision(url, report_every=120) as op:
        fill(op)

    assert [text for text in caplog.messages if "elapsed)" in text] == []


def test_rows_that_need_nothing_are_counted_when_they_are_passed(url, caplog):
    with client(url) as connection:
        connection.execute("UPDATE public.toy SET word = 'mine' WHERE id > '000000010'")

    with caplog.at_level(logging.INFO), revision(url) as op:
        fill(op)

    assert f"10 of 10 rows (100 %), {ROWS - 10:,} others need nothing, " in caplog.text


def test_a_long_count_is_told(url, caplog):
    with client(url) as connection:
        connection.execute(
            # What a sequence holds is seen in a snapshot of before, too.
            "CREATE SEQUENCE told;"
            "CREATE FUNCTION dawdle(id text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN"
            " WHILE id = '000000001' AND NOT (SELECT is_called FROM public.told) LOOP"
            " PERFORM pg_sleep(0.02); END LOOP; RETURN true; END $$"
        )

    def go_on_when_told():
        try:
            wait_for(caplog, "filling in: counting the rows of public.toy that need it (0:")
        finally:
            one_value(url, "SELECT nextval('told')")

    with (
        caplog.at_level(logging.INFO),
        meanwhile(go_on_when_told),
        revision(url, report_every=0.2) as op,
    ):
        assert fill(op, needs=f"public.dawdle(t.id) AND ({NEEDS})", label="filling in") == ROWS


def test_a_statement_that_cannot_skip_waits_for_no_client_either(url, other):
    other.execute("SELECT 1 FROM public.toy WHERE id = '000000500' FOR UPDATE")

    def let_go():
        wait_until_last_is_written(url)
        other.rollback()

    with meanwhile(let_go), revision(url) as op:
        update = (
            "UPDATE public.toy t SET word = 'x', writes = writes + 1 WHERE {batch} AND word IS NULL"
        )
        assert fill(op, update=update) == ROWS


def test_rows_that_stay_locked_end_the_backfill_with_their_keys(url):
    with client(url, autocommit=False) as other:
        other.execute("SELECT 1 FROM public.toy WHERE id = '000000500' FOR UPDATE")
        with pytest.raises(BackfillStuck) as stuck, revision(url, lock_wait=1) as op:
            fill(op)
        pid = other.info.backend_pid

    assert stuck.value.left == 1
    assert stuck.value.keys == ("000000500",)
    assert stuck.value.waited >= 1
    assert pid in [blocker.pid for blocker in stuck.value.blockers]
    assert one_value(url, "SELECT count(*) FROM public.toy WHERE writes = 1") == ROWS - 1


def test_rows_whose_update_a_trigger_suppresses_end_the_backfill_by_its_name(url):
    with client(url) as connection:
        connection.execute(
            "CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN CASE WHEN OLD.id > '000002998' THEN NULL ELSE NEW END; END $$;"
            "CREATE TRIGGER suppressing BEFORE UPDATE ON toy"
            " FOR EACH ROW EXECUTE FUNCTION suppress()"
        )

    with (
        pytest.raises(BackfillStuck, match="fire for an UPDATE: suppressing; ") as stuck,
        revision(url) as op,
    ):
        fill(op)

    assert stuck.value.triggers == ("suppressing",)
    assert stuck.value.left == len(stuck.value.keys) > 0
    assert stuck.value.waited < 60


def test_trigger_of_a_revision_is_no_suspect_of_rows_that_stay_locked(url):
    ours = Trigger(
        table="toy",
        name="toy_fill",
        event="BEFORE UPDATE",
        body="BEGIN RETURN new; END",
        as_owner=True,
    )
    with revision(url) as op:
        with_exclusive_lock(op, "toy", *ours.create_sql())
    with client(url, autocommit=False) as other:
        other.execute("SELECT 1 FROM public.toy WHERE id = '000000500' FOR UPDATE")
        with pytest.raises(BackfillStuck) as stuck, revision(url, lock_wait=1) as op:
            fill(op)

    assert stuck.value.triggers == ()
    assert "trigger" not in str(stuck.value)


def test_rows_that_a_trigger_restores_end_the_backfill_at_once(url):
    with client(url) as connection:
        connection.execute(
            "CREATE FUNCTION restore() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.word := OLD.word; RETURN NEW; END $$;"
            "CREATE TRIGGER restoring BEFORE UPDATE ON toy"
            " FOR EACH ROW EXECUTE FUNCTION restore()"
        )

    with (
        pytest.raises(BackfillNeverEnds, match="fire for them: restoring; disable a trigger"),
        revision(url) as op,
    ):
        fill(op)

    assert one_value(url, "SELECT count(*) FROM public.toy WHERE writes > 0") == 0


@pytest.mark.slow
def test_rows_that_a_trigger_restores_later_end_the_backfill_by_its_name(url):
    with client(url) as connection:
        connection.execute(
            "CREATE FUNCTION restore() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.word := OLD.word; RETURN NEW; END $$;"
            "CREATE TRIGGER restoring BEFORE UPDATE ON toy"
            " FOR EACH ROW WHEN (OLD.id > '000002998') EXECUTE FUNCTION restore()"
        )

    with (
        pytest.raises(BackfillNeverEnds, match=r"more passes .* fire for them: restoring"),
        revision(url) as op,
    ):
        fill(op)


@pytest.mark.parametrize("statement", ["EXPLAIN", "count(*) FILTER", "WITH w AS", "UPDATE public"])
def test_exclusive_lock_of_another_session_delays_the_backfill_and_is_named(
    url, other, caplog, statement
):
    locked = threading.Event()

    def lock(_connection, _cursor, sql, *_):
        if statement in sql and not locked.is_set():
            other.execute("LOCK TABLE public.toy IN ACCESS EXCLUSIVE MODE")
            locked.set()

    def release():
        assert locked.wait(120)
        wait_for(caplog, f"pid {other.info.backend_pid}")
        other.rollback()

    with meanwhile(release), revision(url, report_every=0.2) as op:
        event.listen(op.get_bind(), "before_cursor_execute", lock)
        assert fill(op) == ROWS


def test_parent_deleted_during_a_batch_makes_the_batch_run_again(url):
    with client(url) as connection:
        connection.execute("CREATE TABLE parents (id int PRIMARY KEY)")
        connection.execute("INSERT INTO parents VALUES (1), (2)")
        connection.execute("ALTER TABLE public.toy ADD parent int REFERENCES parents")
        connection.execute("CREATE SEQUENCE tries")
        connection.execute("CREATE SEQUENCE deleted")
        # The first try has not ended before the parent that it has seen is deleted.
        connection.execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF nextval('tries') = 1 THEN"
            # What a sequence holds is seen in a snapshot of before, too.
            " WHILE NOT (SELECT is_called FROM public.deleted) LOOP"
            " PERFORM pg_sleep(0.02); END LOOP;"
            " END IF; RETURN NEW; END $$"
        )
        connection.execute(
            "CREATE TRIGGER dawdle BEFORE UPDATE ON public.toy FOR EACH ROW"
            " WHEN (NEW.id = '000000001') EXECUTE FUNCTION dawdle()"
        )

    def delete_the_parent():
        with client(url) as other:
            asleep = (
                "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                " AND datname = current_database()"
            )
            wait_until(lambda: other.execute(asleep).fetchall())
            other.execute("DELETE FROM parents WHERE id = 2")
            other.execute("SELECT nextval('deleted')")

    update = (
        "UPDATE public.toy t SET word = 'x', parent = (SELECT max(id) FROM public.parents)"
        " WHERE {batch} AND word IS NULL"
    )
    with meanwhile(delete_the_parent), revision(url) as op:
        assert fill(op, update=update) == ROWS

    assert one_value(url, "SELECT last_value FROM tries") == 2
    assert one_value(url, "SELECT count(*) FROM public.toy WHERE parent = 1") == ROWS


def refer(url, to):
    with client(url) as connection:
        connection.execute("CREATE TABLE parents (id text PRIMARY KEY)")
        connection.execute(
            f"ALTER TABLE public.toy ADD parent text CONSTRAINT refers REFERENCES {to}".encode()
        )
    return "UPDATE public.toy t SET word = 'x', parent = 'none' WHERE {batch} AND word IS NULL"


def test_value_that_another_table_does_not_have_ends_the_backfill_at_once(url):
    update = refer(url, "public.parents")

    with (
        pytest.raises(
            BackfillRefused, match=r"public\.toy for the constraint refers: .* or drop it, and run"
        ) as refused,
        revision(url, lock_wait=600) as op,
    ):
        fill(op, update=update)

    assert "\n" not in str(refused.value)
    assert one_value(url, WRITTEN) == 0


def test_parent_in_the_table_that_is_missing_is_waited_for(url):
    update = refer(url, "public.toy")

    with (
        pytest.raises(BackfillStuck, match=r"the last batch was refused \(.*\"refers\"") as stuck,
        revision(url, lock_wait=1) as op,
    ):
        fill(op, update=update)

    assert stuck.value.left == ROWS


def test_error_of_a_lock_that_a_trigger_raises_itself_ends_the_backfill_at_once(url):
    with client(url) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '55P03'; END $$;"
            "CREATE TRIGGER refusing BEFORE UPDATE ON toy FOR EACH ROW EXECUTE FUNCTION refuse()"
        )

    with (
        pytest.raises(
            BackfillRefused, match=r"in the function (public\.)?refuse\(\): not today; let it pass"
        ) as refused,
        revision(url, lock_wait=600) as op,
    ):
        fill(op)

    assert status_of(refused.value) == ExitStatus.REFUSED  # and not to be run again


@pytest.mark.slow
def test_lock_that_a_trigger_does_not_get_is_waited_for(url, other, caplog):
    with client(url) as connection:
        connection.execute("CREATE TABLE parents AS SELECT 1 AS id")
        connection.execute(
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM FROM public.parents FOR UPDATE NOWAIT; RETURN NEW; END $$;"
            "CREATE TRIGGER looking BEFORE UPDATE ON toy FOR EACH ROW EXECUTE FUNCTION look()"
        )
    other.execute("SELECT FROM public.parents FOR UPDATE")
    with client(url, autocommit=False) as holder:
        # A session that is seen to lock the table, or the trigger would be the suspect.
        holder.execute("LOCK TABLE public.toy IN ROW SHARE MODE")

        def release():
            wait_for(caplog, "could not be written")
            other.rollback()

        with meanwhile(release), revision(url, report_every=0.2) as op:
            assert fill(op) == ROWS


def test_batches_run_without_hash_and_merge_joins(url):
    update = (
        "UPDATE public.toy t SET word = concat_ws(' ', current_setting('enable_hashjoin'),"
        " current_setting('enable_mergejoin')) WHERE {batch} AND word IS NULL"
    )

    with revision(url) as op:
        fill(op, update=update)

    # Such a join would read the whole table for each batch.
    assert one_value(url, "SELECT string_agg(DISTINCT word, ',') FROM public.toy") == "off off"


def test_vacuum_neither_truncates_the_table_nor_waits_for_a_lock(url):
    with client(url) as connection:
        # Pages with room for what is written, and behind them many that are empty.
        connection.execute("ALTER TABLE public.toy SET (autovacuum_enabled = off, fillfactor = 40)")
        connection.execute("TRUNCATE public.toy")
        connection.execute(
            "INSERT INTO public.toy SELECT lpad(g::text, 9, '0') FROM generate_series(1, 200000) g"
        )
        connection.execute("DELETE FROM public.toy WHERE id > '000009000'")
    size = one_value(url, "SELECT pg_relation_size('toy')")

    with recorded() as statements, revision(url) as op:
        assert fill(op) == 9_000

    vacuums = {statement for statement in statements if statement.startswith("VACUUM")}
    assert len(vacuums) == 1
    # Empty pages at the end are cut off under ACCESS EXCLUSIVE, which clients would feel.
    assert one_value(url, "SELECT pg_relation_size('toy')") >= size
    # Any lock that VACUUM conflicts with makes it leave the table out.
    assert "SKIP_LOCKED" in vacuums.pop()


def test_an_error_in_the_statement_is_not_tried_again(url):
    with pytest.raises(OperationRefused, match="no_such_table"), revision(url) as op:
        fill(op, update="UPDATE public.no_such_table t SET word = 'x' WHERE {batch}")


def test_rows_that_need_it_are_found_wherever_they_are(url):
    with client(url) as connection:
        connection.execute(
            "UPDATE public.toy SET word = 'mine' WHERE id NOT IN ('000000001', '000002999')"
        )

    with revision(url) as op:
        assert fill(op) == 2


def test_the_key_may_be_a_number_or_a_uuid(url):
    with client(url) as connection:
        connection.execute("CREATE TABLE public.n (id bigint PRIMARY KEY, word text)")
        connection.execute("INSERT INTO public.n SELECT g - 500 FROM generate_series(1, 1000) g")
        connection.execute('CREATE TABLE "U" ("Key" uuid PRIMARY KEY, word text)')
        connection.execute('INSERT INTO "U" SELECT gen_random_uuid() FROM generate_series(1, 1000)')

    for table, key in (("n", "id"), ("U", "Key")):
        with revision(url) as op:
            update = f'UPDATE public."{table}" t SET word = 1 WHERE {{batch}} AND word IS NULL'
            assert run_in_batches(op, table, key=key, needs="t.word IS NULL", update=update) == 1000


def test_a_statement_may_do_something_else_than_update(url):
    with client(url) as connection:
        connection.execute("CREATE TABLE public.archive (id text PRIMARY KEY)")

    with revision(url) as op:
        done = fill(
            op,
            needs="NOT EXISTS (SELECT FROM public.archive a WHERE a.id = t.id)",
            update="INSERT INTO public.archive SELECT id FROM public.toy t WHERE {batch} "
            "AND NOT EXISTS (SELECT FROM public.archive a WHERE a.id = t.id)",
        )

    assert done == ROWS
    assert one_value(url, "SELECT count(*) FROM public.archive") == ROWS


def test_the_table_is_vacuumed_on_the_way(url):
    with client(url) as connection:
        connection.execute(
            "INSERT INTO toy SELECT lpad(g::text, 9, '0') FROM generate_series(10001, 25000) g"
        )
    vacuums = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'toy'"

    with revision(url) as op:
        fill(op)

    # After every 5,000 rows of the 15,000 or more: the last may fall behind the end.
    wait_until(lambda: one_value(url, vacuums) >= 2)
    assert one_value(url, vacuums) in (2, 3)


def test_backfill_respects_rows_per_second(url):
    begun = time.monotonic()
    with revision(url, rows_per_second=2000) as op:
        fill(op)

    assert 1.4 < time.monotonic() - begun < 60


def run_slowly(url):
    with revision(url, rows_per_second=20) as op:
        fill(op)


@pytest.mark.slow
def test_a_run_that_was_killed_is_continued_with_what_is_left(url):
    process = multiprocessing.get_context("spawn").Process(target=run_slowly, args=(url,))
    process.start()
    wait_until_written(url, 1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    wait_until(lambda: one_value(url, sessions) == 1)
    before = one_value(url, WRITTEN)
    assert 0 < before < ROWS

    with revision(url) as op:
        assert fill(op) == ROWS - before

    assert one_value(url, "SELECT count(*) FROM public.toy WHERE writes = 1") == ROWS


def test_offline_the_statement_is_written_once_for_all_rows(url):
    with script() as (op, written):
        assert fill(op) == 0

    with client(url) as connection:
        connection.execute(written.getvalue().encode())
    assert one_value(url, 'SELECT count(*) FROM public.toy WHERE word = \'{"a": "100%"}\'') == ROWS


def test_another_dialect_is_refused(url):
    with script("sqlite") as (op, _), pytest.raises(WrongDialect, match="run_in_batches"):
        fill(op)
