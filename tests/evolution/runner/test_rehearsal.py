"""A mistake in a revision is found before the first change of the revision."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from cleveragents_plans.evolution.errors import OperationRefused
from support.tiny_chain import tiny_chain
from support.toys import execute, make_toys, structure

REVISION = """\
import sqlalchemy as sa
from alembic import op

from cleveragents_plans.evolution import (
    add_column,
    backfill,
    create_index,
    drop_column,
    drop_index,
    qualified_name,
    rename_column,
)

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
}
SOUND = {
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
    make_toys(empty_url)
    before = structure(empty_url)

    with pytest.raises(OperationRefused) as refused:
        command.upgrade(chain(tmp_path / "chain", empty_url, call), "head")

    assert message in str(refused.value)
    assert str(refused.value).startswith("m9_001_toys: ")
    after = [entry for entry in structure(empty_url) if "alembic_version" not in str(entry)]
    assert after == before


@pytest.mark.parametrize("up", SOUND.values(), ids=SOUND)
def test_names_that_the_revision_itself_creates_are_not_refused(
    empty_url: str, tmp_path: Path, up: str
):
    make_toys(empty_url)

    command.upgrade(chain(tmp_path / "chain", empty_url, up), "head")

    assert execute(empty_url, "SELECT version_num FROM alembic_version") == [("m9_001_toys",)]


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
