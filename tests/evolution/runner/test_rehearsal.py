"""A mistake in a revision is found before the first change of the revision."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from cleveragents_plans.evolution.errors import BackfillNeverEnds, OperationRefused
from support.statements import dying_at
from support.tiny_chain import tiny_chain
from support.toys import ROWS, execute, make_toys, structure

REVISION = """\
import sqlalchemy as sa
from alembic import op

from cleveragents_plans.evolution import *

revision = "m9_001_toys"
down_revision = {down!r}


def upgrade():
    create_index(op, "ix_toy_word", "toy", ["word"])
    {up}


def downgrade():
    drop_index(op, "ix_toy_word", "toy")
    {back}
"""
MISTAKES = {
    "backfill(op, 'toys', key='id', values={'word': '1'})": "there is no table toys; is toy meant?",
    "backfill(op, 'toy', key='id', values={'wort': '1'})": "toy has no column wort; is word meant?",
    "backfill(op, 'toy', key='id, size', values={'word': '1'})": "is not the name of one column",
    "backfill(op, 'toy', key='size', values={'word': '1'})": "rows of toy may be equal in size",
    "create_index(op, 'ix_toy', 'toy', ['sise'])": "toy has no column sise; is size meant?",
    "backfill(op, 'toy', key='id', values={'word': 't.wort'})": "t.wort",
    "backfill(op, 'toy', key='id', values={'size': json_integer('dok', 'n')})": "is doc meant?",
    "backfill(op, 'toy', key='id', values={'word': '1'}, needs='t.sise > 1')": "is size meant?",
    "backfill(op, 'toy', key='id', values={'word': 'lower('})": "refuses it",
    "backfill(op, 'toy', key='id', values={'size': 'lower(t.doc)'})": "type integer",
    "backfill(op, 'toy', key='id', values={'size': \"'many'\"})": "type integer",
    """add_column(op, 'toy', sa.Column('new', sa.Integer))
    backfill(op, 'toy', key='id', values={'new': 'lower(t.doc)'}, needs='t.new IS NULL')""": "new",
    "create_index(op, 'ix_toy', 'toy', ['word'], where='sise > 1')": "is size meant?",
    "create_index(op, 'ix_toy', 'toy', [sa.text('lower(wort)')])": "is word meant?",
    "create_index(op, 'box', 'toy', ['size'])": "box is the name of the table ",
    "create_index(op, 'ix_box', 'toy', ['size'])": "ix_box is the name of an index of ",
    "create_index(op, 'ix_toy_size', 'toy', ['word'])": "ix_toy_size is the name of an",
    "add_column(op, 'toy', sa.Column('size', sa.Text))": "toy has a column size of the type ",
    "add_check(op, 'toy', 'ck', 'sise > 1')": "sise",
    "rename_column(op, 'toy', 'wort', 'text')": "toy has no column wort; is word meant?",
    "drop_column(op, 'toy', 'box_idd')": "toy has no column box_idd; is box_id meant?",
    "drop_index(op, 'ix_toy_sizes', 'toy')": "toy has no index ix_toy_sizes; is ix_toy_size meant",
    "drop_index(op, 'ix_box', 'toy')": "ix_box is an index of ",
}
ON_A_SERVER = {
    "drop_trigger(op, 'toy', 'toy_loudd')": "toy has no trigger toy_loudd; is toy_loud meant?",
    "drop_constraint(op, 'toy', 'toy_pkeys')": "toy has no constraint toy_pkeys; is toy_pkey",
    "add_check(op, 'toy', 'toy_pkey', 'size > 1')": "has another constraint toy_pkey: PRIMARY KEY",
    "add_check(op, 'toy', 'ck', 'sise > 1')": "is size meant?",
    "backfill(op, 'toy', key='id', values={'size': '1'}, needs='t.size = t.doc')": "refuses it",
    "backfill(op, 'toy', key='id', values={'size': json_text('doc', 'n')})": "of type integer but",
}
SOUND = {
    "an index of a name that is dropped first": """\
drop_index(op, 'ix_toy_size', 'toy')
    create_index(op, 'ix_toy_size', 'toy', ['size', 'word'])""",
    "a column that is dropped first": """\
drop_column(op, 'toy', 'doc')
    add_column(op, 'toy', sa.Column('doc', sa.Integer))
    backfill(op, 'toy', key='id', values={'doc': 't.doc + 1'}, needs='t.doc = 0')""",
    "a CHECK of a new column": """\
add_column(op, 'toy', sa.Column('new', sa.Integer))
    backfill(op, 'toy', key='id', values={'new': 't.size', 'word': 'CAST(t.new AS text)'},
             needs='t.new IS NULL')
    add_check(op, 'toy', 'ck_new', 'new >= 0')
    create_index(op, 'ix_toy', 'toy', [sa.text('new DESC')], where='new > 1')""",
    "a new column": """\
