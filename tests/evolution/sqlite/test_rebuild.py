"""A rebuild of a SQLite table changes what it was asked to change, and keeps everything else."""

from __future__ import annotations

import logging
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError

from cleveragents_plans.evolution.sqlite.rebuild import RebuildRefused
from cleveragents_plans.evolution.sqlite.table_state import Change, TableState
from cleveragents_plans.evolution.sqlite.tokens import quote
from support.rebuilds import Rebuild, execute, rebuild, rebuilding


def schema(file: Path) -> dict[tuple[str, str], tuple[str, str | None]]:
    rows = execute(file, "SELECT type, name, tbl_name, sql FROM sqlite_master")
    return {(kind, name): (table, sql) for kind, name, table, sql in rows}


def everything(file: Path) -> tuple[object, ...]:
    """What a reader can see of *file*, rowids and statistics included."""
    found = schema(file)
    rows = {}
    for kind, name in found:
        if kind in ("table", "view"):
            text = found[kind, name][1] or ""
            rowid = "rowid, " if kind == "table" and "WITHOUT ROWID" not in text else ""
            rows[name] = execute(file, f"SELECT {rowid}* FROM {quote(name)}")
    return (
        found,
        rows,
        execute(file, "PRAGMA foreign_key_check"),
        execute(file, "PRAGMA quick_check"),
    )


NASTY = """
CREATE TABLE country (code TEXT PRIMARY KEY, "Port" TEXT);
CREATE TABLE {name} (
    id INTEGER PRIMARY KEY{autoincrement}, -- it's (not) "the" number
    code TEXT COLLATE NOCASE UNIQUE /* , unnamed */ CHECK (code <> ')'),
    "over, seas" TEXT default 'a, (b', [kind] TEXT DEFAULT 'x',
    parent INTEGER REFERENCES {bare} ON DELETE SET NULL,
    root INTEGER REFERENCES {bare} (id) ON DELETE RESTRICT,
    country TEXT REFERENCES country (code),
    twice INTEGER GENERATED ALWAYS AS (id * 2) VIRTUAL, thrice INT AS (id * 3) STORED NOT NULL,
    note TEXT CONSTRAINT noted NOT NULL DEFAULT '', -- the last
    CHECK (id > 0), CONSTRAINT one UNIQUE (parent, "over, seas") CHECK (kind IS NOT NULL)
){options};
CREATE TABLE ship (
    number INTEGER PRIMARY KEY AUTOINCREMENT, port INTEGER REFERENCES {bare} (id) ON DELETE CASCADE
);
CREATE TABLE log (what TEXT);
CREATE INDEX "ix plain" ON {bare} (parent, country DESC);
CREATE UNIQUE INDEX ix_partial ON {bare} (code COLLATE BINARY) WHERE code > 'm' AND kind = 'x';
CREATE INDEX ix_expression ON {bare} (lower("over, seas"), id + 1 DESC);
CREATE TRIGGER before_insert BEFORE INSERT ON {bare} WHEN new.id = 0 BEGIN
    SELECT RAISE(FAIL, 'no'); END;
CREATE TRIGGER after_update AFTER UPDATE OF code, parent ON {bare} FOR EACH ROW BEGIN
    -- mentions the table itself
    INSERT INTO log SELECT 'updated ' || count(*) FROM {bare} WHERE parent = new.id; END;
CREATE TRIGGER after_delete AFTER DELETE ON {bare} BEGIN INSERT INTO log VALUES ('gone; END'); END;
CREATE TRIGGER from_ship AFTER INSERT ON ship BEGIN
    UPDATE {bare} SET note = 'hit' WHERE id = new.port; END;
CREATE VIEW top AS SELECT id, code, note FROM {bare} WHERE parent IS NULL;
CREATE VIEW nested (n) AS SELECT count(*) FROM top JOIN {bare} USING (id);
CREATE TRIGGER instead INSTEAD OF INSERT ON top BEGIN
    INSERT INTO {bare} (id, code) VALUES (new.id, new.code); END;
CREATE TRIGGER instead_delete INSTEAD OF DELETE ON top BEGIN
    DELETE FROM {bare} WHERE id = old.id; END;
INSERT INTO country VALUES ('dk', NULL), ('no', NULL);
INSERT INTO {bare} (id, code, parent, root, country) VALUES
    (1, 'a', NULL, NULL, 'dk'),
    (3, 'b', 1, NULL, 'no'), (5, 'c', 3, NULL, 'no'), (9, 'd', 5, 7, NULL),
    (7, 'e', NULL, 7, 'lost'), (40, NULL, 9, 7, 'dk'), (99, 'z', NULL, NULL, NULL);
DELETE FROM {bare} WHERE id = 99;
INSERT INTO ship (port) VALUES (1), (1), (9), (1000);
ALTER TABLE {bare} ADD COLUMN late REAL DEFAULT 1.5 CHECK (late > 0);
CREATE TABLE _alembic_tmp_port (id);
CREATE TABLE _rebuild_1 (id);
ANALYZE;
"""

