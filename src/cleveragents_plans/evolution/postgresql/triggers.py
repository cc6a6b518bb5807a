"""Triggers of PostgreSQL, as statements for `with_exclusive_lock`."""

from __future__ import annotations

from collections.abc import Callable

#: SQL over the columns of a row, made for the alias that the row has: ``t``, ``new``, ...
RowExpression = Callable[[str], str]


def create_trigger(
    table: str, name: str, event: str, body: str, *, when: str = "", as_owner: bool = False
) -> tuple[str, ...]:
    """
    Give the statements that make a row trigger and its function, both called *name*.

    The function keeps the search path that `with_exclusive_lock` sets: the schema of the table,
    temporary tables last.

    Args:
        table: The table.
        name: What to call the trigger and its function.
        event: When it fires, as ``BEFORE INSERT OR UPDATE``.
        body: The PL/pgSQL of the function.
        when: The condition on which it fires; none is always.
        as_owner: Run it with the rights of the owner: whoever writes to the table may have
            no right to read or lock it, or be shown a part of its rows only. Nobody else
            may then make a trigger of the function.
    """
    definer = " SECURITY DEFINER" if as_owner else ""
    condition = f" WHEN (\n  {when}\n)" if when else ""
    # The right is asked for when a trigger is made, not when it fires.
    revoke = (f"REVOKE EXECUTE ON FUNCTION {name}() FROM PUBLIC",) if as_owner else ()
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger\n"
        f"LANGUAGE plpgsql{definer} SET search_path FROM CURRENT AS $$\n{body}\n$$",
        *revoke,
        f"CREATE OR REPLACE TRIGGER {name} {event} ON {table}\n"
        f"FOR EACH ROW{condition} EXECUTE FUNCTION {name}()",
    )


def drop_trigger(table: str, name: str) -> tuple[str, str]:
    """Give the statements that drop the trigger *name* of *table*, if it is there."""
    return f"DROP TRIGGER IF EXISTS {name} ON {table}", f"DROP FUNCTION IF EXISTS {name}()"
