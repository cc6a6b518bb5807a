"""What event triggers make of a new table: another role's, or one that is closed to its owner."""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import message_of, sqlstate
from cleveragents_plans.evolution.postgresql.alterations import TableUnfit
from cleveragents_plans.evolution.postgresql.connection import as_table_owner, run
from cleveragents_plans.evolution.postgresql.lock_requests import LOCK_CONFLICTS, set_lock_timeout
from cleveragents_plans.evolution.postgresql.row_security import binds_owner
from cleveragents_plans.evolution.postgresql.search_path import path_statement

# Milliseconds for which a session is waited for that has created something of the name.
_PATIENCE = 20
# By a table of that name, or by a type.
_NAME_TAKEN = ("42P07", "42710")


def refuse_forced_row_security(connection: Connection, name: str) -> None:
    """
    Refuse a table that was just created, and whose owner is bound by policies already.

    Args:
        connection: The connection that created it; catalogs are read.
        name: The table, as in SQL with its schema.

    Raises:
        TableUnfit: An event trigger forces row-level security on it.
    """
    owner = binds_owner(connection, name)
    if owner is not None:
        found = f"has row-level security that is forced on its owner {owner} as it is created"
        raise TableUnfit(name, *_of_event_triggers(connection, found, "CREATE TABLE"))


def try_creation(connection: Connection, name: str, table: str, columns: str) -> None:
    """
    Create a table beside another one, as its owner and for a moment, to see whose it becomes.

    It has the name *name* if that is free, and is rolled back. ACCESS SHARE on
    *table* for some milliseconds.

    Args:
        connection: The connection that migrates, in a transaction.
        name: What is to be created later.
        table: The other one, as in SQL with its schema, like *name*.
        columns: Which of its columns the new one has.

    Raises:
        TableUnfit: PostgreSQL refuses it, or an event trigger gives it to another role.
    """
    trial = f"{table.rpartition('.')[0]}.evolution_copy"
    nested = connection.begin_nested()
    try:
        for statement in (*path_statement(connection), as_table_owner(table)):
            run(connection, statement)
        set_lock_timeout(connection, _PATIENCE, local=True)
        if run(connection, "SELECT to_regclass(%(name)s) IS NULL", {"name": name}).scalar_one():
            trial = name
        run(connection, f"CREATE TABLE {trial} AS SELECT {columns} FROM {table} WITH NO DATA")
        given = run(connection, _OWNERS, {"trial": trial, "table": table}).first()
        if given is not None:
            found = f"belongs to {given[0]} as soon as it is created, and {table} to {given[1]}"
            raise TableUnfit(name, *_of_event_triggers(connection, found, "CREATE TABLE AS"))
    except DBAPIError as error:
        # What is not known now, a run finds out when it creates the table.
        if sqlstate(error) in (*LOCK_CONFLICTS, *_NAME_TAKEN):
            return
        raise TableUnfit(
            name,
            f"cannot be created: PostgreSQL refuses it ({message_of(error)[:300]})",
            "remove the cause, and run the same command again",
        ) from error
    finally:
        if not connection.invalidated:
            nested.rollback()


def _of_event_triggers(connection: Connection, found: str, tag: str) -> tuple[str, str]:
    names = list(run(connection, _EVENT_TRIGGERS, {"tag": tag}).scalars())
    if not names:
        return found, "find out what does this, and run the same command again"
    several = "s" if len(names) > 1 else ""
    disabled = " and ".join(f"ALTER EVENT TRIGGER {each} DISABLE" for each in names)
    return (
        f"{found}, by the event trigger{several} {' or '.join(names)}",
        f"let that leave the tables of this schema alone, or run {disabled} for the time of this "
        "run, and run the same command again",
    )


_OWNERS = """\
SELECT quote_ident(pg_get_userbyid(c.relowner)), quote_ident(pg_get_userbyid(t.relowner))
  FROM pg_class c JOIN pg_class t ON t.relowner <> c.relowner
 WHERE c.oid = to_regclass(%(trial)s) AND t.oid = to_regclass(%(table)s)"""

_EVENT_TRIGGERS = """\
SELECT quote_ident(evtname) FROM pg_event_trigger
 WHERE evtevent = 'ddl_command_end' AND evtenabled IN ('O', 'A')
   AND (evttags IS NULL OR %(tag)s = ANY(evttags)) ORDER BY 1"""