KINDS = {
    "plain": {"name": "port", "bare": "port", "autoincrement": "", "options": ""},
    "autoincrement": {
        "name": "Port",
        "bare": "PORT",
        "autoincrement": " AUTOINCREMENT",
        "options": "",
    },
    "quoted": {"name": '"po""rt"', "bare": '[po"rt]', "autoincrement": "", "options": ""},
    "strict": {"name": "`port`", "bare": "'port'", "autoincrement": "", "options": " STRICT"},
    "without rowid": {
        "name": "port",
        "bare": "port",
        "autoincrement": "",
        "options": " WITHOUT ROWID",
    },
    "both": {
        "name": "port",
        "bare": "port",
        "autoincrement": "",
        "options": " STRICT,WITHOUT ROWID",
    },
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def nasty(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file with one table that has all that can be lost; and the name to call it by."""
    file = tmp_path / "nasty.db"
    kind = dict(request.param)
    table = {'"po""rt"': 'po"rt'}.get(kind["name"], "port")
    if kind["bare"] == "'port'":
        kind["bare"] = "port"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(NASTY.format(**kind))
    return file, table


#: The root of each tree; a root that is known counts for all below it.
ROOT = """
    CASE WHEN old.root IS NOT NULL THEN old.root WHEN parent IS NULL THEN old.id ELSE (
        WITH RECURSIVE up (id, parent, root) AS (
            SELECT id, parent, root FROM "{0}" WHERE id = old.parent
            UNION ALL
            SELECT p.id, p.parent, p.root FROM up JOIN main.[{0}] AS p ON p.id = up.parent
            WHERE up.root IS NULL
        ) SELECT coalesce(root, id) FROM up WHERE root IS NOT NULL OR parent IS NULL
    ) END"""


def there(table: str) -> dict[str, Any]:
    root = ROOT.replace("[{0}]", f"[{table}]").replace('"{0}"', quote(table))
    return {
        "add": {"snapshot": "TEXT DEFAULT '{}' NOT NULL"},
        "set_not_null": ("root", "kind"),
        "set_default": {"Parent": "-1", "kind": "('x')"},
        "values": {"ROOT": root, "snapshot": "'of ' || id", "code": "coalesce(code, 'new')"},
    }


BACK = {
    "drop": ("snapshot",),
    "drop_not_null": ("root", "kind"),
    "drop_default": ("parent",),
    "values": {"root": "CASE WHEN root = 7 THEN 7 END", "code": "nullif(code, 'new')"},
}


def test_rebuild_and_its_opposite_leave_everything_as_it_was(nasty: tuple[Path, str]) -> None:
    file, table = nasty
    before = everything(file)

    rebuild(file, table, **there(table))
    between = everything(file)
    rebuild(file, table.upper(), **BACK)

    assert between != before
    assert everything(file) == before


def test_rebuild_changes_only_what_it_is_asked_for(nasty: tuple[Path, str]) -> None:
    file, table = nasty
    before = schema(file)
    name = next(name for kind, name in before if kind == "table" and name.lower() == table)
    text = before.pop(("table", name))[1] or ""

    rebuild(file, table, **there(table))
    after = schema(file)

    assert (after.pop(("table", name))[1] or "") == text.replace(
        "ON DELETE SET NULL,", "ON DELETE SET NULL DEFAULT -1,"
    ).replace("ON DELETE RESTRICT,", "ON DELETE RESTRICT NOT NULL,").replace(
        "DEFAULT 'x',", "DEFAULT 'x' NOT NULL,"
    ).replace(
        "late REAL DEFAULT 1.5 CHECK (late > 0)",
        "late REAL DEFAULT 1.5 CHECK (late > 0), snapshot TEXT DEFAULT '{}' NOT NULL",
    )
    assert after == before
    quoted = quote(name)
    assert execute(
        file, f"SELECT id, root, code, snapshot, twice, thrice FROM {quoted} ORDER BY id"
    ) == [
        (1, 1, "a", "of 1", 2, 3),
        (3, 1, "b", "of 3", 6, 9),
        (5, 1, "c", "of 5", 10, 15),
        (7, 7, "e", "of 7", 14, 21),
        (9, 7, "d", "of 9", 18, 27),
        (40, 7, "new", "of 40", 80, 120),
    ]


def test_rebuild_that_changes_nothing_can_be_repeated(nasty: tuple[Path, str]) -> None:
    file, table = nasty
    before = everything(file)

    with rebuilding(file) as operation:
        operation(table)
        operation(table)

    assert everything(file) == before


def test_indexes_and_triggers_are_created_again_in_their_order(nasty: tuple[Path, str]) -> None:
    file, table = nasty
    order = "SELECT name FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql <> ''"
    order += f" AND tbl_name = '{table}' COLLATE NOCASE ORDER BY rowid"
    before = execute(file, order)

    rebuild(file, table)

    assert execute(file, order) == before
    assert len(before) == 6


def test_second_of_two_equal_rebuilds_changes_nothing(nasty: tuple[Path, str]) -> None:
    file, table = nasty
    changes = {**there(table), "add": {}}
    del changes["values"]["snapshot"]
    rebuild(file, table, **changes)
    before = everything(file)

    rebuild(file, table, **changes)

    assert everything(file) == before


def test_triggers_views_and_foreign_keys_go_on_working(nasty: tuple[Path, str]) -> None:
    file, table = nasty
    name = quote(table)
    rebuild(file, table, **there(table))

    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"INSERT INTO {name} (id, root, parent) VALUES (41, 1, NULL)")
        connection.execute("DELETE FROM top WHERE id = 7 AND 0")
        connection.execute("INSERT INTO ship (port) VALUES (41)")
        connection.execute(f"UPDATE {name} SET code = 'q' WHERE id = 41")
        connection.execute(f"DELETE FROM {name} WHERE id = 41")
        with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
            connection.execute(f"INSERT INTO {name} (id) VALUES (42)")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            connection.execute(f"INSERT INTO {name} (id, root) VALUES (42, 43)")
        log = connection.execute("SELECT what FROM log").fetchall()
        ships = connection.execute("SELECT port FROM ship").fetchall()

    assert log == [("gone; END",), ("updated 0",), ("gone; END",)]
    assert ships == [(1,), (1,), (9,), (1000,)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file: two tables, of which one refers to the other."""
    path = tmp_path / "small.db"
    execute(
        path,
        "CREATE TABLE port (id TEXT PRIMARY KEY, kind TEXT, g AS (id || kind), code UNIQUE)",
        "CREATE TABLE ship (port TEXT REFERENCES port (id) ON DELETE CASCADE)",
        "INSERT INTO port (id, kind) VALUES ('a', 'x'), ('b', NULL)",
        "INSERT INTO ship VALUES ('a'), ('nowhere')",
    )
    return path


def refused(file: Path, message: str, table: str = "port", **changes: Any) -> RebuildRefused:
    """Expect a refusal that leaves the file as it was."""
    before = everything(file)
    with pytest.raises(RebuildRefused, match=message) as caught:
        rebuild(file, table, **changes)
    assert everything(file) == before
    assert isinstance(caught.value, CommandError)
    assert "\n" not in str(caught.value)
    return caught.value


def test_refusal_carries_its_facts(file: Path) -> None:
    error = refused(file, "column x not found", set_not_null=["x"])

    assert error.table == "port"
    assert error.reason == "column x not found; there are id, kind, g, code"
    assert str(error) == f"port was not rebuilt: {error.reason}; nothing was changed"


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("column x not found", {"drop": ["x"]}),
        ("column x not found, for which there is a value", {"values": {"x": "1"}}),
        ("column kind is there already", {"add": {"kind": "TEXT"}}),
        ("column g is generated", {"values": {"G": "1"}}),
        ("NOT NULL constraint failed: port.kind", {"set_not_null": ["kind"]}),
        ("NOT NULL constraint failed: port.n", {"add": {"n": "INT NOT NULL"}}),
        ("no such column: nope", {"values": {"kind": "nope"}}),
        ("no such column: kind", {"drop": ["kind"]}),
        ("rows now break a foreign key: ship.port to port", {"values": {"id": "id || '!'"}}),
        ("index UNIQUE .* is lost", {"drop": ["code"]}),
        ("index UNIQUE .* is new", {"add": {"u": "TEXT UNIQUE"}}),
    ],
)
def test_change_that_cannot_be_done_is_refused_in_one_line(
    file: Path, message: str, changes: dict[str, Any]
) -> None:
    refused(file, message, **changes)


