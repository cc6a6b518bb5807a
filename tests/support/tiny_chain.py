"""A chain of three revisions, whose middle one is written with the toolkit and can be stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from alembic.config import Config

FIRST, MIDDLE, LAST = "a1_first", "b2_middle", "c3_last"

_ENV = """\
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from cleveragents_plans.evolution.runner.environment import connected
from cleveragents_plans.evolution.runner.connection_errors import report_connection_lost
from cleveragents_plans.evolution.runner import unfinished
from cleveragents_plans.evolution.runner.migration_lock import migration_lock
from cleveragents_plans.evolution.settings import Settings

attributes = context.config.attributes
options = {
    "transaction_per_migration": True,
    "version_table_schema": attributes.get("schema"),
}
if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **options)
    unfinished.starting_point(context.get_context())
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(attributes["url"], poolclass=NullPool)
    with (
        report_connection_lost("the toy database"),
        connected(engine, "the toy database") as connection,
        migration_lock(connection, Settings.of(context)),
    ):
        context.configure(connection=connection, **options)
        unfinished.go_from(context.get_context(), unfinished.starting_point(context.get_context()))
        with context.begin_transaction():
            context.run_migrations()
"""

_FIRST = """\
from alembic import op

revision, down_revision = "a1_first", None


def upgrade():
    op.execute("CREATE TABLE toy (id int PRIMARY KEY)")
    op.execute("CREATE TABLE runs (pid int)")
    op.execute("INSERT INTO toy SELECT generate_series(1, 100)")


def downgrade():
    op.execute("DROP TABLE toy")
    op.execute("DROP TABLE runs")
"""

_MIDDLE = """\
from alembic import context, op

from cleveragents_plans.evolution import (
    backfill,
    mark_begin,
    mark_end,
    set_not_null,
    with_exclusive_lock,
)

revision, down_revision = "b2_middle", "a1_first"


def may_stop():
    act = context.config.attributes.get("stop")
    if act:
        act(op)


def upgrade():
    mark_begin(op, revision, down_revision, "upgrade")
    with_exclusive_lock(op, "toy", "ALTER TABLE toy ADD COLUMN IF NOT EXISTS word text")
    may_stop()
    op.execute("INSERT INTO runs VALUES (pg_backend_pid())")
    backfill(op,
        "toy",
        key="id",
        needs="t.word IS NULL",
        update="UPDATE toy t SET word = 'w' WHERE {batch} AND word IS NULL",
    )
    set_not_null(op, "toy", "word")
    mark_end(op, revision)


def downgrade():
    mark_begin(op, revision, down_revision, "downgrade")
    with_exclusive_lock(op,
        "toy", "ALTER TABLE toy ALTER word DROP NOT NULL", "UPDATE toy SET word = NULL"
    )
    may_stop()
    with_exclusive_lock(op, "toy", "ALTER TABLE toy DROP COLUMN word")
    mark_end(op, revision)
"""

_LAST = """\
from alembic import op

revision, down_revision = "c3_last", "b2_middle"


def upgrade():
    op.execute("CREATE TABLE last ()")


def downgrade():
    op.execute("DROP TABLE last")
"""


def tiny_chain(folder: Path, url: str, *extra: str, **attributes: object) -> Config:
    """Write the chain into *folder* (if it is not there) and configure it for *url*."""
    versions = folder / "versions"
    if not versions.exists():
        versions.mkdir(parents=True)
        (folder / "env.py").write_text(_ENV)
        (versions / "a1_first.py").write_text(_FIRST)
        (versions / "b2_middle.py").write_text(_MIDDLE)
        (versions / "c3_last.py").write_text(_LAST)
    config = Config(
        attributes={"url": url, **attributes}, cmd_opts=argparse.Namespace(x=list(extra))
    )
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    return config
