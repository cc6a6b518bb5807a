"""Workers that are killed lose no plan: another one does it in its next attempt."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository, open_engine
from support.databases import ENGINES, ROOT, empty_database, migrate
from support.plans import a_root

pytestmark = pytest.mark.fault

PLANS = 12


@pytest.mark.parametrize("engine_name", [name for name in ENGINES if name != "postgresql-15"])
def test_killed_workers_lose_no_plan(engine_name: str, tmp_path: Path):
    with empty_database(engine_name, tmp_path) as url:
        migrate(url, "head")
        engine = open_engine(url)
        with Session(engine) as session, session.begin():
            PlanRepository(session).add_all(a_root(number) for number in range(PLANS))

        pool = subprocess.Popen(
            [sys.executable, ROOT / "examples" / "workers.py", url, "--workers", "3"],
            stdout=subprocess.PIPE,
            text=True,
        )
        guard = threading.Timer(120, pool.kill)
        guard.start()
        killed = 0
        assert pool.stdout is not None
        for line in pool.stdout:
            found = re.fullmatch(r"worker (\d+)\n", line)
            if found and killed < 4:
                time.sleep(1.2)
                os.kill(int(found[1]), signal.SIGKILL)
                killed += 1
        assert pool.wait(timeout=60) == 0
        pool.stdout.close()
        guard.cancel()

        assert killed == 4
        with Session(engine) as session:
            plans = PlanRepository(session)
            assert plans.count_by("processing_state") == {"complete": PLANS}
            done = list(plans.stream())
        engine.dispose()
    # A plan that was in work when its worker died has one attempt more, the others have one.
    assert 0 <= sum(plan.attempt - 1 for plan in done) <= killed
    assert all(plan.execution_environment for plan in done)
