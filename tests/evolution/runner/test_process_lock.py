"""Runs of Alembic in one process come one after the other, and each does its own database."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from cleveragents_plans.evolution.runner.process_lock import ConcurrentRuns, ProcessLock
from cleveragents_plans.schema import chain_config
from support.databases import ENGINES, ROOT, empty_database


def is_migrated(url: str) -> bool:
    return inspect(create_engine(url, poolclass=NullPool)).has_table("v3_plans")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", "postgresql-18"])
def test_threads_migrate_each_its_own_database(engine: str, tmp_path: Path):
    assert engine in ENGINES
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    with (
        empty_database(engine, folders[0]) as first,
        empty_database(engine, folders[1]) as second,
        empty_database(engine, folders[2]) as third,
        empty_database(engine, folders[3]) as fourth,
        ThreadPoolExecutor(4) as pool,
    ):
        urls = [first, second, third, fourth]
        for _ in pool.map(lambda url: command.upgrade(chain_config(url), "head"), urls):
            pass

        assert [is_migrated(url) for url in urls] == [True] * 4


THREADS = r"""
import sys, threading, time
from alembic import command
from alembic.config import Config

def upgrade(url):
    config = Config()
    config.set_main_option("script_location", "cleveragents_plans:migrations")
    config.set_main_option("sqlalchemy.url", url)
    try:
        command.upgrade(config, "head")
        sys.stdout.write(f"{url} done\n")
    except BaseException as error:
        sys.stdout.write(f"{url} failed {type(error).__name__} {error}\n")

threads = [threading.Thread(target=upgrade, args=[url]) for url in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.slow
def test_threads_that_import_the_package_by_running_it_never_report_another_database(
    tmp_path: Path,
):
    for attempt in range(3):
        urls = [f"sqlite:///{tmp_path}/{attempt}_{number}.db" for number in range(4)]
        environment = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"}

        done = subprocess.run(
            [sys.executable, "-c", THREADS, *urls],
            capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240,
        )  # fmt: skip

        assert done.returncode == 0, done.stderr
        said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        assert set(said) == set(urls), done.stdout + done.stderr
        for url in urls:
            if said[url] == "done":
                assert is_migrated(url), done.stdout


def test_tasks_of_one_event_loop_are_refused_while_another_one_migrates(tmp_path: Path):
    async def upgrade(number: int) -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/{number}.db")

        def run(connection):
            config = chain_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

        try:
            async with engine.connect() as connection:
                await connection.run_sync(run)
        finally:
            await engine.dispose()

    async def both() -> list[object]:
        return await asyncio.gather(upgrade(1), upgrade(2), return_exceptions=True)

    results = asyncio.run(both())

    assert [type(result) for result in results].count(ConcurrentRuns) == 1
    assert results.count(None) == 1
    done = results.index(None) + 1
    assert is_migrated(f"sqlite:///{tmp_path}/{done}.db")


def test_run_within_a_run_is_refused_before_any_change(tmp_path: Path):
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "env.py").write_text(
        "from alembic import command, context\n"
        "from cleveragents_plans.schema import chain_config\n"
        "command.upgrade(chain_config(context.config.attributes['plans']), 'head')\n"
    )
    (outer / "versions").mkdir()
    url = f"sqlite:///{tmp_path}/plans.db"
    config = Config(attributes={"plans": url})
    config.set_main_option("script_location", str(outer))

    with pytest.raises(ConcurrentRuns, match="let one end before the other begins"):
        command.upgrade(config, "head")

    assert not is_migrated(url)
    command.upgrade(chain_config(url), "head")
    assert is_migrated(url)


def test_lock_waits_for_another_thread():
    lock, order = ProcessLock(), []
    lock.acquire()

    def other():
        with lock.held():
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    time.sleep(0.2)
    order.append("first")
    assert lock.is_ours
    assert not lock.try_acquire()
    lock.release()
    thread.join(120)

    assert order == ["first", "other"]
    assert not lock.is_ours
    assert lock.try_acquire()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_child_process_does_not_wait_for_a_thread_of_its_parent(tmp_path: Path):
    from cleveragents_plans.evolution.runner.process_lock import process_lock

    held, end = threading.Event(), threading.Event()

    def hold():
        with process_lock.held():
            held.set()
            end.wait(120)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(120)
    pid = os.fork()
    if not pid:
        os._exit(0 if process_lock.try_acquire() else 1)
    _, status = os.waitpid(pid, 0)
    end.set()
    thread.join(120)

    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.slow
def test_script_of_alembic_runs_alone_too(tmp_path: Path):
    """Where nothing imported the package before, the first run gets the lock in env.py."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", ROOT / "alembic.ini",
         "-x", f"url=sqlite:///{tmp_path}/plans.db", "upgrade", "head"],
        capture_output=True, text=True, cwd=tmp_path, timeout=240,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert is_migrated(f"sqlite:///{tmp_path}/plans.db")
