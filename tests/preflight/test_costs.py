"""What a preflight reads: each table as often as the checks of a run do, and once to count."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from support.databases import database_with
from support.former_release import write_former_release
from support.revisions import M4_003
from support.scans import statements_of_sqlite, that_scan, whole_reads
from support.statements import recorded

PLANS = 400


def former(url: str) -> None:
    write_former_release(url, plans=PLANS, pure=True)


def test_preflight_of_a_file_reads_the_plans_once_for_each_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with database_with(former, "sqlite", tmp_path, M4_003) as url:
        with statements_of_sqlite(monkeypatch) as statements:
            found = preflight(chain_config(url, level=None))
        plans = whole_reads(url.removeprefix("sqlite:///"), statements, "v3_plans")

    assert found.ready
    # The rows to be written, with the number of all: an index leads to those without a root.
    assert len(plans) == 1, plans
    # It reads all pages, and so would the size of the tables.
    assert ["quick_check" in each for each in statements].count(True) == 1
    assert not [each for each in statements if "dbstat" in each]


def test_preflight_of_a_server_reads_the_plans_once_for_each_question(tmp_path: Path):
    with (
        database_with(former, "postgresql-18", tmp_path, M4_003) as url,
        recorded() as statements,
    ):
        found = preflight(chain_config(url, level=None))

    assert found.ready
    # Cycles, missing parents, the rows to be written, with the number of all, and rows that are
    # too wide for an index, whichever it is. The archive is tried out without rows.
    plans = [each for each in that_scan(statements, "v3_plans") if "WITH NO DATA" not in each]
    assert len(plans) == 4, plans
