"""The parts of the reference that are made from docstrings and metadata, as Markdown."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from inspect import isclass, isroutine
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sphinx.pycode import ModuleAnalyzer
from sqlalchemy import CheckConstraint, Column, Index, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql, sqlite

import cleveragents_plans
from cleveragents_plans import (
    Base,
    Invariant,
    PlanIdentity,
    PlansError,
    ProjectLink,
    domain,
    evolution,
    persistence,
    preflight,
    schema,
    verification,
)
from cleveragents_plans.cli.history import RunFacts
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.domain.fields import PlanRecord
from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.evolution.settings import Settings, range_of
from cleveragents_plans.verification import Kind
from extension.licences import licences
from extension.plan_fields import fields_of_a_plan

_ROOT: Final = Path(__file__).parents[2]
#: The extras that are for users.
_EXTRAS: Final = ("cli", "postgresql", "yaml", "asyncio")
#: The classes whose fields are kept in the columns of a table; each row names its plan.
_STORED: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {
        "v3_plans": (PlanIdentity, PlanRecord),
        "plan_projects": (PlanIdentity, ProjectLink),
        "plan_arguments": (PlanIdentity,),
        "plan_invariants": (PlanIdentity, Invariant),
    }
)


def _names(names: Iterable[str], importable_from: str) -> str:
    """Describe public names, from their docstrings; errors have a page of their own."""
    return "\n".join(
        _autodoc(f"{importable_from}.{name}", value)
        for name, value in ((name, _found(importable_from, name)) for name in names)
        if not (isclass(value) and issubclass(value, Exception))
    )


def _errors() -> str:
    """Describe each error that the library raises."""
    found = ((name, _found("cleveragents_plans", name)) for name in cleveragents_plans.__all__)
    return "\n".join(
        _autodoc(f"cleveragents_plans.{name}", value)
        for name, value in found
        if isclass(value) and issubclass(value, PlansError)
    )


def _errors_of_a_run() -> str:
    """Describe each error that ends a run of the migration."""
    for module in pkgutil.walk_packages(evolution.__path__, f"{evolution.__name__}."):
        importlib.import_module(module.name)
    found = {each.__name__: each for each in _subclasses(EvolutionError)}
    return "\n".join(
        _autodoc(f"{each.__module__}.{name}", each) for name, each in sorted(found.items())
    )


def _exit_statuses() -> str:
    """List the exit statuses of the program, with the comments that stand beside them."""
    meanings = _comments(ExitStatus)
    rows = [(str(int(each)), f"`{each.name}`", meanings[each.name]) for each in ExitStatus]
    return _table(("status", "name", "meaning"), rows)


def _settings() -> str:
    """List what can be chosen of a run, with its unit, its default and its range."""
    rows = [
        (
            f"`{field.name.replace('_', '-')}`",
            field.metadata["unit"],
            f"{field.default:g}",
            range_of(field.name),
            f"{field.metadata['meaning']}.",
        )
        for field in fields(Settings)
    ]
    return _table(("setting", "unit", "default", "range", "meaning"), rows)


def _licences() -> str:
    """List the packages that are installed with this one."""
    return _table(
        ("package", "licence", "comes with"),
        (
            (f"`{p}`", licence, f"the extra `{extra}`" if extra else "the package")
            for p, licence, extra in licences()
        ),
    )


def _tables() -> str:
    """Describe every table of the models: its columns, its rules and its indexes."""
    classes = {mapper.local_table: mapper.class_ for mapper in Base.registry.mappers}
    return "\n".join(_table_of(each, classes[each]) for each in Base.metadata.sorted_tables)


def _findings() -> str:
    """List what ``verify`` can find, with the comments that stand beside it."""
    meanings, severities = _comments(Kind), _severities()
    return _table(
        ("name", "fault or note", "meaning"),
        ((f"`{each}`", severities[each.name], meanings[each.name]) for each in Kind),
    )


def _severities() -> dict[str, str]:
    """Read in the code of ``verification`` which kinds it calls a note, and which a fault."""
    notes, faults = set(), set()
    for module in Path(verification.__path__[0]).glob("*.py"):
        tree = ast.parse(module.read_text())
        calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call)]
        in_notes = {
            kind
            for call in calls
            if isinstance(call.func, ast.Name) and call.func.id == "note"
            for kind in _kinds(call.args[0])
        }
        notes |= {each.attr for each in in_notes}
        faults |= {each.attr for each in _kinds(tree) if each not in in_notes}
    words = {"fault": faults, "note": notes}
    return {
        each.name: " or ".join(word for word, names in words.items() if each.name in names)
        for each in Kind
    }


def _kinds(tree: ast.AST) -> Iterator[ast.Attribute]:
    for each in ast.walk(tree):
        named = isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name)
        if named and each.value.id == Kind.__name__:  # type: ignore[attr-defined]
            yield each  # type: ignore[misc]


def _runs() -> str:
    """List the columns of the table of runs, as ``history --json`` describes them."""
    described = RunFacts.model_fields.items()
    return _table(("column", "meaning"), ((f"`{n}`", str(f.description)) for n, f in described))


def _requirements() -> str:
    """List the versions that the package admits, and those that it is tested with."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    pinned = (_ROOT / "constraints.txt").read_text().lower()
    extras = project["optional-dependencies"]
    wanted = [("the package", each) for each in project["dependencies"]]
    wanted += [(f"the extra `{e}`", each) for e in _EXTRAS for each in extras[e]]
    rows = [("Python", project["requires-python"], platform.python_version(), "")]
    for comes_with, each in wanted:
        name, admitted = re.fullmatch(r"([\w-]+)(?:\[.*\])?(.*)", each).groups()  # type: ignore[union-attr]
        [tested] = re.findall(rf"^{re.escape(name)}==(.+)$", pinned, re.MULTILINE)
        rows.append((f"`{name}`", admitted.replace(",", ", "), tested, comes_with))
    return _table(("", "admitted", "tested with", "comes with"), rows)


