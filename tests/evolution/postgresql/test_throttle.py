"""The size of a batch follows the time that batches take, and rests leave others their share."""

from __future__ import annotations

import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from cleveragents_plans.evolution.postgresql import throttle
from cleveragents_plans.evolution.postgresql.throttle import BatchSize, Throttle
from cleveragents_plans.evolution.settings import Settings
from support.online import client, revision
from support.waiting import wait_until

#: A test that failed leaves connections open, so they are ended.
END_OTHERS = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


@pytest.fixture
def rests(monkeypatch):
    """The seconds of each rest, which is not taken."""
    taken = []
    monkeypatch.setattr(
        throttle, "time", SimpleNamespace(monotonic=time.monotonic, sleep=taken.append)
    )
    return taken


@pytest.fixture
def op_alone(postgresql_url):
    """What a revision gets as ``op``, on a server on which no other client is at work."""
    with revision(postgresql_url) as op:
        op.get_bind().exec_driver_sql(END_OTHERS)
        yield op


@contextmanager
def client_at_work(url, setting="track_activities = on"):
    """A client whose statement goes on until the block ends."""
    asleep = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with client(url) as worker:
        worker.execute(f"SET {setting}")
        worker.pgconn.send_query(b"SELECT pg_sleep(600)")
        with client(url) as connection:
            wait_until(lambda: connection.execute(asleep).fetchall())
        try:
            yield
        finally:
            worker.cancel()
            while worker.pgconn.get_result() is not None:
                pass


@pytest.mark.parametrize("setting", ["track_activities = on", "track_activities = off"])
def test_throttle_rests_for_the_share_of_others_while_a_client_works(
    postgresql_url, rests, setting
):
    with revision(postgresql_url) as op, client_at_work(postgresql_url, setting):
        throttled = Throttle(op.get_bind(), Settings(duty_cycle=0.75))

        throttled.rest(0.3, 100)

    assert rests == [pytest.approx(0.1)]
    assert not throttled.alone


def test_throttle_does_not_rest_on_a_server_without_other_clients(op_alone, rests):
    throttled = Throttle(op_alone.get_bind(), Settings(duty_cycle=0.75))

    throttled.rest(0.3, 100)

    assert rests == []
    assert throttled.alone


def test_throttle_rests_until_the_rows_are_due(op_alone, rests):
    throttled = Throttle(op_alone.get_bind(), Settings(rows_per_second=100))

    throttled.rest(0.3, 100)

    assert sum(rests) == pytest.approx(0.7)


def test_rest_that_takes_long_says_why_and_for_how_long_again_and_again(op_alone, rests, caplog):
    caplog.set_level("INFO", "alembic.evolution")
    throttled = Throttle(op_alone.get_bind(), Settings(rows_per_second=0.01, report_every=300))

    throttled.rest(0.1, 10)

    assert sum(rests) == pytest.approx(999.9)
    said = [each.message for each in caplog.records if "throttled" in each.message]
    assert len(said) == 3
    assert said[0].startswith("throttled to 0.01 rows/s, and the last batch wrote 10: the next one")
    assert said[0].endswith("is due in 11:40 (5:00 elapsed)")


def test_rest_that_others_get_their_share_by_says_so_where_it_takes_long(
    postgresql_url, rests, caplog
):
    caplog.set_level("INFO", "alembic.evolution")
    with revision(postgresql_url) as op, client_at_work(postgresql_url):
        throttled = Throttle(op.get_bind(), Settings(duty_cycle=0.01, report_every=60))

        throttled.rest(1.0, 10)

    [said] = [each.message for each in caplog.records if "share" in each.message]
    assert said.startswith("leaving others their share (duty-cycle) after a batch of 1.0 s: the")


def test_rest_ends_at_a_rate_that_is_chosen_meanwhile(op_alone, monkeypatch):
    throttled = Throttle(op_alone.get_bind(), Settings(rows_per_second=0.01))
    naps = []

    def nap(seconds):
        naps.append(seconds)
        throttle.Limits.of(op_alone.get_bind()).rows_per_second = 0.0

    monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=time.monotonic, sleep=nap))
    throttled.rest(0.1, 10)

    assert len(naps) == 1


def test_size_of_quick_batches_grows_to_the_wanted_time():
    batch = BatchSize(5, first=100, least=10, most=10_000)

    for _ in range(50):
        batch.observe(batch.size, batch.size * 0.00002)

    assert 240 <= batch.size <= 260


def test_size_of_slow_batches_shrinks():
    batch = BatchSize(5, first=1000, least=10, most=10_000)

    for _ in range(50):
        batch.observe(batch.size, batch.size * 0.001)

    assert batch.size == 10


def test_size_grows_by_half_at_most_after_one_quick_batch():
    batch = BatchSize(5, first=100, least=10, most=10_000)

    batch.observe(100, 0)

    assert batch.size == 150


def test_size_has_a_maximum():
    batch = BatchSize(5, first=100, least=10, most=1000)

    for _ in range(50):
        batch.observe(batch.size, 0.00001)

    assert batch.size == 1000
