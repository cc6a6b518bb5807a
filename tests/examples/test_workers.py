"""The example of a pool of workers ends as it is told; tests/faults/test_workers.py kills it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository, open_engine
from support.databases import ONE_OF_EACH, ROOT, database_at
from support.plans import a_root


@pytest.mark.parametrize("engine_name", ONE_OF_EACH)
def test_pool_gives_its_plans_back_on_sigterm_in_the_same_attempt(engine_name, tmp_path: Path):
    with database_at("head", engine_name, tmp_path) as url:
        engine = open_engine(url)
        with Session(engine) as session, session.begin():
            PlanRepository(session).add_all(a_root(number) for number in range(3))
        pool = subprocess.Popen(
            [sys.executable, ROOT / "examples" / "workers.py", url, "--seconds", "600"],
            stdout=subprocess.DEVNULL,
        )
        with Session(engine) as session:
            plans = PlanRepository(session)
            until = time.monotonic() + 120
            while plans.count(processing_state="processing") < 2:
                session.rollback()
                assert time.monotonic() < until
                assert pool.poll() is None
                time.sleep(0.05)
            session.rollback()
            pool.terminate()

            assert pool.wait(timeout=120) == 0
            assert plans.count_by("processing_state") == {"queued": 3}
            assert [plan.attempt for plan in plans.stream()] == [1, 1, 1]
        engine.dispose()
