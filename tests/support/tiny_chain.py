"""A chain of three revisions, whose middle one is written with the toolkit and can be stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from alembic.config import Config

FIRST, MIDDLE, LAST = "a1_first", "b2_middle", "c3_last"

_ENV = """\
from sqlalchemy import MetaData, create_engine, make_url
from sqlalchemy.pool import NullPool

from cleveragents_plans.evolution.runner.environment import run_environment
from cleveragents_plans.evolution.runner.target import Application

run_environment(
    MetaData(),
    Application(
        read=make_url,
        show=lambda url: "the toy database",
        open=lambda url: create_engine(url, poolclass=NullPool),
        default="sqlite:///toys.db",
        version_table="toy_version",
    ),
)
"""

_FIRST = """\
from alembic import op

revision, down_revision = "a1_first", None


def upgrade():
    op.execute("CREATE TABLE public.toy (id int PRIMARY KEY)")
    op.execute("CREATE TABLE public.runs (pid int)")
    op.execute("INSERT INTO public.toy SELECT generate_series(1, 100)")


def downgrade():
    op.execute("DROP TABLE public.toy")
    op.execute("DROP TABLE public.runs")
"""

_MIDDLE = """\
from alembic import context, op

from cleveragents_plans.evolution import (
    run_in_batches,
    set_not_null,
    with_exclusive_lock,
)

revision, down_revision = "b2_middle", "a1_first"


def check_upgrade():
    checked("upgrade")


def check_downgrade():
    checked("downgrade")


def checked(direction):
    act = context.config.attributes.get("check")
    if act:
        act(op, direction)


def may_stop():
    act = context.config.attributes.get("stop")
    if act:
        act(op)


def upgrade():
    with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD COLUMN IF NOT EXISTS word text")
    may_stop()
    op.execute("INSERT INTO public.runs VALUES (pg_backend_pid())")
    run_in_batches(op,
        "toy",
        key="id",
        needs="t.word IS NULL",
        update="UPDATE {schema}.toy t SET word = 'w' WHERE {batch} AND word IS NULL",
    )
    set_not_null(op, "toy", "word")


def downgrade():
    with_exclusive_lock(op, "toy",
        "ALTER TABLE {schema}.toy ALTER word DROP NOT NULL", "UPDATE {schema}.toy SET word = NULL"
    )
    may_stop()
    with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy DROP COLUMN word")
"""

_LAST = """\
from alembic import op

revision, down_revision = "c3_last", "b2_middle"


def upgrade():
    op.execute("CREATE TABLE public.last ()")


def downgrade():
    op.execute("DROP TABLE public.last")
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
