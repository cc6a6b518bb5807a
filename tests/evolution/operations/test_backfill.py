"""A backfill writes each row that needs it once, on each engine, or says why it cannot."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from cleveragents_plans.evolution import (
    Sql,
    add_column,
    backfill,
    json_integer,
    json_text,
    set_not_null,
)
from cleveragents_plans.evolution.errors import BackfillNeverEnds, OperationRefused
from cleveragents_plans.evolution.op import qualified
from cleveragents_plans.evolution.postgresql.conflicts import BackfillRefused
from cleveragents_plans.evolution.sqlite.backfill import ForeignKeyBroken
from support.online import client, revision, script
from support.toys import ROWS, execute, structure

DOUBLE = {"size": "t.id * 2"}


def test_backfill_writes_the_rows_that_need_it_and_no_other(toy_url: str):
    execute(toy_url, "UPDATE toy SET size = id * 2 WHERE id > 900")

    with revision(toy_url) as op:
        assert backfill(op, "toy", key="id", values=DOUBLE) == 900
        assert backfill(op, "toy", key="id", values=DOUBLE) == 0

    assert execute(toy_url, "SELECT count(*) FROM toy WHERE size = id * 2") == [(ROWS,)]


def test_backfill_writes_only_rows_that_need_it_when_it_is_told_which(toy_url: str):
    with revision(toy_url) as op:
        written = backfill(
            op, "toy", key="id", values={"word": "'50 %(x)s : :y'"}, needs="t.word LIKE '%7'"
        )

    assert written == ROWS // 10
    assert execute(toy_url, "SELECT DISTINCT word FROM toy WHERE id = 17") == [("50 %(x)s : :y",)]


def test_backfill_takes_an_expression_of_each_engine(toy_url: str):
    concatenated = Sql(postgresql="concat('#', t.id)", sqlite="'#' || t.id")
    with revision(toy_url) as op:
        backfill(op, "toy", key="id", values={"word": concatenated})

    assert execute(toy_url, "SELECT word FROM toy WHERE id = 3") == [("#3",)]


DOCUMENTS = {
    None: (None, None),
    '{"a": 7}': (7, None),
    '{"a": -2147483648}': (-2147483648, None),
    '{"a": 2147483648}': (None, None),
    '{"a": 7.0}': (None, None),
    '{"a": "7"}': (None, "7"),
    '{"a": "x\\ny"}': (None, "x\ny"),
    '{"a": true}': (None, None),
    '{"a": null}': (None, None),
    '{"a": {"a": 1}}': (None, None),
    '{"b": 1}': (None, None),
    '{"a": 1, "a": 2}': (2, None),
    '{"a": 1, "a": "x"}': (None, "x"),
    "[1]": (None, None),
    "7": (None, None),
    "{broken": (None, None),
    "": (None, None),
}


@pytest.mark.parametrize("key", ["a", "it's", 'a "key"', "$.a"])
def test_backfill_reads_json_alike_on_each_engine(toy_url: str, key: str):
    with revision(toy_url) as op:
        add_column(op, "toy", sa.Column("number", sa.Integer))
        add_column(op, "toy", sa.Column("string", sa.Text))
        connection = op.get_bind()
        toy = qualified(op.get_context(), "toy")
        connection.execute(sa.text(f"DELETE FROM {toy}"))
        insert = sa.text(f"INSERT INTO {toy} (id, size, doc) VALUES (:id, 0, :doc)")
        for number, document in enumerate(DOCUMENTS):
            wanted = document and document.replace('"a":', f"{json.dumps(key)}:")
            connection.execute(insert, {"id": number, "doc": wanted})
    values = {"number": json_integer("doc", key), "string": json_text("doc", key)}

    with revision(toy_url) as op:
        assert backfill(op, "toy", key="id", values=values) == 6

    assert execute(toy_url, "SELECT number, string FROM toy ORDER BY id") == list(
        DOCUMENTS.values()
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"table": "toys"}, r"there is no table toys; is toy meant\?"),
        ({"key": "idd"}, r"toy has no column idd; is id meant\?"),
        ({"key": "id, size"}, "'id, size' of toy is not the name of one column"),
        ({"key": "size"}, r"rows of toy may be equal in size \(the primary key is id\)"),
        ({"values": {"wort": "1"}}, r"toy has no column wort; is word meant\?"),
        ({"values": {"word": "t.wort"}}, "refuses it"),
        ({"values": {"word": "'a' ||"}}, "refuses it"),
        ({"needs": "t.word ="}, "refuses it"),
    ],
)
def test_backfill_refuses_a_mistake_in_one_line(toy_url: str, changed, message: str):
    given = {"table": "toy", "key": "id", "values": {"word": "'x'"}, **changed}
    before = execute(toy_url, "SELECT * FROM toy ORDER BY id")

    with revision(toy_url) as op, pytest.raises(OperationRefused, match=message) as refused:
        backfill(op, given.pop("table"), **given)

    assert "\n" not in str(refused.value)
    assert execute(toy_url, "SELECT * FROM toy ORDER BY id") == before


def test_backfill_refuses_a_key_of_two_columns(toy_url: str):
    execute(toy_url, "CREATE TABLE pair (a int, b int, c int, PRIMARY KEY (a, b))")

    with revision(toy_url) as op, pytest.raises(OperationRefused, match="primary key is a, b"):
        backfill(op, "pair", key="a", values={"c": "1"})


def test_backfill_accepts_a_unique_index_but_not_a_partial_one(toy_url: str):
    execute(toy_url, "CREATE UNIQUE INDEX uq_word ON toy (word)")
    with revision(toy_url) as op:
        backfill(op, "toy", key="word", values=DOUBLE)
    execute(toy_url, "DROP INDEX uq_word", "CREATE UNIQUE INDEX uq ON toy (word) WHERE size > 5")

    with revision(toy_url) as op, pytest.raises(OperationRefused, match="may be equal in word"):
        backfill(op, "toy", key="word", values=DOUBLE)


@pytest.mark.parametrize(
    ("values", "needs"), [({"size": "t.size + 1"}, None), ({"word": "'x'"}, "t.size >= 0")]
)
def test_backfill_that_would_never_end_is_rolled_back_at_once(toy_url: str, values, needs):
    before = execute(toy_url, "SELECT * FROM toy ORDER BY id")

    with (
        pytest.raises(BackfillNeverEnds, match=r"backfill of .*toy would never end"),
        revision(toy_url) as op,
    ):
        backfill(op, "toy", key="id", values=values, needs=needs)

    assert execute(toy_url, "SELECT * FROM toy ORDER BY id") == before


def test_backfill_that_some_rows_keep_from_its_end_gives_up(
    server_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cleveragents_plans.evolution.postgresql.stuck_backfills._MIN_SECONDS", 0.5)
    # The first batch ends; one row of a later one never does.
    needs = "t.size < 100 OR t.id = 990"

    with (
        revision(server_url) as op,
        pytest.raises(BackfillNeverEnds, match=r"after \d+ more passes 1 rows still need it"),
    ):
        backfill(op, "toy", key="id", values={"size": "100"}, needs=needs)


def test_backfill_ends_though_clients_go_on_writing_rows_that_need_it(server_url: str):
    with client(server_url) as other:
        other.execute("CREATE SEQUENCE more START 100000")
        other.execute("CREATE TABLE calls (n int)")

        with revision(server_url) as op:
            backfill(op, "toy", key="id", values=DOUBLE)
            for _ in range(3):
                other.execute("INSERT INTO toy (id, size) VALUES (nextval('more'), 0)")
                assert backfill(op, "toy", key="id", values=DOUBLE) == 1


def test_backfill_refuses_references_to_rows_that_do_not_exist(toy_url: str):
    execute(toy_url, "CREATE TABLE part (id int PRIMARY KEY, toy_id int REFERENCES toy (id))")
    execute(toy_url, "INSERT INTO part VALUES (1, 1), (2, NULL)")

    with (
        pytest.raises((ForeignKeyBroken, BackfillRefused), match=r"do not exist|foreign key"),
        revision(toy_url) as op,
    ):
        backfill(op, "part", key="id", values={"toy_id": "-1"})

    assert execute(toy_url, "SELECT toy_id FROM part ORDER BY id") == [(1,), (None,)]


def test_a_new_column_is_filled_and_made_not_null(toy_url: str):
    with revision(toy_url) as op:
        add_column(op, "toy", sa.Column("shown", sa.Text))
        backfill(op, "toy", key="id", values={"shown": "coalesce(t.word, 'none')"})
        set_not_null(op, "toy", "shown")

    assert execute(toy_url, "SELECT count(*) FROM toy WHERE shown = word") == [(ROWS,)]
    with pytest.raises(sa.exc.IntegrityError):
        execute(toy_url, "UPDATE toy SET shown = NULL")


def test_offline_a_backfill_is_one_statement(server_url: str):
    execute(server_url, "UPDATE toy SET doc = '{\"n\": 5}' WHERE id = 1")
    before = structure(server_url)
    with script() as (op, written):
        assert (
            backfill(
                op,
                "toy",
                key="id",
                values={"size": json_integer("doc", "n")},
                needs="t.id = 1 AND t.size <> 5",
            )
            == 0
        )
    with client(server_url, autocommit=False) as connection:
        connection.execute(written.getvalue().encode())

    assert execute(server_url, "SELECT size FROM toy WHERE id = 1") == [(5,)]
    assert structure(server_url) == before
