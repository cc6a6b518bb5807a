"""What has to be gone over again is remembered exactly, until there is too much of it."""

from __future__ import annotations

from cleveragents_plans.evolution.postgresql.ranges import KeyRange, SkippedRanges


def test_a_range_without_ends_is_everything():
    assert KeyRange().condition("t.id") == "TRUE"


def test_the_lower_end_belongs_to_it_when_told_so():
    assert KeyRange(1, 5).condition("t.id") == "t.id > %(after)s AND t.id <= %(to)s"
    assert KeyRange(1, 5, with_low=True).condition("t.id").startswith("t.id >= %(after)s")
    assert KeyRange(1, 5).parameters == {"after": 1, "to": 5}


def test_skipped_range_reaches_from_the_first_key_to_the_last():
    missed = SkippedRanges()
    missed.add([3, 4, 9], 2)
    missed.add([11], 1)

    assert missed.ranges == [KeyRange(3, 9, with_low=True), KeyRange(11, 11, with_low=True)]
    assert missed.rows == 3


def test_however_much_is_missed_a_thousand_ranges_hold_it_all():
    missed = SkippedRanges()
    for key in range(0, 100_000, 2):
        missed.add([key], 1)

    assert len(missed.ranges) <= 1000
    assert missed.rows == 50_000
    assert missed.ranges[0].low == 0
    assert missed.ranges[-1].high == 99_998
    ends = [end for each in missed.ranges for end in (each.low, each.high)]
    assert ends == sorted(ends)
