"""NOT NULL ends as CREATE TABLE would have made it, whatever was found on the way."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution import (
    set_not_null,
)
from cleveragents_plans.evolution.postgresql import not_null
from cleveragents_plans.evolution.postgresql.locks import LockNotObtained
from cleveragents_plans.evolution.postgresql.not_null import NullsRemain
from support.online import MAX_LOCK_WAIT, client, never_blocked, revision, script

LEFTOVERS = {
    "nothing": [],
    "a check that is not valid": [
        "ALTER TABLE toy ADD CONSTRAINT becoming_not_null_2 CHECK (word IS NOT NULL) NOT VALID"
    ],
    "a check that is valid": [
        "ALTER TABLE public.toy ADD CONSTRAINT becoming_not_null_2 CHECK (word IS NOT NULL)"
    ],
    "a check that is valid beside the finished column": [
        "ALTER TABLE public.toy ADD CONSTRAINT becoming_not_null_2 CHECK (word IS NOT NULL)",
        "ALTER TABLE public.toy ALTER word SET NOT NULL",
    ],
    "the finished column": ["ALTER TABLE public.toy ALTER word SET NOT NULL"],
}
SINCE_18 = {
    "a constraint that is not valid": ["ALTER TABLE public.toy ADD NOT NULL word NOT VALID"],
    "a check and a constraint that is not valid": [
        "ALTER TABLE toy ADD CONSTRAINT becoming_not_null_2 CHECK (word IS NOT NULL) NOT VALID",
        "ALTER TABLE public.toy ADD NOT NULL word NOT VALID",
    ],
}


@pytest.fixture
def url(postgresql_url):
    with client(postgresql_url) as connection:
        connection.execute("CREATE TABLE public.toy (id int PRIMARY KEY, word text)")
        connection.execute("INSERT INTO public.toy SELECT g, 'w' FROM generate_series(1, 1000) g")
        connection.execute("CREATE SCHEMA plain")
        connection.execute("CREATE TABLE plain.toy (id int PRIMARY KEY, word text NOT NULL)")
    return postgresql_url


def described(url, table):
    with client(url) as connection:
        columns = connection.execute(
            "SELECT attname, attnotnull FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0",
            [table],
        ).fetchall()
        constraints = connection.execute(
            "SELECT conname, contype, convalidated, pg_get_constraintdef(oid)"
            " FROM pg_constraint WHERE conrelid = %s::regclass ORDER BY 1",
            [table],
        ).fetchall()
    return columns, constraints


@pytest.fixture
def before_18(monkeypatch):
    """Let NOT NULL be set as a server before 18 can have it; each server has that way, too."""
    monkeypatch.setattr(not_null, "_major", lambda _connection: 15)


@pytest.fixture
def as_it_is():
    """Let NOT NULL be set as the server can have it."""


@pytest.fixture(params=["as_it_is", "before_18"])
def _version(request):
    request.getfixturevalue(request.param)


each_version = pytest.mark.usefixtures("_version")


def major(url):
    with client(url) as connection:
        return connection.info.server_version // 10000


@each_version
@pytest.mark.parametrize("leftover", [*LEFTOVERS, *SINCE_18])
def test_set_not_null_gives_the_constraints_of_create_table(url, leftover):
    if leftover in SINCE_18 and major(url) < 18:
        return  # it cannot be there
    with client(url) as connection:
        for statement in {**LEFTOVERS, **SINCE_18}[leftover]:
            connection.execute(statement)

    with revision(url) as op:
        set_not_null(op, "toy", "word")

    assert described(url, "toy") == described(url, "plain.toy")


@each_version
def test_long_names_end_as_create_table_makes_them(url):
    table, column = "t" * 60, "c" * 60
    with client(url) as connection:
        connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, {column} text)")
        connection.execute(
            f"CREATE TABLE plain.{table} (id int PRIMARY KEY, {column} text NOT NULL)"
        )

    with revision(url) as op:
        set_not_null(op, table, column)

    assert described(url, table) == described(url, f"plain.{table}")


def test_a_constraint_of_another_name_is_used_as_it_is(url):
    if major(url) < 18:
        return  # there NOT NULL has no name
    with client(url) as connection:
        connection.execute('ALTER TABLE toy ADD CONSTRAINT "It\'s mine" NOT NULL word NOT VALID')

    with revision(url) as op:
        set_not_null(op, "toy", "word")

    constraints = described(url, "toy")[1]
    assert ("It's mine", "n", True, "NOT NULL word") in constraints


def test_equal_check_of_another_name_stays(url):
    with client(url) as connection:
        connection.execute("ALTER TABLE public.toy ADD CONSTRAINT theirs CHECK (word IS NOT NULL)")

    with revision(url) as op:
        set_not_null(op, "toy", "word")

    assert "theirs" in [constraint[0] for constraint in described(url, "toy")[1]]


@each_version
def test_a_null_is_an_error_that_says_to_run_it_again(url):
    with client(url) as connection:
        connection.execute("UPDATE public.toy SET word = NULL WHERE id = 500")

    with (
        pytest.raises(NullsRemain, match=r"toy\.word has a NULL.*again") as refused,
        revision(url) as op,
    ):
        set_not_null(op, "toy", "word")
    assert (refused.value.table, refused.value.column) == ("public.toy", "word")

    with client(url) as connection:
        connection.execute("UPDATE public.toy SET word = 'x' WHERE id = 500")
    with revision(url) as op:
        set_not_null(op, "toy", "word")
    assert described(url, "toy") == described(url, "plain.toy")


@each_version
def test_a_null_can_be_filled_in_and_looked_for_again(url):
    with client(url) as connection:
        connection.execute("UPDATE public.toy SET word = NULL WHERE id = 500")

        def refill():
            calls.append(1)
            connection.execute("UPDATE public.toy SET word = 'x' WHERE word IS NULL")

        calls = []
        with revision(url) as op:
            set_not_null(op, "toy", "word", refill=refill)

    assert calls == [1]
    assert described(url, "toy") == described(url, "plain.toy")


def test_filling_in_without_effect_comes_to_an_end(url):
    with client(url) as connection:
        connection.execute("UPDATE public.toy SET word = NULL WHERE id = 500")

    with pytest.raises(NullsRemain), revision(url) as op:
        set_not_null(op, "toy", "word", refill=lambda: None)


def test_scan_names_the_blocker_and_ends_after_the_lock_wait(url, before_18):
    with client(url, autocommit=False) as other:
        with client(url) as connection:
            connection.execute(LEFTOVERS["a check that is not valid"][0])
        other.execute("LOCK TABLE public.toy IN SHARE UPDATE EXCLUSIVE MODE")
        with (
            never_blocked(url, "UPDATE public.toy SET word = 'x' WHERE id = 7"),
            pytest.raises(LockNotObtained) as given_up,
            revision(url, lock_wait=MAX_LOCK_WAIT + 1) as op,
        ):
            set_not_null(op, "toy", "word")
        pid = other.info.backend_pid

    assert [blocker.pid for blocker in given_up.value.blockers] == [pid]


def test_another_error_passes(url, before_18):
    with client(url) as connection:
        connection.execute("CREATE VIEW looks AS SELECT * FROM public.toy")
        connection.execute(
            "ALTER TABLE toy ADD CONSTRAINT becoming_not_null_2 CHECK (1 / (id - 1) = 0) NOT VALID"
        )

    with pytest.raises(DBAPIError, match="not supported for views"), revision(url) as op:
        set_not_null(op, "looks", "word")
    with (
        pytest.raises(DBAPIError, match="division by zero"),
        revision(url) as op,
    ):
        set_not_null(op, "toy", "word")


def test_offline_it_is_one_statement_with_the_same_end(url):
    with script() as (op, written):
        set_not_null(op, "toy", "word")

    assert written.getvalue().strip() == "ALTER TABLE public.toy ALTER COLUMN word SET NOT NULL;"
    with client(url) as connection:
        connection.execute(written.getvalue().encode())
    assert described(url, "toy") == described(url, "plain.toy")
