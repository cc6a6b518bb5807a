"""A command in a message can be typed where the message is read."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import make_url

from cleveragents_plans.cli import main
from cleveragents_plans.evolution.runner.command_line import typed
from cleveragents_plans.schema import chain_config
from support.databases import ROOT, migrate, url_option
from support.online import client
from support.revisions import M4_003, M8_001


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(), "`alembic upgrade head`"),
        (chain_config(), "`cleveragents-plans upgrade head`"),
        (
            Config(cmd_opts=argparse.Namespace(x=["version_table=v", "schema=s", "lock-wait=5"])),
            "`alembic -x schema=s -x version-table=v upgrade head`",
        ),
        (
            chain_config(extra=["version-table=v"]),
            "`cleveragents-plans upgrade head -x version-table=v`",
        ),
        (Config(attributes={"schema": "s"}), "`alembic -x schema=s upgrade head`"),
    ],
)
def test_command_is_that_of_the_program_with_the_options_that_it_needs(config, expected):
    assert typed(config, "upgrade head") == expected


def test_further_option_overrides_what_was_given():
    config = chain_config(extra=["version-table=theirs"])

    assert typed(config, "upgrade head", version_table="plans_version") == (
        "`cleveragents-plans upgrade head -x version-table=plans_version`"
    )


@pytest.fixture
def unstamped(empty_url):
    migrate(empty_url, M4_003)
    command.stamp(chain_config(empty_url), "base")
    return empty_url


def test_alembic_names_a_command_of_its_own(unstamped, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", ROOT / "alembic.ini", "-x", f"url={unstamped}",
         "upgrade", "head"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip

    assert f"run `alembic stamp {M4_003}`" in done.stdout + done.stderr


def test_installed_program_names_a_command_of_its_own(unstamped, capfd):
    assert main(["upgrade", "--url", unstamped]) == 1

    told = capfd.readouterr().err
    assert f"run `cleveragents-plans stamp {M4_003} {url_option(unstamped)}`" in told


def test_command_in_a_message_names_the_database_that_was_named_without_its_password(
    postgresql_url, capfd, monkeypatch
):
    url = make_url(postgresql_url).set(password="s3cret")
    whole = url.render_as_string(hide_password=False)
    shown = url.render_as_string()

    assert main(["status", "--url", whole]) == 3
    assert f"run `cleveragents-plans upgrade --url '{shown}'`\n" in capfd.readouterr().out

    assert main(["status", "-x", f"url={whole}"]) == 3
    assert f"run `cleveragents-plans upgrade --url '{shown}'`\n" in capfd.readouterr().out

    monkeypatch.setenv("DATABASE_URL", whole)
    assert main(["status"]) == 3
    assert "run `cleveragents-plans upgrade`\n" in capfd.readouterr().out


def test_interrupted_run_is_answered_with_commands_of_the_program(postgresql_url, capfd):
    migrate(postgresql_url, M8_001)
    with client(postgresql_url) as connection:
        connection.execute(
            f"COMMENT ON TABLE alembic_version IS '[unfinished downgrade of {M8_001}]'"
        )

    assert main(["current", "--check-heads", "--url", postgresql_url]) == 1
    told = capfd.readouterr().err
    named = url_option(postgresql_url)
    assert f"`cleveragents-plans downgrade {M4_003} {named}` to complete it" in told
    assert f"`cleveragents-plans upgrade {M8_001} {named}` to undo it" in told

    config = Config(ROOT / "alembic.ini", attributes={"url": postgresql_url})
    with pytest.raises(CommandError, match=f"`alembic downgrade {M4_003}` to complete it"):
        command.current(config, check_heads=True)
