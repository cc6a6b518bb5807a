"""Triggers of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cleveragents_plans.evolution.postgresql.dependents import (
    drop_unless_in_use,
    raise_if_foreign_trigger,
)
from cleveragents_plans.evolution.postgresql.ownership import (
    raise_if_foreign_function,
)
from cleveragents_plans.evolution.postgresql.privileges import revoke_execute
from cleveragents_plans.evolution.postgresql.row_security import raise_if_rows_are_hidden
from cleveragents_plans.evolution.postgresql.search_path import SYSTEM_SCHEMAS

#: SQL over the columns of a row, made for the alias that the row has: ``t``, ``new``, ...
RowExpression = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """
    A row trigger of PostgreSQL and its function, both of the same name.

    The function searches system schemas only, and so that no other role can have its own
    operators called by it, names everything else with its schema, for which ``{schema}``
    stands. No role but its owner may execute it, so no other can create a trigger that calls it,
    and the function need not look for which table it is called.
    The trigger is ENABLE ALWAYS: it fires for rows that a logical subscriber receives,
    too. See https://www.postgresql.org/docs/current/sql-createfunction.html and
    https://www.postgresql.org/docs/current/sql-altertable.html.
    """

    table: str
    name: str
    #: When it fires, as ``BEFORE INSERT OR UPDATE``.
    event: str
    #: The PL/pgSQL of the function. Literals with backslashes are written ``E'…'``: others mean
    #: what ``standard_conforming_strings`` of the client says.
    body: str
    #: The condition on which it fires; none is always.
    when: str = ""
    #: SECURITY DEFINER: run the function with the rights of the table's owner. A role that
    #: writes to the table may have no right to read or lock it, or see only some of its rows
    #: (row-level security).
    as_owner: bool = False

    def create_sql(self) -> tuple[str, ...]:
        """
        Give the statements, for `with_exclusive_lock`, that create or replace it.

        They raise where the function is another role's, which could replace it later, where a
        table of another role has a trigger that runs it, and where row-level security hides rows
        from the owner, as whom it runs.
        """
        name = self.name
        definer = " SECURITY DEFINER" if self.as_owner else ""
        condition = f" WHEN (\n  {self.when}\n)" if self.when else ""
        function, table = f"{{schema}}.{name}()", f"{{schema}}.{self.table}"
        return (
            f"CREATE OR REPLACE FUNCTION {function} RETURNS trigger\n"
            f"LANGUAGE plpgsql{definer} SET search_path = {SYSTEM_SCHEMAS} AS $$\n{self.body}\n$$",
            raise_if_foreign_function(function, table),
            # EXECUTE is checked when a trigger is created, not when it fires. A trigger of another
            # role would run the function, and be in use when it is to be dropped.
            revoke_execute(function),
            raise_if_foreign_trigger(function),
            *([raise_if_rows_are_hidden(table)] if self.as_owner else []),
            f"CREATE OR REPLACE TRIGGER {name} {self.event} ON {table}\n"
            f"FOR EACH ROW{condition} EXECUTE FUNCTION {function}",
            f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}",
        )


def drop_trigger_sql(table: str, name: str) -> tuple[str, ...]:
    """
    Give the statements, for `with_exclusive_lock`, that drop a trigger and its function.

    They raise where the function is another role's, or a table of another role has a trigger that
    runs it, and leave the function where something else uses it.
    """
    function, owned = f"{{schema}}.{name}()", f"{{schema}}.{table}"
    return (
        f"DROP TRIGGER IF EXISTS {name} ON {owned}",
        raise_if_foreign_function(function, owned),
        raise_if_foreign_trigger(function),
        drop_unless_in_use(f"FUNCTION IF EXISTS {function}"),
    )
