"""The script that calls every method does call them, on each engine, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cleveragents_plans import PlanRepository
from support import every_method
from support.databases import ONE_OF_EACH, database_at
from support.rows import database_hash


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_database_is_as_it_was_after_every_method_was_called(engine: str, tmp_path: Path):
    with database_at("head", engine, tmp_path) as url:
        before = database_hash(url)

        every_method.call_every_method(url)

        assert database_hash(url) == before


def test_script_calls_every_public_method():
    called = set(re.findall(r"\bplans\.(\w+)\(", Path(every_method.__file__).read_text()))

    assert called == {name for name in dir(PlanRepository) if not name.startswith("_")}
