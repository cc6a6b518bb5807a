"""An interrupted revision is continued in the direction that is asked for, never forgotten."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from io import StringIO

import pytest
from alembic import command
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import online, run, transaction
from cleveragents_plans.evolution.runner.unfinished import (
    InterruptedRun,
    Unfinished,
    UnfinishedNote,
)
from support.online import client, revision
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


def found(url):
    """The version, whether a note is there, and whether the column of the middle revision is."""
    with client(url) as connection:
        version, comment, column = connection.execute(
            "SELECT (SELECT string_agg(version_num, ',') FROM alembic_version),"
            " obj_description('alembic_version'::regclass, 'pg_class'), EXISTS (SELECT"
            " FROM pg_attribute WHERE attrelid = to_regclass('toy') AND attname = 'word'"
            " AND attnotnull)"
        ).fetchone()
    return version, comment is not None, column


def comment(url):
    with client(url) as connection:
        query = "SELECT obj_description('alembic_version'::regclass, 'pg_class')"
        return connection.execute(query).fetchone()[0]


def test_undisturbed_run_leaves_no_note(folder, postgresql_url):
    chain = tiny_chain(folder, postgresql_url)

    command.upgrade(chain, "head")
    assert found(postgresql_url) == (LAST, False, True)
    command.downgrade(chain, FIRST)
    assert found(postgresql_url) == (FIRST, False, False)
    command.downgrade(chain, "base")
    assert found(postgresql_url) == (None, False, False)


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_interrupted_run_leaves_a_note(folder, postgresql_url, direction):
    interrupted(folder, postgresql_url, direction)

    version, noted, column = found(postgresql_url)
    assert version == (FIRST if direction == "upgrade" else MIDDLE)
    assert (noted, column) == (True, False)
    assert comment(postgresql_url) == f"[unfinished {direction} of {MIDDLE}]"


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_step_whose_first_lock_is_refused_leaves_no_note(folder, postgresql_url, direction):
    chain = tiny_chain(folder, postgresql_url)
    command.upgrade(chain, FIRST if direction == "upgrade" else MIDDLE)
    with client(postgresql_url) as connection:
        connection.execute(
            "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE 'no ALTER TABLE here'; END$$;"
            "CREATE EVENT TRIGGER forbid ON ddl_command_start WHEN TAG IN ('ALTER TABLE')"
            " EXECUTE FUNCTION forbid()"
        )
    before = found(postgresql_url)

    with pytest.raises(EvolutionError, match="no ALTER TABLE here"):
        (command.upgrade if direction == "upgrade" else command.downgrade)(
            chain, MIDDLE if direction == "upgrade" else FIRST
        )

    assert found(postgresql_url) == before
    assert comment(postgresql_url) is None


def test_step_that_is_refused_later_keeps_its_note(folder, postgresql_url):
    chain = tiny_chain(folder, postgresql_url)
    command.upgrade(chain, FIRST)
    with client(postgresql_url) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE 'no UPDATE here'; END$$;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON toy EXECUTE FUNCTION refuse()"
        )

    with pytest.raises(EvolutionError, match="no UPDATE here"):
        command.upgrade(chain, "head")

    assert comment(postgresql_url) == f"[unfinished upgrade of {MIDDLE}]"


def test_comment_of_the_operator_is_kept_beside_the_note(folder, postgresql_url):
    chain = tiny_chain(folder, postgresql_url)
    command.upgrade(chain, FIRST)
    ours = "100 % of the team's\nchain"
    with client(postgresql_url) as connection:
        connection.execute("COMMENT ON TABLE alembic_version IS '100 % of the team''s\nchain'")
    assert comment(postgresql_url) == ours

    with pytest.raises(Stopped):
        command.upgrade(tiny_chain(folder, postgresql_url, stop=stop), "head")
    assert comment(postgresql_url) == f"{ours}\n[unfinished upgrade of {MIDDLE}]"

    command.upgrade(chain, "head")
    assert comment(postgresql_url) == ours


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
def test_check_heads_fails_between_two_versions(folder, postgresql_url, direction):
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
    told = str(
        InterruptedRun(
            MIDDLE, direction, f"`alembic upgrade {MIDDLE}`", f"`alembic downgrade {FIRST}`"
        )
    )

    assert f"`alembic {onward}` to complete it or `alembic {back}` to undo it" in told


def test_run_can_be_interrupted_again_on_the_way_back(folder, postgresql_url):
    chain = interrupted(folder, postgresql_url, "downgrade")
    with pytest.raises(Stopped):
        command.upgrade(tiny_chain(folder, postgresql_url, stop=stop), "head")
    with pytest.raises(Stopped):
        command.downgrade(tiny_chain(folder, postgresql_url, stop=stop), FIRST)

    command.upgrade(chain, "head")

    assert found(postgresql_url) == (LAST, False, True)


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


def test_script_has_no_note(folder, postgresql_url):
    chain = tiny_chain(folder, postgresql_url)
    chain.output_buffer = written = StringIO()

    command.upgrade(chain, "head", sql=True)

    assert "COMMENT ON" not in written.getvalue()
    assert "UPDATE public.toy t SET word = 'w' WHERE (SELECT set_config" in written.getvalue()


@contextmanager
def noting(url):
    """Give ``op`` and the note of a run, whose step `x` has begun to go up."""
    with revision(url) as op:
        op.execute("CREATE TABLE public.alembic_version (version_num varchar(32))")
    with revision(url) as op:
        note = UnfinishedNote(op.get_bind(), "alembic_version", "public")
        note.read()
        with note.watched():
            note.begin("x", "upgrade")
            yield op, note


CHANGES = {
    "statement in Alembic's transaction": lambda op: [
        op.execute("CREATE TABLE public.t ()"),
        pause(op),
    ],
    "statement of its own": lambda op: alone(op, "CREATE TABLE public.t ()"),
    "statement of its own that reads first": lambda op: alone(
        op,
        "WITH a AS (SELECT), b AS (DELETE FROM public.alembic_version WHERE false RETURNING 1)"
        " TABLE a",
    ),
    "short transaction": lambda op: short(op, "CREATE TABLE public.t ()"),
}
NO_CHANGES = {
    "nothing": lambda op: pause(op),
    "look in Alembic's transaction": lambda op: [op.execute("SELECT 1"), pause(op)],
    "look of its own": lambda op: alone(op, "SELECT 1"),
    "look that reads in two steps": lambda op: alone(op, "WITH a AS (SELECT) TABLE a"),
    "setting": lambda op: alone(op, "SET lock_timeout = '1s'"),
    "statement that fails in a short transaction": lambda op: short(op, "CREATE TABL"),
}


def pause(op):
    with online(op):
        pass


def alone(op, statement):
    with online(op) as connection:
        run(connection, statement)


def short(op, statement):
    with online(op) as connection, suppress(DBAPIError), transaction(connection):
        run(connection, statement)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_note_is_written_with_the_first_change(postgresql_url, change):
    with noting(postgresql_url) as (op, note):
        change(op)

        assert comment(postgresql_url) == "[unfinished upgrade of x]"
        assert note.found == Unfinished("x", "upgrade")


@pytest.mark.parametrize("look", NO_CHANGES.values(), ids=NO_CHANGES)
def test_note_is_not_written_while_nothing_has_changed(postgresql_url, look):
    with noting(postgresql_url) as (op, note):
        look(op)

        assert comment(postgresql_url) is None
        alone(op, "CREATE TABLE public.t ()")
        assert note.found == Unfinished("x", "upgrade")


def test_note_takes_the_direction_of_the_next_run(postgresql_url):
    with noting(postgresql_url) as (op, note):
        alone(op, "CREATE TABLE public.t ()")
        note.begin("x", "downgrade")
        alone(op, "DROP TABLE public.t")
        assert comment(postgresql_url) == "[unfinished downgrade of x]"
        note.clear()
    assert comment(postgresql_url) is None


def test_note_is_cleared_with_the_transaction_of_the_version(postgresql_url):
    def clear_and_stop():
        with noting(postgresql_url) as (op, note):
            alone(op, "CREATE TABLE public.t ()")
            note.clear()
            raise Stopped

    with pytest.raises(Stopped):
        clear_and_stop()

    assert comment(postgresql_url) == "[unfinished upgrade of x]"


@pytest.mark.parametrize("inherits", ["INHERIT", "NOINHERIT"])
def test_note_is_written_by_a_member_of_the_owner(postgresql_url, inherits):
    with client(postgresql_url) as connection:
        connection.execute("CREATE TABLE public.alembic_version (version_num varchar(32))")
        connection.execute(
            f"CREATE ROLE owner_{inherits}; CREATE ROLE member_{inherits} {inherits} LOGIN"
            f" IN ROLE owner_{inherits}; GRANT CREATE ON SCHEMA public TO owner_{inherits};"
            f"ALTER TABLE alembic_version OWNER TO owner_{inherits}"
        )
    try:
        url = make_url(postgresql_url).set(username=f"member_{inherits}".lower())
        with revision(url) as op:
            note = UnfinishedNote(op.get_bind(), "alembic_version", "public")
            note.read()
            with note.watched():
                note.begin("x", "upgrade")
                short(op, "CREATE TEMP TABLE t ()")
                assert comment(postgresql_url) == "[unfinished upgrade of x]"
                assert run(op.get_bind(), "SELECT current_user").scalar_one() == url.username
                note.clear()
        assert comment(postgresql_url) is None
    finally:
        with client(postgresql_url) as connection:
            connection.execute(
                f"DROP OWNED BY owner_{inherits}; DROP ROLE member_{inherits}, owner_{inherits}"
            )
