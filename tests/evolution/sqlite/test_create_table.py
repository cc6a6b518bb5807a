"""A change in the text of a table is made at its place, and can be undone byte by byte."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.items import DdlNotUnderstood
from cleveragents_plans.evolution.sqlite.tokens import (
    fold,
    quote,
    rename_table,
    same_expression,
    tokenize,
)

SHAPES = {
    "one line": "CREATE TABLE t (a INTEGER PRIMARY KEY, y TEXT, z TEXT)",
    "no space": "CREATE TABLE t(a,y,z)",
    "one column": "CREATE TABLE t(y)",
    "many lines": "CREATE TABLE t (\n\ta INT, \n\ty CHAR(26), \n\tz TEXT, \n\tPRIMARY KEY (a)\n)",
    "added by ALTER TABLE": "CREATE TABLE t (\n  a TEXT\n, y TEXT, z TEXT,\n  PRIMARY KEY (a)\n)",
    "comment after the last column": "CREATE TABLE t (a, y TEXT, z TEXT -- , ( '\n)",
    "comment before the comma": "CREATE TABLE t (a, y TEXT /* ), */ , z TEXT/**/)",
    "comment before the constraints": "CREATE TABLE t (y,\n z -- the last one\n , CHECK (z > 0))",
    "named NOT NULL": "CREATE TABLE t (y CONSTRAINT n NOT NULL ON CONFLICT FAIL, z CONSTRAINT q)",
    "name without constraint": "CREATE TABLE t (a, y TEXT CONSTRAINT n, z CONSTRAINT m)",
    "everything on a column": (
        "create table [t] (`a` int, \"y\" text collate nocase check (y is not null or 'not null')"
        ' references u("not null") on delete set null on update set default not deferrable,'
        " [z] text unique check (z in ('default', ',', ')')))"
    ),
    "quoted with quotes": 'CREATE TABLE "t""(" (\'a,\' TEXT, "y" TEXT, `z` TEXT, "x,""y" TEXT)',
    "strict": "CREATE TABLE t (a INT PRIMARY KEY, y TEXT, z TEXT) STRICT",
    "without rowid": "CREATE TABLE t (a INT, y ANY, z INT, PRIMARY KEY (a)) STRICT, WITHOUT ROWID",
    "constraints without commas": (
        "CREATE TABLE t (a, y, z, CONSTRAINT p PRIMARY KEY (a) UNIQUE (y) CHECK (z <> y)"
        " FOREIGN KEY (y) REFERENCES t (a) ON DELETE SET DEFAULT)"
    ),
    "generated": "CREATE TABLE t (y, z, g AS (y || ', NOT NULL DEFAULT') STORED NOT NULL)",
    "blob and number": "CREATE TABLE t (a DEFAULT x'2C29', b DEFAULT -1.5e+3, y, z DEFAULT '{}')",
    "NULL said aloud": "CREATE TABLE t (y TEXT NULL, z TEXT DEFAULT NULL NOT NULL, a)",
    "a word of another alphabet": "CREATE TABLE t (ключ TEXT, y TEXT, z TEXT)",
}

shapes = pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())


def columns_in_sqlite(text: str) -> dict[str, tuple[object, ...]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(text)
        (table,) = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchone()
        rows = connection.execute(f"PRAGMA table_xinfo({quote(table)})").fetchall()
    return {row[1]: row[2:] for row in rows}


@shapes
def test_columns_are_those_that_sqlite_sees(text: str) -> None:
    assert CreateTable(text).columns == list(columns_in_sqlite(text))


def change(statement: CreateTable, column: str) -> tuple[CreateTable, CreateTable]:
    """Make every change that is one on *column*, and take each back."""
    there = statement
    nullable = there.set_not_null(column) is not there
    there = there.set_not_null(column)
    plain = there.default(column) is None and column != "g"  # a generated column has none
    if plain:
        there = there.set_default(column, "'balanced'")
    there = there.add("new column", "TEXT DEFAULT '{}' NOT NULL /* of all */").add("more", "INT")
    back = there.drop("NEW column").drop("more")
    if plain:
        back = back.drop_default(column)
    if nullable:
        back = back.drop_not_null(column)
    return there, back


@shapes
def test_changes_can_be_reversed_to_the_letter(text: str) -> None:
    for column in CreateTable(text).columns:
        changed, back = change(CreateTable(text), column)

        assert back.text == text
        before, after = columns_in_sqlite(text), columns_in_sqlite(changed.text)
        assert after.pop("new column") == ("TEXT", 1, "'{}'", 0, 0)
        assert after.pop("more") == ("INT", 0, None, 0, 0)
        assert list(after) == list(before)
        type_, _, default, key, hidden = before.pop(column)
        if hidden == 0:
            expected = (type_, 1, "'balanced'" if default is None else default, key, hidden)
            assert after[column] == expected
        after.pop(column)
        assert after == before


gaps = st.sampled_from([" ", "\n\t", " -- it's (a) comment,\n", "/* ', \" ( */", " /**/ "])
names = st.sampled_from(["a1", '"not null"', "[de,fault]", "`x)`", '"CONSTRAINT"', "Größe", "text"])
constraints = st.sampled_from(
    [
        "NOT NULL",
        "not/**/null on conflict abort",
        "CONSTRAINT n NOT NULL",
        "NULL",
        "DEFAULT 'balanced'",
        "DEFAULT -1",
        "CONSTRAINT d DEFAULT (1 + (2))",
        "DEFAULT x'00'",
        "COLLATE NOCASE",
        "CHECK (1 IS NOT NULL AND ')' <> '--')",
        "REFERENCES u (v) ON DELETE SET DEFAULT ON UPDATE SET NULL",
        "REFERENCES u MATCH FULL NOT DEFERRABLE INITIALLY DEFERRED",
        "UNIQUE",
        "CONSTRAINT dangling",
    ]
)
types = st.sampled_from(
    ["", "TEXT", "VARCHAR(26)", "DECIMAL ( 10 , 2 )", '"odd type"', "double precision"]
)
endings = st.sampled_from(
    ["", ", CHECK (1)", ",CONSTRAINT c CHECK (2) CHECK (3)", ", FOREIGN KEY (f) REFERENCES u (v)"]
)
options = st.sampled_from(["", " WITHOUT ROWID", "WITHOUT/**/ROWID -- end"])


@st.composite
def statements(draw: st.DrawFn) -> str:
    columns = ["f INT PRIMARY KEY"]
    for name in draw(st.lists(names, min_size=1, max_size=4, unique_by=fold)):
        parts = [name, draw(types), *draw(st.lists(constraints, max_size=4))]
        columns.append("".join(part + draw(gaps) for part in parts))
    columns = draw(st.permutations(columns))
    body = columns[0]
    for column in columns[1:]:
        body += draw(gaps) + "," + draw(gaps) + column
    return (
        f"CREATE TABLE t({draw(gaps)}{body}{draw(gaps)}{draw(endings)}{draw(gaps)}){draw(options)}"
    )


@given(statements())
def test_changes_of_whatever_sqlite_accepts_can_be_reversed(text: str) -> None:
    before = columns_in_sqlite(text)
    statement = CreateTable(text)

    assert statement.columns == list(before)
    for column in statement.columns:
        changed, back = change(statement, column)
        assert back.text == text
        after = columns_in_sqlite(changed.text)
        assert after[column][1] == 1
        assert after[column][2] == (before[column][2] or "'balanced'")
        assert {n: i for n, i in after.items() if n not in (column, "new column", "more")} == {
            n: i for n, i in before.items() if n != column
        }


def test_new_column_is_laid_out_as_the_last_one() -> None:
    text = SHAPES["many lines"]

    longer = CreateTable(text).add("x", "TEXT")

    assert longer.text == text.replace("z TEXT, \n", "z TEXT, \n\tx TEXT, \n")


def test_new_column_needs_no_definition() -> None:
    assert CreateTable("CREATE TABLE t (a)").add("b", "").text == "CREATE TABLE t (a, b)"


def test_comment_stays_beside_its_column() -> None:
    longer = CreateTable("CREATE TABLE t (a, -- one\n b -- two\n)").add("x", "TEXT")

    assert longer.text == "CREATE TABLE t (a, -- one\n b -- two\n,\n x TEXT)"


def test_not_null_and_default_that_are_there_stay_as_they_are() -> None:
    statement = CreateTable("CREATE TABLE t (a TEXT not null DEFAULT ( 'x' /* so */ ))")

    assert statement.set_not_null("A") is statement
    assert statement.set_default("A", "'x'") is statement


@pytest.mark.parametrize("value", ["'x'", "( 'x' /* so */ )", "-1", "CURRENT_TIME"])
def test_default_is_replaced_in_its_place(value: str) -> None:
    statement = CreateTable(f"CREATE TABLE t (a TEXT CONSTRAINT d DEFAULT {value} NOT NULL, b)")

    replaced = statement.replace_default("A", "'y'")

    assert replaced.text == statement.text.replace(value, "'y'")
    assert replaced.replace_default("b", "1").text == replaced.text.replace(
        ", b)", ", b DEFAULT 1)"
    )


def test_column_that_has_nothing_loses_nothing() -> None:
    statement = CreateTable("CREATE TABLE t (a TEXT REFERENCES t ON DELETE SET DEFAULT)")

    assert statement.drop_not_null("a") is statement
    assert statement.drop_default("a") is statement


def test_constraint_is_dropped_with_its_name_and_its_conflict_clause() -> None:
    statement = CreateTable("CREATE TABLE t (a CONSTRAINT n NOT NULL ON CONFLICT FAIL UNIQUE)")

    assert statement.drop_not_null("a").text == "CREATE TABLE t (a UNIQUE)"


def test_first_column_can_be_dropped() -> None:
    assert CreateTable("CREATE TABLE t (a INT, b)").drop("a").text == "CREATE TABLE t (b)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CREATE VIEW v AS SELECT (1)", "expected CREATE TABLE"),
        ("CREATE VIRTUAL TABLE v USING fts5(a)", "expected CREATE TABLE"),
        ("", "expected CREATE TABLE"),
        ("CREATE TABLE t (a", "never closed"),
        ("CREATE TABLE t (a,, b)", "missing between two commas"),
    ],
)
def test_text_that_is_no_table_is_refused(text: str, message: str) -> None:
    with pytest.raises(DdlNotUnderstood, match=message):
        CreateTable(text)


def test_change_that_cannot_be_made_says_why() -> None:
    statement = CreateTable("CREATE TABLE t (a TEXT DEFAULT 'x')")

    with pytest.raises(DdlNotUnderstood, match="column b not found; there are a"):
        statement.set_not_null("b")
    with pytest.raises(DdlNotUnderstood, match="column a has DEFAULT 'x', expected none or 'y'"):
        statement.set_default("a", "'y'")
    with pytest.raises(DdlNotUnderstood, match="column A is there already"):
        statement.add("A", "TEXT")
    with pytest.raises(DdlNotUnderstood, match="column a is the only one"):
        statement.drop("a")
    with pytest.raises(DdlNotUnderstood, match="expected the definition of one column"):
        statement.add("b", "TEXT, c TEXT")


def test_checks_are_found_wherever_they_stand() -> None:
    statement = CreateTable(
        "CREATE TABLE t (a CHECK (a > (0)), b DEFAULT 'CHECK (1)', check(b<')'))"
    )

    assert statement.checks == ["(a > (0))", "(b<')')"]


def test_tokens_carry_names_without_their_quotes() -> None:
    tokens = tokenize("""a "b""c" `d` [e] 'f''g' x'00' 1.5e-3 $""")

    assert [token.name for token in tokens] == ["a", 'b"c', "d", "e", "f'g", None, None, None]


def test_table_itself_and_nothing_else_is_renamed_in_an_expression() -> None:
    expression = "SELECT t.a, u.t, 't', main.T.b FROM \"t\" JOIN [T] AS v -- t"

    renamed = rename_table(expression, "t", "_new")

    assert renamed == "SELECT _new.a, u.t, 't', main._new.b FROM _new JOIN _new AS v -- t"


def test_expressions_are_compared_by_their_tokens() -> None:
    assert same_expression("( ('a') )", "'a' -- same")
    assert same_expression("Current_Timestamp", "CURRENT_TIMESTAMP")
    assert not same_expression("'a'", "'A'")
    assert not same_expression("(1) + (2)", "1) + (2")
