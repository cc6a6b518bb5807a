"""Roots in a copy on SQLite are right for every kind of key, and cost the same in every order."""

from __future__ import annotations

import logging
import random

import pytest

from cleveragents_plans.evolution import ParentTree, root_in_copy
from cleveragents_plans.evolution.recipes import root_finder
from cleveragents_plans.evolution.recipes.parent_trees import CycleFound
from support.rebuilds import execute, rebuilding

NODES = ParentTree("node", key="id", parent="up", root="top")
ENCODINGS = ["UTF-8", "UTF-16le", "UTF-16be"]
OPTIONS = ["", " WITHOUT ROWID", " STRICT"]


def table(type_="TEXT", options="", more=""):
    # Each column has the type and collation of the key, as foreign keys mean it.
    columns = f"id {type_} NOT NULL PRIMARY KEY, up {type_}, top {type_}{more}"
    return f"CREATE TABLE node ({columns}){options}"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tree.db"


def literal(value):
    if value is None or isinstance(value, int):
        return "NULL" if value is None else str(value)
    return f"x'{value.hex()}'" if isinstance(value, bytes) else "'" + value.replace("'", "''") + "'"


def fill(file, *rows, create=None, encoding="UTF-8"):
    values = ", ".join(f"({', '.join(map(literal, row))})" for row in rows)
    execute(
        file,
        f"PRAGMA encoding = '{encoding}'",
        create or table(),
        f"INSERT INTO node (id, up, top) VALUES {values}",
    )


def write_chain(file, numbers, create=None):
    """Write a chain, from the top down, whose rows stand in the order of their *numbers*."""
    keys = dict(enumerate(numbers))
    above = {key: keys.get(n - 1) for n, key in keys.items()}
    execute(file, create or table())
    with_parents = ", ".join(
        f"('{key:06}', {'NULL' if above[key] is None else repr(f'{above[key]:06}')})"
        for key in sorted(above)
    )
    execute(file, f"INSERT INTO node (id, up) VALUES {with_parents}")