def _public_modules() -> str:
    """List the modules whose names are promised."""
    modules = (cleveragents_plans, schema, evolution, preflight, verification)
    return _table(
        ("module", "what"),
        ((f"`{each.__name__}`", str(each.__doc__).strip().splitlines()[0]) for each in modules),
    )


def _contributing() -> str:
    """Give CONTRIBUTING.md without its title, with its links as from a page of the site."""
    text = (_ROOT / "CONTRIBUTING.md").read_text().partition("\n")[2]
    text = text.replace("](docs/decisions)", "](decisions/README.md)").replace("](docs/", "](")
    return re.sub(r"\[([^]]+)\]\([A-Z]+\.md\)", r"\1", text)


def _changelog() -> str:
    """Give CHANGELOG.md without its title, with its links as from a page of the site."""
    return (_ROOT / "CHANGELOG.md").read_text().partition("\n")[2].replace("](docs/", "](")


#: Every part of a page that is generated, by its name.
PARTS: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "plans": lambda: _names(domain.__all__, "cleveragents_plans"),
        "fields-of-a-plan": lambda: _table(("field", "type", "default"), fields_of_a_plan()),
        "repository": lambda: _names(persistence.__all__, "cleveragents_plans"),
        "schema": lambda: _names(schema.__all__, "cleveragents_plans.schema"),
        "contributing": _contributing,
        "changelog": _changelog,
        "findings": _findings,
        "runs": _runs,
        "public-modules": _public_modules,
        "requirements": _requirements,
        "evolution": lambda: _names(evolution.__all__, "cleveragents_plans.evolution"),
        "errors": _errors,
        "errors-of-a-run": _errors_of_a_run,
        "exit-statuses": _exit_statuses,
        "licences": _licences,
        "settings": _settings,
        "tables": _tables,
    }
)