def test_default_other_than_expected_is_refused(file: Path) -> None:
    execute(file, "ALTER TABLE port ADD COLUMN d TEXT DEFAULT 'old'")

    refused(file, "column d has DEFAULT 'old', expected none or 'new'", set_default={"d": "'new'"})


@pytest.mark.parametrize(
    ("message", "name", "statement"),
    [
        ("there is no such table", "nothing", "SELECT 1"),
        ("there is no such table", "ix", "CREATE INDEX ix ON port (kind)"),
        ("it is a view, expected a table", "v", "CREATE VIEW v AS SELECT 1"),
        ("it is a virtual table", "f", "CREATE VIRTUAL TABLE f USING fts5(a)"),
        ("it is the shadow table", "f_content", "CREATE VIRTUAL TABLE f USING fts5(a)"),
    ],
)
def test_object_that_is_no_table_is_refused(
    file: Path, message: str, name: str, statement: str
) -> None:
    execute(file, statement)

    refused(file, message, name)


def test_trigger_of_the_same_name_is_not_taken_for_the_table(file: Path) -> None:
    execute(file, "CREATE TRIGGER port AFTER INSERT ON ship BEGIN SELECT 1; END")

    rebuild(file, "port", set_default={"kind": "1"})

    assert execute(file, "INSERT INTO port (id) VALUES (3) RETURNING kind") == [("1",)]


