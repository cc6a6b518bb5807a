"""What the tests compare databases with sees every change, and only changes."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import NullPool, create_engine

from support.rows import database_hash, schema_dump, table_hash

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)"
ROWS = "INSERT INTO t (id, a, b) VALUES (1, 'x', 'y'), (2, NULL, '')"


def run(url: str, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET a = 'X' WHERE id = 1",
        "UPDATE t SET a = 'x ' WHERE id = 1",
        "UPDATE t SET a = 'xy', b = '' WHERE id = 1",
        "UPDATE t SET a = b, b = a WHERE id = 1",
        "UPDATE t SET a = '' WHERE id = 2",
        "UPDATE t SET a = 'None' WHERE id = 2",
        "UPDATE t SET id = 3 WHERE id = 2",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t (id) VALUES (3)",
        "ALTER TABLE t RENAME COLUMN b TO c",
        "ALTER TABLE t ADD COLUMN c TEXT",
    ],
)
def test_hash_changes_with(empty_url, change):
    run(empty_url, TABLE, ROWS)
    before = table_hash(empty_url, "t")

    run(empty_url, change)

    assert table_hash(empty_url, "t") != before


def test_hash_does_not_change_with_the_order_in_which_rows_were_written(empty_url):
    run(empty_url, TABLE, ROWS)
    before = table_hash(empty_url, "t")

    run(empty_url, "DELETE FROM t", "INSERT INTO t VALUES (2, NULL, ''), (1, 'x', 'y')")

    assert table_hash(empty_url, "t") == before


def test_equal_rows_in_a_table_without_a_key_are_counted(empty_url):
    run(empty_url, "CREATE TABLE t (a TEXT)", "INSERT INTO t VALUES ('x'), ('x')")
    twice = table_hash(empty_url, "t")

    run(empty_url, "DELETE FROM t", "INSERT INTO t VALUES ('y'), ('y')")
    another = table_hash(empty_url, "t")
    run(empty_url, "DELETE FROM t", "INSERT INTO t VALUES ('x')")

    assert len({twice, another, table_hash(empty_url, "t")}) == 3


def test_hash_distinguishes_the_types_that_sqlite_keeps_apart(sqlite_url):
    run(sqlite_url, "CREATE TABLE t (a)")
    hashes = []

    for value in ("1", "1.0", "'1'", "x'31'", "NULL", "'1.0'", "'NULL'", "CAST(x'ff' AS TEXT)"):
        run(sqlite_url, "DELETE FROM t", f"INSERT INTO t VALUES ({value})")
        hashes.append(table_hash(sqlite_url, "t"))

    assert len(set(hashes)) == len(hashes)


def test_hash_of_a_database_names_its_tables(empty_url):
    run(empty_url, TABLE, ROWS, 'CREATE TABLE "Odd ""name" (a TEXT)', "CREATE TABLE u (a TEXT)")
    before = database_hash(empty_url)

    run(empty_url, "INSERT INTO u VALUES ('x')")

    after = database_hash(empty_url)
    assert {name for name in before if before[name] != after[name]} == {"u"}
    assert before.keys() == {"t", "u", 'Odd "name'}
    assert database_hash(empty_url, without=["u"]) == {k: v for k, v in before.items() if k != "u"}


def test_hash_of_a_file_holds_what_sqlite_remembers_of_the_highest_key(sqlite_url):
    run(sqlite_url, "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    run(sqlite_url, "INSERT INTO t VALUES (9)", "DELETE FROM t")

    remembered = database_hash(sqlite_url)

    run(sqlite_url, "DELETE FROM sqlite_sequence")
    assert database_hash(sqlite_url) != remembered


def test_rows_that_another_connection_has_not_committed_are_not_hashed(sqlite_url):
    run(sqlite_url, TABLE, ROWS)
    before = table_hash(sqlite_url, "t")
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))

    other.execute("DELETE FROM t")

    assert table_hash(sqlite_url, "t") == before
    other.close()


BOTH = [
    "ALTER TABLE t ADD COLUMN c TEXT",
    "ALTER TABLE t ADD COLUMN c TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE t DROP COLUMN b",
    "ALTER TABLE t RENAME COLUMN b TO c",
    "CREATE INDEX i ON t (a)",
    "CREATE UNIQUE INDEX i ON t (a) WHERE b IS NULL",
    "CREATE VIEW v AS SELECT a FROM t",
    "CREATE TABLE u (id INTEGER REFERENCES t (id) ON DELETE CASCADE)",
]
FUNCTION = (
    "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN {}; END'"
)
TRIGGER = "CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
ONLY_POSTGRESQL = [
    "ALTER TABLE t ALTER COLUMN a SET NOT NULL",
    "ALTER TABLE t ALTER COLUMN a SET DEFAULT 'x'",
    "ALTER TABLE t ALTER COLUMN a TYPE VARCHAR(9)",
    'ALTER TABLE t ALTER COLUMN a TYPE TEXT COLLATE "POSIX"',
    "ALTER TABLE t ADD CONSTRAINT k CHECK (id > 1)",
    "ALTER TABLE t VALIDATE CONSTRAINT later",
    "ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES t (id) ON DELETE RESTRICT",
    "ALTER TABLE t RENAME CONSTRAINT t_pkey TO pk",
    "ALTER TABLE t SET (autovacuum_enabled = off)",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE t DISABLE TRIGGER r",
    "ALTER TABLE t SET UNLOGGED",
    "ALTER TABLE t ADD COLUMN c TEXT GENERATED ALWAYS AS (a) STORED",
    "ALTER TABLE t ADD COLUMN c INTEGER GENERATED ALWAYS AS IDENTITY",
    "DROP TRIGGER r ON t",
    "ALTER TABLE t DROP COLUMN a, ADD COLUMN a TEXT",
    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_pkey'::regclass",
    "CREATE SEQUENCE s",
    FUNCTION.format("OLD"),
    "DROP FUNCTION g()",
]


@pytest.mark.parametrize("change", BOTH)
def test_schema_dump_changes_with(empty_url, change):
    run(empty_url, TABLE)
    before = schema_dump(empty_url)

    run(empty_url, change)

    assert schema_dump(empty_url) != before


@pytest.mark.parametrize("change", ONLY_POSTGRESQL)
def test_schema_dump_changes_on_postgresql_with(postgresql_url, change):
    run(
        postgresql_url,
        TABLE,
        "ALTER TABLE t ADD CONSTRAINT later CHECK (id > 0) NOT VALID",
        FUNCTION.format("NEW"),
        FUNCTION.replace("f()", "g()").format("NULL"),
        TRIGGER,
    )
    before = schema_dump(postgresql_url)

    run(postgresql_url, change)

    assert schema_dump(postgresql_url) != before


def test_schema_dump_holds_the_names_of_not_null_constraints(postgresql_url):
    run(postgresql_url, "CREATE TABLE t (a TEXT NOT NULL)")
    named = ("constraint", "t", "t_a_not_null", "NOT NULL a")
    version = create_engine(postgresql_url, poolclass=NullPool)
    with version.connect() as connection:
        since_18 = connection.dialect.server_version_info >= (18,)
    version.dispose()

    assert (named in schema_dump(postgresql_url)) == since_18


def test_equal_schemas_in_two_databases_have_equal_dumps(empty_url):
    run(empty_url, TABLE, BOTH[4])
    before = schema_dump(empty_url)

    run(empty_url, "DROP TABLE t")
    assert schema_dump(empty_url) == []
    run(empty_url, TABLE, BOTH[4])

    assert schema_dump(empty_url) == before


def test_schema_dump_can_leave_out_a_table_with_all_that_belongs_to_it(empty_url):
    run(empty_url, TABLE)
    before = schema_dump(empty_url)

    run(empty_url, "CREATE TABLE u (a TEXT NOT NULL UNIQUE)", "CREATE INDEX i ON u (a)")

    assert schema_dump(empty_url, without=["u"]) == before