def fill_roots(file):
    with rebuilding(file) as rebuild:
        value, functions = root_in_copy(rebuild.op, NODES)
        rebuild("node", values={"top": value}, functions=functions)
    return dict(execute(file, "SELECT id, top FROM node"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("order", [1, -1])
def test_walk_ends_at_known_root_at_top_and_below_missing_parent(file, encoding, options, order):
    rows = [
        ("a", None, None), ("b", "a", None), ("c", "b", None), ("cc", "c", None),
        ("d", None, "a"), ("e", "d", None),  # detached, with a known root
        ("f", "gone", None), ("g", "f", None), ("gg", "g", None),
        ("h", "a", "nowhere"), ("i", "h", None),  # its root does not exist
        ("ü", None, None), ("ß𝄞", "ü", None), ("日", "ß𝄞", None),
    ]  # fmt: skip
    fill(file, *rows[::order], create=table(options=options), encoding=encoding)

    assert fill_roots(file) == {
        "a": "a", "b": "a", "c": "a", "cc": "a", "d": "a", "e": "a", "f": "f", "g": "f", "gg": "f",
        "h": "nowhere", "i": "a", "ü": "ü", "ß𝄞": "ü", "日": "ü",
    }  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_no_walk_is_needed_where_parents_come_before_their_children(file, monkeypatch, options):
    def walk(_finder, row):
        raise AssertionError(f"a walk from row {row}")

    monkeypatch.setattr(root_finder.RootFinder, "_find", walk)
    fill(
        file,
        ("a", None, None),
        ("b", "a", None),
        ("c", "b", None),
        ("d", "b", None),
        ("e", "c", None),
        create=table(options=options),
    )

    fill_roots(file)

    assert set(execute(file, "SELECT top FROM node")) == {("a",)}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("below", [0, 1, 5])
def test_cycles_are_all_named_whole(file, encoding, options, length, below):
    ring = [f"r{n:03}" for n in range(length)]
    tail = [f"t{n:03}" for n in range(below)]
    fill(
        file,
        ("good", None, None),
        *((one, ring[n - 1], None) for n, one in enumerate(ring)),
        *((one, [*ring[:1], *tail][n], None) for n, one in enumerate(tail)),
        ("x", "y", None),
        ("y", "x", "nowhere"),
        create=table(options=options),
        encoding=encoding,
    )

    with pytest.raises(CycleFound) as found:
        fill_roots(file)

    rings = [[ring[0], *ring[:0:-1]], ["x", "y"]]
    assert sorted(found.value.cycles) == sorted(rings)
    assert execute(file, "SELECT DISTINCT top FROM node WHERE id <> 'y'") == [(None,)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("options", OPTIONS)
def test_missing_parents_are_counted_and_named(file, caplog, encoding, options):
    lost = [(f"k{n:02}", f"gone'{n}", None) for n in range(12)]
    fill(file, ("a", None, None), *lost, ("kid", "k00", None),
         create=table(options=options), encoding=encoding)  # fmt: skip

    with caplog.at_level(logging.WARNING, "alembic.evolution"):
        fill_roots(file)

    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said.startswith("12 rows of node without a root name a parent that does not exist, k00 ")
    assert "k00 (parent gone'0)" in said
    assert "k09" in said
    assert "k10" not in said


def test_missing_parents_are_counted_once_when_rows_broke_a_check(file, caplog):
    fill(file, ("a", "gone", None), create=table(more=", word DEFAULT 'x'"))
    execute(
        file,
        "ALTER TABLE node ADD COLUMN n INT CHECK (n > 0)",
        "PRAGMA ignore_check_constraints = ON",
        "UPDATE node SET n = -1",
    )

    with caplog.at_level(logging.WARNING, "alembic.evolution"):
        fill_roots(file)

    told = "1 row of node without a root names a parent that does not exist, a (parent gone)"
    assert told in caplog.text


@pytest.mark.parametrize("options", ["", " WITHOUT ROWID"])
@pytest.mark.parametrize(("encoding", "broken"), [
    ("UTF-8", b"\xff\xfe\xe2\x82"),
    ("UTF-16le", b"\x00\xd8a\x00"),  # half of a surrogate pair
    ("UTF-16be", b"\xdc\x00\x00a"),
])  # fmt: skip
def test_roots_that_are_no_valid_text_are_kept_byte_by_byte(file, encoding, broken, options):
    text = f"CAST(x'{broken.hex()}' AS TEXT)"
    execute(
        file,
        f"PRAGMA encoding = '{encoding}'",
        table(options=options),
        f"INSERT INTO node VALUES ({text}, NULL, NULL), ('kid', {text}, NULL), ('kk', 'kid', NULL)",
    )
    with rebuilding(file) as rebuild:
        value, functions = root_in_copy(rebuild.op, NODES)
        rebuild("node", values={"top": value}, functions=functions)

    found = execute(file, "SELECT DISTINCT typeof(top), hex(CAST(top AS BLOB)) FROM node")
    assert found == [("text", broken.hex().upper())]


def test_cycle_of_keys_that_are_no_valid_text_is_named_as_well_as_may_be(file):
    execute(
        file,
        table(),
        "INSERT INTO node VALUES (CAST(x'61ff' AS TEXT), CAST(x'61ff' AS TEXT), NULL)",
    )

    with pytest.raises(CycleFound, match="a\N{REPLACEMENT CHARACTER}"):
        fill_roots(file)


@pytest.mark.parametrize("options", ["", " WITHOUT ROWID"])
def test_root_is_spelled_as_the_root_itself_where_keys_ignore_case(file, options):
    create = table("TEXT COLLATE NOCASE", options)
    fill(file, ("Root", None, None), ("kid", "rOOT", None), ("kk", "KID", None),
         ("Loner", None, "ROOT"), ("below", "LONER", None), ("top", "gone", None),
         ("under", "TOP", None), create=create)  # fmt: skip

    assert fill_roots(file) == {
        "Root": "Root", "kid": "Root", "kk": "Root", "Loner": "ROOT", "below": "Root",
        "top": "top", "under": "top",
    }  # fmt: skip


def test_cycle_is_found_where_keys_ignore_case(file):
    create = table("TEXT COLLATE NOCASE")
    fill(file, ("a", "B", None), ("b", "C", None), ("c", "A", None), create=create)

    with pytest.raises(CycleFound) as found:
        fill_roots(file)

    assert found.value.cycles == [["a", "b", "c"]]


@pytest.mark.parametrize("options", ["", " WITHOUT ROWID", " STRICT"])
@pytest.mark.parametrize(("type_", "keys"), [
    ("INTEGER", [1, -5, 0, 2**63 - 1]),
    ("BLOB", [b"\x00\x01", b"", b"\xff", b"text"]),
])  # fmt: skip
def test_roots_keep_the_type_of_their_key(file, type_, keys, options):
    a, b, c, d = keys
    fill(file, (a, None, None), (b, a, None), (c, b, None), (d, c, None),
         create=table(type_, options))  # fmt: skip

    assert fill_roots(file) == dict.fromkeys(keys, a)


def test_text_and_bytes_of_the_same_look_are_different_keys(file):
    create = table("", more="")
    fill(file, ("a", None, None), (b"a", None, None), ("b", "a", None), (b"b", b"a", None),
         (1, None, None), ("1", None, None), ("c", 1, None), ("d", "1", None),
         ("e", "b", None), ("f", b"b", None), ("g", "c", None), create=create)  # fmt: skip

    assert fill_roots(file) == {
        "a": "a", b"a": b"a", "b": "a", b"b": b"a", 1: 1, "1": "1", "c": 1, "d": "1",
        "e": "a", "f": b"a", "g": 1,
    }  # fmt: skip


def test_parents_that_are_stored_as_numbers_find_keys_that_are_text(file):
    execute(
        file,
        "CREATE TABLE node (id TEXT PRIMARY KEY, up INTEGER, top TEXT)",
        "INSERT INTO node VALUES ('1', NULL, NULL), ('2', '1', NULL), ('3', '2', NULL)",
    )

    assert fill_roots(file) == {"1": "1", "2": "1", "3": "1"}


ORDERS = {
    "rising": lambda n: range(n),
    "falling": lambda n: range(n, 0, -1),
    "random": lambda n: random.Random(4).sample(range(n), n),
}


@pytest.mark.parametrize("options", ["", " WITHOUT ROWID"])
@pytest.mark.parametrize("order", ORDERS)
def test_chain_gets_its_root_though_all_that_is_kept_in_memory_is_forgotten(
    file, monkeypatch, order, options
):
    monkeypatch.setattr(root_finder, "_CACHE_SIZE", 10)
    numbers = list(ORDERS[order](500))
    write_chain(file, numbers, table(options=options))

    assert set(fill_roots(file).values()) == {f"{numbers[0]:06}"}


@pytest.mark.parametrize("order", ORDERS)
def test_chain_costs_one_step_for_each_row_in_every_order(file, monkeypatch, order):
    monkeypatch.setattr(root_finder, "_CACHE_SIZE", 10)
    write_chain(file, list(ORDERS[order](2_000)))
    steps = []

    class Counting(root_finder.RootFinder):
        def _find(self, row):
            steps.extend(self._run(self._walk, (row,)).fetchall())
            assert len(self._known) <= 12
            return super()._find(row)

    monkeypatch.setattr(root_finder, "RootFinder", Counting)
    fill_roots(file)

    # Each row is passed once on the way up, and found once by its child.
    assert len(steps) <= 2 * 2_000