def _found(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _autodoc(name: str, value: object) -> str:
    """Give the directive by which Sphinx describes *value*."""
    if isclass(value):
        foreign = ", ".join(each.__name__ for each in value.__mro__ if not _is_ours(each))
        kind = "exception" if issubclass(value, Exception) else "class"
        lines = [f".. auto{kind}:: {name}", "   :members:", f"   :inherited-members: {foreign}"]
    elif isroutine(value):
        lines = [f".. autofunction:: {name}"]
    else:
        lines = [f".. py:data:: {name}"]
        lines += [f"   :value: {value!r}"] if isinstance(value, str | int | float) else []
        lines += ["", f"   {_comment(name.rpartition('.')[2])}"]
    return "\n".join(("```{eval-rst}", *lines, "```", ""))


def _comment(name: str) -> str:
    """Read what is said of a constant of the package, in the module that defines it."""
    modules = [each for each in sys.modules if each.startswith(f"{cleveragents_plans.__name__}.")]
    documented = (ModuleAnalyzer.for_module(each).find_attr_docs() for each in modules)
    return next(" ".join(found["", name]).strip() for found in documented if ("", name) in found)


def _is_ours(each: type) -> bool:
    return each.__module__.startswith(cleveragents_plans.__name__)


def _subclasses(base: type[Exception]) -> Iterator[type[Exception]]:
    yield base
    for each in base.__subclasses__():
        yield from _subclasses(each)


def _comments(owner: type) -> dict[str, str]:
    """Read what is said of the attributes of *owner* beside them, in one line each."""
    documented = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
    return {
        name: " ".join(lines).strip()
        for (of, name), lines in documented.items()
        if of == owner.__name__
    }


def _table_of(table: Table, model: type) -> str:
    meanings = {n: text for each in _STORED[table.name] for n, text in _comments(each).items()}
    columns = [_column(each, meanings) for each in table.columns]
    rules = sorted(
        (f"`{each.name}`", _rule(each))
        for each in table.constraints
        if isinstance(each, CheckConstraint | UniqueConstraint)
    )
    indexes = sorted((f"`{each.name}`", *_indexed(each)) for each in table.indexes)
    summary = (model.__doc__ or "").strip().splitlines()[0]
    head = ("column", "type", "default", "meaning")
    parts = [
        f"## {table.name}",
        f"{summary} `{model.__name__}` is its class.",
        _table(head, columns),
    ]
    parts += ["Constraints:", _table(("name", "rule"), rules)]
    if indexes:
        parts += ["Indexes:", _table(("name", "columns", "of the rows"), indexes)]
    return "\n\n".join(parts) + "\n"


def _column(column: Column[Any], meanings: Mapping[str, str]) -> tuple[str, ...]:
    null = "" if column.nullable else " NOT NULL"
    engines = {"SQLite": sqlite.dialect(), "PostgreSQL": postgresql.dialect()}  # type: ignore[no-untyped-call]
    types = {name: column.type.compile(dialect=each) for name, each in engines.items()}
    same = len({*types.values()}) == 1
    kind = types["SQLite"] if same else ", ".join(f"{t} ({name})" for name, t in types.items())
    default = getattr(column.server_default, "arg", None)
    name = column.name.removesuffix("_json")
    said = [meanings.get(name, "")]
    said += [
        f"Refers to `{key.target_fullname}`, ON DELETE {key.ondelete}."
        for key in column.foreign_keys
    ]
    shown = "" if default is None else f"`{default}`"
    return (f"`{column.name}`", f"{kind}{null}", shown, " ".join(said).strip())


def _rule(constraint: CheckConstraint | UniqueConstraint) -> str:
    if isinstance(constraint, CheckConstraint):
        return f"`CHECK ({constraint.sqltext})`"
    return f"`UNIQUE ({', '.join(constraint.columns.keys())})`"


def _indexed(index: Index) -> tuple[str, str]:
    where = index.dialect_options["postgresql"]["where"]
    return ", ".join(index.columns.keys()), "all" if where is None else f"`{where}`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Lay *rows* out as a table of Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(each)} |" for each in lines)
