"""What a schema says of tables, in words that both engines share."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cleveragents_plans.verification.expressions import canonical


@dataclass(frozen=True, slots=True)
class Column:
    """A column."""

    #: ``text``, ``integer``, ``boolean``, ``real``, or what the engine calls it.
    type: str
    #: The characters that it holds at most, if there is a limit.
    length: int | None
    nullable: bool
    #: In canonical form.
    default: str | None

    @classmethod
    def declared(cls, type_: str, nullable: bool, default: str | None) -> Column:
        """Describe a column by what its definition says."""
        found = re.fullmatch(r"(?P<name>[a-z ]+?)\s*(\((?P<length>\d+)\))?", type_.lower())
        name = found["name"] if found else type_.lower()
        kind = _KINDS.get(name, type_.lower())
        value = None if default is None else canonical(default)
        if kind == "boolean" and value is not None:
            value = {"0": "false", "1": "true"}.get(value, value)
        limited = found is not None and found["length"] is not None and kind == "text"
        return cls(kind, int(found["length"]) if found and limited else None, nullable, value)


_KINDS = {
    **dict.fromkeys(("text", "varchar", "character varying"), "text"),
    **dict.fromkeys(("integer", "bigint", "int"), "integer"),
    **dict.fromkeys(("real", "double precision", "double"), "real"),
    "bool": "boolean",
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint; NOT NULL is said of the column."""

    #: ``CHECK``, ``UNIQUE``, ``FOREIGN KEY`` or ``PRIMARY KEY``.
    kind: str
    name: str | None
    #: In canonical form.
    definition: str
    #: Whether the rows are known to comply.
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Index:
    """An index that no constraint made."""

    name: str
    #: Columns and condition, in canonical form.
    definition: str
    #: Whether it was built to its end.
    valid: bool = True
    #: The process that is building it, or dropping it, just now.
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    name: str
    columns: dict[str, Column]
    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]

    @property
    def names(self) -> set[str | None]:
        """The names of its columns, constraints and indexes."""
        constraints = {constraint.name for constraint in self.constraints}
        return {*self.columns, *constraints, *(index.name for index in self.indexes)}


def index_definition(columns: list[str], unique: bool, where: str | None) -> str:
    """Describe an index in canonical form."""
    listed = ", ".join(canonical(column) for column in columns)
    condition = f" WHERE {canonical(where)}" if where else ""
    return f"{'UNIQUE ' if unique else ''}({listed}){condition}"


def foreign_key_definition(
    columns: list[str], table: str, targets: list[str], on_delete: str, on_update: str
) -> str:
    """Describe a foreign key in canonical form."""
    text = f"({', '.join(columns)}) REFERENCES {table} ({', '.join(targets)})"
    for event, action in (("DELETE", on_delete), ("UPDATE", on_update)):
        text += f" ON {event} {action}" if action != "NO ACTION" else ""
    return text
