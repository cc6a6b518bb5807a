"""Triggers are created and dropped on PostgreSQL; SQLite has none of them."""

from __future__ import annotations

import pytest

from cleveragents_plans.evolution import Trigger, create_trigger, drop_trigger
from cleveragents_plans.evolution.errors import OperationRefused
from support.online import revision
from support.toys import execute, structure

LOUD = Trigger(
    table="toy",
    name="toy_loud",
    event="BEFORE INSERT OR UPDATE",
    body="BEGIN\n  new.word := upper(new.word);\n  RETURN new;\nEND",
    when="new.word IS NOT NULL",
)


def test_a_trigger_is_created_and_dropped_and_both_are_idempotent(toy_url: str):
    before = structure(toy_url)
    for _ in range(2):
        with revision(toy_url) as op:
            create_trigger(op, LOUD)
    execute(toy_url, "UPDATE toy SET word = 'loud' WHERE id = 1")
    heard = "loud" if toy_url.startswith("sqlite") else "LOUD"
    assert execute(toy_url, "SELECT word FROM toy WHERE id = 1") == [(heard,)]

    for _ in range(2):
        with revision(toy_url) as op:
            drop_trigger(op, "toy", "toy_loud")

    assert structure(toy_url) == before


def test_a_trigger_of_a_table_that_is_not_there_is_refused(toy_url: str):
    with revision(toy_url) as op, pytest.raises(OperationRefused, match="there is no table toys"):
        drop_trigger(op, "toys", "toy_loud")
