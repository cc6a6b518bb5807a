"""
A pool of worker processes: each claims plans, works on them with a heartbeat, and saves them.

    python examples/workers.py sqlite:///plans.db --workers 4
    python examples/workers.py postgresql://user:password@host/database --phase execute

A worker that is killed loses nothing: its plan is queued again once its heartbeats are missing. On
SIGTERM the workers give their plans back, in the same attempt, and the pool ends.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import time
from datetime import timedelta
from threading import Event

from sqlalchemy.orm import Session

from cleveragents_plans import Phase, Plan, PlanConflict, PlanRepository, open_engine

HEARTBEAT = 0.2  # seconds


def work(plans: PlanRepository, session: Session, plan: Plan, seconds: float, stop: Event) -> Plan:
    """
    Do the work of a plan, and store it; give the plan as it is stored.

    Here it only takes time. Each heartbeat is a transaction.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if stop.wait(min(HEARTBEAT, seconds)):
            return plans.release(plan)
        plan = plans.touch(plan)
        session.commit()
    try:
        done = plan.edit(execution_environment=f"worker {os.getpid()}").complete()
    except Exception as error:
        done = plan.fail(error)
    return plans.save(done)


def run(url: str, phase: Phase, seconds: float, given_up_after: timedelta) -> None:
    """Take plans until there is nothing left to do, or SIGTERM arrives."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    engine = open_engine(url)
    idle = 0
    while idle < 5 and not stop.is_set():
        with Session(engine) as session:
            plans = PlanRepository(session)
            # Any worker may recover the plans of lost ones; SKIP LOCKED keeps them apart.
            plans.requeue_stalled(not_touched_for=given_up_after, max_attempts=5)
            taken = plans.claim(phase=phase)
            session.commit()
            left = plans.exists(phase=phase, processing_state=["queued", "processing"])
            session.rollback()
            for plan in taken:
                try:
                    work(plans, session, plan, seconds, stop)
                    session.commit()
                except PlanConflict:
                    session.rollback()  # it was given up, and may be another worker's
        idle = 0 if taken or left else idle + 1
        if not taken:
            stop.wait(0.1)
    engine.dispose()


def main() -> None:
    """Start the workers, replace those that die, and wait until all plans are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("url")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--phase", type=Phase, choices=[*Phase], default=Phase.ACTION)
    parser.add_argument("--seconds", type=float, default=0.2, help="what the work of a plan takes")
    parser.add_argument(
        "--given-up-after", type=float, default=2, help="seconds without a heartbeat"
    )
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    given_up_after = timedelta(seconds=options.given_up_after)
    given = (options.url, options.phase, options.seconds, given_up_after)

    def start() -> multiprocessing.process.BaseProcess:
        process = spawn.Process(target=run, args=given)
        process.start()
        print(f"worker {process.pid}", flush=True)
        return process

    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    workers = [start() for _ in range(options.workers)]
    while workers and not stop.wait(0.05):
        ended = [each for each in workers if each.exitcode is not None]
        workers = [each for each in workers if each.exitcode is None]
        workers += [start() for each in ended if each.exitcode]
    for each in workers:
        each.terminate()  # SIGTERM
    for each in workers:
        each.join()


if __name__ == "__main__":
    main()
