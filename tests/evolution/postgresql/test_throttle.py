"""The size of a batch follows the time that batches take."""

from __future__ import annotations

from cleveragents_plans.evolution.postgresql.throttle import BatchSize


def test_batches_that_are_too_quick_grow_and_come_to_rest_at_the_wanted_time():
    pace = BatchSize(5, first=100, least=10, most=10_000)

    for _ in range(50):
        pace.observe(pace.size, pace.size * 0.00002)

    assert 240 <= pace.size <= 260


def test_batches_that_are_too_slow_shrink():
    pace = BatchSize(5, first=1000, least=10, most=10_000)

    for _ in range(50):
        pace.observe(pace.size, pace.size * 0.001)

    assert pace.size == 10


def test_one_batch_that_is_quick_by_accident_does_not_make_the_next_one_huge():
    pace = BatchSize(5, first=100, least=10, most=10_000)

    pace.observe(100, 0)

    assert pace.size == 150


def test_there_is_an_end_to_growing():
    pace = BatchSize(5, first=100, least=10, most=1000)

    for _ in range(50):
        pace.observe(pace.size, 0.00001)

    assert pace.size == 1000
