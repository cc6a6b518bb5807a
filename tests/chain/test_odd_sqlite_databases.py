"""SQLite files of unusual shape: up, down and up again, or refused before any change."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from cleveragents_plans import open_engine, schema
from cleveragents_plans.cli import main
from support.databases import migrate, roll_back
from support.faults import Migration, execute, one_clear_line
from support.former_release import write_former_release
from support.reshaping import broken_text, reshape, with_columns, with_ids, with_options
from support.revisions import M4_003, M8_001
from support.rows import database_hash, schema_dump

#: What m8_001 may write, of all columns of v3_plans.
WRITTEN = ("root_plan_id", "automation_profile", "effective_profile_snapshot")
FTS = (
    "CREATE VIRTUAL TABLE plan_words USING fts5(description, content='v3_plans')",
    "INSERT INTO plan_words (plan_words) VALUES ('rebuild')",
    "CREATE TRIGGER plan_words_insert AFTER INSERT ON v3_plans BEGIN"
    " INSERT INTO plan_words (rowid, description) VALUES (new.rowid, new.description); END",
    "CREATE TRIGGER plan_words_delete AFTER DELETE ON v3_plans BEGIN INSERT INTO plan_words"
    " (plan_words, rowid, description) VALUES ('delete', old.rowid, old.description); END",
    "CREATE VIRTUAL TABLE places USING rtree(id, x0, x1)",
    "INSERT INTO places VALUES (1, 2.5, 3.5), (2, 4, 5)",
    "CREATE TRIGGER places_update AFTER UPDATE ON v3_plans BEGIN"
    " UPDATE places SET x0 = 0 WHERE id = 1; END",
)
GENERATED = with_columns(
    "loud TEXT GENERATED ALWAYS AS (upper(description)) VIRTUAL",
    "is_child INTEGER AS (parent_plan_id IS NOT NULL) STORED NOT NULL",
)


def deferred(sql: str) -> str:
    return sql.replace("ON DELETE RESTRICT", "ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED")


SHAPES: dict[str, dict[str, Any]] = {
    "as the chain makes it": {},
    "UTF-16le": {"pragmas": ["encoding = 'UTF-16le'"]},
    "UTF-16be": {"pragmas": ["encoding = 'UTF-16be'"]},
    "pages of 512 bytes": {"pragmas": ["page_size = 512"]},
    "pages of 65536 bytes": {"pragmas": ["page_size = 65536"]},
    "auto_vacuum full": {"pragmas": ["auto_vacuum = FULL"]},
    "auto_vacuum incremental": {"pragmas": ["auto_vacuum = INCREMENTAL"]},
    "a write-ahead log": {"pragmas": ["journal_mode = WAL"]},
    "a version and an id of the user": {"pragmas": ["user_version = 7", "application_id = 8"]},
    "STRICT": {"edit": with_options("STRICT")},
    "WITHOUT ROWID": {"edit": with_options("WITHOUT ROWID")},
    "STRICT, WITHOUT ROWID": {"edit": with_options("STRICT, WITHOUT ROWID")},
    "UTF-16 and WITHOUT ROWID": {
        "pragmas": ["encoding = 'UTF-16be'"], "edit": with_options("WITHOUT ROWID"),
    },
    "full-text search, an rtree and their triggers": {"after": FTS},
    "generated columns": {"edit": GENERATED},
    "deferred constraints": {"edit": deferred},
    "a column named rowid": {"edit": with_columns("rowid TEXT DEFAULT 'x'")},
    "all names of the rowid hidden": {"edit": with_columns("rowid INT", "_rowid_ INT", "oid INT")},
    "ids stored as BLOB": {"edit": with_ids("BLOB"), "new_id": lambda id_: b"\xff" + id_.encode()},
    "ids stored as INTEGER": {"edit": with_ids("INTEGER"), "new_id": lambda id_: number(id_)},
    "ids in a column of no type": {"edit": with_ids(""), "new_id": lambda id_: any_type(id_)},
    "ids with quotes": {"new_id": lambda id_: f"it's \"{id_}\" [`%s`] -- ; \\ %:x"},
    "ids with spaces and ends of lines": {"new_id": lambda id_: f" \t{id_}\n\r "},
    "ids with NUL": {"new_id": lambda id_: f"\0{id_}\0"},
    "ids in other scripts": {"new_id": lambda id_: f"计划 𝄞 {id_} ünï"},
    "ids of 10,000 characters": {"new_id": lambda id_: id_ * 400},
    "ids that ignore case": {
        "edit": with_ids("TEXT COLLATE NOCASE"),
        "new_id": lambda id_: id_,
        "after": ["UPDATE v3_plans SET parent_plan_id = lower(parent_plan_id)"],
    },
}  # fmt: skip


def number(id_: str) -> int:
    return int(hashlib.sha256(id_.encode()).hexdigest()[:15], 16) - 2**58


def any_type(id_: str) -> int | str | bytes:
    kinds = (number(id_), id_, id_.encode())
    return kinds[number(id_) % 3]


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 400 plans that the chain made, as the former release left it."""
    file = tmp_path_factory.mktemp("former") / "plans.db"
    write_former_release(f"sqlite:///{file}", 400, seed=3, also_tables=True)
    return file