add_column(op, 'toy', sa.Column('new', sa.Text))
    backfill(op, 'toy', key='id', values={'new': "'x'"})
    create_index(op, 'ix_toy_new', 'toy', ['new'])""",
    "a renamed column": """\
rename_column(op, 'toy', 'doc', 'text')
    create_index(op, 'ix_toy_new', 'toy', ['text'])""",
    "a new table": """\
op.create_table('news', sa.Column('id', sa.Integer, primary_key=True), sa.Column('n', sa.Integer))
    create_index(op, 'ix_news_n', 'news', ['n'])
    backfill(op, 'news', key='id', values={'n': '1'})""",
    "a new key": """\
op.create_index('uq_toy', 'toy', ['word'], unique=True)
    backfill(op, 'toy', key='word', values={'size': '1'})""",
    "a look at the database": """\
toy = qualified_name(op, 'toy')
    assert op.get_bind().execute(sa.text(f'SELECT count(*) FROM {toy}')).scalar() > 0""",
}

SOUND_ON_A_SERVER = {
    "a column that gets another type": """\
op.alter_column('toy', 'size', type_=sa.Text, schema='public')
    backfill(op, 'toy', key='id', values={'size': "'many'"})""",
    "a column that is dropped by Alembic": """\
op.drop_column('toy', 'box_id', schema='public')
    op.add_column('toy', sa.Column('box_id', sa.Text), schema='public')
    backfill(op, 'toy', key='id', values={'box_id': "'many'"})""",
}


def chain(folder: Path, url: str, up: str, back: str = "pass", down: str | None = None) -> Config:
    config = tiny_chain(folder, url)
    for file in (folder / "versions").glob("[abc]*.py"):
        file.unlink()
    revision = REVISION.format(up=up, back=back, down=down)
    (folder / "versions" / "m9_001_toys.py").write_text(revision)
    return config


@pytest.mark.parametrize(("call", "message"), MISTAKES.items())
def test_mistake_in_a_later_operation_is_found_before_the_first_one_runs(
    empty_url: str, tmp_path: Path, call: str, message: str
):
    refuses(empty_url, tmp_path, call, message)


@pytest.mark.parametrize(("call", "message"), ON_A_SERVER.items())
def test_mistake_in_what_only_a_server_has_is_found_before_the_first_operation_runs(
    postgresql_url: str, tmp_path: Path, call: str, message: str
):
    execute(
        postgresql_url,
        "CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
    )
    refuses(
        postgresql_url, tmp_path, call, message,
        "CREATE TRIGGER toy_loud AFTER DELETE ON toy EXECUTE FUNCTION loud()",
    )  # fmt: skip


def refuses(url: str, folder: Path, call: str, message: str, *more: str) -> None:
    make_toys(url)
    execute(
        url, "CREATE INDEX ix_toy_size ON toy (size)", "CREATE INDEX ix_box ON box (label)", *more
    )
    before = structure(url)

    with pytest.raises(OperationRefused) as refused:
        command.upgrade(chain(folder / "chain", url, call), "head")

    said = str(refused.value)
    assert message.lower() in said.lower()  # SQLAlchemy writes INTEGER, PostgreSQL integer
    assert said.startswith("m9_001_toys: ")
    assert said.endswith("; the revision changed nothing")
    assert [entry for entry in structure(url) if "alembic_version" not in str(entry)] == before


@pytest.mark.parametrize("up", SOUND.values(), ids=SOUND)
def test_names_that_the_revision_itself_creates_are_not_refused(
    empty_url: str, tmp_path: Path, up: str
):
    accepts(empty_url, tmp_path, up)


@pytest.mark.parametrize("up", SOUND_ON_A_SERVER.values(), ids=SOUND_ON_A_SERVER)
def test_types_that_the_revision_itself_changes_are_not_refused(
    postgresql_url: str, tmp_path: Path, up: str
):
    accepts(postgresql_url, tmp_path, up)


def accepts(url: str, folder: Path, up: str) -> None:
    make_toys(url)
    execute(url, "CREATE INDEX ix_toy_size ON toy (size)")

    command.upgrade(chain(folder / "chain", url, up), "head")

    assert execute(url, "SELECT version_num FROM alembic_version") == [("m9_001_toys",)]


NOT_THERE = {
    "column": "drop_column(op, 'toy', 'gone')",
    "index": "drop_index(op, 'gone', 'toy')",
    "constraint": "drop_constraint(op, 'toy', 'gone')",
    "trigger": "drop_trigger(op, 'toy', 'gone')",
}


@pytest.mark.parametrize("kind", NOT_THERE)
def test_warning_names_what_is_not_there_to_be_dropped(
    empty_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
):
    make_toys(empty_url)

    command.upgrade(chain(tmp_path / "chain", empty_url, NOT_THERE[kind]), "head")

    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    # SQLite has no triggers of a revision.
    assert len(warnings) == (kind != "trigger" or not empty_url.startswith("sqlite"))
    assert all(f"toy has no {kind} gone, and drop_{kind} dropped none" in it for it in warnings)


HALF_DONE = """\
add_column(op, 'toy', sa.Column('number', sa.Integer))
    backfill(op, 'toy', key='id', values={'number': json_integer('doc', 'size')})
    drop_index(op, 'ix_toy_size', 'toy')
    drop_column(op, 'toy', 'doc')"""


def test_revision_that_dropped_what_it_had_read_is_completed_without_a_warning(
    empty_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    make_toys(empty_url)
    execute(empty_url, "CREATE INDEX ix_toy_size ON toy (size)")
    execute(empty_url, "CREATE INDEX ix_toy_sizes ON toy (size, word)")  # much alike
    config = chain(tmp_path / "chain", empty_url, HALF_DONE)
    with dying_at("alembic_version (version_num) VALUES"):
        command.upgrade(config, "head")

    command.upgrade(config, "head")

    assert execute(empty_url, "SELECT count(*) FROM toy WHERE number = id") == [(ROWS,)]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_refusal_after_a_change_says_that_it_stays(postgresql_url: str, tmp_path: Path):
    make_toys(postgresql_url)
    # No rehearsal knows what a statement of its own does.
    call = "with_exclusive_lock(op, 'toy', 'ALTER TABLE {schema}.toy DROP COLUMN doc')\n"
    call += "    backfill(op, 'toy', key='id', values={'word': 't.doc'})"

    with pytest.raises(OperationRefused, match="backfill: PostgreSQL refuses it") as refused:
        command.upgrade(chain(tmp_path / "chain", postgresql_url, call), "head")

    assert str(refused.value).endswith(
        "; backfill changed nothing, what the revision did before stays; run the same command "
        "again: it does what is left to do"
    )


def test_backfill_that_never_ends_names_the_revision_and_what_stays(empty_url: str, tmp_path: Path):
    make_toys(empty_url)
    call = "backfill(op, 'toy', key='id', values={'size': 't.size + 1'})"
    with pytest.raises(BackfillNeverEnds) as refused:
        command.upgrade(chain(tmp_path / "chain", empty_url, call), "head")

    said = str(refused.value)
    assert said.startswith("m9_001_toys: backfill: the backfill of ")
    # The index of each revision here is built before.
    assert ("what was changed before stays" in said) == empty_url.startswith("postgresql")


def test_mistake_in_a_downgrade_is_found_before_its_first_change(empty_url: str, tmp_path: Path):
    make_toys(empty_url)
    config = chain(tmp_path / "chain", empty_url, "pass", "drop_column(op, 'toys', 'word')")
    command.upgrade(config, "head")
    before = structure(empty_url)

    with pytest.raises(OperationRefused, match="m9_001_toys: drop_column: there is no table toys"):
        command.downgrade(config, "base")

    assert structure(empty_url) == before


def test_mistake_in_a_later_revision_is_found_before_its_first_change(
    postgresql_url: str, tmp_path: Path
):
    make_toys(postgresql_url)
    config = chain(tmp_path / "chain", postgresql_url, "pass")
    second = REVISION.format(down="m9_001_toys", up="drop_column(op, 'toys', 'word')", back="pass")
    file = tmp_path / "chain" / "versions" / "m9_002_toys.py"
    file.write_text(second.replace('m9_001_toys"', 'm9_002_toys"').replace('word"', 'size"'))
    assert 'revision = "m9_002_toys"' in file.read_text()

    with pytest.raises(OperationRefused, match="m9_002_toys: drop_column: there is no table toys"):
        command.upgrade(config, "head")

    assert execute(postgresql_url, "SELECT version_num FROM alembic_version") == [("m9_001_toys",)]
    assert "ix_toy_word ON public.toy USING btree (word)" in str(structure(postgresql_url))


def test_revision_that_is_not_written_yet_changes_nothing(empty_url: str, tmp_path: Path):
    make_toys(empty_url)
    before = structure(empty_url)
    config = chain(tmp_path / "chain", empty_url, "raise NotImplementedError('write this step')")

    with pytest.raises(NotImplementedError):
        command.upgrade(config, "head")

    after = [entry for entry in structure(empty_url) if "alembic_version" not in str(entry)]
    assert after == before


def test_rehearsal_of_the_whole_chain_prints_nothing(
    postgresql_url: str, capsys: pytest.CaptureFixture[str]
):
    from support.databases import migrate

    migrate(postgresql_url, "head")

    assert "ALTER TABLE" not in capsys.readouterr().out
