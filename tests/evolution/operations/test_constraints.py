"""Constraints are added NOT VALID and validated; rows that break them are named first."""

from __future__ import annotations

import pytest

from cleveragents_plans.evolution import (
    add_check,
    add_foreign_key,
    drop_constraint,
    set_not_null,
)
from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.operations.constraints import RowsViolateConstraint
from cleveragents_plans.evolution.postgresql.locks import LockNotObtained
from cleveragents_plans.evolution.sqlite.rebuild import RebuildRefused
from support.online import client, revision
from support.toys import execute, structure

KEY = ("fk_toy_box", ["box_id"], "box", ["id"])


def test_add_check_names_rows_that_break_it_and_changes_nothing(toy_url: str):
    before = structure(toy_url)

    with (
        revision(toy_url) as op,
        pytest.raises(RowsViolateConstraint, match=r"rows of toy break ck_toy_size, such as 9, 19"),
    ):
        add_check(op, "toy", "ck_toy_size", "size < 9")

    assert structure(toy_url) == before


def test_add_foreign_key_names_rows_that_refer_to_none_and_changes_nothing(toy_url: str):
    execute(toy_url, "UPDATE toy SET box_id = 77 WHERE id IN (3, 4)")
    before = structure(toy_url)

    with (
        revision(toy_url) as op,
        pytest.raises(RowsViolateConstraint, match=r"rows of toy break fk_toy_box, such as 3, 4;"),
    ):
        add_foreign_key(op, "toy", *KEY)

    assert structure(toy_url) == before


@pytest.mark.parametrize("condition", ["size >", "sise > 1", "nothing(size)"])
def test_add_check_refuses_a_condition_that_does_not_parse(toy_url: str, condition: str):
    before = structure(toy_url)

    with (
        revision(toy_url) as op,
        pytest.raises(OperationRefused, match=r"add_check: .* refuses it"),
    ):
        add_check(op, "toy", "ck_toy_size", condition)

    assert structure(toy_url) == before


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("fk", ["box"], "box", ["id"]), r"toy has no column box; is box_id meant\?"),
        (("fk", ["box_id"], "boxes", ["id"]), r"there is no table boxes; is box meant\?"),
        (("fk", ["box_id"], "box", ["id", "label"]), "as many columns"),
    ],
)
def test_add_foreign_key_refuses_names_that_are_not_there(toy_url: str, key, message: str):
    with revision(toy_url) as op, pytest.raises(OperationRefused, match=message):
        add_foreign_key(op, "toy", *key)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("fk", ["word"], "box", ["id"]), "incompatible types|cannot be implemented"),
        (("fk", ["word"], "box", ["label"]), "no unique constraint"),
    ],
)
def test_add_foreign_key_refuses_columns_that_do_not_fit(server_url: str, key, message: str):
    before = structure(server_url)

    with revision(server_url) as op, pytest.raises(OperationRefused, match=message):
        add_foreign_key(op, "toy", *key)

    assert structure(server_url) == before


def test_a_name_that_another_constraint_has_is_refused(toy_url: str):
    with revision(toy_url) as op:
        add_check(op, "toy", "mine", "size >= 0")
        add_check(op, "toy", "mine", "size >= 0")
    before = structure(toy_url)

    with revision(toy_url) as op:
        with pytest.raises(OperationRefused, match=r"another constraint mine: .*CHECK"):
            add_check(op, "toy", "mine", "size >= 1 - 1")
        with pytest.raises(OperationRefused, match=r"another constraint mine: .*CHECK"):
            add_foreign_key(op, "toy", "mine", *KEY[1:])

    assert structure(toy_url) == before


def test_a_foreign_key_of_the_same_name_with_another_meaning_is_refused(toy_url: str):
    with revision(toy_url) as op:
        add_foreign_key(op, "toy", *KEY, ondelete="CASCADE")

    with revision(toy_url) as op, pytest.raises(OperationRefused, match="another constraint"):
        add_foreign_key(op, "toy", *KEY, ondelete="SET NULL")


def test_a_foreign_key_holds_afterwards(toy_url: str):
    with revision(toy_url) as op:
        add_foreign_key(op, "toy", *KEY, ondelete="CASCADE")

    with pytest.raises(Exception, match=r"(?i)foreign key"):
        execute(toy_url, "UPDATE toy SET box_id = 77 WHERE id = 3")
    execute(toy_url, "DELETE FROM box WHERE id = 1")
    assert execute(toy_url, "SELECT DISTINCT box_id FROM toy") == [(2,)]


def test_a_foreign_key_to_its_own_table_is_added_and_dropped(toy_url: str):
    before = structure(toy_url)
    with revision(toy_url) as op:
        add_foreign_key(op, "toy", "fk_toy_size", ["box_id"], "toy", ["id"])
        drop_constraint(op, "toy", "fk_toy_size")

    assert structure(toy_url) == before


def test_adding_a_foreign_key_lets_readers_of_both_tables_read(server_url: str):
    with client(server_url, autocommit=False) as reader:
        reader.execute("SELECT count(*) FROM toy, box")

        with revision(server_url, lock_wait=5) as op:
            add_foreign_key(op, "toy", *KEY)


def test_adding_a_foreign_key_names_who_writes_to_the_other_table(server_url: str):
    with client(server_url, autocommit=False) as writer:
        writer.execute("UPDATE box SET label = 'x'")
        with (
            revision(server_url, lock_wait=1) as op,
            pytest.raises(LockNotObtained, match="UPDATE box SET label"),
        ):
            add_foreign_key(op, "toy", *KEY)


def test_drop_constraint_refuses_other_kinds(server_url: str):
    with revision(server_url) as op, pytest.raises(OperationRefused, match="PRIMARY KEY"):
        drop_constraint(op, "toy", "toy_pkey")


def test_drop_constraint_refuses_other_kinds_on_sqlite(sqlite_url: str):
    execute(sqlite_url, "CREATE TABLE toy (id INT, CONSTRAINT mine UNIQUE (id))")
    with revision(sqlite_url) as op, pytest.raises(RebuildRefused, match="mine is UNIQUE"):
        drop_constraint(op, "toy", "mine")


def test_set_not_null_refuses_a_column_that_is_not_there(toy_url: str):
    with revision(toy_url) as op, pytest.raises(OperationRefused, match="toy has no column wort"):
        set_not_null(op, "toy", "wort")


def test_set_not_null_refuses_a_null(toy_url: str):
    execute(toy_url, "UPDATE toy SET word = NULL WHERE id = 5")

    with revision(toy_url) as op, pytest.raises(Exception, match=r"(?i)toy.*word|toy\.word"):
        set_not_null(op, "toy", "word")


def test_add_check_knows_a_constraint_that_came_from_a_dump(server_url: str):
    """The server reads what it wrote, and writes it with other casts."""
    condition = "CAST(word AS varchar(99)) NOT IN ('a:b', 'c%')"
    query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'ck_toy_word'"
    with revision(server_url) as op:
        add_check(op, "toy", "ck_toy_word", condition)
    before = execute(server_url, query)[0][0]
    with client(server_url) as connection:
        connection.execute(
            b"ALTER TABLE toy DROP CONSTRAINT ck_toy_word, ADD CONSTRAINT ck_toy_word "
            + before.encode()
        )
    after = execute(server_url, query)
    assert after != [(before,)]

    with revision(server_url) as op:
        add_check(op, "toy", "ck_toy_word", condition)

    assert execute(server_url, query) == after
