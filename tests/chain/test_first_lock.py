"""A run that waits for its first lock in vain has changed nothing, and says nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from cleveragents_plans import schema
from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.postgresql.locks import LockNotObtained
from support.broken import libpq
from support.databases import SERVERS, database_at, migrate, roll_back
from support.former_release import write_former_release
from support.revisions import M4_003, M8_001
from support.rows import database_hash, schema_dump


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize(
    ("go", "start", "target"), [(migrate, M4_003, M8_001), (roll_back, M8_001, M4_003)]
)
def test_run_that_gets_no_first_lock_leaves_no_unfinished_revision(
    engine: str, go: Callable[..., None], start: str, target: str, tmp_path: Path
):
    with database_at(M4_003, engine, tmp_path) as url:
        write_former_release(url, plans=20)
        migrate(url, start)
        before = database_hash(url), schema_dump(url)
        with psycopg.connect(libpq(url)) as reader:
            reader.execute("SELECT count(*) FROM v3_plans")
            with pytest.raises(LockNotObtained):
                go(url, target, "lock-wait=2")

        assert (database_hash(url), schema_dump(url)) == before
        assert schema.current(url) == start
        assert main(["status", "-q", "--url", url]) == ExitStatus.FOUND
        go(url, target)
