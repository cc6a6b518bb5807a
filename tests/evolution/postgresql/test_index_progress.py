"""What is said while an index is built comes from a connection of its own."""

from __future__ import annotations

import logging
import threading

import pytest

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.postgresql import index_progress
from cleveragents_plans.evolution.postgresql.index_progress import IndexProgress
from cleveragents_plans.evolution.settings import Settings
from support.proxy import tcp_proxy
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


def test_statement_that_is_done_does_not_wait_for_a_second_connection_that_gets_no_answer(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "alembic.evolution")
    monkeypatch.setattr(index_progress, "_PATIENCE", 0.1)
    asked, ended = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def held_back(answer: bytes) -> bytes:
        if b"tuples_total" in answer:
            asked.set()
            in_time.append(ended.wait(20))
        return answer

    with tcp_proxy(postgresql_url, held_back) as proxy:
        engine = open_engine(proxy.url)
        with engine.connect() as connection:
            progress = IndexProgress(connection, "index", "public.toy", Settings(report_every=0.01))
            with progress:
                assert asked.wait(60)
            ended.set()
            progress._thread.join()
        engine.dispose()

    assert in_time == [True]
    assert not caplog.records
