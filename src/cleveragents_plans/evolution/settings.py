"""What an operator, a program or a test can choose of a run: names, values, and their checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, Protocol, Self

from alembic.config import Config

from cleveragents_plans.evolution.errors import EvolutionError

#: The longest wait there is: PostgreSQL keeps milliseconds in 32 bits (24 days).
MAX_SECONDS: Final = 2_147_483
# With less a thread would do nothing but report, and a run would not end.
_LEAST: Final = 0.001
# As many seconds are remembered of replicas; one that is further behind is not told from it.
_MAX_LAG: Final = 3600
_MAX_ROWS: Final = 1_000_000_000
#: The lowest and the highest of `Settings.rows_per_second`, but for 0.
RATES: Final = (_LEAST, _MAX_ROWS)


class BadSetting(EvolutionError):
    """
    A setting or an option has a value that cannot be used, or is not known.

    Attributes:
        name: The setting.
        found: Its value.
    """

    def __init__(self, name: str, found: object, expected: str) -> None:
        super().__init__(f"the setting {name} is {found!r}; expected {expected}")
        self.name = name
        self.found = found


class UnknownOption(EvolutionError):
    """
    There is no option of this name.

    Attributes:
        name: The name.
        known: The names that there are.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        nearest = get_close_matches(name, known, n=1)
        meant = f"did you mean {nearest[0]}? There are: " if nearest else "expected one of "
        super().__init__(f"-x {name} is not known; {meant}{', '.join(known)}; nothing was changed")
        self.name = name
        self.known: tuple[str, ...] = tuple(known)


class _HasConfig(Protocol):
    @property
    def config(self) -> Config: ...


def _setting(
    default: float, unit: str, meaning: str, *, least: float = 0.0, most: float = MAX_SECONDS
) -> float:
    metadata = {"unit": unit, "meaning": meaning, "least": least, "most": most}
    number: float = field(default=float(default), metadata=metadata)
    return number


@dataclass(frozen=True, slots=True)
class Settings:
    """
    How long to wait, and how fast to write.

    An operator gives them as ``-x lock-wait=60`` (the names with hyphens), a program as
    ``config.attributes["evolution"] = {"lock_wait": 60}``; the former wins. Each field has its
    unit, its meaning and its range in its metadata, which help texts are made of.
    """

    lock_wait: float = _setting(
        600, "SECONDS", "Try at most this long for a lock on a table or on rows"
    )
    migration_lock_wait: float = _setting(
        3600, "SECONDS", "Wait at most this long while another process migrates"
    )
    report_every: float = _setting(
        3, "SECONDS", "Time between two messages about a wait", least=_LEAST
    )
    batch_ms: float = _setting(
        5,
        "MS",
        "Let a batch take about this long, or four times as long while no other session is active",
        least=_LEAST,
    )
    duty_cycle: float = _setting(
        0.75,
        "SHARE",
        "Spend this share of the time in batches, and pause for the rest, while others are active",
        least=_LEAST,
        most=1,
    )
    rows_per_second: float = _setting(
        0,
        "ROWS",
        "Write at most this many rows per second; 0 means no limit",
        least=_LEAST,
        most=_MAX_ROWS,
    )
    max_replica_lag: float = _setting(
        0,
        "SECONDS",
        "Pause while a PostgreSQL replica is further behind; 0 means never",
        most=_MAX_LAG,
    )
    wait_for_db: float = _setting(
        0, "SECONDS", "Wait at most this long for a PostgreSQL server that does not answer yet"
    )

    @classmethod
    def of(cls, environment: _HasConfig | None) -> Self:
        """
        Read the choices from where *environment* keeps its configuration.

        Raises:
            BadSetting: A value is no number, or out of range, or a name is unknown.
        """
        if environment is None:
            return cls()
        names = {each.name for each in fields(cls)}
        given: dict[str, Any] = dict(_attributes(environment.config))
        if unknown := given.keys() - names:
            raise BadSetting(min(unknown), given[min(unknown)], f"one of {sorted(names)}")
        for name, value in given_options(environment.config).items():
            if name.replace("-", "_") in names:
                given[name.replace("-", "_")] = value
        return cls(**{name: cls.checked(name, value) for name, value in given.items()})

    @classmethod
    def checked(cls, name: str, value: object) -> float:
        """
        Read *value* as the setting of this name.

        Raises:
            BadSetting: It is no number, or out of range.
        """
        written = str(value)
        if name == "max_replica_lag":
            written = written.removesuffix("s")
        try:
            number = float(written)
        except ValueError:
            number = math.nan
        about = _field_of(name)
        least, most = about.metadata["least"], about.metadata["most"]
        if not (number == about.default or least <= number <= most):
            raise BadSetting(name.replace("_", "-"), value, range_of(name))
        return number


