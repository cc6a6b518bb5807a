"""
What is used of Alembic without being promised is as it was read.

A new Alembic that differs fails here.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from cleveragents_plans.evolution.runner.alembic_internals import (
    heads_after,
    running_command,
    set_heads_after,
    step_of,
)
from support.databases import ROOT

REVISIONS = {
    "a1": (None, None),
    "a2": ("a1", None),
    "b1": (None, None),
    "b2": ("b1", "a2"),
    "m": (("a2", "b1"), None),
}
_REVISION = """\
revision, down_revision, depends_on = {!r}, {!r}, {!r}


def upgrade():
    pass


def downgrade():
    pass
"""
# How Alembic is asked for each of its commands that runs env.py, and what env.py is to know of it.
COMMANDS = {
    "upgrade": (lambda c: command.upgrade(c, "a2"), {"runs_revisions", "plans_ahead"}),
    "downgrade": (lambda c: command.downgrade(c, "base"), {"runs_revisions", "plans_ahead"}),
    "stamp": (lambda c: command.stamp(c, "a2"), {"plans_ahead"}),
    "ensure_version": (command.ensure_version, set()),
    "current": (command.current, {"only_reads"}),
    "current --check-heads": (
        lambda c: command.current(c, check_heads=True),
        {"only_reads", "checks_heads"},
    ),
    "check": (command.check, {"only_reads"}),
    "revision": (
        lambda c: command.revision(c, autogenerate=True),
        {"only_reads", "writes_revision"},
    ),
    "merge": (lambda c: command.merge(c, ["a2", "b2"]), {"only_reads"}),
    "show": (lambda c: command.show(c, "current"), {"only_reads"}),
    "history": (lambda c: command.history(c, indicate_current=True), {"only_reads"}),
    "edit": (lambda c: command.edit(c, "current"), {"only_reads"}),
}
WITHOUT_DATABASE = {"branches", "heads", "init", "list_templates"}
PROPERTIES = ("runs_revisions", "only_reads", "plans_ahead", "checks_heads", "writes_revision")


class Seen(Exception):
    """Raised by env.py, to go no further."""


@pytest.fixture
def chain(tmp_path: Path) -> Config:
    versions = tmp_path / "versions"
    versions.mkdir()
    for name, (down, depends) in REVISIONS.items():
        (versions / f"{name}.py").write_text(_REVISION.format(name, down, depends))
    (tmp_path / "env.py").write_text(
        "from alembic import context\ncontext.config.attributes['env']()\n"
    )
    (tmp_path / "script.py.mako").write_text("")
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    config.set_main_option("revision_environment", "true")
    return config


@pytest.mark.parametrize(("run", "properties"), COMMANDS.values(), ids=COMMANDS)
def test_command_is_known_by_the_function_that_lists_its_steps(chain, run, properties):
    def env():
        known = running_command()
        raise Seen({name for name in PROPERTIES if getattr(known, name)})

    chain.attributes["env"] = env
    with pytest.raises(Seen) as seen:
        run(chain)

    assert seen.value.args == (properties,)


def test_every_command_of_alembic_is_known():
    found = {
        name
        for name, function in inspect.getmembers(command, inspect.isfunction)
        if function.__module__ == command.__name__ and not name.startswith("_")
    }

    assert found == {name.split()[0] for name in COMMANDS} | WITHOUT_DATABASE


@pytest.mark.parametrize(
    ("revision", "direction", "before", "after"),
    [
        ("a1", "upgrade", (), ("a1",)),
        ("a2", "upgrade", ("a1",), ("a2",)),
        ("a2", "downgrade", ("a2",), ("a1",)),
        ("a1", "downgrade", ("a1",), ()),
        ("b2", "upgrade", ("a2", "b1"), ("b2",)),
        ("b2", "downgrade", ("b2",), ("a2", "b1")),
        ("m", "upgrade", ("a2", "b1"), ("m",)),
        ("m", "downgrade", ("m",), ("a2", "b1")),
    ],
)
def test_heads_after_a_step_are_what_the_version_table_gets(
    chain, revision, direction, before, after
):
    script = ScriptDirectory.from_config(chain)
    step = step_of(script, revision, direction)
    with create_engine("sqlite://").connect() as connection:
        migration = MigrationContext.configure(connection, opts={"script": script})
        migration._ensure_version_table()
        for head in before:
            connection.execute(migration._version.insert().values(version_num=head))

        assert heads_after(step, migration, before) == after
        assert migration.get_current_heads() == before
        set_heads_after(step, migration, before)

        assert tuple(sorted(migration.get_current_heads())) == after


def test_configure_takes_the_function_that_lists_the_steps(chain):
    asked = []
    environment = EnvironmentContext(chain, ScriptDirectory.from_config(chain), fn=None)
    with create_engine("sqlite://").connect() as connection, environment:
        environment.configure(connection, fn=lambda heads, _: asked.append(heads) or ())
        environment.run_migrations()

    assert asked == [()]


def test_private_names_of_alembic_stand_in_one_module():
    private = re.compile(
        r"\b(context|migration|script|op|step|environment|config|revision)\._[a-z]"
    )
    found = [
        path.name
        for folder in ("src", "migrations")
        for path in (ROOT / folder).rglob("*.py")
        if private.search(path.read_text())
    ]

    assert found == ["alembic_internals.py"]
