"""Columns are added without a rewrite, and dropped when nothing uses them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from cleveragents_plans.evolution import Sql, add_column, drop_column, rename_column, set_default
from cleveragents_plans.evolution.errors import ColumnInUse, EvolutionError, OperationRefused
from cleveragents_plans.evolution.postgresql import locks
from support.online import revision
from support.toys import ROWS, execute, structure


def test_rows_that_are_there_get_the_default_of_a_new_column(toy_url: str):
    column = sa.Column("weight", sa.Integer, nullable=False, server_default=sa.text("7"))
    flag = sa.Column("new", sa.Boolean, nullable=False, server_default=sa.false())
    with revision(toy_url) as op:
        add_column(op, "toy", column)
        add_column(op, "toy", flag)

    assert execute(toy_url, "SELECT count(*), sum(weight) FROM toy WHERE NOT new") == [
        (ROWS, 7 * ROWS)
    ]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (sa.Column("new", sa.Text, nullable=False), "backfill and set_not_null"),
        (sa.Column("new", sa.Text, unique=True), "create_index"),
        (sa.Column("new", sa.Text, index=True), "create_index"),
        (sa.Column("new", sa.Integer, primary_key=True), "create_index"),
        (sa.Column("new", sa.Integer, sa.ForeignKey("box.id")), "add_foreign_key"),
        (sa.Column("new", sa.Integer, sa.CheckConstraint("new > 1")), "add_check"),
        (sa.Column("new", sa.Integer, default=5), "server_default"),
        (
            sa.Column("size", sa.Text),
            "toy has a column size of the type (?i:integer), ",
        ),
    ],
)
def test_add_column_refuses_what_takes_other_operations(
    toy_url: str, column: sa.Column[object], message: str
):
    before = structure(toy_url)

    with revision(toy_url) as op, pytest.raises(OperationRefused, match=message) as refused:
        add_column(op, "toy", column)

    assert "\n" not in str(refused.value)
    assert structure(toy_url) == before


@pytest.mark.parametrize("default", ["random()", "clock_timestamp()", "gen_random_uuid()"])
def test_add_column_refuses_a_default_that_would_rewrite_the_table(server_url: str, default: str):
    column = sa.Column("new", sa.Text, server_default=sa.text(f"({default})::text"))
    before = structure(server_url)

    with revision(server_url) as op, pytest.raises(OperationRefused, match="rewrite every row"):
        add_column(op, "toy", column)

    assert structure(server_url) == before


@pytest.mark.parametrize("default", ["now() +", "nothing", "'a'::integer"])
def test_add_column_refuses_a_default_that_does_not_parse(server_url: str, default: str):
    column = sa.Column("new", sa.Integer, server_default=sa.text(default))

    with revision(server_url) as op, pytest.raises(OperationRefused, match="PostgreSQL refuses"):
        add_column(op, "toy", column)


def test_add_column_refuses_one_that_another_session_adds_while_the_lock_is_waited_for(
    server_url: str, monkeypatch: pytest.MonkeyPatch
):
    real_take = locks.take_lock

    def take_too_late(*arguments: Any) -> None:
        monkeypatch.setattr(locks, "take_lock", real_take)
        execute(server_url, "ALTER TABLE toy ADD COLUMN new integer")
        real_take(*arguments)

    monkeypatch.setattr(locks, "take_lock", take_too_late)

    found = "toy has a column new of the type integer, expected text"
    with revision(server_url) as op, pytest.raises(OperationRefused, match=found):
        add_column(op, "toy", sa.Column("new", sa.Text))


def test_add_column_keeps_the_comment(server_url: str):
    with revision(server_url) as op:
        add_column(op, "toy", sa.Column("new", sa.Text, comment="50 % of 'it': {x}"))

    (found,) = execute(server_url, "SELECT col_description('toy'::regclass, 6)")
    assert found == ("50 % of 'it': {x}",)


USERS = {
    "view": ("CREATE VIEW words AS SELECT word FROM toy", "words"),
    "index": ("CREATE INDEX ix_toy ON toy (size, word)", "ix_toy"),
    "partial index": ("CREATE INDEX ix_toy ON toy (size) WHERE word <> 'x'", "ix_toy"),
}


@pytest.mark.parametrize(("statement", "name"), USERS.values(), ids=USERS)
def test_drop_column_refuses_a_column_that_something_uses(toy_url: str, statement: str, name: str):
    execute(toy_url, statement)
    before = structure(toy_url)

    with revision(toy_url) as op, pytest.raises(ColumnInUse, match=name):
        drop_column(op, "toy", "word")

    assert structure(toy_url) == before


@pytest.mark.parametrize("constraint", ["CHECK (word <> '')", "UNIQUE (word)"])
def test_drop_column_refuses_a_column_that_a_constraint_uses(server_url: str, constraint: str):
    execute(server_url, f"ALTER TABLE toy ADD CONSTRAINT mine {constraint}")

    with revision(server_url) as op, pytest.raises(ColumnInUse, match="mine"):
        drop_column(op, "toy", "word")


def test_drop_column_drops_a_column_with_a_default_and_not_null(toy_url: str):
    column = sa.Column("new", sa.Text, nullable=False, server_default=sa.text("'x'"))
    before = structure(toy_url)
    with revision(toy_url) as op:
        add_column(op, "toy", column)
        drop_column(op, "toy", "new")

    assert structure(toy_url) == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("wort", "text"), "toy has no column wort"),
        (("word", "size"), "toy has a column size, too"),
    ],
)
def test_rename_column_refuses_names_that_do_not_fit(toy_url: str, names, message: str):
    with revision(toy_url) as op, pytest.raises(OperationRefused, match=message):
        rename_column(op, "toy", *names)


def test_rename_column_takes_indexes_constraints_and_views_along(toy_url: str):
    execute(
        toy_url,
        "CREATE VIEW words AS SELECT word AS text FROM toy",
        "CREATE INDEX ix_toy ON toy (word)",
    )
    with revision(toy_url) as op:
        rename_column(op, "toy", "word", "name")

    assert execute(toy_url, "SELECT count(text) FROM words") == [(ROWS,)]
    assert "name" in str(structure(toy_url))


def test_set_default_replaces_another_one_and_leaves_rows_alone(toy_url: str):
    for default in ("1", Sql(postgresql="3 - 1", sqlite="(3 - 1)")):
        with revision(toy_url) as op:
            set_default(op, "toy", "size", default)

    execute(toy_url, "INSERT INTO toy (id) VALUES (-1)")
    assert execute(toy_url, "SELECT size FROM toy WHERE id IN (-1, 10) ORDER BY id") == [(2,), (0,)]


def test_default_that_was_changed_and_set_again_is_where_it_was(
    toy_url: str, caplog: pytest.LogCaptureFixture
):
    execute(toy_url, "ALTER TABLE toy ADD COLUMN weight integer DEFAULT 1 NOT NULL")
    before = structure(toy_url)
    for default in ("7", "1"):
        caplog.clear()
        with caplog.at_level("INFO"), revision(toy_url) as op:
            set_default(op, "toy", "weight", default)
        # SQLite copies the table for it, once.
        assert caplog.text.count("toy rebuilt") == toy_url.startswith("sqlite")

    assert structure(toy_url) == before


def test_set_default_refuses_what_is_no_expression(toy_url: str):
    before = structure(toy_url)
    with pytest.raises(EvolutionError, match=r"refuse|was not rebuilt"), revision(toy_url) as op:
        set_default(op, "toy", "size", "3 +")

    assert structure(toy_url) == before
