"""``throttle``: slow a run down that is under way, pause it, and let it go on."""

from __future__ import annotations

from typing import Any

import click

from cleveragents_plans.cli.options import config_of, database_options
from cleveragents_plans.cli.output import show
from cleveragents_plans.evolution.runner.runs import how_far
from cleveragents_plans.evolution.settings import BadSetting, Settings, range_of
from cleveragents_plans.schema.throttling import throttle

_RATE = "rows-per-second="


@click.command("throttle")
@click.argument("change", metavar=f"{_RATE}ROWS|pause|resume")
@database_options
def throttle_command(change: str, **given: Any) -> None:
    """
    Change the rate of the run under way, pause it, or let it go on.

    It works from any machine: the run reads the change within a second or two, and follows it
    before its next batch. While it is paused, it has no transaction and no lock on a table. A rate
    of 0 means no limit. PostgreSQL only: on SQLite a run is one transaction.
    """
    rate, paused = _read(change)
    found = throttle(config_of(given), rows_per_second=rate, paused=paused)
    show(f"{found.command} that began at {found.began_at}: {_told(rate, paused)}")
    show(f"it was at {how_far(found)}")


def _read(change: str) -> tuple[float | None, bool | None]:
    if change in ("pause", "resume"):
        return None, change == "pause"
    try:
        if change.startswith(_RATE):
            return Settings.checked("rows_per_second", change.removeprefix(_RATE)), None
    except BadSetting:
        pass
    raise click.BadParameter(
        f"{change!r}; expected pause, resume, or {_RATE}ROWS with {range_of('rows_per_second')}, "
        f"such as {_RATE}500"
    )


def _told(rate: float | None, paused: bool | None) -> str:
    if rate is not None:
        return (
            f"{rate:,g} rows/s at most from its next batch on" if rate else "no limit from now on"
        )
    if paused:
        return "pauses before its next batch, until `cleveragents-plans throttle resume`"
    return "goes on"