def read(file: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        connection.text_factory = broken_text
        return connection.execute(query).fetchall()


def true_roots(file: Path) -> dict[Any, Any]:
    """Work out the root of each plan, by the spelling of its own id."""
    case = "NOCASE" in read(file, "SELECT sql FROM sqlite_master WHERE name = 'v3_plans'")[0][0]

    def same(value: Any) -> Any:
        return (type(value), value.lower() if case and isinstance(value, str) else value)

    rows = read(file, "SELECT plan_id, parent_plan_id, root_plan_id FROM v3_plans")
    plans = {same(plan): (plan, parent, root) for plan, parent, root in rows}
    roots = {}
    for plan, parent, root in rows:
        above = parent
        at = plan
        while root is None and above is not None and same(above) in plans:
            at, above, root = plans[same(above)]
            if root is not None:
                root = plans[same(root)][0]
        roots[plan] = at if root is None else root
    return roots


def untouched(file: Path) -> list[tuple[Any, ...]]:
    """Read what no migration may change: other columns and their order, rowids, settings."""
    names = [row[1] for row in read(file, "PRAGMA table_xinfo(v3_plans)")]
    kept = ", ".join(name for name in names if name not in WRITTEN)
    settings = ("encoding", "page_size", "auto_vacuum", "journal_mode", "user_version")
    return [
        *read(file, f"SELECT {kept} FROM v3_plans"),
        *(read(file, f"PRAGMA {name}")[0] for name in settings),
        *read(file, "PRAGMA foreign_key_check"),
        *read(file, "PRAGMA integrity_check"),
    ]


def up_down_and_up(file: Path) -> None:
    url = f"sqlite:///{file}"
    roots, kept, schema = true_roots(file), untouched(file), schema_dump(url)

    migrate(url, M8_001)
    assert dict(read(file, "SELECT plan_id, root_plan_id FROM v3_plans")) == roots
    assert untouched(file) == kept
    up = database_hash(url)

    roll_back(url, M4_003)
    assert schema_dump(url) == schema
    assert untouched(file) == kept
    down = database_hash(url)

    migrate(url, M8_001)
    assert database_hash(url) == up
    roll_back(url, M4_003)
    assert database_hash(url) == down


@pytest.mark.parametrize("shape", SHAPES)
def test_file_of_an_unusual_shape_is_upgraded_downgraded_and_upgraded_again(
    former: Path, tmp_path: Path, shape: str
):
    file = tmp_path / "plans.db"
    reshape(former, file, **SHAPES[shape])

    up_down_and_up(file)


@pytest.mark.parametrize(("encoding", "broken"), [
    ("UTF-8", b"a\xff\xe2\x82"),
    ("UTF-16le", b"a\x00\x00\xd8b\x00"),  # half of a surrogate pair
    ("UTF-16be", b"\x00a\xdc\x00\x00b"),
])  # fmt: skip
@pytest.mark.parametrize("options", ["", "WITHOUT ROWID"])
def test_text_that_is_not_valid_is_kept_byte_by_byte(
    former: Path, tmp_path: Path, encoding: str, broken: bytes, options: str
):
    file = tmp_path / "plans.db"
    text = f"CAST(x'{broken.hex()}' AS TEXT)"
    reshape(
        former,
        file,
        pragmas=[f"encoding = '{encoding}'"],
        edit=with_options(options),
        after=[
            f"INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, automation_profile,"
            f" description, created_at, updated_at) VALUES"
            f" ({text}, NULL, 'x', {text}, {text}, '', ''),"
            f" ('kid', {text}, 'x', 'a name' || {text}, 'x', '', ''),"
            f" (hex(zeroblob(1)) || {text}, 'kid', {text}, {text} || char(0), 'x', '', '')",
        ],
    )
    columns = ("plan_id", "parent_plan_id", "root_plan_id", "automation_profile", "description")
    exact = [f"typeof({name}), hex(CAST({name} AS BLOB))" for name in columns]
    everything = f"SELECT {', '.join(exact)} FROM v3_plans"

    migrate(f"sqlite:///{file}", M8_001)
    up = read(file, everything)
    ours = [row for row in up if broken.hex().upper() in row[1] + row[3]]
    assert [row[4:6] for row in ours] == [("text", broken.hex().upper())] * 3
    roll_back(f"sqlite:///{file}", M4_003)
    migrate(f"sqlite:///{file}", M8_001)

    assert read(file, everything) == up


@pytest.mark.parametrize("profile", [
    "x'74727573746564'",  # the bytes of a name
    "'trus' || char(0) || 'ted'",
    "char(0)",
    "7",
    "'{ \"profile_name\": \"x' || char(0) || '\", \"provenance\": null }'",
])  # fmt: skip
def test_profiles_that_are_no_names_are_left_alone(former: Path, tmp_path: Path, profile: str):
    file = tmp_path / "plans.db"
    reshape(former, file, after=[f"UPDATE v3_plans SET automation_profile = {profile}"])
    exact = "SELECT DISTINCT typeof(automation_profile), quote(automation_profile) FROM v3_plans"
    before = read(file, exact)

    migrate(f"sqlite:///{file}", M8_001)
    assert read(file, exact) == before
    roll_back(f"sqlite:///{file}", M4_003)

    assert read(file, exact) == before


def test_descriptions_of_a_megabyte_are_left_alone(former: Path, tmp_path: Path):
    file = tmp_path / "plans.db"
    long = "UPDATE v3_plans SET description = printf('%.1000000c', 'd') || plan_id WHERE rowid < 20"
    reshape(former, file, after=[long])

    up_down_and_up(file)


def test_full_text_index_goes_on_working(former: Path, tmp_path: Path):
    file = tmp_path / "plans.db"
    reshape(former, file, after=FTS)
    migrate(f"sqlite:///{file}", M8_001)

    execute(
        f"sqlite:///{file}",
        "INSERT INTO plan_words (plan_words) VALUES ('integrity-check')",
        "INSERT INTO v3_plans (plan_id, root_plan_id, action_name, description, created_at,"
        " updated_at) VALUES ('new', 'new', 'x', 'zyzzyva', '', '')",
        "UPDATE v3_plans SET action_name = 'y' WHERE plan_id = 'new'",
    )

    assert read(file, "SELECT description FROM plan_words WHERE plan_words MATCH 'zyzzyva'") == [
        ("zyzzyva",)
    ]
    assert read(file, "SELECT x0 FROM places WHERE id = 1") == [(0.0,)]


KILLED = """\
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 5")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE v3_plans SET root_plan_id = 'lost', action_name = hex(zeroblob(500))")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_journal_of_a_killed_process_is_rolled_back_first(
    former: Path, tmp_path: Path, journal: str
):
    file = tmp_path / "plans.db"
    reshape(former, file, pragmas=[f"journal_mode = {journal}"])
    kept = untouched(file)
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = Path(f"{file}-{'wal' if journal == 'wal' else 'journal'}")
    assert left.stat().st_size > 100_000

    ended = Migration(f"sqlite:///{file}", M8_001).ended()

    assert ended.status == 0, ended.said
    assert untouched(file) == kept
    roll_back(f"sqlite:///{file}", M4_003)
    up_down_and_up(file)


def refused(file: Path, words: str, before: tuple[str, ...] = ()) -> None:
    """Expect one line with *words*, and a file that was not touched."""
    content = file.read_bytes()

    ended = Migration(f"sqlite:///{file}", M8_001, before=before).ended()

    assert ended.status not in (0, None), ended.said
    assert words in one_clear_line(ended.said)
    assert file.read_bytes() == content
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("place", ["v3_plans", "ix_v3_plans_action_name", "plan_projects"])
def test_flipped_bytes_are_refused_before_anything(former: Path, tmp_path: Path, place: str):
    file = tmp_path / "plans.db"
    reshape(former, file)
    ((page,),) = read(
        file, f"SELECT max(pageno) FROM dbstat WHERE name = '{place}' AND pagetype = 'leaf'"
    )
    content = bytearray(file.read_bytes())
    start = (page - 1) * 4096 + 8
    content[start : start + 16] = bytes(255 - byte for byte in content[start : start + 16])
    file.write_bytes(content)

    refused(file, "is damaged (")


def test_file_that_is_cut_off_is_refused_before_anything(former: Path, tmp_path: Path):
    file = tmp_path / "plans.db"
    reshape(former, file)
    file.write_bytes(file.read_bytes()[:-5000])

    refused(file, "is damaged (")


@contextmanager
def file_system_without_writes(file: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    subprocess.run(["mount", "--bind", file.parent, file.parent], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", file.parent], check=True)
        yield
    finally:
        subprocess.run(["umount", file.parent], check=True)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_file_system_that_can_only_be_read_is_refused(former: Path, tmp_path: Path, journal: str):
    file = tmp_path / "plans.db"
    reshape(former, file, pragmas=[f"journal_mode = {journal}"])
    with file_system_without_writes(file):
        refused(file, f"{file.parent} is read-only for this user")
    migrate(f"sqlite:///{file}", M8_001)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_folder_that_the_user_may_not_write_to_is_refused(
    former: Path, tmp_path: Path, journal: str
):
    file = tmp_path / "plans.db"
    reshape(former, file, pragmas=[f"journal_mode = {journal}"])
    tmp_path.chmod(0o555)

    # Root may write everywhere, unless it gives that up.
    refused(
        file,
        f"{tmp_path} is read-only for this user",
        before=("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else (),
    )

    tmp_path.chmod(0o755)
    migrate(f"sqlite:///{file}", M8_001)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_file_that_others_have_open_is_upgraded_downgraded_and_upgraded_again(
    former: Path, tmp_path: Path, journal: str
):
    file = tmp_path / "plans.db"
    reshape(former, file, pragmas=[f"journal_mode = {journal}"])
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("SELECT count(*) FROM v3_plans").fetchall()
        up_down_and_up(file)
        # It sees the new table, prepared statements too.
        assert other.execute("SELECT count(*) FROM v3_plans").fetchall() == [(400,)]


def test_reader_of_a_write_ahead_log_goes_on_reading_what_it_saw(former: Path, tmp_path: Path):
    file = tmp_path / "plans.db"
    reshape(former, file, pragmas=["journal_mode = WAL"])
    query = "SELECT plan_id, root_plan_id, automation_profile FROM v3_plans"
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        seen = reader.execute(query).fetchall()
        migrate(f"sqlite:///{file}", M8_001)
        assert reader.execute(query).fetchall() == seen
        reader.execute("COMMIT")
        assert reader.execute(query).fetchall() != seen
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_table_with_a_collation_of_the_application_is_no_hindrance(tmp_path: Path, mode: str):
    url = f"sqlite:///{tmp_path / 'plans.db'}"
    write_former_release(url, 50)
    with closing(sqlite3.connect(tmp_path / "plans.db", isolation_level=None)) as driver:
        driver.execute(f"PRAGMA journal_mode = {mode}")
        driver.create_collation("unicase", lambda a, b: (a > b) - (a < b))
        driver.create_function("own", 1, lambda value: value, deterministic=True)
        driver.execute(
            "CREATE TABLE notes (n TEXT COLLATE unicase CHECK (own(n) = n), g TEXT AS (own(n)))"
        )
        driver.execute("CREATE INDEX ix_notes ON notes (n)")
        driver.execute("CREATE INDEX ix_own ON notes (own(n))")
        driver.execute("INSERT INTO notes VALUES ('b'), ('a')")

        assert main(["preflight", "-q", "--url", url]) == 0
        for command in (["upgrade"], ["downgrade", M4_003], ["upgrade"]):
            assert main([*command, "-q", "--url", url]) == 0
        assert driver.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert driver.execute("SELECT n FROM notes ORDER BY n").fetchall() == [("a",), ("b",)]


def test_index_of_plans_with_a_collation_of_the_application_is_migrated_by_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    url = f"sqlite:///{tmp_path / 'plans.db'}"
    write_former_release(url, 50)
    engine = open_engine(url, migrating=True)

    @event.listens_for(engine, "connect")
    def _register(driver: Any, _record: object) -> None:
        driver.create_collation("unicase", lambda a, b: (a > b) - (a < b))

    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE INDEX ix_action ON v3_plans (action_name COLLATE unicase)"
        )
    capfd.readouterr()
    assert main(["upgrade", "-q", "--url", url]) == 1
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert "the index ix_action of v3_plans in " in err
    assert "cleveragents_plans.schema.upgrade(engine)" in err
    assert main(["preflight", "-q", "--url", url]) == 1
    assert "BLOCKS    the index ix_action of v3_plans in " in capfd.readouterr().out

    schema.upgrade(engine)
    schema.downgrade(engine, M4_003)
    engine.dispose()


OF_PROFILE = "json_extract(replace(automation_profile, 'balanced', '{}'), '$.x')"


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (f"CREATE INDEX ix_mine ON v3_plans ({OF_PROFILE})", "ix_mine"),
        (f"ALTER TABLE v3_plans ADD COLUMN mine TEXT AS ({OF_PROFILE})", "mine"),
    ],
)
def test_what_cannot_be_computed_from_a_written_column_is_named(
    tmp_path: Path, made: str, name: str, capfd: pytest.CaptureFixture[str]
):
    """The name of a profile that a downgrade made an object of is no JSON."""
    url = f"sqlite:///{tmp_path / 'plans.db'}"
    write_former_release(url, 50)
    with closing(sqlite3.connect(tmp_path / "plans.db", isolation_level=None)) as driver:
        driver.execute(
            "UPDATE v3_plans SET automation_profile = "
            """'{ "profile_name": "trusted", "provenance": null }'"""
        )
        driver.execute(made)
    for command in ("preflight", "upgrade"):
        capfd.readouterr()
        assert main([command, "-q", "--url", url]) == 1
        said = "".join(capfd.readouterr())
        assert (
            f"failed with `malformed JSON`; if what is written is nothing that {name} can" in said
        )
        assert "drop it before the run, and create it for the new values afterwards" in said
