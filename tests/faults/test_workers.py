"""Workers that are killed lose no plan: another one does it in its next attempt."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository, open_engine
from support.databases import ENGINES, ROOT, empty_database, migrate
from support.plans import a_root

pytestmark = pytest.mark.fault

# More work than four kills take: a worker ends when nothing is left.
PLANS = 48
SECONDS = 0.5


@pytest.mark.parametrize("engine_name", [name for name in ENGINES if name != "postgresql-15"])
def test_killed_workers_lose_no_plan(engine_name: str, tmp_path: Path):
    with empty_database(engine_name, tmp_path) as url:
        migrate(url, "head")
        engine = open_engine(url)
        with Session(engine) as session, session.begin():
            PlanRepository(session).add_all(a_root(number) for number in range(PLANS))

        pool = subprocess.Popen(
            [
                *(sys.executable, ROOT / "examples" / "workers.py", url),
                *("--workers", "3", "--seconds", str(SECONDS)),
                *("--given-up-after", "5"),  # a busy machine is not taken for a lost worker
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        guard = threading.Timer(400, pool.kill)
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


def work_until_killed(url: str, last: int) -> None:
    """Claim, touch and save a plan; die before the statement or commit number *last*."""
    engine = open_engine(url)
    sent = itertools.count(1)

    def die_in_time(*_: object) -> None:
        if next(sent) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "before_cursor_execute", die_in_time)
    event.listen(engine, "commit", die_in_time)
    with Session(engine) as session:
        plans = PlanRepository(session)
        (plan,) = plans.claim()
        session.commit()
        plan = plans.touch(plan)
        session.commit()
        plans.save(plan.edit(arguments={"done": plan.attempt}).complete())
        session.commit()


@pytest.mark.parametrize("engine_name", [name for name in ENGINES if name != "postgresql-15"])
def test_worker_that_dies_between_two_steps_leaves_its_plan_whole(engine_name, tmp_path: Path):
    with empty_database(engine_name, tmp_path) as url:
        migrate(url, "head")
        engine = open_engine(url)
        states, status, last = [], signal.SIGKILL, 0
        while status:
            last += 1
            with Session(engine) as session, session.begin():
                plans = PlanRepository(session)
                plans.add(a_root(last))
            engine.dispose()
            child = os.fork()
            if not child:
                work_until_killed(url, last)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            with Session(engine) as session, session.begin():
                plans = PlanRepository(session)
                plan = plans.get(a_root(last).plan_id)
                states.append(str(plan.processing_state))
                if plan.processing_state == "complete":
                    assert plan.arguments == {"done": 1}
                    continue
                assert plan.arguments == {}
                time.sleep(0.01)
                plans.requeue_stalled(not_touched_for=timedelta(0))
                (again,) = plans.claim()
                assert again.attempt == (2 if plan.processing_state == "processing" else 1)
                plans.save(again.complete())
        engine.dispose()

    # Nothing is claimed before the first commit, and nothing is complete before the last one.
    assert states == sorted(states, key=["queued", "processing", "complete"].index)
    assert {*states} == {"queued", "processing", "complete"}
    assert last > 8
