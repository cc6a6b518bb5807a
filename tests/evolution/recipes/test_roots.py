"""The finder of roots on SQLite asks for each row once, and ends whatever it meets."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from cleveragents_plans.evolution import ParentTree
from cleveragents_plans.evolution.recipes import roots
from cleveragents_plans.evolution.recipes.parent_trees import CycleFound
from cleveragents_plans.evolution.recipes.roots import RootFinder

NODES = ParentTree("node", key="id", parent="up", root="top")


@pytest.fixture
def connection():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE node (id TEXT PRIMARY KEY, up TEXT, top TEXT)")
        yield connection


def fill(connection, *rows):
    connection.executemany("INSERT INTO node VALUES (?, ?, ?)", rows)


def found(connection, finder):
    pairs = connection.execute("SELECT CAST(id AS BLOB), CAST(up AS BLOB) FROM node").fetchall()
    return {at.decode(): (root := finder(at, up)) and root.decode() for at, up in pairs}


def test_a_walk_ends_at_a_known_root_at_the_top_and_below_a_parent_that_is_missing(connection):
    fill(connection, ("a", None, None), ("b", "a", None), ("c", "b", None))
    fill(connection, ("d", None, "a"), ("e", "d", None))  # detached, with a root that is known
    fill(connection, ("f", "gone", None), ("g", "f", None))
    fill(connection, ("h", "a", "nowhere"), ("i", "h", None))  # its root does not exist

    assert found(connection, RootFinder(NODES, connection, "node")) == {
        "a": "a", "b": "a", "c": "a", "d": "d", "e": "a", "f": "f", "g": "f", "h": "a", "i": "a",
    }  # fmt: skip


@pytest.mark.parametrize("length", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("below", [0, 1, 5])
def test_a_cycle_hangs_nobody_and_is_named_whole(connection, length, below):
    ring = [f"r{n:03}" for n in range(length)]
    tail = [f"t{n:03}" for n in range(below)]
    fill(connection, *((one, ring[n - 1], None) for n, one in enumerate(ring)))
    fill(connection, *((one, [*ring[:1], *tail][n], None) for n, one in enumerate(tail)))
    fill(connection, ("x", "y", None), ("y", "x", None))
    start = (tail or ring)[-1].encode()
    parent = connection.execute("SELECT up FROM node WHERE id = CAST(? AS TEXT)", (start,))

    with pytest.raises(CycleFound) as found:
        RootFinder(NODES, connection, "node")(start, parent.fetchone()[0].encode())

    assert sorted(map(sorted, found.value.cycles)) == sorted([ring, ["x", "y"]])


def test_a_row_is_looked_up_once_while_it_is_remembered(connection):
    fill(connection, ("0", None, None), *((str(n), str(n - 1), None) for n in range(1, 500)))
    asked = []
    connection.set_trace_callback(lambda sql: asked.append(sql) if "LEFT JOIN" in sql else None)

    assert set(found(connection, RootFinder(NODES, connection, "node")).values()) == {"0"}
    assert len(asked) == 499


def test_a_chain_that_is_longer_than_what_is_remembered_is_walked_once(connection, monkeypatch):
    monkeypatch.setattr(roots, "_CACHE_SIZE", 10)
    fill(connection, *((str(n), str(n - 1), None) for n in range(500, 0, -1)), ("0", None, None))
    asked = []
    connection.set_trace_callback(lambda sql: asked.append(sql) if "LEFT JOIN" in sql else None)

    assert set(found(connection, RootFinder(NODES, connection, "node")).values()) == {"0"}
    assert len(asked) == 500


def test_what_is_remembered_is_bounded_and_roots_are_right_all_the_same(connection, monkeypatch):
    monkeypatch.setattr(roots, "_CACHE_SIZE", 10)
    fill(connection, ("0", None, None), *((str(n), str(n - 1), None) for n in range(1, 200)))
    finder = RootFinder(NODES, connection, "node")

    assert set(found(connection, finder).values()) == {"0"}
    assert len(finder._known) < 10 + 200


def test_texts_that_are_none_to_python_are_walked_as_well(connection):
    broken = b"\xff\xfe"
    connection.execute("INSERT INTO node VALUES (CAST(? AS TEXT), NULL, NULL)", (broken,))
    connection.execute("INSERT INTO node VALUES ('kid', CAST(? AS TEXT), NULL)", (broken,))

    assert RootFinder(NODES, connection, "node")(b"kid", broken) == broken
