"""Each of Alembic's commands does what it says on both engines, or is refused in one line."""

from __future__ import annotations

import argparse
import os
import shutil
from io import StringIO
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine, inspect

from cleveragents_plans.evolution.settings import BadSetting, UnknownOption
from support.databases import ROOT, migrate
from support.revisions import HEAD, M4_003


@pytest.fixture
def chain(empty_url: str, tmp_path: Path) -> Config:
    """The chain in a folder of its own, in which commands may write files."""
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("__pycache__"))
    config = Config(
        stdout=StringIO(), attributes={"url": empty_url}, cmd_opts=argparse.Namespace(x=[])
    )
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    return config


def url_of(chain: Config) -> str:
    return chain.attributes["url"]


def stored(chain: Config) -> list[str] | None:
    """What the version table holds; None without one."""
    engine = create_engine(url_of(chain), poolclass=NullPool)
    if not inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars())


def tables(chain: Config) -> list[str]:
    return inspect(create_engine(url_of(chain), poolclass=NullPool)).get_table_names()


def printed(chain: Config) -> str:
    written = chain.stdout
    assert isinstance(written, StringIO)
    return written.getvalue()


def make_file(chain: Config) -> None:
    create_engine(url_of(chain), poolclass=NullPool).connect().close()


@pytest.mark.slow
def test_ensure_version_makes_the_version_table(chain: Config):
    make_file(chain)
    command.ensure_version(chain)
    assert stored(chain) == []

    command.upgrade(chain, "head")
    command.ensure_version(chain)
    assert stored(chain) == [HEAD]


def test_stamp_sets_the_version(chain: Config):
    make_file(chain)
    command.stamp(chain, "head")
    assert stored(chain) == [HEAD]
    command.stamp(chain, M4_003)
    assert stored(chain) == [M4_003]
    command.stamp(chain, "base")
    assert stored(chain) == []


