"""A version that does not fit chain or tables is refused, with the command that mends it."""

from __future__ import annotations

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from sqlalchemy import NullPool, create_engine, inspect

from cleveragents_plans.cli import main
from cleveragents_plans.evolution.runner.version_tables import version_tables
from support.databases import migrate
from support.online import client
from support.revisions import HEAD, M4_003, M8_001
from support.toys import execute

FOREIGN = "27c6a30d7c24"


def run(url: str, *statements: str) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def stored(url: str, table: str = "alembic_version") -> list[str]:
    engine = create_engine(url, poolclass=NullPool)
    if not inspect(engine).has_table(table):
        return []
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT version_num FROM {table} ORDER BY 1")
        return list(rows.scalars())


def columns(url: str) -> set[str]:
    inspector = inspect(create_engine(url, poolclass=NullPool))
    if not inspector.has_table("v3_plans"):
        return set()
    return {column["name"] for column in inspector.get_columns("v3_plans")}


def refusal(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command line, which refuses; give its one line."""
    capfd.readouterr()
    status = main([words[0], "--log", "plain", *words[1:]])
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("database: ")]
    assert status == 1, err
    assert len(lines) == 1
    assert out == ""
    return lines[0]


def do_as_told(line: str, url: str) -> None:
    """Type the commands that the line tells, as they stand there."""
    commands = re.findall(r"`cleveragents-plans (.*?)`", line)
    assert commands, line
    for words in commands:
        typed = shlex.split(words)
        assert main(typed if "--url" in typed else [*typed, "--url", url]) == 0


CHANGES = {
    "no version": ("DELETE FROM alembic_version",),
    "no version table": ("DROP TABLE alembic_version",),
    "two revisions of one branch": (f"INSERT INTO alembic_version VALUES ('{M8_001}')",),
    "an empty text": ("UPDATE alembic_version SET version_num = ''",),
    "a later revision": (f"UPDATE alembic_version SET version_num = '{M8_001}'",),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_version_that_does_not_fit_is_mended_by_the_command_that_is_told(
    empty_url: str, change: str, capfd: pytest.CaptureFixture[str]
):
    migrate(empty_url, M4_003)
    run(empty_url, *CHANGES[change])
    before = stored(empty_url)

    for words in (["upgrade"], ["current", "--check-heads"]):
        line = refusal(capfd, *words, "--url", empty_url)
        assert "they look as m4_003_plan_env_columns makes them" in line
        assert stored(empty_url) == before

    do_as_told(line, empty_url)
    assert stored(empty_url) == [M4_003]
    assert main(["upgrade", "--create", "--url", empty_url]) == 0
    assert (stored(empty_url), "effective_profile_snapshot" in columns(empty_url)) == (
        [HEAD],
        True,
    )


def test_current_warns_of_a_version_that_the_tables_do_not_fit(
    empty_url: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    migrate(empty_url, M4_003)
    run(empty_url, *CHANGES["a later revision"])

    assert main(["current", "--url", empty_url]) == 0

    assert M8_001 in capfd.readouterr().out
    assert "the tables are not as that revision makes them" in caplog.text


def test_version_without_any_table_is_mended_by_the_command_that_is_told(
    empty_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(empty_url, "head")
    engine = create_engine(empty_url, poolclass=NullPool)
    tables = [t for t in inspect(engine).get_table_names() if t != "alembic_version"]
    run(empty_url, *[f"DROP TABLE {t}" for t in sorted(tables, key=lambda t: t == "v3_plans")])

    line = refusal(capfd, "upgrade", "--create", "--url", empty_url)
    assert "there are no tables" in line

    do_as_told(line, empty_url)
    assert main(["upgrade", "--create", "--url", empty_url]) == 0
    assert stored(empty_url) == [HEAD]


@pytest.mark.parametrize("word", ["upgrade", "status", "preflight", "verify"])
def test_tables_of_which_some_are_left_are_not_said_to_be_none(
    empty_url: str, word: str, capfd: pytest.CaptureFixture[str]
):
    migrate(empty_url, M4_003)
    on_sqlite = empty_url.startswith("sqlite")
    run(empty_url, f"DROP TABLE v3_plans{'' if on_sqlite else ' CASCADE'}")
    capfd.readouterr()
    status = main([word, "-q", "--url", empty_url])

    said = "".join(capfd.readouterr())
    assert status != 0
    assert "stamp" not in said
    if word != "verify":  # which compares
        assert "of its tables only plan_arguments, plan_invariants, plan_projects are left" in said
    assert stored(empty_url) == [M4_003]


def test_table_that_a_rebuild_renamed_is_not_said_to_be_none(
    sqlite_url: str, capfd: pytest.CaptureFixture[str]
):
    """As an interrupted run leaves it in a file whose journal is lost."""
    migrate(sqlite_url, M4_003)
    children = [f"DROP TABLE plan_{each}" for each in ("projects", "arguments", "invariants")]
    run(sqlite_url, *children, "ALTER TABLE v3_plans RENAME TO _rebuild_1")

    line = refusal(capfd, "upgrade", "--create", "--url", sqlite_url)
    assert "of its tables only _rebuild_1 is left; restore a backup" in line


def test_torn_file_without_tables_is_said_to_be_damaged(
    sqlite_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(sqlite_url, M4_003)
    run(
        sqlite_url,
        *[
            f"DROP TABLE {t}"
            for t in ("plan_projects", "plan_arguments", "plan_invariants", "v3_plans")
        ],
    )
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    content = file.read_bytes()
    with closing(sqlite3.connect(file)) as driver:
        page = driver.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_alembic_version_1'"
        ).fetchone()[0]
    file.write_bytes(content[: (page - 1) * 4096] + b"\xff" * 8 + content[(page - 1) * 4096 + 8 :])

    for word in ("upgrade", "status", "preflight", "verify"):
        capfd.readouterr()
        assert main([word, "-q", "--url", sqlite_url]) == 1
        out, err = capfd.readouterr()
        assert "is damaged (" in out + err
        assert "stamp" not in out + err


def test_chain_of_another_application_is_told_from_a_newer_release(
    empty_url: str, capfd: pytest.CaptureFixture[str]
):
    run(
        empty_url,
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        f"INSERT INTO alembic_version VALUES ('{FOREIGN}')",
    )

    line = refusal(capfd, "upgrade", "--create", "--url", empty_url)
    assert "it is another application's" in line
    do_as_told(line, empty_url)

    assert stored(empty_url) == [FOREIGN]
    assert stored(empty_url, "plans_version") == [HEAD]
    # Forgotten later on, the option is named.
    for words in (["upgrade"], ["current", "--check-heads"], ["downgrade", "base"]):
        line = refusal(capfd, *words, "--url", empty_url)
        assert "give -x version-table=plans_version" in line
    assert stored(empty_url, "plans_version") == [HEAD]


def test_version_table_of_the_chain_is_named_when_it_is_forgotten(
    empty_url: str, capfd: pytest.CaptureFixture[str]
):
    assert (
        main(["upgrade", "--create", "--url", empty_url, "-x", "version-table=plans_version"]) == 0
    )

    assert "give -x version-table=plans_version" in refusal(
        capfd, "upgrade", "--create", "--url", empty_url
    )


def test_revision_of_another_chain_beside_ours_is_mended_by_what_is_told(
    empty_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(empty_url, M4_003)
    run(empty_url, f"INSERT INTO alembic_version VALUES ('{FOREIGN}')")

    line = refusal(capfd, "upgrade", "--create", "--url", empty_url)
    do_as_told(line, empty_url)
    run(empty_url, *re.findall(r"DELETE FROM .*?'(?=,)", line))

    assert stored(empty_url) == [FOREIGN]
    assert (
        main(["upgrade", "--create", "--url", empty_url, "-x", "version-table=plans_version"]) == 0
    )
    assert stored(empty_url, "plans_version") == [HEAD]


def test_newer_release_is_named_where_the_tables_are_there(
    migrated_url: str, capfd: pytest.CaptureFixture[str]
):
    run(migrated_url, "UPDATE alembic_version SET version_num = 'z9_001_tomorrow'")

    for words in (["upgrade"], ["downgrade", "base"], ["current"]):
        line = refusal(capfd, *words, "--url", migrated_url)
        assert "at revision 'z9_001_tomorrow', which this release does not know" in line
        assert "install the release that migrated it" in line
        assert "backup" not in line


def test_purge_removes_what_the_chain_does_not_know(
    migrated_url: str, capfd: pytest.CaptureFixture[str]
):
    run(migrated_url, f"UPDATE alembic_version SET version_num = '{FOREIGN}'")

    assert main(["stamp", "--purge", HEAD, "--url", migrated_url]) == 0

    assert stored(migrated_url) == [HEAD]
    assert FOREIGN in capfd.readouterr().err


def test_part_of_the_name_of_a_revision_is_not_that_revision(
    migrated_url: str, capfd: pytest.CaptureFixture[str]
):
    run(migrated_url, "UPDATE alembic_version SET version_num = 'm8'")

    assert "'m8', which this release does not know" in refusal(
        capfd, "upgrade", "--url", migrated_url
    )


@pytest.mark.parametrize("table", ["v3_plans", "plan_projects"])
def test_version_table_that_is_a_table_of_the_chain_is_refused(
    empty_url: str, table: str, capfd: pytest.CaptureFixture[str]
):
    line = refusal(capfd, "upgrade", "--create", "--url", empty_url, "-x", f"version-table={table}")
    assert f"version-table is '{table}'; expected a table that only Alembic uses" in line


def test_version_table_that_is_another_table_is_refused(
    empty_url: str, capfd: pytest.CaptureFixture[str]
):
    run(empty_url, "CREATE TABLE users (id int)")

    line = refusal(capfd, "upgrade", "--create", "--url", empty_url, "-x", "version-table=users")
    assert "version-table is 'users'; expected a table that only Alembic uses" in line


@pytest.fixture
def in_another_schema(postgresql_url: str) -> str:
    """A database whose tables are in the schema `app`, and a URL that leads to `public`."""
    with client(postgresql_url) as connection:
        connection.execute("CREATE SCHEMA app")
    assert main(["upgrade", "--url", postgresql_url, "-x", "schema=app"]) == 0
    return postgresql_url


@pytest.mark.parametrize(
    "words", [["upgrade"], ["current"], ["current", "--check-heads"], ["stamp", "head"]]
)
def test_second_set_of_tables_is_refused(
    in_another_schema: str, words: list[str], capfd: pytest.CaptureFixture[str]
):
    line = refusal(capfd, *words, "--url", in_another_schema)

    assert "the schema app of this database has tables of this chain" in line
    assert "(they belong in app to the role postgres)" in line
    assert "give -x schema=app, or -x allow-second-schema=yes" in line
    inspector = inspect(create_engine(in_another_schema, poolclass=NullPool))
    assert inspector.get_table_names("public") == []


def test_second_set_of_tables_is_made_when_it_is_wanted(in_another_schema: str):
    url = in_another_schema
    assert main(["upgrade", "--url", url, "-x", "allow-second-schema=yes"]) == 0
    assert main(["upgrade", "--url", url]) == 0  # there is a version here from now on
    assert main(["current", "--check-heads", "--url", url, "-x", "schema=app"]) == 0

    inspector = inspect(create_engine(url, poolclass=NullPool))
    for schema in ("public", "app"):
        assert "v3_plans" in inspector.get_table_names(schema)


def test_version_in_another_schema_than_the_tables_is_refused(
    postgresql_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(postgresql_url, M4_003)
    with client(postgresql_url) as connection:
        connection.execute("CREATE SCHEMA apart; ALTER TABLE alembic_version SET SCHEMA apart")

    line = refusal(capfd, "upgrade", "--url", postgresql_url)

    (mend,) = re.findall(r"ALTER TABLE .*? SET SCHEMA \w+", line)
    run(postgresql_url, mend)
    assert main(["upgrade", "--url", postgresql_url]) == 0


def test_table_of_the_same_name_that_may_not_be_read_is_seen(
    postgresql_url: str, capfd: pytest.CaptureFixture[str]
):
    with client(postgresql_url) as connection:
        connection.execute("CREATE SCHEMA hidden; CREATE TABLE hidden.v3_plans (id int)")
        connection.execute(
            "CREATE ROLE stranger LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO stranger"
        )
    try:
        line = refusal(capfd, "upgrade", "--url", postgresql_url.replace("postgres@", "stranger@"))
        assert "the schema hidden of this database has tables of this chain" in line
    finally:
        with client(postgresql_url) as connection:
            connection.execute("DROP OWNED BY stranger; DROP ROLE stranger")


def test_interrupted_run_is_not_taken_for_tables_that_do_not_fit(postgresql_url: str):
    migrate(postgresql_url, M4_003)
    with client(postgresql_url) as connection:
        connection.execute(
            "ALTER TABLE v3_plans DROP COLUMN execution_environment;"
            f"COMMENT ON TABLE alembic_version IS '[unfinished downgrade of {M4_003}]'"
        )

    assert main(["upgrade", "--url", postgresql_url]) == 0

    assert "execution_environment" in columns(postgresql_url)


def test_interrupted_run_of_a_newer_release_is_refused(
    postgresql_url: str, capfd: pytest.CaptureFixture[str]
):
    migrate(postgresql_url, "head")
    run(postgresql_url, "COMMENT ON TABLE alembic_version IS '[unfinished upgrade of z9_001_new]'")

    line = refusal(capfd, "upgrade", "--url", postgresql_url)

    assert "the upgrade of z9_001_new was interrupted, which this release does not know" in line
    with pytest.raises(Exception, match="z9_001_new"):
        command.downgrade(_config(postgresql_url), "base")


def _config(url: str):
    from cleveragents_plans.schema import chain_config

    return chain_config(url)


def test_version_table_with_row_level_security_is_not_read_beside_ours(postgresql_url: str):
    # A policy runs functions of the table's owner with the rights of the role that reads.
    for name, security in (("guarded", "ENABLE"), ("open", "DISABLE")):
        execute(
            postgresql_url,
            f"CREATE TABLE {name} (version_num varchar(32))",
            f"INSERT INTO {name} VALUES ('{M8_001}')",
            f"ALTER TABLE {name} {security} ROW LEVEL SECURITY",
        )

    with create_engine(postgresql_url, poolclass=NullPool).connect() as connection:
        found = version_tables(connection, ["public"], [])

    assert [table.name for table in found] == ["open"]


def test_version_table_of_a_role_that_is_not_trusted_is_not_read(postgresql_url: str):
    # Its owner could put a view in its place while this session waits for a lock on it.
    role = f"role_{uuid4().hex[:8]}"
    execute(
        postgresql_url,
        f"CREATE ROLE {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
        "CREATE TABLE planted (version_num varchar(32))",
        f"INSERT INTO planted VALUES ('{M8_001}')",
        "GRANT SELECT ON planted TO public",
        f"ALTER TABLE planted OWNER TO {role}",
        # In a schema of its own it owns a table of plans, too.
        f"CREATE SCHEMA own AUTHORIZATION {role}",
        "CREATE TABLE own.v3_plans (a int)",
        "CREATE TABLE own.planted (version_num text)",
        "GRANT USAGE ON SCHEMA own TO public",
        *(f"ALTER TABLE own.{name} OWNER TO {role}" for name in ("v3_plans", "planted")),
        "CREATE TABLE trusted (version_num text)",
        "INSERT INTO trusted VALUES (repeat('x', 100000))",
    )
    try:
        with create_engine(postgresql_url, poolclass=NullPool).connect() as connection:
            connection.exec_driver_sql("SET search_path = pg_catalog")
            read = version_tables(connection, ["public"], ["v3_plans"])
            found = {each.name: each for each in read}
            used = version_tables(connection, ["own"], ["v3_plans"])
    finally:
        execute(postgresql_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    assert "planted" not in found
    assert {(each.schema, each.name) for each in used} >= {("own", "planted")}
    assert [len(revision) for revision in found["trusted"].revisions] == [200]
