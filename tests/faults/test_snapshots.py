"""A snapshot that is written while a downgrade is under way is not lost with its column."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.databases import ENGINES, migrate
from support.faults import Migration, models
from support.online import client
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.slow

PLANS = 3_000
SERVERS = [engine for engine in ENGINES if engine != "sqlite"]
INSERT = (
    "INSERT INTO v3_plans (plan_id, root_plan_id, automation_profile, effective_profile_snapshot,"
    " action_name, created_at, updated_at)"
    " VALUES (%s, %s, 'balanced', %s, 'local/tidy', 'now', 'now')"
)
ARCHIVED = "SELECT plan_id, effective_profile_snapshot FROM v3_plans_snapshot_archive"
SNAPSHOTS = "SELECT plan_id, effective_profile_snapshot FROM v3_plans"


def written(url: str, query: str) -> dict[str, str]:
    with client(url) as connection:
        return dict(connection.execute(query.encode()).fetchall())


@pytest.mark.parametrize("engine", SERVERS)
def test_snapshots_written_after_their_archiving_are_kept(tmp_path: Path, engine: str):
    with models(engine, PLANS).copy("new", tmp_path) as url:
        migration = Migration(url, M4_003, "rows-per-second=1500")
        # The archiving is over, and comes by no more; the former form is being written.
        migration.wait_for("effective_profile_snapshot, archived: ")
        late = {}
        with client(url) as connection:
            for query in ("SELECT min(plan_id) FROM v3_plans", "SELECT max(plan_id) FROM v3_plans"):
                (key,) = connection.execute(query.encode()).fetchone() or ("",)
                late[key] = '{"late": "changed"}'
                connection.execute(
                    "UPDATE v3_plans SET effective_profile_snapshot = %s WHERE plan_id = %s",
                    [late[key], key],
                )
            for key in ("00" + "0" * 24, "7Z" + "Z" * 24):
                late[key] = '{"late": "new"}'
                connection.execute(INSERT, [key, key, late[key]])
        assert migration.running
        ended = migration.ended()
        assert ended.status == 0, ended.said

        assert written(url, ARCHIVED).items() >= late.items()
        migrate(url, M8_001)
        assert written(url, SNAPSHOTS).items() >= late.items()