@pytest.mark.parametrize("target", [M4_003, "base"])
def test_stamp_purge_deletes_what_was_there(chain: Config, target: str):
    migrate(url_of(chain), "head")
    engine = create_engine(url_of(chain), poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('27c6a30d7c24')")

    command.stamp(chain, target, purge=True)

    assert stored(chain) == ([] if target == "base" else [target])


def test_stamp_purge_clears_the_note_of_an_interrupted_run(chain: Config):
    migrate(url_of(chain), "head")
    engine = create_engine(url_of(chain), poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        return  # no run leaves one
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"COMMENT ON TABLE alembic_version IS '[unfinished downgrade of {HEAD}]'"
        )
    with pytest.raises(CommandError, match="was interrupted"):
        command.current(chain, check_heads=True)

    command.stamp(chain, "head", purge=True)

    command.current(chain, check_heads=True)


def test_check_tells_whether_models_and_tables_differ(chain: Config):
    migrate(url_of(chain), "head")
    command.check(chain)
    assert "No new upgrade operations detected" in printed(chain)

    with create_engine(url_of(chain), poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_v3_plans_action_name")
    with pytest.raises(CommandError, match="ix_v3_plans_action_name"):
        command.check(chain)


@pytest.mark.parametrize("run", [command.check, lambda c: command.revision(c, autogenerate=True)])
def test_comparing_an_empty_database_is_refused_and_changes_nothing(chain: Config, run):
    make_file(chain)

    with pytest.raises(CommandError, match="Target database is not up to date"):
        run(chain)

    assert tables(chain) == []


def test_revision_writes_a_file(chain: Config):
    migrate(url_of(chain), "head")

    command.revision(chain, message="by hand", rev_id="z9_001_by_hand")
    command.revision(chain, message="empty", rev_id="z9_002_empty", head="z9_001_by_hand")

    folder = Path(str(chain.get_main_option("script_location"))) / "versions"
    assert len(list(folder.glob("z9_00*.py"))) == 2
    assert stored(chain) == [HEAD]


def test_merge_writes_a_revision_that_joins_two_heads(chain: Config):
    migrate(url_of(chain), "head")
    for name in ("z9_001_left", "z9_001_right"):
        command.revision(chain, message=name, rev_id=name, head=HEAD, splice=True)

    command.merge(chain, "heads", message="join", rev_id="z9_002_join")

    command.heads(chain)
    assert "z9_002_join (head)" in printed(chain)


READS = {
    "current": (command.current, HEAD),
    "current --check-heads": (lambda c: command.current(c, check_heads=True), HEAD),
    "current -v": (lambda c: command.current(c, verbose=True), HEAD),
    "show current": (lambda c: command.show(c, "current"), HEAD),
    "show head": (lambda c: command.show(c, "head"), HEAD),
    "history": (command.history, M4_003),
    "history -i": (
        lambda c: command.history(c, indicate_current=True),
        f"{HEAD} (head) (current)",
    ),
    "history current": (lambda c: command.history(c, rev_range="base:current"), M4_003),
    "heads": (command.heads, HEAD),
    "branches": (command.branches, ""),
}


@pytest.mark.parametrize("name", READS)
def test_command_that_reads_prints_what_it_finds(chain: Config, name: str):
    migrate(url_of(chain), "head")
    run, expected = READS[name]

    run(chain)

    assert expected in printed(chain)


@pytest.mark.parametrize("name", ["current", "show current", "history -i", "history current"])
def test_command_that_reads_changes_nothing_in_an_empty_database(chain: Config, name: str):
    make_file(chain)

    READS[name][0](chain)

    assert tables(chain) == []


@pytest.mark.slow
def test_edit_opens_the_current_revision(chain: Config, tmp_path: Path, monkeypatch):
    migrate(url_of(chain), "head")
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    command.edit(chain, "current")

    assert (tmp_path / "opened").read_text().strip().endswith(f"{HEAD}.py")


@pytest.mark.parametrize(
    ("run", "found"),
    [
        (lambda c: command.upgrade(c, "head", sql=True), "CREATE TABLE public.v3_plans"),
        (lambda c: command.downgrade(c, f"{HEAD}:{M4_003}", sql=True), "DROP COLUMN"),
        (lambda c: command.stamp(c, "head", sql=True), f"VALUES ('{HEAD}')"),
        (lambda c: command.ensure_version(c, sql=True), "CREATE TABLE public.alembic_version"),
    ],
    ids=["upgrade", "downgrade", "stamp", "ensure_version"],
)
def test_command_with_sql_prints_a_script_or_is_refused(chain: Config, run, found: str):
    chain.output_buffer = written = StringIO()

    if url_of(chain).startswith("sqlite"):
        with pytest.raises(CommandError, match="--sql cannot be written for SQLite"):
            run(chain)
        assert not Path(url_of(chain).removeprefix("sqlite:///")).exists()
        return
    run(chain)

    assert found in written.getvalue()
    assert tables(chain) == []


def test_script_is_for_the_schema_and_the_version_table_that_were_chosen(chain: Config):
    if url_of(chain).startswith("sqlite"):
        return
    chain.cmd_opts.x = ["schema=Some App", "version-table=plans_version"]
    chain.output_buffer = written = StringIO()

    command.upgrade(chain, "head", sql=True)

    assert 'CREATE TABLE "Some App".v3_plans' in written.getvalue()
    assert 'CREATE TABLE "Some App".plans_version' in written.getvalue()
    assert "alembic_version" not in written.getvalue()


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("lock-wiat=5", "lock-wait"),
        ("rows-per-sec=500", "rows-per-second"),
        ("drop_plan=yes", "drop-plans"),
        ("verison-table=x", "version-table"),
        ("Lock-Wait=5", "lock-wait"),
        ("assume-server-version=15", None),
        ("verbose", None),
    ],
)
@pytest.mark.parametrize("run", [lambda c: command.upgrade(c, "head"), command.current])
def test_option_that_is_not_known_is_refused_with_the_nearest(
    chain: Config, option: str, nearest: str | None, run
):
    make_file(chain)
    chain.cmd_opts.x = [option]

    with pytest.raises(UnknownOption) as refused:
        run(chain)

    assert (f"did you mean {nearest}?" in str(refused.value)) == (nearest is not None)
    assert "migration-lock-wait" in str(refused.value)
    assert tables(chain) == []


@pytest.mark.parametrize("option", ["drop-plans=yse", "drop-plans", "allow-second-schema=true"])
def test_option_to_confirm_is_yes_or_refused(chain: Config, option: str):
    migrate(url_of(chain), "head")
    chain.cmd_opts.x = [option]

    with pytest.raises(BadSetting, match="expected yes, or that it is not given"):
        command.downgrade(chain, "base")

    assert stored(chain) == [HEAD]


def test_schema_is_refused_on_sqlite(sqlite_url: str, chain: Config):
    chain.attributes["url"] = sqlite_url
    chain.attributes["schema"] = "app"

    with pytest.raises(BadSetting, match="expected PostgreSQL"):
        command.upgrade(chain, "head")

    assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()
