"""When the database refuses, the statement that it refused is named, and no row is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution import with_exclusive_lock
from cleveragents_plans.evolution.postgresql.connection import raise_if, session
from cleveragents_plans.evolution.runner.statement_errors import StatementFailed
from support import postgres
from support.databases import migrate
from support.faults import execute, models
from support.online import client, meanwhile, revision
from support.proxy import tcp_proxy
from support.revisions import M8_001
from support.waiting import wait_until


def refusal(url: str, *statements: str) -> str:
    """What is told when *statements* are run under a short lock."""
    with client(url) as connection:
        connection.execute("CREATE TABLE public.toy (id int PRIMARY KEY, word text)")
        connection.execute("INSERT INTO public.toy VALUES (1, 'secret')")
        connection.execute("CREATE VIEW seen AS SELECT word FROM public.toy")
    with pytest.raises(DBAPIError) as refused, revision(url) as op:
        with_exclusive_lock(op, "toy", *statements)
    told = str(StatementFailed("shop", refused.value))
    assert "\n" not in told
    assert "secret" not in told
    return told


def test_statement_that_the_server_points_at_is_named(postgresql_url: str):
    told = refusal(
        postgresql_url,
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; SELECT 2 $$",
        "COMMENT ON TABLE public.toy IS 'one; two' -- three; four",
        "ALTER TABLE public.toy ADD a no_such_type",
        "ALTER TABLE public.toy ADD b int",
    )

    assert 'shop refused `ALTER TABLE public.toy ADD a no_such_type`: type "no_such_type"' in told


@pytest.mark.parametrize("number", range(3))
def test_statement_that_failed_is_named_wherever_it_stands(postgresql_url: str, number: int):
    others = [
        "ALTER TABLE public.toy ADD a int",
        # It speaks of the same things.
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT id FROM public.toy; SELECT 2 $$",
    ]
    others.insert(number, "ALTER TABLE public.toy DROP COLUMN word")

    told = refusal(postgresql_url, *others)

    assert "shop refused `ALTER TABLE public.toy DROP COLUMN word`: cannot drop column word" in told
    assert "(view public.seen depends on column word of table public.toy)" in told


def test_statements_under_a_lock_take_one_round_trip(postgresql_url: str):
    with client(postgresql_url) as connection:
        connection.execute("CREATE TABLE public.toy (id int)")
    trips = {
        number: round_trips(postgresql_url, *["COMMENT ON TABLE public.toy IS '%'"] * number)
        for number in (1, 20)
    }

    assert trips[20] == trips[1]


def round_trips(url: str, *statements: str) -> int:
    """Count how often the server is sent something and answers."""
    with tcp_proxy(url) as proxy, revision(proxy.url) as op:
        before = proxy.answers
        with_exclusive_lock(op, "toy", *statements)
        return proxy.answers - before


def test_statement_of_a_do_block_is_named(postgresql_url: str):
    told = refusal(
        postgresql_url,
        "ALTER TABLE public.toy ADD a int",
        "DO $$ BEGIN EXECUTE 'ALTER TABLE public.toy DROP CONSTRAINT no_such'; END $$",
    )

    assert "refused `ALTER TABLE public.toy DROP CONSTRAINT no_such`" in told


def test_what_a_block_raises_is_told_in_whatever_language_the_server_speaks(
    monkeypatch: pytest.MonkeyPatch,
):
    # gettext reads it for every locale but C; without translations the server speaks English.
    monkeypatch.setenv("LANGUAGE", "ja:de:es")
    (binaries, *_) = [*postgres.binaries().values()][1:]
    server = postgres.PostgresServer(binaries, {"lc_messages": "C.UTF-8"})
    try:
        told = refusal(server.url(), raise_if("true", "the table is odd", "drop the table"))
    finally:
        server.close()

    assert told.startswith("shop: the table is odd; drop the table, and ")


def test_statement_of_a_clients_function_is_not_shown(postgresql_url: str):
    with client(postgresql_url) as connection:
        connection.execute(
            "CREATE FUNCTION leak() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN EXECUTE 'SELECT 1 / 0, ' || quote_literal(new.word); END $$"
        )

    told = refusal(
        postgresql_url,
        "CREATE TRIGGER leak BEFORE UPDATE ON public.toy"
        " FOR EACH ROW EXECUTE FUNCTION public.leak()",
        "UPDATE public.toy SET id = 2",
    )

    assert "refused `UPDATE public.toy SET id = 2` in the function public.leak(): division" in told


def test_function_that_refuses_a_commit_is_named(postgresql_url: str):
    told = refusal(
        postgresql_url,
        "CREATE FUNCTION public.balance() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'not balanced'; END $$",
        "CREATE CONSTRAINT TRIGGER balance AFTER UPDATE ON public.toy INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION public.balance()",
        "UPDATE public.toy SET id = 2",
    )

    assert told.startswith("shop refused `COMMIT` in the function public.balance(): not balanced;")


def test_a_row_that_breaks_a_rule_is_not_shown(postgresql_url: str):
    told = refusal(postgresql_url, "UPDATE public.toy SET id = NULL")

    assert "refused `UPDATE public.toy SET id = NULL`: null value in column" in told


FUNCTION = 'FUNCTION public."new, one"() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$'


@pytest.mark.parametrize(
    "created",
    [
        'TABLE public."new, one" (a int)',
        'SEQUENCE public."new, one"',
        """TYPE public."new, one" AS ENUM ('a')""",
        'INDEX "new, one" ON public.toy (a)',
        FUNCTION,
        'SCHEMA "new, one"',
    ],
)
def test_name_that_another_session_takes_while_a_statement_waits_for_it_is_told(
    postgresql_url: str, created: str
):
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    with client(postgresql_url) as look, client(postgresql_url, autocommit=False) as other:
        look.execute("CREATE TABLE public.toy (a int)")
        other.execute(f"CREATE {created}".encode())

        def commit_when_it_waits() -> None:
            wait_until(lambda: look.execute(waiting).fetchone())
            other.commit()

        with (
            meanwhile(commit_when_it_waits),
            pytest.raises(DBAPIError) as refused,
            revision(postgresql_url) as op,
        ):
            op.execute(f"CREATE {created}")

    told = str(StatementFailed("shop", refused.value))
    assert "another session took the name new, one meanwhile; rename or drop what has it" in told
    assert "\n" not in told


def test_first_error_is_told_where_the_session_cannot_be_set_back(postgresql_url: str):
    def fail() -> None:
        with revision(postgresql_url) as op, session(op.get_bind(), lock_timeout="1s"):
            op.execute("SELECT 1 / 0")

    with pytest.raises(DBAPIError) as refused:
        fail()

    assert "current transaction is aborted" in str(refused.value)
    assert "refused `SELECT 1 / 0`: division by zero" in str(StatementFailed("shop", refused.value))


@pytest.mark.slow
def test_file_limit_of_a_look_is_told(tmp_path: Path):
    with models("postgresql-18", 2_000).copy("gaps", tmp_path) as url:
        name = make_url(url).database
        execute(
            url,
            f"ALTER DATABASE {name} SET temp_file_limit = '100kB'",
            f"ALTER DATABASE {name} SET work_mem = '64kB'",
        )

        with pytest.raises(StatementFailed, match=r"`WITH .*temporary file size exceeds"):
            migrate(url, M8_001)
