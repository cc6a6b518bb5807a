"""
Find out which event triggers refuse what a run is going to send, before its first step.

Each command is tried on objects that exist for the trial only, and rolled back. They have names
that the run gives, where these are free. A function that looks for the name of a table in use is
not found out by that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError, causes, message_of, sqlstate
from cleveragents_plans.evolution.op import qualified, schema_of
from cleveragents_plans.evolution.postgresql.connection import as_table_owner, run
from cleveragents_plans.evolution.postgresql.event_trigger_commands import COMMANDS, Command
from cleveragents_plans.evolution.postgresql.lock_requests import LOCK_CONFLICTS, set_lock_timeout
from cleveragents_plans.evolution.postgresql.search_path import path_statement

# Milliseconds for which a session is waited for that has created something of the name.
_PATIENCE = 20
_READ_ONLY = "25006"
# Of a session that has the name, or a row of the function's own: the run finds out.
_NOT_KNOWN = (*LOCK_CONFLICTS, "57014")
# Whatever else is refused is no event trigger's doing, unless in its function.
_RAISED = "P0001"


class EventTriggerRefuses(EvolutionError):
    """
    An event trigger refuses what a run is going to send.

    Attributes:
        names: The event triggers, as in SQL.
        functions: The functions that they run, likewise.
    """

    def __init__(self, found: dict[tuple[EventTrigger, ...], dict[str, str]]) -> None:
        triggers = list(dict.fromkeys(each for several in found for each in several))
        self.names = tuple(each.name for each in triggers)
        self.functions = frozenset(each.function for each in triggers)
        self._triggers = tuple(triggers)
        disabled = " and ".join(f"ALTER EVENT TRIGGER {name} DISABLE" for name in self.names)
        them = "it" if len(self.names) == 1 else "them"
        super().__init__(
            "; ".join(_told(several, said) for several, said in found.items())
            + f"; let {them} pass the tables of this schema, or run {disabled} as a superuser for"
            " the time of this run, and run the same command again; nothing was changed"
        )

    def repeats(self, other: EvolutionError) -> bool:
        """Tell whether *other* is what one of the functions refuses, too."""
        return other is not self and any(
            _raised_in(error, trigger)
            for error in causes(other)
            if isinstance(error, DBAPIError)
            for trigger in self._triggers
        )


class EventTrigger(NamedTuple):
    """An event trigger of the database that fires for a run."""

    name: str
    #: With its schema, and as the server writes it where that is searched.
    function: str
    visible: str
    #: What it fires for, with commas at both ends; None is everything.
    tags: str | None


def has_event_triggers(connection: Connection) -> bool:
    """Tell whether there are event triggers that commands of this database fire."""
    return bool(run(connection, f"SELECT EXISTS ({_EVENT_TRIGGERS})").scalar_one())


def refuse_event_triggers(context: MigrationContext, statements: str) -> None:
    """
    Refuse to run *statements* where event triggers would refuse one of them; change nothing.

    Args:
        context: That of a run on PostgreSQL, in a transaction.
        statements: All that it is going to send.

    Raises:
        EventTriggerRefuses: A command was tried, and refused.
        EvolutionError: None can be tried.
    """
    connection = context.connection
    assert connection is not None  # noqa: S101  # on line there is one
    found: dict[tuple[EventTrigger, ...], dict[str, str]] = {}
    first: DBAPIError | None = None
    nested = connection.begin_nested()
    try:
        table = _table_named_first(connection, schema_of(context), statements)
        path = path_statement(connection)
        for statement in (*path, *([as_table_owner(qualified(context, table))] if table else [])):
            run(connection, statement)
        set_lock_timeout(connection, _PATIENCE, local=True)
        triggers = [EventTrigger(*row) for row in run(connection, _EVENT_TRIGGERS)]
        invented = _free_names(context, connection, f"{(table or 'evolution')[:40]}_trial")
        names = _names_of_run(connection, statements, invented)
        for command, error in _refused(connection, statements, names):
            by = _by(triggers, command.shown.partition(" … ")[0], error)
            if by:
                first = first or error
                said = f"{command.shown}, tried on {_object(command, names)} ({_words(error)})"
                # The first of those that are called the same is enough.
                found.setdefault(by, {}).setdefault(command.shown, said)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise EvolutionError(
            "what event triggers refuse cannot be tried out: PostgreSQL refuses it "
            f"({message_of(error)[:300]}); remove the cause, and run the same command again; "
            "nothing was changed"
        ) from error
    finally:
        if not connection.invalidated:
            nested.rollback()
    if found:
        raise EventTriggerRefuses(found) from first


def _table_named_first(connection: Connection, schema: str | None, statements: str) -> str | None:
    """Give the table whose owner what is created will belong to."""
    found = run(connection, _TABLES_NAMED, {"schema": schema, "statements": statements}).all()
    places = {
        place.start(): name
        for name, qualified_name in found
        # Its whole name: another application may have a table "plan".
        if (place := re.search(rf'(?<![\w$."]){re.escape(qualified_name)}(?![\w$])', statements))
    }
    return places[min(places)] if places else None


def without_repeats(refusals: Iterable[EvolutionError]) -> list[EvolutionError]:
    """Leave out of *refusals* what is told of an event trigger already."""
    given = list(refusals)
    told = [each for each in given if isinstance(each, EventTriggerRefuses)]
    return [each for each in given if not any(one.repeats(each) for one in told)]


def _refused(
    connection: Connection, statements: str, names: dict[str, str]
) -> Iterator[tuple[Command, DBAPIError]]:
    for command in COMMANDS:
        if not re.search(command.pattern, statements):
            continue
        trial, sent = connection.begin_nested(), ""
        try:
            for sent in (*command.before, command.statement):
                run(connection, sent.format_map(names))
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            trial.rollback()
            if sqlstate(error) == _READ_ONLY:
                raise EvolutionError("nothing can be tried out where one only reads") from error
            # Where the run sends what has to come before, that is tried by itself.
            if sent == command.statement:
                yield command, error
        else:
            trial.rollback()


def _by(triggers: list[EventTrigger], tag: str, error: DBAPIError) -> tuple[EventTrigger, ...]:
    """Tell which event triggers have refused a command: those whose function says so."""
    if sqlstate(error) in _NOT_KNOWN:
        return ()
    fired = [each for each in triggers if each.tags is None or f",{tag}," in each.tags]
    named = [each for each in fired if _raised_in(error, each)]
    # Functions that are not in PL/pgSQL are not always named; a full disk is none of their doing.
    if not named and sqlstate(error) == _RAISED:
        named = fired
    return tuple(named)


def _raised_in(error: DBAPIError, trigger: EventTrigger) -> bool:
    context = getattr(getattr(error.orig, "diag", None), "context", None) or ""
    return re.search(rf"(?<!\w){re.escape(trigger.visible)}", context) is not None


def _object(command: Command, names: dict[str, str]) -> str:
    """Name the table of a command, or the function where it has none."""
    made = f"{' '.join(command.before)} {command.statement}"
    if "{temporary}" in made:
        return f"pg_temp.{names['temporary']}"
    return names["table"] if "{table}" in made else f"{names['function']}()"


def _words(error: DBAPIError) -> str:
    said = message_of(error)[:200]
    # It does not find a name, perhaps: https://www.postgresql.org/docs/current/errcodes-appendix.html
    if (sqlstate(error) or "").startswith("42"):
        return f"{said}: the function of an event trigger may need a search_path of its own"
    return said


def _told(triggers: tuple[EventTrigger, ...], said: dict[str, str]) -> str:
    several = "s" if len(triggers) > 1 else ""
    named = " or ".join(f"{each.name} (function {each.function})" for each in triggers)
    return (
        f"the event trigger{several} {named} refuse{'' if several else 's'}"
        f" {' and '.join(said.values())}"
    )


def _names_of_run(
    connection: Connection, statements: str, invented: dict[str, str]
) -> dict[str, str]:
    """Put names that *statements* give, and are free, for those *invented*: rules ask for them."""

    def free(pattern: str) -> str | None:
        found = dict.fromkeys(re.findall(pattern, statements))
        return next((each for each in found if _is_free(connection, each)), None)

    schema = re.escape(invented["schema"])
    names = dict(invented)
    index = re.compile(rf"\bINDEX (?:CONCURRENTLY )?(?:IF NOT EXISTS )?({_NAME})\s+ON\b")
    for each in dict.fromkeys(index.findall(statements)):
        if _is_free(connection, f"{invented['schema']}.{each}"):
            names["index"] = each
            break
    trigger = re.search(rf"\bCREATE (?:OR REPLACE )?TRIGGER ({_NAME})\b", statements)
    names["trigger"] = trigger[1] if trigger else invented["trigger"]
    function = free(rf"\bCREATE (?:OR REPLACE )?FUNCTION ({schema}\.{_NAME})\(")
    names["function"] = function or invented["function"]
    table = free(rf"\bCREATE TABLE (?:IF NOT EXISTS )?({schema}\.{_NAME})\s")
    names["table"] = table or invented["table"]
    copied = re.search(
        rf"\bCREATE TABLE (?:IF NOT EXISTS )?{re.escape(names['table'])}"
        rf" AS SELECT ({_NAME}(?:, {_NAME})*) FROM (\S+) WITH NO DATA",
        statements,
    )
    if copied:
        # From the catalog, without a lock; what is not there yet is text.
        types = {row[0]: row[1] for row in run(connection, _TYPES, {"table": copied[2]})}
        columns = re.findall(_NAME, copied[1])
        names["columns"] = ", ".join(
            f"CAST(NULL AS {types.get(each, 'text')}) AS {each}" for each in columns
        )
    return names


def _is_free(connection: Connection, name: str) -> bool:
    return bool(run(connection, _FREE, {"table": name, "index": name}).scalar_one())


def _free_names(context: MigrationContext, connection: Connection, wanted: str) -> dict[str, str]:
    number = 0
    while True:
        name = f"{wanted}_{number}" if number else wanted
        index = f"ix_{name}_note"
        table, quote = qualified(context, name), connection.dialect.identifier_preparer.quote
        names = {"table": table, "index": qualified(context, index)}
        if number > 9 or run(connection, _FREE, names).scalar_one():
            return {
                "table": table,
                "function": table,
                "schema": table[: -len(quote(name)) - 1],
                "trigger": quote(name),
                "index": quote(index),
                "columns": "CAST('' AS text) AS plan_id",
                "temporary": "evolution_copy",
            }
        number += 1


# As in SQL.
_NAME = r'(?:"(?:[^"]|"")+"|\w+)'

_TYPES = """\
SELECT quote_ident(attname), format_type(atttypid, atttypmod) FROM pg_attribute
 WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped"""

# No login event: it is over. A run is refused where session_replication_role is replica.
_EVENT_TRIGGERS = """\
SELECT quote_ident(e.evtname),
       CAST(p.pronamespace AS regnamespace) || '.' || quote_ident(p.proname) || '()',
       quote_ident(p.proname) || '()', ',' || array_to_string(e.evttags, ',') || ','
  FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
 WHERE e.evtenabled IN ('O', 'A')
   AND e.evtevent IN ('ddl_command_start', 'ddl_command_end', 'sql_drop', 'table_rewrite')
 ORDER BY 1"""

_TABLES_NAMED = """\
SELECT CAST(c.relname AS text), quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p')
   AND strpos(%(statements)s, quote_ident(n.nspname) || '.' || quote_ident(c.relname)) > 0"""

_FREE = """\
SELECT to_regclass(%(table)s) IS NULL AND to_regclass(%(index)s) IS NULL
   AND to_regtype(%(table)s) IS NULL AND to_regproc(%(table)s) IS NULL"""
