"""What the how-tos show is what happens, and what they quote stands where it is quoted from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.databases import ROOT
from support.postgres import server


def blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_page_on_web_services_quotes_the_example():
    example = "".join(
        file.read_text() for file in sorted((ROOT / "examples" / "fastapi_service").glob("*.py"))
    )
    quoted = blocks("web-service.md")

    assert len(quoted) >= 4
    for block in quoted:
        assert block in example


IN_MEMORY = """\
from cleveragents_plans import Plan

def test_it(plans):
    plans.add(Plan.create("local/x"))
    plans._session.commit()
    assert plans.count() == 1

test_it_again = test_it
"""
BY_URL = """\
from sqlalchemy.orm import Session
from cleveragents_plans import Plan, PlanRepository, open_engine
from cleveragents_plans.schema import current

def test_it(database_url):
    current(database_url, check_heads=True)
    engine = open_engine(database_url)
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(Plan.create("local/x"))
    with Session(engine) as session:
        assert PlanRepository(session).count() == 1
    engine.dispose()

test_it_again = test_it
"""


@pytest.mark.parametrize(
    ("fixtures", "tests", "engine"),
    [
        ("# in memory", IN_MEMORY, "sqlite"),
        ("# a file", BY_URL, "sqlite"),
        ("# a template database", BY_URL, "postgresql-18"),
    ],
)
def test_fixtures_give_each_test_an_empty_database(
    fixtures: str, tests: str, engine: str, tmp_path: Path
):
    (block,) = (each for each in blocks("testing-an-application.md") if each.startswith(fixtures))
    (tmp_path / "conftest.py").write_text(block)
    (tmp_path / "test_application.py").write_text(tests)
    environment = dict(os.environ)
    if engine != "sqlite":
        environment["SERVER_URL"] = server(engine).url()

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
