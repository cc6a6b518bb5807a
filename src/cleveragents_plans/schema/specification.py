"""
The specified table of plans, ours, and what explains the difference.

Both the specification and the errata are blocks of docs/specification.md, which is in the package.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.types import Double, Float, TypeEngine

from cleveragents_plans.evolution.lookups import columns_found
from cleveragents_plans.persistence import Base

#: Our name of the table.
TABLE = "v3_plans"


class Difference(NamedTuple):
    """Something in which two tables differ."""

    #: The kind: table, name, column, type, null, default, reference, primary key, check, …
    what: str
    #: The column or constraint, by its specified name if it has one.
    of: str
    specified: str
    here: str


class Table(NamedTuple):
    """What can be said about a table in the same words on every engine."""

    name: str
    columns: dict[str, dict[str, str]]
    rules: set[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Erratum:
    """Why a difference is meant."""

    since: str
    why: str


def specification_page() -> str:
    """Read the page that holds the specification and its errata."""
    page = files("cleveragents_plans") / "specification.md"
    return page.read_text(encoding="utf-8")


def block(language: str) -> str:
    """Take the one block of that *language* out of the page."""
    pattern = rf"^```{language}\n(.*?)^```$"
    (found,) = re.findall(pattern, specification_page(), re.MULTILINE | re.DOTALL)
    return str(found)


@cache
def errata() -> Mapping[Difference, Erratum]:
    """Read the list of differences that are meant."""
    return {
        Difference(entry["what"], of, entry["specified"], entry["here"]): Erratum(
            entry["since"], entry["why"]
        )
        for entry in tomllib.loads(block("toml"))["deviation"]
        for of in entry["of"]
    }


@cache
def renamed() -> Mapping[str, str]:
    """Give our name of each column that the specification calls otherwise."""
    return {each.specified: each.here for each in errata() if each.what == "name"}


def specified_table() -> Table:
    """Give the table as it is specified."""
    return made(block("sql"))


def table_of_models() -> Table:
    """Give the table as the models of this release have it."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        found = table(connection, TABLE)
    engine.dispose()
    return found


def made(ddl: str) -> Table:
    """Give the one table that *ddl* creates."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.exec_driver_sql(ddl)
        (name,) = inspect(connection).get_table_names()
        found = table(connection, name)
    engine.dispose()
    return found


def table(connection: Connection, name: str, schema: str | None = None) -> Table:
    """Look at a table of a database."""
    about = inspect(connection)
    key = about.get_pk_constraint(name, schema)["constrained_columns"]
    references = dict(_references(connection, name, schema))
    columns = {
        column["name"]: {
            "type": _in_one_word(column["type"]),
            # SQLite lets a key that is not an integer be NULL, which no schema means.
            "null": "NULL" if column["nullable"] and column["name"] not in key else "NOT NULL",
            "default": re.sub(r"::[a-z ]+$", "", column["default"] or "none"),
            "reference": references.get(column["name"], "none"),
            "primary key": str(key.index(column["name"]) + 1) if column["name"] in key else "none",
        }
        for column in columns_found(about, name, schema)
    }
    checks = about.get_check_constraints(name, schema)
    rules = {("check", str(check["name"])) for check in checks}
    uniques = about.get_unique_constraints(name, schema)
    rules |= {("unique", str(unique["name"])) for unique in uniques}
    rules |= {("index", str(index["name"])) for index in about.get_indexes(name, schema)}
    return Table(name, columns, rules)


def _references(connection: Connection, name: str, schema: str | None) -> Iterator[tuple[str, str]]:
    found: list[tuple[Any, ...]]
    if connection.dialect.name == "sqlite":
        # The inspector overlooks the actions of a reference that stands beside its column.
        rows = connection.exec_driver_sql(f"PRAGMA foreign_key_list({name})").mappings()
        found = [
            (row["from"], row["table"], row["to"], row["on_delete"], row["on_update"])
            for row in rows
        ]
    else:
        found = [
            (
                *reference["constrained_columns"],
                reference["referred_table"],
                *reference["referred_columns"],
                reference["options"].get("ondelete"),
                reference["options"].get("onupdate"),
            )
            for reference in inspect(connection).get_foreign_keys(name, schema)
        ]
    for column, other, target, delete, update in found:
        words = target if other == name else f"{other}.{target}"
        for event, does in (("DELETE", delete), ("UPDATE", update)):
            words += f" ON {event} {does}" if does not in (None, "NO ACTION") else ""
        yield column, words


def _in_one_word(kind: TypeEngine[Any]) -> str:
    # SQLite's REAL and PostgreSQL's DOUBLE PRECISION are the same eight bytes.
    return "REAL" if isinstance(kind, Float | Double) else str(kind)


def differences(specified: Table, here: Table) -> set[Difference]:
    """List in what the table *here* differs from the *specified* one."""
    found = set()
    if specified.name != here.name:
        found.add(Difference("table", specified.name, specified.name, here.name))
    known = set()
    for name, wanted in specified.columns.items():
        ours = name if name in here.columns else renamed().get(name, name)
        known.add(ours)
        if ours not in here.columns:
            found.add(Difference("column", name, "present", "absent"))
            continue
        if ours != name:
            found.add(Difference("name", name, name, ours))
        for what, said in wanted.items():
            if said != here.columns[ours][what]:
                found.add(Difference(what, name, said, here.columns[ours][what]))
    for name in here.columns.keys() - known:
        found.add(Difference("column", name, "absent", "present"))
    for what, name in here.rules - specified.rules:
        found.add(Difference(what, name, "absent", "present"))
    for what, name in specified.rules - here.rules:
        found.add(Difference(what, name, "present", "absent"))
    return found
