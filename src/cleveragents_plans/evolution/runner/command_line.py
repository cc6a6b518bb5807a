"""Commands in messages, as they can be typed where the message is read."""

from __future__ import annotations

import shlex

from alembic.config import Config

from cleveragents_plans.evolution.settings import given_options


def typed(config: Config, command: str, **options: str) -> str:
    """
    Write an Alembic *command* as it is typed for the chain of *config*.

    That is ``alembic …`` where there is a configuration file, and elsewhere the program that
    runs the chain without one, if there is one: it says so by the attribute ``program``. The
    schema and the version table that were given are given again; to the program so is the URL,
    without its password, because it would take another database for it.

    Args:
        config: The configuration of the run that writes the message.
        command: The command and its arguments.
        options: Further ``-x`` options, with ``_`` for ``-``.
    """
    given = given_options(config)
    for name in ("schema", "version-table"):
        value = config.attributes.get(name.replace("-", "_")) or given.get(name)
        if value:
            options.setdefault(name.replace("-", "_"), value)
    given = {name.replace("_", "-"): value for name, value in options.items()}
    extra = "".join(f" -x {shlex.quote(f'{name}={value}')}" for name, value in given.items())
    program = config.attributes.get("program", "alembic")
    if program == "alembic":  # which takes them before the command
        return f"`alembic{extra} {command}`"
    url = config.attributes.get("shown_url")
    named = f" --url {shlex.quote(url)}" if url else ""
    return f"`{program} {command}{named}{extra}`"


def typed_for_program(config: Config, command: str) -> str:
    """Write a *command* of the program that Alembic does not have, as `typed` does."""
    if "program" in config.attributes:
        return typed(config, command)
    return f"`cleveragents-plans {command}`"
