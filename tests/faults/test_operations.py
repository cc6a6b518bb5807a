"""Each operation is killed at each of its statements, on each engine, and run again."""

from __future__ import annotations

import pytest

from support.toy_operations import PAIRS, perform, rows
from support.toys import killed_at_each_statement, make_toys, structure

pytestmark = pytest.mark.fault


def test_operations_that_are_killed_at_any_statement_are_resumed(empty_url: str):
    make_toys(empty_url)
    before, held = structure(empty_url), rows(empty_url)

    resumed = iter(
        killed_at_each_statement(empty_url, *(act for pair in PAIRS.values() for act in pair))
    )

    for name, pair in PAIRS.items():
        (ups, there), (downs, back) = next(resumed), next(resumed)
        assert ups >= 2, name
        assert downs >= 1, name
        assert perform(empty_url, pair.there) == there, name
        assert perform(empty_url, pair.back) == back == before, name
    assert rows(empty_url) == held
