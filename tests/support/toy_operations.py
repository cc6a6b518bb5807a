"""Each operation and its opposite, on the tables of `support.toys`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic.operations import Operations

from cleveragents_plans.evolution import (
    add_check,
    add_column,
    add_foreign_key,
    create_index,
    drop_column,
    drop_constraint,
    drop_default,
    drop_index,
    drop_not_null,
    rename_column,
    set_default,
    set_not_null,
)
from support.online import revision
from support.toys import execute, structure

CHECK = "word LIKE '%:%(x)s' OR word <> 'a::b'"


class Pair(NamedTuple):
    there: Callable[[Operations], object]
    back: Callable[[Operations], object]


def create_word_index(op: Operations) -> None:
    create_index(op, "ix_toy_word", "toy", ["word", sa.text("size DESC")], where=CHECK)


def drop_word_index(op: Operations) -> None:
    drop_index(op, "ix_toy_word", "toy")


def add_nullable(op: Operations) -> None:
    add_column(op, "toy", sa.Column("colour", sa.String(20)))


def drop_colour(op: Operations) -> None:
    drop_column(op, "toy", "colour")


def add_with_default(op: Operations) -> None:
    default = sa.text("'50 % red: {x}'")
    add_column(op, "toy", sa.Column("colour", sa.Text, nullable=False, server_default=default))


def add_with_expression(op: Operations) -> None:
    # SQLite takes it in a rebuild only; PostgreSQL computes it once.
    default = sa.text("('re' || 'd')")
    add_column(op, "toy", sa.Column("colour", sa.Text, nullable=False, server_default=default))


def rename_word(op: Operations) -> None:
    rename_column(op, "toy", "word", "title")


def rename_back(op: Operations) -> None:
    rename_column(op, "toy", "title", "word")


def set_size_default(op: Operations) -> None:
    set_default(op, "toy", "size", "7")


def drop_size_default(op: Operations) -> None:
    drop_default(op, "toy", "size")


def forbid_null(op: Operations) -> None:
    set_not_null(op, "toy", "word", "doc")


def allow_null(op: Operations) -> None:
    drop_not_null(op, "toy", "word", "doc")


def add_word_check(op: Operations) -> None:
    add_check(op, "toy", "ck_toy_word", CHECK)


def drop_word_check(op: Operations) -> None:
    drop_constraint(op, "toy", "ck_toy_word")


def add_box_key(op: Operations) -> None:
    add_foreign_key(op, "toy", "fk_toy_box", ["box_id"], "box", ["id"], ondelete="CASCADE")


def drop_box_key(op: Operations) -> None:
    drop_constraint(op, "toy", "fk_toy_box")


PAIRS = {
    "index": Pair(create_word_index, drop_word_index),
    "nullable column": Pair(add_nullable, drop_colour),
    "column with a default": Pair(add_with_default, drop_colour),
    "column with an expression": Pair(add_with_expression, drop_colour),
    "name of a column": Pair(rename_word, rename_back),
    "default": Pair(set_size_default, drop_size_default),
    "NOT NULL": Pair(forbid_null, allow_null),
    "CHECK": Pair(add_word_check, drop_word_check),
    "foreign key": Pair(add_box_key, drop_box_key),
}


def rows(url: str) -> list[tuple[Any, ...]]:
    return execute(url, "SELECT id, word, size, doc, box_id FROM toy ORDER BY id")


def perform(url: str, act: Callable[[Operations], object]) -> list[Any]:
    with revision(url) as op:
        act(op)
    return structure(url)
