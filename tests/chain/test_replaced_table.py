"""A table that another one takes the place of, in the middle of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.postgresql.ownership import NameTaken
from cleveragents_plans.evolution.postgresql.throttle import Throttle
from support.databases import SERVERS, empty_database, migrate
from support.former_release import write_former_release
from support.online import client
from support.revisions import M8_001

REPLACE = [
    "ALTER TABLE v3_plans RENAME TO v3_plans_old",
    "CREATE TABLE v3_plans (LIKE v3_plans_old INCLUDING ALL)",
    "INSERT INTO v3_plans SELECT * FROM v3_plans_old",
]


@pytest.mark.parametrize("server", SERVERS)
def test_table_that_is_replaced_while_its_rows_are_written_is_refused_until_the_next_run(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rest, to_do = Throttle.rest, [*REPLACE]
    with empty_database(server, tmp_path) as url:
        write_former_release(url, plans=300, seed=1)

        def replace_once(self: Throttle, seconds: float, rows: int) -> None:
            if rows and to_do:
                with client(url) as other, other.transaction():
                    for statement in to_do:
                        other.execute(statement.encode())
                to_do.clear()
            rest(self, seconds, rows)

        monkeypatch.setattr(Throttle, "rest", replace_once)
        with pytest.raises(NameTaken, match=r"^public\.v3_plans was replaced by another table"):
            migrate(url, M8_001)
        assert main(["status", "--url", url]) == ExitStatus.UNFINISHED

        migrate(url, M8_001)
        query = "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'v3_plans_fill'"
        with client(url) as other:
            found = {name for (name,) in other.execute(query)}
        assert "v3_plans" in found
