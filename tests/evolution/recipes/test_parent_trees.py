"""Roots are found, and values kept aside, in any table that is a tree."""

from __future__ import annotations

import random
from contextlib import nullcontext

import pytest
from sqlalchemy import Engine, event

from cleveragents_plans.evolution import (
    ColumnArchive,
    ColumnDefault,
    ParentTree,
    archive_column,
    check_parent_tree,
    drop_if_empty,
    drop_trigger_sql,
    fill_roots,
    fill_trigger,
    restore_column,
    set_not_null,
    validate_constraint,
    with_exclusive_lock,
)
from cleveragents_plans.evolution.postgresql.connection import online
from cleveragents_plans.evolution.recipes import parent_trees
from cleveragents_plans.evolution.recipes.parent_trees import CycleFound, ancestors_first
from support.online import client, revision, script
from support.statements import recorded

NODES = ParentTree("node", key="id", parent="up", root="top")
WORDS = ColumnArchive("node_words", table="node", key="id", column="word", empty_value="''")
WORD = {"word": ColumnDefault(lambda row: f"{row}.word IS NULL", lambda _row: "'100%'")}


@pytest.fixture
def url(postgresql_url):
    with client(postgresql_url) as connection:
        connection.execute(
            "CREATE TABLE public.node (id bigint PRIMARY KEY, up bigint REFERENCES node,"
            " top bigint REFERENCES node, word text)"
        )
        # 1 <- 2 <- 3 ... <- 100, and 1000 <- 101, whose parent is younger.
        connection.execute(
            "INSERT INTO public.node SELECT g, nullif(g - 1, 0) FROM generate_series(1, 100) g"
        )
        connection.execute(
            "INSERT INTO public.node VALUES (1000, NULL, NULL, 'mine'), (101, 1000, NULL, NULL)"
        )
    return postgresql_url


def rows(url, query):
    with client(url) as connection:
        return connection.execute(query.encode()).fetchall()


ROOTS = "SELECT top, count(*), min(id), max(id) FROM public.node GROUP BY top ORDER BY 1"


def test_every_row_gets_the_root_of_its_tree_in_one_update_with_what_else_it_lacks(url):
    with revision(url) as op:
        assert fill_roots(op, NODES, also=WORD) == 102

    assert rows(url, ROOTS) == [(1, 100, 1, 100), (1000, 2, 101, 1000)]
    assert rows(url, "SELECT word, count(*) FROM public.node GROUP BY 1 ORDER BY 1") == [
        ("100%", 101),
        ("mine", 1),
    ]
    with revision(url) as op:
        assert fill_roots(op, NODES, also=WORD) == 0


def test_links_that_the_check_has_followed_are_not_followed_again_for_the_roots(url):
    with recorded() as statements, revision(url) as op:
        check_parent_tree(op, NODES)
        assert fill_roots(op, NODES, also=WORD) == 102

    assert sum("RECURSIVE link" in statement for statement in statements) == 1
    assert rows(url, ROOTS) == [(1, 100, 1, 100), (1000, 2, 101, 1000)]


def test_links_are_followed_again_when_roots_are_filled_in_a_second_time(url):
    with recorded() as statements, revision(url) as op:
        check_parent_tree(op, NODES)
        fill_roots(op, NODES)
        op.get_bind().exec_driver_sql("UPDATE public.node SET top = NULL WHERE id >= 101")
        assert fill_roots(op, NODES) == 2

    assert sum("RECURSIVE link" in statement for statement in statements) == 2


