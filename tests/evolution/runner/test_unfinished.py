"""An interrupted revision is continued in the direction that is asked for, never forgotten."""

from __future__ import annotations

import logging
from io import StringIO

import pytest
from alembic import command

from cleveragents_plans.evolution import (
    mark_begin,
    mark_end,
)
from cleveragents_plans.evolution.errors import ExternalTransaction, WrongDialect
from cleveragents_plans.evolution.postgresql.connection import online
from cleveragents_plans.evolution.runner.unfinished import InterruptedRun, Marker, read_marker
from support.online import client, revision, script
from support.tiny_chain import FIRST, LAST, MIDDLE, tiny_chain


class Stopped(Exception):
    pass


def stop(op):
    raise Stopped


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "chain"


def interrupted(folder, url, direction, **attributes):
    """Leave the middle revision half done, on its way up or down."""
    chain = tiny_chain(folder, url, **attributes)
    command.upgrade(chain, FIRST if direction == "upgrade" else MIDDLE)
    going = tiny_chain(folder, url, stop=stop, **attributes)
    act, target = (
        (command.upgrade, "head") if direction == "upgrade" else (command.downgrade, FIRST)
    )
    with pytest.raises(Stopped):
        act(going, target)
    return chain


def found(url, schema="public"):
    """The version, and whether the marker and the column of the middle revision are there."""
    with client(url) as connection:
        version = connection.execute(
            f"SELECT string_agg(version_num, ',') FROM {schema}.alembic_version".encode()
        ).fetchone()[0]
        marked, column = connection.execute(
            "SELECT to_regclass(%s) IS NOT NULL, EXISTS (SELECT FROM pg_attribute"
            " WHERE attrelid = to_regclass('toy') AND attname = 'word' AND attnotnull)",
            [f"{schema}.evolution_marker"],
        ).fetchone()
    return version, marked, column


def test_an_undisturbed_run_leaves_no_marker(folder, postgresql_url):
    chain = tiny_chain(folder, postgresql_url)

    command.upgrade(chain, "head")
    assert found(postgresql_url) == (LAST, False, True)
    command.downgrade(chain, FIRST)
    assert found(postgresql_url) == (FIRST, False, False)
    command.downgrade(chain, "base")
    assert found(postgresql_url) == (None, False, False)


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_the_marker_is_there_in_between(folder, postgresql_url, direction):
    interrupted(folder, postgresql_url, direction)

    version, marked, column = found(postgresql_url)
    assert version == (FIRST if direction == "upgrade" else MIDDLE)
    assert (marked, column) == (True, False)


WAYS = [
    ("upgrade", command.upgrade, "head", (LAST, False, True)),
    ("upgrade", command.upgrade, "+1", (MIDDLE, False, True)),
    ("upgrade", command.downgrade, FIRST, (FIRST, False, False)),
    ("upgrade", command.downgrade, "-1", (FIRST, False, False)),
    ("upgrade", command.downgrade, "base", (None, False, False)),
    ("downgrade", command.upgrade, "head", (LAST, False, True)),
    ("downgrade", command.upgrade, MIDDLE, (MIDDLE, False, True)),
    ("downgrade", command.downgrade, FIRST, (FIRST, False, False)),
    ("downgrade", command.downgrade, "base", (None, False, False)),
]


@pytest.mark.parametrize(
    ("direction", "act", "target", "end"),
    WAYS,
    ids=[f"{way[0]} then {way[1].__name__} {way[2]}" for way in WAYS],
)
def test_the_next_command_goes_where_it_says(folder, postgresql_url, direction, act, target, end):
    chain = interrupted(folder, postgresql_url, direction)

    act(chain, target)

    assert found(postgresql_url) == end


@pytest.mark.parametrize(
    ("direction", "act", "target"),
    [("downgrade", command.upgrade, FIRST), ("upgrade", command.downgrade, MIDDLE)],
)
def test_a_command_that_goes_elsewhere_is_refused(folder, postgresql_url, direction, act, target):
    chain = interrupted(folder, postgresql_url, direction)
    before = found(postgresql_url)

    with pytest.raises(InterruptedRun) as refused:
        act(chain, target)

    assert found(postgresql_url) == before
    assert refused.value.revision == MIDDLE
    assert refused.value.direction == direction
    assert f"alembic upgrade {MIDDLE}" in str(refused.value)
    assert f"alembic downgrade {FIRST}" in str(refused.value)


def test_a_version_at_neither_end_is_refused(folder, postgresql_url):
    chain = interrupted(folder, postgresql_url, "upgrade")
    command.stamp(chain, LAST)

    with pytest.raises(InterruptedRun):
        command.upgrade(chain, "head")


def test_other_commands_are_let_through_with_a_warning(folder, postgresql_url, caplog):
    chain = interrupted(folder, postgresql_url, "downgrade")

    with caplog.at_level(logging.WARNING):
        command.current(chain)

    assert f"the downgrade of {MIDDLE} was interrupted" in caplog.text


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_between_two_versions_it_is_at_no_head(folder, postgresql_url, direction):
    chain = interrupted(folder, postgresql_url, direction)
    command.stamp(chain, "head")

    with pytest.raises(InterruptedRun, match=f"the {direction} of {MIDDLE} was interrupted"):
        command.current(chain, check_heads=True)