def test_temporary_table_of_the_same_name_is_refused(file: Path) -> None:
    with (
        rebuilding(file, "CREATE TEMP TABLE PORT (id)") as operation,
        pytest.raises(RebuildRefused, match="temporary object"),
    ):
        operation("port")


def test_temporary_trigger_that_would_be_lost_is_refused(file: Path) -> None:
    trigger = "CREATE TEMP TRIGGER t AFTER INSERT ON main.port BEGIN SELECT 1; END"
    with (
        rebuilding(file, trigger) as operation,
        pytest.raises(RebuildRefused, match=r"the temporary trigger t .* is not what was expected"),
    ):
        operation("port")


def test_text_that_is_not_what_sqlite_read_is_refused(file: Path) -> None:
    text = "UPDATE sqlite_master SET sql = 'CREATE TABLE port (id, b)' WHERE name = 'port'"
    with (
        rebuilding(file, "SELECT * FROM port", "PRAGMA writable_schema = ON", text) as operation,
        pytest.raises(RebuildRefused, match=r"having \['id', 'b'\], and SQLite has \['id', 'kind'"),
    ):
        operation("port")


def test_state_reports_lost_rows_and_columns(file: Path) -> None:
    change = Change(frozenset(), frozenset(), {}, {})
    with rebuilding(file) as operation:
        before = TableState.of(operation.connection, "port")
    text = before.schema["table", "port"]

    less = replace(before, rows=1, columns=before.columns[:-1])

    assert list(before.unexpected(before, text, change)) == []
    assert list(before.unexpected(less, text, change)) == [
        "it had 2 rows and now has 1",
        "column code should be ('code', '', False, None, 0, 0) and is None",
    ]


def test_foreign_keys_must_be_off(file: Path) -> None:
    with (
        rebuilding(file, "PRAGMA foreign_keys = ON") as operation,
        pytest.raises(RebuildRefused, match=r"keys are enforced.*PRAGMA foreign_keys = OFF"),
    ):
        operation("port")


def test_transaction_must_have_begun(file: Path) -> None:
    with (
        rebuilding(file, begin=None) as operation,
        pytest.raises(RebuildRefused, match=r"no transaction is open.*BEGIN IMMEDIATE"),
    ):
        operation("port")