def test_rows_to_fill_first_cut_a_walk_up_into_short_ones_however_many_are_fetched_at_a_time(
    url, monkeypatch
):
    monkeypatch.setattr(parent_trees, "_FETCHED", 7)
    with client(url) as connection:
        # 3000 <- 2999 <- ... <- 2901, and below each of them another one.
        connection.execute(
            "INSERT INTO public.node (id, up)"
            " SELECT g, nullif(g + 1, 3001) FROM generate_series(2901, 3000) g"
            " UNION ALL SELECT g - 500, g FROM generate_series(2901, 3000) g"
        )
    with revision(url) as op:
        check_parent_tree(op, NODES)
        ordered = parent_trees.rows_to_fill_first(op.get_bind(), NODES, "public.node")
        again = parent_trees.rows_to_fill_first(op.get_bind(), NODES, "public.node")

    # Every 16th of those that are younger than a row below them, from 2999 on, below the root.
    assert ordered == again == list(range(2999 - 16, 2900, -16))


@pytest.mark.parametrize("autocommit", [True, False])
def test_every_cycle_is_named_from_its_smallest_key_up(url, autocommit):
    with client(url) as connection:
        connection.execute(
            "INSERT INTO public.node (id, up) VALUES (9000, 9001), (9001, 9002), (9002, 9000),"
            " (8000, 8000), (7000, 9001), (7001, 7000)"
        )
    with (
        revision(url) as op,
        online(op) if autocommit else nullcontext(),
        pytest.raises(CycleFound) as found,
    ):
        check_parent_tree(op, NODES)

    assert found.value.cycles == [[8000], [9000, 9001, 9002]]
    assert rows(url, "SELECT count(*) FROM public.node WHERE top IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("seed", range(20))
def test_order_of_any_links_has_ancestors_first_and_leaves_out_no_row(seed):
    chosen = random.Random(seed)
    above = [chosen.randrange(-1, 40) for _ in range(40)]

    order, cycles = ancestors_first(above)

    assert sorted(order) == list(range(40))
    in_cycles = {number for cycle in cycles for number in cycle}
    place = {number: at for at, number in enumerate(order)}
    for number, parent in enumerate(above):
        assert parent < 0 or place[parent] < place[number] or number in in_cycles
    for cycle in cycles:
        assert [above[number] for number in cycle] == [*cycle[1:], cycle[0]]
    # Who starts in no cycle and goes up for 40 steps without an end is in front of one.
    for number in range(40):
        at = number
        for _ in range(40):
            at = above[at] if at >= 0 else at
        assert (at in in_cycles) == (at >= 0)


def test_offline_the_script_finds_the_same_roots(url):
    with script() as (op, written):
        fill_roots(op, NODES, also=WORD)

    with client(url) as connection:
        connection.execute(written.getvalue().encode())
    assert rows(url, ROOTS) == [(1, 100, 1, 100), (1000, 2, 101, 1000)]


def test_trigger_finds_the_root_that_an_insert_leaves_out(url):
    with revision(url) as op:
        with_exclusive_lock(op, "node", *fill_trigger(NODES, "node_fill", also=WORD).create_sql())

    with client(url) as connection:
        connection.execute("INSERT INTO public.node (id, up) VALUES (2000, 100), (2001, NULL)")
        connection.execute("UPDATE public.node SET word = NULL WHERE id = 101")
    found = "SELECT id, top, word FROM public.node WHERE id IN (101, 2000, 2001) ORDER BY id"
    assert rows(url, found) == [
        (101, 1000, "100%"),
        (2000, 1, "100%"),
        (2001, 2001, "100%"),
    ]
    with revision(url) as op:
        with_exclusive_lock(op, "node", *drop_trigger_sql("node", "node_fill"))
    assert rows(url, "SELECT count(*) FROM pg_proc WHERE proname = 'node_fill'") == [(0,)]


def test_values_wait_in_the_archive_and_come_back(url):
    with client(url) as connection:
        connection.execute("UPDATE node SET word = CASE WHEN id < 51 THEN 'w' || id ELSE '' END")
    before = rows(url, "SELECT id, word FROM public.node ORDER BY 1")

    with revision(url) as op:
        with_exclusive_lock(
            op, "node", *WORDS.create(), *WORDS.keep_trigger("node_keep").create_sql()
        )
        archive_column(op, WORDS)
        archive_column(op, WORDS)  # as a run that was interrupted does
        with client(url) as connection:
            connection.execute("UPDATE public.node SET word = 'late' WHERE id = 60")
        with_exclusive_lock(op, "node", *drop_trigger_sql("node", "node_keep"))
    assert rows(url, "SELECT count(*) FROM public.node_words") == [(51,)]
    with client(url) as connection:
        connection.execute("UPDATE public.node SET word = '' WHERE id <> 7")
        connection.execute("UPDATE public.node SET word = 'newer' WHERE id = 7")
        connection.execute("INSERT INTO public.node_words VALUES (5000, 'of a row that is gone')")
    with revision(url) as op:
        restore_column(op, WORDS)

    wanted = dict(before) | {60: "late", 7: "newer"}
    assert dict(rows(url, "SELECT id, word FROM public.node")) == wanted
    assert rows(url, "SELECT to_regclass('node_words') IS NULL") == [(True,)]


def test_archive_follows_keys_that_change_and_that_rows_exchange(url):
    archive = ColumnArchive("port_words", table="port", key="id", column="word", empty_value="''")
    with client(url) as connection:
        connection.execute("CREATE TABLE public.port (id bigint PRIMARY KEY DEFERRABLE, word text)")
        connection.execute("INSERT INTO public.port VALUES (1, 'a'), (2, 'b'), (3, 'c'), (5, '')")
    with revision(url) as op:
        with_exclusive_lock(
            op, "port", *archive.create(), *archive.keep_trigger("port_keep").create_sql()
        )
        archive_column(op, archive)

    with client(url) as connection:
        connection.execute(
            "UPDATE public.port"
            " SET id = CASE id WHEN 1 THEN 2 WHEN 2 THEN 1 WHEN 3 THEN 4 ELSE 3 END"
        )

    archived = rows(url, "SELECT id, word FROM public.port_words ORDER BY 1")
    assert archived == [(1, "b"), (2, "a"), (4, "c")]


def test_an_archive_goes_only_when_it_is_empty(url):
    with revision(url) as op:
        with_exclusive_lock(op, "node", *WORDS.create())
        with client(url) as connection:
            connection.execute("INSERT INTO public.node_words VALUES (1, 'x')")
        drop_if_empty(op, WORDS)
        assert rows(url, "SELECT to_regclass('node_words') IS NULL") == [(False,)]
        with client(url) as connection:
            connection.execute("DELETE FROM public.node_words")
        drop_if_empty(op, WORDS)

    assert rows(url, "SELECT to_regclass('node_words') IS NULL") == [(True,)]


def test_one_scan_is_enough_for_several_columns(url):
    sent = []

    def record(_connection, _cursor, sql, *_):
        sent.append(sql)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        with revision(url) as op:
            fill_roots(op, NODES, also=WORD)
            set_not_null(op, "node", "top", "word")
    finally:
        event.remove(Engine, "before_cursor_execute", record)

    assert sum("VALIDATE CONSTRAINT" in sql for sql in sent) == 1
    assert rows(
        url,
        "SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = 'node'::regclass"
        " AND attname IN ('top', 'word') ORDER BY 1",
    ) == [("top", True), ("word", True)]


def test_a_constraint_is_checked_beside_writers_and_a_row_that_breaks_it_is_told(url):
    with client(url) as connection:
        connection.execute("ALTER TABLE node ADD CONSTRAINT positive CHECK (id > 0) NOT VALID")
        connection.execute("ALTER TABLE public.node ADD CONSTRAINT small CHECK (id < 10) NOT VALID")

    with revision(url) as op:
        validate_constraint(op, "node", "positive")
        with pytest.raises(Exception, match="small"):
            validate_constraint(op, "node", "small")

    valid = "SELECT convalidated FROM pg_constraint WHERE conname IN ('positive', 'small')"
    assert sorted(rows(url, valid)) == [(False,), (True,)]
