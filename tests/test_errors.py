"""Every error of the package crosses from one process to another, with its facts."""

from __future__ import annotations

import copy
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from inspect import Parameter, signature
from multiprocessing import get_context
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from sqlalchemy.exc import DBAPIError, OperationalError

import cleveragents_plans
from cleveragents_plans.domain import PlansError, UnknownProfile, resolve_profile
from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.event_trigger_trials import (
    EventTrigger,
    EventTriggerRefuses,
)

# The chain needs Alembic's context, and the command line runs.
NOT_IMPORTED = ("cleveragents_plans.migrations", "cleveragents_plans.__main__")
# What an error is made of, where its signature does not say enough.
EXAMPLES: dict[type[Exception], Callable[[], Exception]] = {
    EventTriggerRefuses: lambda: EventTriggerRefuses(
        {
            (EventTrigger("guard", "public.f()", "f()", ",DROP TABLE,"),): {
                "DROP TABLE": "DROP TABLE"
            }
        }
    )
}


def errors() -> list[type[Exception]]:
    for module in pkgutil.walk_packages(cleveragents_plans.__path__, "cleveragents_plans."):
        if not module.name.startswith(NOT_IMPORTED):
            import_module(module.name)
    return sorted({*_below(PlansError), *_below(EvolutionError)}, key=lambda each: each.__name__)


def _below(base: type[Exception]) -> Iterator[type[Exception]]:
    yield base
    for each in base.__subclasses__():
        yield from _below(each)


def made(kind: type[Exception]) -> Exception:
    """Make an error of values that fit its signature."""
    if kind in EXAMPLES:
        return EXAMPLES[kind]()
    hints = get_type_hints(kind.__init__)
    wanted = [
        each
        for each in signature(kind.__init__).parameters.values()
        if each.name != "self" and each.kind is not Parameter.VAR_KEYWORD
    ]
    values = {each.name: a_value(hints.get(each.name, str)) for each in wanted}
    by_name = {each.name: values[each.name] for each in wanted if each.kind is each.KEYWORD_ONLY}
    return kind(*(values[each.name] for each in wanted if each.name not in by_name), **by_name)


def a_value(hint: Any) -> Any:
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return a_value(next(each for each in inner if each is not NoneType))
    if origin in (str, object, Any):
        return "A value"
    if isinstance(origin, type) and issubclass(origin, (bool, int, float)):
        return origin(7)
    if isinstance(origin, type) and issubclass(origin, Enum):
        return next(iter(origin))
    if origin is dict:
        return {"type": "missing", "loc": ("a",), "msg": "Field required"}
    if isinstance(origin, type) and issubclass(origin, DBAPIError):
        return OperationalError("SELECT 1", {}, Exception("gone"))
    if not inner:
        return origin(*map(a_value, get_type_hints(origin).values()))
    return [*map(a_value, inner)] if origin is list else (a_value(inner[0]),)


def facts(error: Exception) -> dict[str, Any]:
    """What an error tells; an error of the driver in it equals none but itself."""
    return {
        name: (type(value), value.args) if isinstance(value, BaseException) else value
        for name, value in vars(error).items()
    }


@pytest.mark.parametrize("kind", errors(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "way", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)  # fmt: skip
def test_an_error_survives_pickle_and_copy(kind, way):
    error = made(kind)
    error.add_note("seen on Monday")

    again = way(error)

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert facts(again) == facts(error)


def test_an_error_comes_out_of_a_pool_of_processes_as_it_is():
    with (
        get_context("spawn").Pool(1) as pool,
        pytest.raises(UnknownProfile, match="did you mean 'trusted'") as caught,
    ):
        pool.apply_async(resolve_profile, ("trustd",)).get(timeout=60)
    assert caught.value.level == "plan"