def range_of(name: str) -> str:
    """Say which numbers the setting of this name can be."""
    about = _field_of(name)
    least, most = about.metadata["least"], about.metadata["most"]
    without = "0, or " if about.default == 0 < least else ""
    return f"{without}a number from {least:g} to {most:,}"


def _field_of(name: str) -> Field[Any]:
    return next(each for each in fields(Settings) if each.name == name)


@dataclass(frozen=True, slots=True)
class Options:
    """
    Which database, which schema and which version table.

    An operator gives them as ``-x version-table=plans_version`` (the names with hyphens), a
    program as ``config.attributes["version_table"]``; given in both ways, they must be equal.
    """

    #: Where Alembic keeps the version; an application with a chain of its own has another.
    version_table: str = "alembic_version"
    #: The schema of PostgreSQL that holds the tables, if it is not the first of the search path.
    schema: str | None = None
    #: Whether tables may be made although another schema holds such tables.
    allow_second_schema: bool = False

    @classmethod
    def of(cls, config: Config, *, confirmed_by: Iterable[str] = ()) -> Self:
        """
        Read the options from *config*, and check the names of all that is given with ``-x``.

        Args:
            config: The configuration of the run.
            confirmed_by: Options of the chain's revisions that are ``yes`` or absent.

        Raises:
            UnknownOption: There is no such option.
            BadSetting: An option is empty, or given with two values that differ.
        """
        flags = {"allow-second-schema", *confirmed_by}
        texts = ("version-table", "schema")
        known = {"url", *flags, *texts, *(f.name.replace("_", "-") for f in fields(Settings))}
        options = given_options(config)
        for name, value in options.items():
            if name not in known:
                raise UnknownOption(name, known)
            if name in flags and value != "yes":
                raise BadSetting(name, value, "yes, or that it is not given")
        chosen = {}
        for name in texts:
            values = [options.get(name), config.attributes.get(name.replace("-", "_"))]
            value = _same(name, *values)
            if value == "":
                raise BadSetting(name, value, "the name of one")
            if value is not None:
                chosen[name.replace("-", "_")] = value
        return cls(**chosen, allow_second_schema="allow-second-schema" in options)


def given_options(config: Config) -> dict[str, str]:
    """
    Read what was given as ``-x name=value``; in names, ``_`` is ``-``.

    Raises:
        BadSetting: A name was given twice, with values that differ.
    """
    options: dict[str, str] = {}
    for argument in getattr(config.cmd_opts, "x", None) or ():
        name, _, value = argument.partition("=")
        name = name.strip().replace("_", "-")
        options[name] = _same(name, options.get(name), value)
    return options


def _same(name: str, first: Any, second: Any) -> Any:
    """Give the one value of an option that may be given twice."""
    if None not in (first, second) and first != second:
        # What they are may hold a password.
        raise BadSetting(name, "given twice, with values that differ", "one value")
    return second if first is None else first


def _attributes(config: Config) -> Mapping[str, Any]:
    given: Mapping[str, Any] = config.attributes.get("evolution", {})
    return given