@pytest.mark.parametrize(("former", "setting"), [(0, "OFF"), (1, "ON")])
def test_settings_of_the_connection_are_restored(file: Path, former: int, setting: str) -> None:
    execute(
        file,
        "PRAGMA ignore_check_constraints = ON",
        "ALTER TABLE port ADD COLUMN c INT CHECK (c > 0)",
    )
    pragmas = ("legacy_alter_table", "ignore_check_constraints", "cache_size", "recursive_triggers")
    with rebuilding(file, f"PRAGMA legacy_alter_table = {setting}") as operation:
        run = operation.connection.exec_driver_sql
        before = [run(f"PRAGMA {name}").scalar() for name in pragmas]
        operation("port")
        with pytest.raises(RebuildRefused):
            operation("port", set_not_null=["kind"])
        after = [run(f"PRAGMA {name}").scalar() for name in pragmas]

    assert after == before
    assert before[0] == former


@pytest.mark.parametrize(
    ("what", "statement"),
    [
        ('index ix names "kind"', 'CREATE INDEX ix ON port (lower("kind"))'),
        ('view v names "kind"', 'CREATE VIEW v AS SELECT "Kind" FROM port'),
        ("no such column: kind", "CREATE INDEX ix ON port (id) WHERE kind > 1"),
        ("SELECT on v can no longer be compiled", "CREATE VIEW v AS SELECT kind FROM port"),
        (
            "INSERT on ship can no longer be compiled",
            "CREATE TRIGGER t AFTER INSERT ON ship BEGIN UPDATE port SET kind = 1; END",
        ),
        (
            "UPDATE on port can no longer be compiled",
            "CREATE TRIGGER t AFTER UPDATE OF id ON port BEGIN SELECT new.kind; END",
        ),
    ],
)
def test_column_that_is_used_elsewhere_is_not_dropped(
    tmp_path: Path, what: str, statement: str
) -> None:
    file = tmp_path / "used.db"
    execute(
        file,
        "CREATE TABLE port (id TEXT PRIMARY KEY, kind TEXT, g AS (id || 1))",
        "CREATE TABLE ship (port TEXT)",
        "CREATE VIEW broken AS SELECT 1 FROM nowhere",
        statement,
    )
    with pytest.raises(RebuildRefused, match=what):
        rebuild(file, "port", drop=["kind"])

    assert [row[1] for row in execute(file, "PRAGMA table_info(port)")] == ["id", "kind"]


def test_column_that_the_table_itself_names_in_quotes_is_not_dropped(tmp_path: Path) -> None:
    file = tmp_path / "quoted.db"
    execute(file, 'CREATE TABLE port (id INT, kind TEXT, CHECK ("kind" <> 1))')

    refused(file, 'table port names "kind"', drop=["kind"])


def test_foreign_key_is_added_and_dropped_with_its_column(file: Path) -> None:
    before = everything(file)

    rebuild(file, "port", add={"old": "TEXT REFERENCES port (id)"}, values={"old": "id"})
    rebuild(file, "port", drop=["old"])

    assert everything(file) == before


def test_violations_that_existed_before_are_allowed_and_new_ones_are_not(file: Path) -> None:
    rebuild(file, "ship", set_default={"port": "'a'"})
    assert len(execute(file, "PRAGMA foreign_key_check")) == 1

    refused(
        file,
        r"1 rows now break a foreign key: ship.port to port \(rowid 1\)",
        "ship",
        values={"port": "'lost'"},
    )


def test_constraint_that_sqlite_goes_on_enforcing_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "key.db"
    execute(file, "CREATE TABLE port (id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID")

    refused(file, "column id should be .*False.* and is .*True", drop_not_null=["id"])


def test_definition_of_more_than_one_column_is_refused(file: Path) -> None:
    refused(file, "definition of one column", add={"n": "INT, m INT"})


def test_foreign_key_that_cannot_be_checked_is_left_as_it_is(file: Path) -> None:
    execute(
        file,
        "CREATE TABLE crate (kind TEXT REFERENCES port (kind))",
        "INSERT INTO crate VALUES (1)",
    )

    rebuild(file, "port", set_default={"kind": "1"})

    assert "kind TEXT DEFAULT 1" in str(schema(file)["table", "port"])


