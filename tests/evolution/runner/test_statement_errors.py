"""When the database refuses, the statement that it refused is named, and no row is shown."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution import (
    with_exclusive_lock,
)
from cleveragents_plans.evolution.runner.statement_errors import StatementFailed
from support.online import client, revision


def refusal(url: str, *statements: str) -> str:
    """What is told when *statements* are run under a short lock."""
    with client(url) as connection:
        connection.execute("CREATE TABLE toy (id int PRIMARY KEY, word text)")
        connection.execute("INSERT INTO toy VALUES (1, 'secret')")
        connection.execute("CREATE VIEW seen AS SELECT word FROM toy")
    with pytest.raises(DBAPIError) as refused, revision(url) as op:
        with_exclusive_lock(op, "toy", *statements)
    told = str(StatementFailed("shop", refused.value))
    assert "\n" not in told
    assert "secret" not in told
    return told


def test_of_several_statements_the_one_that_the_server_points_at_is_named(postgresql_url: str):
    told = refusal(
        postgresql_url,
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; SELECT 2 $$",
        "COMMENT ON TABLE toy IS 'one; two' -- three; four",
        "ALTER TABLE toy ADD a no_such_type",
        "ALTER TABLE toy ADD b int",
    )

    assert 'shop refused `ALTER TABLE toy ADD a no_such_type`: type "no_such_type"' in told


def test_where_it_points_at_none_the_likeliest_is_named_with_what_depends_on_it(
    postgresql_url: str,
):
    told = refusal(
        postgresql_url,
        "ALTER TABLE toy ADD a int",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT id FROM toy; SELECT 2 $$",
        "ALTER TABLE toy DROP COLUMN word",
        "ALTER TABLE toy ADD b int",
    )

    assert "one of 4 statements, probably `ALTER TABLE toy DROP COLUMN word`" in told
    assert "(view seen depends on column word of table toy)" in told


def test_what_a_block_ran_is_named(postgresql_url: str):
    told = refusal(
        postgresql_url,
        "ALTER TABLE toy ADD a int",
        "DO $$ BEGIN EXECUTE 'ALTER TABLE toy DROP CONSTRAINT no_such'; END $$",
    )

    assert "refused `ALTER TABLE toy DROP CONSTRAINT no_such`" in told


def test_what_a_clients_function_ran_is_not_shown(postgresql_url: str):
    with client(postgresql_url) as connection:
        connection.execute(
            "CREATE FUNCTION leak() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN EXECUTE 'SELECT 1 / 0, ' || quote_literal(new.word); END $$"
        )

    told = refusal(
        postgresql_url,
        "CREATE TRIGGER leak BEFORE UPDATE ON toy FOR EACH ROW EXECUTE FUNCTION leak()",
        "UPDATE toy SET id = 2",
    )

    assert "one of 2 statements" in told


def test_a_row_that_breaks_a_rule_is_not_shown(postgresql_url: str):
    told = refusal(postgresql_url, "UPDATE toy SET id = NULL")

    assert "refused `UPDATE toy SET id = NULL`: null value in column" in told
