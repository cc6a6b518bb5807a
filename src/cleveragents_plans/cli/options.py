"""Options that commands share, and the configuration that they make."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, Final, TypeVar

import click
from alembic.config import Config

from cleveragents_plans.evolution.log_format import LOG_FORMATS, use_log_format
from cleveragents_plans.evolution.settings import MAX_SECONDS, Settings
from cleveragents_plans.persistence.parameters import MAX_LIMIT
from cleveragents_plans.schema import chain_config

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: What can be chosen of a run, as ``--lock-wait`` or ``-x lock-wait=``: its unit and its meaning.
SETTINGS: Final[Mapping[str, tuple[str, str]]] = {
    each.name.replace("_", "-"): (
        each.metadata["unit"],
        f"{each.metadata['meaning']} (default: {each.default:g}).",
    )
    for each in fields(Settings)
}
#: A number of plans.
PLAN_COUNT: Final = click.IntRange(1, MAX_LIMIT)
_FLAGS: Final[Mapping[str, str]] = {
    "allow-second-schema": "Create the tables although another schema has them already.",
    "drop-plans": "Drop the plans, too, when the downgrade goes to base.",
}


class Seconds(click.FloatRange):
    """How long to wait; click takes ``nan`` for a number that is in every range."""

    def __init__(self) -> None:
        super().__init__(0, MAX_SECONDS)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def database_options(function: _Function) -> _Function:
    """Let a command be told which database it is for."""
    url = click.option(
        "--url",
        metavar="URL",
        help="URL of the database (default: DATABASE_URL, else sqlite:///plans.db).",
    )
    return _all(function, url, *_DATABASE)


def fleet_options(function: _Function) -> _Function:
    """Let a command be told which databases it is for: one, or many."""
    return _all(
        function,
        click.option(
            "--url", multiple=True, metavar="URL",
            help="URL of the database (default: DATABASE_URL, else sqlite:///plans.db). Give it "
            "several times for several databases.",
        ),
        click.option(
            "--each-schema", multiple=True, metavar="PATTERN",
            help="Run for each schema that has plans and whose name is LIKE this pattern, such as "
            "'tenant_%'; but for those that are LIKE a pattern behind a !, such as '!tenant_c'. "
            "Give it several times for several patterns (PostgreSQL only).",
        ),
        click.option(
            "--jobs", type=click.IntRange(1, 100), default=1, show_default=True, metavar="N",
            help="Number of databases or schemas that are processed at the same time.",
        ),
        *_DATABASE,
    )  # fmt: skip


_DATABASE = (
    click.option(
        "--schema", metavar="NAME",
        help="PostgreSQL schema of the tables (default: the first of search_path).",
    ),
    click.option(
        "--version-table", metavar="NAME",
        help="Table in which Alembic keeps the version (default: alembic_version).",
    ),
    click.option(
        "-x", "x", multiple=True, metavar="NAME=VALUE",
        help="Give an option as to `alembic -x`, such as -x lock-wait=60.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print only results, warnings and errors."),
    click.option("-v", "--verbose", is_flag=True, help="Also print what Alembic itself logs."),
    click.option(
        "--log", type=click.Choice(LOG_FORMATS), expose_value=False,
        callback=lambda _context, _option, name: use_log_format(name),
        help="Format of the events on standard error: plain (default on a terminal), lines with "
        "time and level (default elsewhere), or JSON.",
    ),
)  # fmt: skip


def for_each_database(command: Callable[..., Any]) -> Callable[..., Any]:
    """Call *command*, or run it in other processes where there are several databases."""

    @wraps(command)
    def run(url: tuple[str, ...], each_schema: tuple[str, ...], jobs: int, **given: Any) -> Any:
        if len(url) <= 1 and not each_schema:
            return command(url=url[0] if url else None, **given)
        context = click.get_current_context()
        run_fleet = context.obj  # of the program, since it knows the commands' reports
        return run_fleet(context, url, each_schema, jobs, given)

    return run


def json_option(function: _Function) -> _Function:
    """Let a command print what it found as JSON."""
    return click.option("--json", is_flag=True, help="Print the result as JSON.")(function)


def create_option(function: _Function) -> _Function:
    """Let a command create a database."""
    return click.option(
        "--create", is_flag=True, help="Create the SQLite file if it does not exist."
    )(function)


def run_options(*flags: str) -> Callable[[_Function], _Function]:
    """Let a command that runs revisions be given its settings, and *flags* by their names."""
    switches = [click.option(f"--{name}", is_flag=True, help=_FLAGS[name]) for name in flags]
    settings = [
        click.option(f"--{name}", metavar=unit, help=text)
        for name, (unit, text) in SETTINGS.items()
    ]
    return lambda function: _all(function, *switches, *settings)


def refuse_bytes(command: click.Command) -> None:
    """
    Let *command* refuse arguments with bytes that are no text: Python gives them as surrogates.

    The value is not repeated: it may hold a password. A URL is refused where it is read.
    """
    for parameter in command.params:
        if parameter.type is click.STRING and parameter.name != "url":
            parameter.callback = _as_text


def _as_text(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    given = value if isinstance(value, tuple) else (value,)
    if any("\ud800" <= each <= "\udfff" for text in given for each in text or ""):
        raise click.BadParameter(
            "it has bytes that are no text in the locale of this process; correct them, or set "
            "PYTHONUTF8=1 if they are UTF-8",
            context, parameter,
        )  # fmt: skip
    return value


def refuse_repeated(command: click.Command) -> None:
    """Let *command* refuse an option of one value that is given twice: click drops the first."""
    make_parser = command.make_parser

    def make(context: click.Context) -> Any:
        parser = make_parser(context)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            options, others, order = parse(args)
            for parameter, times in Counter(order).items():
                if times > 1 and isinstance(parameter, click.Option) and _takes_one(parameter):
                    raise click.BadOptionUsage(
                        parameter.opts[0],
                        f"{parameter.opts[0]} is given {times} times, and takes one value; give "
                        "it once",
                        context,
                    )
            return options, others, order

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    command.make_parser = make  # type: ignore[method-assign, assignment]


def _takes_one(option: click.Option) -> bool:
    return not (option.multiple or option.is_flag)


def config_of(given: Mapping[str, Any]) -> Config:
    """Configure Alembic as the options of a command say, of those that this module declares."""
    named = {name.replace("_", "-"): value for name, value in given.items()}
    extra = list(named["x"])
    for name in ("schema", "version-table", *SETTINGS):
        if named.get(name) is not None:
            extra.append(f"{name}={named[name]}")
    extra += [f"{name}=yes" for name in _FLAGS if named.get(name)]
    if named["quiet"] and named["verbose"]:
        raise click.UsageError("give -q or -v, not both")
    level = logging.DEBUG if named["verbose"] else logging.INFO
    level = logging.WARNING if named["quiet"] else level
    config = chain_config(named["url"], extra=extra, level=level)
    config.attributes.update(command_line=True, create=given.get("create", False))
    return config


def _all(function: _Function, *options: Callable[[_Function], _Function]) -> _Function:
    for option in reversed(options):  # click lists the last one first
        function = option(function)
    return function
