"""``profiles``: the automation profiles that are built in."""

from __future__ import annotations

from typing import Literal

import click
from pydantic import Field

from cleveragents_plans.cli.options import json_option
from cleveragents_plans.cli.output import facts, show, show_json, styled, table
from cleveragents_plans.cli.reports import Output
from cleveragents_plans.domain import (
    BUILT_IN_PROFILES,
    DEFAULT_PROFILE_NAME,
    AutomationProfile,
    UnknownProfile,
)
from cleveragents_plans.domain.profiles import THRESHOLDS


class ProfilesReport(Output):
    """What ``profiles`` shows."""

    command: Literal["profiles"] = Field(default="profiles", description="The command.")
    default: str = Field(description="The profile of a plan for which none was chosen.")
    profiles: tuple[AutomationProfile, ...] = Field(description="The profiles.")


@click.command("profiles")
@click.argument("name", required=False)
@json_option
def profiles_command(name: str | None, json: bool) -> None:
    """
    Show the built-in automation profiles, or all that NAME says.

    A threshold is the confidence from which on a step is taken without asking a person: 0 means
    always, 1 never.
    """
    if name is not None and name not in BUILT_IN_PROFILES:
        raise UnknownProfile(name, tuple(BUILT_IN_PROFILES))
    chosen = [BUILT_IN_PROFILES[name]] if name is not None else [*BUILT_IN_PROFILES.values()]
    report = ProfilesReport(default=DEFAULT_PROFILE_NAME, profiles=tuple(chosen))
    if json:
        show_json(report)
    elif name is not None:
        _show_one(chosen[0])
    else:
        rows = [(styled(each.name, "bold"), each.description) for each in chosen]
        show(table(["profile", "what it is for"], rows))


def _show_one(profile: AutomationProfile) -> None:
    written = profile.model_dump(mode="json")
    lines = [("profile", profile.name), ("for", profile.description)]
    lines += [(name, f"{written[name]:.2f}  {_bar(written[name])}") for name in THRESHOLDS]
    lines += [
        (name, "none" if value in (None, []) else str(value))
        for name, value in written["safety"].items()
    ]
    show(facts(lines))


def _bar(threshold: float) -> str:
    return "#" * round(threshold * 20)
