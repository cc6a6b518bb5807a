"""What a rebuild does to a SQLite table: as an edit of its text, and as SQLite tells it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.table_state import Change
from cleveragents_plans.evolution.sqlite.tokens import fold, tokenize


@dataclass(frozen=True, kw_only=True)
class TableChanges:
    """The changes of one rebuild; `rebuild_table` says what each of them is."""

    add: Mapping[str, str]
    drop: Collection[str]
    set_not_null: Collection[str]
    drop_not_null: Collection[str]
    set_default: Mapping[str, str]
    drop_default: Collection[str]
    add_constraints: Collection[str]
    drop_constraints: Collection[str]

    def edit(self, statement: CreateTable) -> CreateTable:
        """
        Make the changes in the text of the table.

        Raises:
            DdlNotUnderstood: A column or a constraint is not there, or a column has another
                DEFAULT.
        """
        for name in self.drop_constraints:
            statement = statement.drop_constraint(name)
        for column, expression in self.set_default.items():
            if column in self.drop_default:
                statement = statement.replace_default(column, expression)
            else:
                statement = statement.set_default(column, expression)
        for column in self.drop_default:
            if column not in self.set_default:
                statement = statement.drop_default(column)
        for column in self.set_not_null:
            statement = statement.set_not_null(column)
        for column in self.drop_not_null:
            statement = statement.drop_not_null(column)
        for column in self.drop:
            statement = statement.drop(column)
        for column, definition in self.add.items():
            statement = statement.add(column, definition)
        for definition in self.add_constraints:
            statement = statement.add_constraint(definition)
        return statement

    def change(self, old: CreateTable, new: CreateTable) -> Change:
        """Say what SQLite should tell differently of the table once *old* has become *new*."""
        default: dict[str, str | None] = {fold(column): None for column in self.drop_default}
        default.update((fold(column), sql) for column, sql in self.set_default.items())
        return Change(
            added=frozenset(map(fold, self.add)),
            dropped=frozenset(map(fold, self.drop)),
            not_null={
                **{fold(column): False for column in self.drop_not_null},
                **{fold(column): True for column in self.set_not_null},
            },
            default=default,
            foreign_keys=frozenset(
                [
                    *map(old.referring_columns, self.drop_constraints),
                    *(new.referring_columns(_name(each)) for each in self.add_constraints),
                ]
            ),
        )


def _name(definition: str) -> str:
    return tokenize(definition)[1].name or ""
