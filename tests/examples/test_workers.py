"""The example of a pool of workers ends as it is told; tests/faults/test_workers.py kills it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository, open_engine
from support.databases import ONE_OF_EACH, ROOT, database_at
from support.plans import a_root
from support.waiting import wait_until


@pytest.mark.slow
@pytest.mark.parametrize("engine_name", ONE_OF_EACH)
def test_pool_gives_its_plans_back_on_sigterm_in_the_same_attempt(engine_name, tmp_path: Path):
    with database_at("head", engine_name, tmp_path) as url:
        engine = open_engine(url)
        with Session(engine) as session, session.begin():
            PlanRepository(session).add_all(a_root(number) for number in range(3))
        pool = subprocess.Popen(
            # However busy the machine is, no heartbeat is missing.
            [
                sys.executable,
                ROOT / "examples" / "workers.py",
                url,
                "--seconds",
                "600",
                "--given-up-after",
                "600",
            ],
            stdout=subprocess.DEVNULL,
        )
        with Session(engine) as session:
            plans = PlanRepository(session)

            def working() -> int:
                session.rollback()
                assert pool.poll() is None
                return plans.count(processing_state="processing")

            wait_until(lambda: working() == 2)
            session.rollback()
            pool.terminate()

            assert pool.wait(timeout=120) == 0
            assert plans.count_by("processing_state") == {"queued": 3}
            assert [plan.attempt for plan in plans.stream()] == [1, 1, 1]
        engine.dispose()
