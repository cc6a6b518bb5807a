"""Roots are found, and values kept aside, in any table that is a tree."""

from __future__ import annotations

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
