"""How long to wait, and how hard to press: what an operator or a test can choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

from alembic.config import Config

from cleveragents_plans.evolution.errors import EvolutionError


class BadSetting(EvolutionError):
    """
    A setting has a value that cannot be used.

    Attributes:
        name: The setting.
        found: Its value.
    """

    def __init__(self, name: str, found: object, expected: str) -> None:
        super().__init__(f"the setting {name} is {found!r}; expected {expected}")
        self.name = name
        self.found = found


class _HasConfig(Protocol):
    @property
    def config(self) -> Config: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """
    The choices of one run.

    An operator gives them as ``-x lock-wait=60`` (the names with hyphens), a program as
    ``config.attributes["evolution"] = {"lock_wait": 60}``; the former wins.
    """

    #: Seconds to go on trying for a lock on a table, or for rows that others lock.
    lock_wait: float = 600.0
    #: Seconds to wait while another process migrates.
    migration_lock_wait: float = 3600.0
    #: Seconds between two messages while waiting.
    report_every: float = 3.0
    #: Milliseconds that one batch should take while others are at work; four times as
    #: long when nobody is.
    batch_ms: float = 5.0
    #: Share of the time spent in batches while others are at work.
    duty_cycle: float = 0.75
    #: Rows written per second at most, for replicas that fall behind; 0 is no limit.
    rows_per_second: float = 0.0

    @classmethod
    def of(cls, environment: _HasConfig | None) -> Self:
        """
        Read the choices from where *environment* keeps its configuration.

        Raises:
            BadSetting: A value is no number, or out of range, or a name is unknown.
        """
        if environment is None:
            return cls()
        names = {field.name for field in fields(cls)}
        given: dict[str, Any] = dict(_attributes(environment.config))
        if unknown := given.keys() - names:
            raise BadSetting(min(unknown), given[min(unknown)], f"one of {sorted(names)}")
        for argument in getattr(environment.config.cmd_opts, "x", None) or ():
            name, _, value = argument.partition("=")
            if name.replace("-", "_") in names:
                given[name.replace("-", "_")] = value
        return cls(**{name: _number(name, value) for name, value in given.items()})


def _attributes(config: Config) -> Mapping[str, Any]:
    given: Mapping[str, Any] = config.attributes.get("evolution", {})
    return given


def _number(name: str, value: object) -> float:
    shown = name.replace("_", "-")
    try:
        number = float(str(value))
    except ValueError:
        raise BadSetting(shown, value, "a number") from None
    if name == "duty_cycle":
        if not 0 < number <= 1:
            raise BadSetting(shown, value, "a share above 0, at most 1")
    elif not (0 <= number < math.inf):
        raise BadSetting(shown, value, "a number that is not negative")
    elif not number and name in ("batch_ms", "report_every"):
        raise BadSetting(shown, value, "a number above 0")
    return number