@pytest.mark.parametrize(
    ("direction", "onward", "back"),
    [
        ("upgrade", f"upgrade {MIDDLE}", f"downgrade {FIRST}"),
        ("downgrade", f"downgrade {FIRST}", f"upgrade {MIDDLE}"),
    ],
)
def test_the_way_on_and_the_way_back_are_told_apart(direction, onward, back):
    told = str(InterruptedRun(MIDDLE, FIRST, direction))

    assert f"`alembic {onward}` to complete it or `alembic {back}` to take it back" in told


def test_it_can_be_interrupted_again_on_the_way_back(folder, postgresql_url):
    chain = interrupted(folder, postgresql_url, "downgrade")
    with pytest.raises(Stopped):
        command.upgrade(tiny_chain(folder, postgresql_url, stop=stop), "head")
    with pytest.raises(Stopped):
        command.downgrade(tiny_chain(folder, postgresql_url, stop=stop), FIRST)

    command.upgrade(chain, "head")

    assert found(postgresql_url) == (LAST, False, True)


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_the_marker_lives_in_the_schema_of_the_version_table(folder, postgresql_url, direction):
    with client(postgresql_url) as connection:
        connection.execute("CREATE SCHEMA apart")
    chain = interrupted(folder, postgresql_url, direction, schema="apart")
    assert found(postgresql_url, "apart")[1]
    assert not found_in_public(postgresql_url)

    if direction == "upgrade":
        command.downgrade(chain, FIRST)
        assert found(postgresql_url, "apart") == (FIRST, False, False)
    else:
        command.upgrade(chain, MIDDLE)
        assert found(postgresql_url, "apart") == (MIDDLE, False, True)


def found_in_public(url):
    with client(url) as connection:
        query = "SELECT to_regclass('public.evolution_marker') IS NOT NULL"
        return connection.execute(query).fetchone()[0]


def test_a_first_revision_is_continued_both_ways(postgresql_url, tmp_path):
    folder = tmp_path / "chain"
    tiny_chain(folder, postgresql_url)
    for name in ("a1_first.py", "c3_last.py"):
        (folder / "versions" / name).unlink()
    middle = folder / "versions" / "b2_middle.py"
    middle.write_text(middle.read_text().replace('"b2_middle", "a1_first"', '"b2_middle", None'))
    with client(postgresql_url) as connection:
        connection.execute("CREATE TABLE toy (id int PRIMARY KEY); CREATE TABLE runs (pid int)")
    chain = tiny_chain(folder, postgresql_url)

    with pytest.raises(Stopped):
        command.upgrade(tiny_chain(folder, postgresql_url, stop=stop), "head")
    command.downgrade(chain, "base")
    assert found(postgresql_url) == (None, False, False)

    command.upgrade(chain, "head")
    with pytest.raises(Stopped):
        command.downgrade(tiny_chain(folder, postgresql_url, stop=stop), "base")
    command.upgrade(chain, "head")
    assert found(postgresql_url) == (MIDDLE, False, True)


def test_a_script_has_no_marker(folder, postgresql_url):
    chain = tiny_chain(folder, postgresql_url)
    chain.output_buffer = written = StringIO()

    command.upgrade(chain, "head", sql=True)

    assert "evolution_marker" not in written.getvalue()
    assert "UPDATE toy t SET word = 'w' WHERE TRUE" in written.getvalue()


def test_what_is_marked_can_be_read(postgresql_url):
    with revision(postgresql_url) as op:
        assert read_marker(op.get_bind()) is None
        mark_begin(op, "x", None, "upgrade")
        mark_begin(op, "x", None, "downgrade")
        assert read_marker(op.get_bind()) == Marker("x", None, "downgrade")
        mark_begin(op, "y", "x", "upgrade")
        mark_end(op, "x")
        assert read_marker(op.get_bind()) == Marker("y", "x", "upgrade")
        mark_end(op, "y")
        assert read_marker(op.get_bind()) is None
        mark_end(op, "y")


def test_the_end_is_marked_where_the_version_changes_only(postgresql_url):
    with (
        revision(postgresql_url) as op,
        online(op),
        pytest.raises(ExternalTransaction, match="mark_end"),
    ):
        mark_end(op, "x")


def test_an_empty_table_is_no_marker(folder, postgresql_url):
    with client(postgresql_url) as connection:
        connection.execute(
            "CREATE TABLE evolution_marker (revision text PRIMARY KEY, down_revision text,"
            " direction text, started_at timestamptz)"
        )
    with revision(postgresql_url) as op:
        assert read_marker(op.get_bind()) is None


def test_another_dialect_is_refused(postgresql_url):
    with script("sqlite") as (op, _):
        with pytest.raises(WrongDialect, match="mark_begin"):
            mark_begin(op, "x", None, "upgrade")
        with pytest.raises(WrongDialect, match="mark_end"):
            mark_end(op, "x")
