"""What is said while an index is built comes from a connection of its own."""

from __future__ import annotations

import logging

import pytest

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.postgresql.index_progress import IndexProgress
from cleveragents_plans.evolution.settings import Settings
from support.waiting import wait_until


def test_progress_is_told_where_the_pool_of_the_caller_has_one_connection(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "alembic.evolution")
    engine = open_engine(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=0.2)
    try:
        with engine.connect() as connection:
            settings = Settings(report_every=0.05)
            with IndexProgress(connection, "building the index", "public.toy", settings):
                wait_until(lambda: "building the index, " in caplog.text)
    finally:
        engine.dispose()

    assert " s: working" in caplog.text
    assert "cannot be told" not in caplog.text
