"""How long what is new may wait for another session that has created what has its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.schema import CreateIndex, CreateTable, Table

from cleveragents_plans.evolution.postgresql.connection import in_autocommit, run
from cleveragents_plans.evolution.postgresql.lock_requests import set_lock_timeout
from cleveragents_plans.evolution.settings import Settings

_CREATE = (CreateTable, CreateIndex)


@contextmanager
def created_patiently(connection: Connection, settings: Settings) -> Iterator[None]:
    """
    Let SQLAlchemy create tables and their indexes as patiently as other locks are waited for.

    Each waits until the session that has created something of its name ends its transaction. It
    takes no lock that others want, unless the table refers to one that is in use, or the index is
    one of a table in use: then the ``lock_timeout`` of the session holds.
    """
    created: set[tuple[str | None, str]] = set()
    former: list[str] = []

    def before(_connection: Connection, element: Any, *_: object) -> None:
        if not isinstance(element, _CREATE) or in_autocommit(connection):
            return
        new = element.element
        if isinstance(new, Table):
            created.add(_key(new))
            used = {_key(each.referred_table) for each in new.foreign_key_constraints}
        else:
            used = {_key(table) for table in (new.table,) if table is not None}
        if used - created:
            return
        former[:] = [run(connection, "SELECT current_setting('lock_timeout')").scalar_one()]
        set_lock_timeout(connection, 1000 * settings.lock_wait, local=True)

    def after(_connection: Connection, element: Any, *_: object) -> None:
        if isinstance(element, _CREATE) and former:
            query = "SELECT set_config('lock_timeout', %(former)s, true)"
            run(connection, query, {"former": former.pop()})

    def over(*_: object) -> None:
        created.clear()
        former.clear()

    listeners: dict[str, Callable[..., None]] = {
        "before_execute": before,
        "after_execute": after,
        **dict.fromkeys(("commit", "rollback"), over),
    }
    for name, listener in listeners.items():
        event.listen(connection, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners.items():
            event.remove(connection, name, listener)


def _key(table: Table) -> tuple[str | None, str]:
    return table.schema, table.name
