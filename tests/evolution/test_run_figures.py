"""What a run did is counted in that run only."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cleveragents_plans.evolution import with_exclusive_lock
from cleveragents_plans.evolution.run_figures import (
    RunFigures,
    measured,
    record_lock,
    record_rows,
)
from support.databases import database_at
from support.online import revision
from support.revisions import M4_003


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        (RunFigures(), "0 rows written, no exclusive lock"),
        (RunFigures(1, 0.0124), "1 row written, longest exclusive lock 12 ms"),
        (RunFigures(137_173, 61.25), "137,173 rows written, longest exclusive lock 61.2 s"),
    ],
)
def test_figures_are_told_in_one_line(figures: RunFigures, told: str):
    assert str(figures) == told


def test_figures_are_those_of_the_run_in_which_they_were_recorded():
    record_rows(5)
    with measured() as outer:
        record_rows(1)
        with measured() as inner:
            record_rows(2)
            record_lock(time.monotonic() - 5)
            record_lock(time.monotonic() - 2)
        record_rows(3)

    assert (outer.rows, inner.rows) == (4, 2)
    assert outer.longest_lock is None
    assert inner.longest_lock
    assert 5 <= inner.longest_lock < 60


@pytest.mark.parametrize("in_version_transaction", [False, True])
def test_lock_is_measured_until_it_is_released(in_version_transaction: bool, tmp_path: Path):
    with (
        database_at(M4_003, "postgresql-18", tmp_path) as url,
        measured() as figures,
        revision(url) as op,
    ):
        with_exclusive_lock(op, "v3_plans", "SELECT 1")
        quick = figures.longest_lock
        with_exclusive_lock(
            op,
            "v3_plans",
            "SELECT pg_sleep(0.3)",
            in_version_transaction=in_version_transaction,
        )

    assert quick
    assert figures.longest_lock
    assert figures.longest_lock >= 0.3
