"""What a verification reads: each table once for what it counts, and once for each rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import verify
from support.databases import database_with
from support.former_release import write_former_release
from support.revisions import M4_003
from support.scans import statements_of_sqlite, that_scan, whole_reads
from support.statements import recorded

PLANS = 400


def former(url: str) -> None:
    write_former_release(url, plans=PLANS, pure=True)


def look(url: str) -> None:
    with read_database(chain_config(url, level=None), "verify") as database:
        verify(database, quick=True)


def test_quick_verification_of_a_file_reads_the_plans_once_for_each_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with database_with(former, "sqlite", tmp_path, M4_003) as url:
        with statements_of_sqlite(monkeypatch) as statements:
            look(url)
        file = url.removeprefix("sqlite:///")
        plans = whole_reads(file, statements, "v3_plans")
        children = whole_reads(file, statements, "plan_projects")

    # The count, roots and parents, cycles.
    assert len(plans) == 3, plans
    assert len(children) == 1, children


def test_quick_verification_of_a_server_reads_the_plans_once_for_each_rule(tmp_path: Path):
    with (
        database_with(former, "postgresql-18", tmp_path, M4_003) as url,
        recorded() as statements,
    ):
        look(url)

    # The count, roots and parents, cycles, and the plans of the rows in three tables.
    plans = that_scan(statements, "v3_plans")
    assert len(plans) == 6, plans
    assert len(that_scan(statements, "plan_projects")) == 1
