"""Two sessions take batches that are neighbours, and what was not written is gone over again."""

from __future__ import annotations

from cleveragents_plans.evolution.postgresql.batch_queue import BatchQueue
from cleveragents_plans.evolution.postgresql.ranges import KeyRange, SkippedRanges


def test_batches_cover_the_whole_range_without_a_gap():
    queue = BatchQueue(KeyRange(1, 99, with_low=True), [1, 4, 5, 9, 11])

    batches = [queue.take(2), queue.take(2), queue.take(2)]

    assert [(batch.among, batch.keys) for batch in batches] == [
        (KeyRange(1, 4, with_low=True), [1, 4]),
        (KeyRange(4, 9), [5, 9]),
        (KeyRange(9, 99), [11]),
    ]
    assert queue.take(2) is None


def test_rows_that_were_not_written_are_missed_in_the_order_of_their_keys():
    queue, missed = BatchQueue(KeyRange(0, 9), [1, 2, 3, 4, 5, 6]), SkippedRanges()
    first, second, third = queue.take(2), queue.take(2), queue.take(2)
    queue.done(third, 0)
    queue.done(first, 1)
    queue.done(second, 2)

    queue.add_missed(missed)

    assert missed.ranges == [KeyRange(1, 2, with_low=True), KeyRange(5, 6, with_low=True)]
    assert missed.rows == 3


def test_rows_are_counted_once_whichever_session_wrote_them():
    queue = BatchQueue(KeyRange(0, 9), [1, 2, 3, 4])
    queue.done(queue.take(2), 2)
    queue.done(queue.take(2), 1)

    assert (queue.newly_written(), queue.newly_written()) == (3, 0)


def test_no_batch_is_taken_from_a_queue_that_was_stopped():
    queue = BatchQueue(KeyRange(0, 9), [1, 2, 3, 4])
    queue.stop()

    assert queue.take(2) is None
