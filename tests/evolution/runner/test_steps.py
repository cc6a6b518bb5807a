"""Each step is checked before any is run, and again right before its turn."""

from __future__ import annotations

from io import StringIO

import pytest
from alembic import command

from cleveragents_plans.evolution.errors import EvolutionError
from support.online import client
from support.tiny_chain import FIRST, LAST, MIDDLE, tiny_chain


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "chain"


def version(url):
    with client(url) as connection:
        if not connection.execute("SELECT to_regclass('alembic_version')").fetchone()[0]:
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return row and row[0]


class Checks:
    """Remember where the database was when the middle revision was asked to check."""

    def __init__(self, url, refuse_at=()):
        self.url = url
        self.refuse_at = refuse_at
        self.calls = []

    def __call__(self, op, direction):
        at = version(self.url)
        self.calls.append((direction, at))
        if at in self.refuse_at:
            raise EvolutionError("the rows are not as they should be")


def test_step_is_checked_ahead_and_again_when_others_were_run_before_it(folder, postgresql_url):
    checks = Checks(postgresql_url)

    command.upgrade(tiny_chain(folder, postgresql_url, check=checks), "head")
    command.downgrade(tiny_chain(folder, postgresql_url, check=checks), "base")

    assert checks.calls == [
        ("upgrade", None),
        ("upgrade", FIRST),
        ("downgrade", LAST),
        ("downgrade", MIDDLE),
    ]


def test_first_step_is_checked_once(folder, postgresql_url):
    command.upgrade(tiny_chain(folder, postgresql_url), FIRST)
    checks = Checks(postgresql_url)

    command.upgrade(tiny_chain(folder, postgresql_url, check=checks), "head")

    assert checks.calls == [("upgrade", FIRST)]


def test_check_that_refuses_stops_the_run_before_its_first_step(folder, postgresql_url):
    checks = Checks(postgresql_url, refuse_at=[None])

    with pytest.raises(EvolutionError, match="rows are not as they should be"):
        command.upgrade(tiny_chain(folder, postgresql_url, check=checks), "head")

    assert version(postgresql_url) is None


def test_check_that_refuses_later_keeps_the_steps_before_it(folder, postgresql_url):
    checks = Checks(postgresql_url, refuse_at=[FIRST])

    with pytest.raises(EvolutionError, match="rows are not as they should be"):
        command.upgrade(tiny_chain(folder, postgresql_url, check=checks), "head")

    assert version(postgresql_url) == FIRST


def test_stamp_checks_nothing(folder, postgresql_url):
    checks = Checks(postgresql_url, refuse_at=[None])

    command.stamp(tiny_chain(folder, postgresql_url, check=checks), "head")

    assert (version(postgresql_url), checks.calls) == (LAST, [])


def test_script_has_what_each_step_checks(folder, postgresql_url):
    def check(op, direction):
        op.execute(f"SELECT 'checked before the {direction}'")

    chain = tiny_chain(folder, postgresql_url, check=check)
    chain.output_buffer = written = StringIO()

    command.upgrade(chain, "head", sql=True)

    text = written.getvalue()
    assert text.count("checked before the upgrade") == 1
    assert text.index("checked before") < text.index("-- Running upgrade a1_first -> b2_middle")