def test_rows_that_break_a_check_already_are_kept_and_new_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "check.db"
    execute(
        file,
        "CREATE TABLE port (id INTEGER PRIMARY KEY, kind TEXT CHECK (kind IN ('x', 'y')), root)",
        "PRAGMA ignore_check_constraints = ON",
        "INSERT INTO port VALUES (1, 'bogus', 1), (2, 'x', NULL)",
    )

    rebuild(file, "port", set_not_null=["root"], values={"root": "coalesce(root, id)"})

    assert execute(file, "SELECT * FROM port") == [(1, "bogus", 1), (2, "x", 2)]
    with pytest.raises(
        RebuildRefused, match=r"2 rows would break CHECK \(kind IN .*; 1 did before"
    ):
        rebuild(file, "port", values={"kind": "'other'"})
    with pytest.raises(RebuildRefused, match=r"2 rows would break CHECK \(n > 5\); 0 did before"):
        rebuild(file, "port", add={"n": "INT CHECK (n > 5)"}, values={"n": "id"})


def test_rows_that_a_constraint_would_skip_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "skip.db"
    execute(
        file,
        "CREATE TABLE port (a TEXT UNIQUE ON CONFLICT IGNORE)",
        "INSERT INTO port VALUES (1), (2)",
    )

    refused(file, "UNIQUE constraint failed: port.a", values={"a": "'same'"})


def test_value_that_reads_the_table_through_a_view_is_refused(file: Path) -> None:
    execute(file, "CREATE VIEW kinds AS SELECT max(kind) AS top FROM port")

    refused(file, "reads the table through a view", values={"kind": "(SELECT top FROM kinds)"})


def test_column_may_be_called_rowid(tmp_path: Path) -> None:
    file = tmp_path / "rowid.db"
    execute(
        file,
        "CREATE TABLE one (rowid TEXT, a)",
        "CREATE TABLE all_three (rowid TEXT, _rowid_ TEXT, oid TEXT)",
        "INSERT INTO one (_rowid_, rowid, a) VALUES (8, 'x', 1), (4, 'y', 2)",
        "INSERT INTO all_three VALUES (1, 2, 3)",
    )

    rebuild(file, "one", values={"a": "a + 1"})
    rebuild(file, "all_three", set_not_null=["oid"])

    assert execute(file, "SELECT oid, rowid, a FROM one") == [(4, "y", 3), (8, "x", 2)]
    assert execute(file, "SELECT * FROM all_three") == [("1", "2", "3")]


def test_check_that_names_its_own_table_is_refused_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "check.db"
    execute(file, "CREATE TABLE port (a INT, CHECK (port.a > 0))")

    refused(file, "renaming the old table failed with .*no such column: port.a")


def test_rebuild_reports_its_time_and_rows(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "alembic.evolution"):
        rebuild(file, "port")

    assert re.search(r"port rebuilt: 2 rows copied in \d\.\d s", caplog.text)


def test_offline_mode_is_refused_and_says_what_to_do() -> None:
    context = MigrationContext.configure(dialect_name="sqlite", opts={"as_sql": True})
    operation = Rebuild(context)

    with pytest.raises(RebuildRefused, match="run the upgrade against the file itself"):
        operation("port")


def test_other_database_is_refused() -> None:
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True})
    operation = Rebuild(context)

    with pytest.raises(RebuildRefused, match="is for SQLite, and this database is postgresql"):
        operation("port")


class Odd:
    """A function of SQL that raises at its third row."""

    def __init__(self, error: BaseException) -> None:
        self.rows = 0
        self.error = error

    def __call__(self, *_: Any) -> int:
        self.rows += 1
        if self.rows == 3:
            raise self.error
        return self.rows

    def close(self) -> None:
        raise AssertionError("the copy did not come to its end")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("of our own")])
def test_exception_of_a_function_of_the_copy_is_raised(tmp_path: Path, error: BaseException):
    file = tmp_path / "file.db"
    execute(file, "CREATE TABLE one (a)", "INSERT INTO one VALUES (1), (2), (3), (4)")

    with pytest.raises(type(error)):
        rebuild(
            file, "one", values={"a": "odd(a)"}, functions={"odd": lambda _driver, _old: Odd(error)}
        )

    assert execute(file, "SELECT a FROM one") == [(1,), (2,), (3,), (4,)]
