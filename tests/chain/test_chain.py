"""The chain as a whole: one line, up and down, and what the models describe."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Engine, event, inspect, text

from cleveragents_plans import Base, open_engine
from cleveragents_plans.cli import main
from cleveragents_plans.evolution.runner.runs import RUNS
from support.databases import ONE_OF_EACH, ROOT, chain, empty_database, migrate, roll_back
from support.revisions import A5_004, M4_003, M8_001, M8_002
from support.rows import Entry, schema_dump

CHAIN = ScriptDirectory.from_config(chain("sqlite://"))
OLDEST_FIRST = list(CHAIN.walk_revisions())[::-1]

each_script = pytest.mark.parametrize(
    "script", OLDEST_FIRST, ids=[script.revision for script in OLDEST_FIRST]
)


def test_chain_has_one_head_and_the_known_order():
    assert CHAIN.get_heads() == [M8_002]
    assert [script.revision for script in OLDEST_FIRST] == [A5_004, M4_003, M8_001, M8_002]


@each_script
def test_file_is_named_after_its_revision_which_fits_the_version_table(script: Script):
    assert Path(script.path).stem == script.revision
    assert len(script.revision) <= 32


@each_script
def test_revision_says_why_what_it_does_to_rows_how_to_undo_it_and_what_it_locks(script: Script):
    for heading in ("Why:", "Rows:", "Undo:", "Locks:"):
        assert heading in (script.module.__doc__ or "")


@each_script
def test_revision_imports_neither_the_domain_nor_the_models(script: Script):
    imported = re.findall(r"^(?:from|import) (\S+)", Path(script.path).read_text(), re.MULTILINE)

    assert set(imported) <= {"alembic", "sqlalchemy", "cleveragents_plans.evolution"}


def test_new_revision_file_has_the_headings_to_fill_in(tmp_path: Path):
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    config.set_main_option("file_template", "%%(rev)s")

    script = command.revision(config, "Index the states", rev_id="z9_001_index_the_states")

    assert isinstance(script, Script)
    assert Path(script.path).name == "z9_001_index_the_states.py"
    for heading in ("Index the states", "Why:", "Rows:", "Undo:", "Locks:"):
        assert heading in (script.module.__doc__ or "")
    assert script.down_revision == CHAIN.get_current_head()


def test_steps_go_up_down_and_up_again(empty_url: str):
    for script in OLDEST_FIRST:
        before = schema_dump(empty_url)

        migrate(empty_url, script.revision)
        after = schema_dump(empty_url)
        roll_back(empty_url, "-1")
        back = schema_dump(empty_url)
        migrate(empty_url, script.revision)

        assert in_any_order(without_version_table(back)) == in_any_order(
            without_version_table(before)
        )
        assert schema_dump(empty_url) == after


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_chain_goes_up_and_down_where_tracing_comments_statements(engine: str, tmp_path: Path):
    with empty_database(engine, tmp_path) as url, statements_commented():
        migrate(url, "head")
        roll_back(url, M4_003)
        migrate(url, "head")

        assert [main([each, "--url", url]) for each in ("status", "verify")] == [0, 0]


@contextmanager
def statements_commented() -> Iterator[None]:
    """Let statements of all engines be commented on their way to the driver (sqlcommenter)."""

    def comment(_connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> tuple[str, Any]:
        return f"{sql} /*traceparent='00-1-2-01'*/", values

    event.listen(Engine, "before_cursor_execute", comment, retval=True)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", comment)


def in_any_order(dump: list[Entry]) -> list[Entry]:
    """Leave out the order of columns: one that is dropped can be added again as the last only."""
    return [
        (kind, table, name, ",".join(sorted(re.split(r",\s*|\n\)", text))))
        for kind, table, name, text in dump
        if kind != "column order"
    ]


def test_autogenerate_finds_nothing_to_change(migrated_url: str):
    command.check(chain(migrated_url))


def test_chain_builds_what_the_models_describe(
    migrated_url: str, tmp_path: Path, request: pytest.FixtureRequest
):
    # Two real schemas: Alembic's own check compares no text of a CHECK and no trigger.
    engine_name = request.node.callspec.params["migrated_url"]
    with empty_database(engine_name, tmp_path / "other") as described_url:
        (tmp_path / "other").mkdir()
        described = open_engine(described_url)
        Base.metadata.create_all(described)
        described.dispose()

        assert schema_of(migrated_url) == schema_of(described_url)
        if engine_name != "sqlite":
            assert on_server(migrated_url) == on_server(described_url)


def test_drop_all_undoes_create_all(postgresql_url: str):
    engine = open_engine(postgresql_url)
    before = schema_dump(postgresql_url)

    Base.metadata.create_all(engine)
    Base.metadata.drop_all(engine)
    engine.dispose()

    assert schema_dump(postgresql_url) == before


def test_lower_bounds_are_the_versions_that_the_lowest_run_installs():
    project = (ROOT / "pyproject.toml").read_text()
    bounds = dict(re.findall(r'"([a-z]+)(?:\[binary\])?>=([0-9.]+)', project.split("dev = [")[0]))
    lowest = dict(
        re.findall(r"^([a-z-]+)==(\S+)$", (ROOT / "constraints-lowest.txt").read_text(), re.M)
    )
    bounds.pop("hatchling", None)

    assert {name: lowest[name] for name in bounds} == bounds


def without_version_table(schema):
    return [entry for entry in schema if "alembic_version" not in entry[:3]]


def with_text(index):
    # A condition is an object that equals itself only.
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return {**index, "dialect_options": options}


def on_server(url: str):
    """Everything of the server's catalog but the order of columns, which history made."""
    return [
        entry for entry in without_version_table(schema_dump(url)) if entry[0] != "column order"
    ]


def schema_of(url: str):
    """What SQLAlchemy can see of both engines' schemas, names and CHECK texts included."""
    engine = open_engine(url)
    seen = inspect(engine)
    schema = {}
    for table in sorted(set(seen.get_table_names()) - {"alembic_version", RUNS}):
        schema[table] = {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in seen.get_columns(table)
            },
            "primary key": seen.get_pk_constraint(table),
            "foreign keys": by_name(seen.get_foreign_keys(table)),
            "unique": by_name(seen.get_unique_constraints(table)),
            "indexes": by_name(map(with_text, seen.get_indexes(table))),
            "checks": {
                check["name"]: " ".join(check["sqltext"].split())
                for check in seen.get_check_constraints(table)
            },
        }
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            triggers = connection.execute(
                text("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
            ).all()
            schema["triggers"] = sorted(tuple(row) for row in triggers)
    engine.dispose()
    return schema


def by_name(constraints):
    return sorted(constraints, key=lambda constraint: str(constraint["name"]))
