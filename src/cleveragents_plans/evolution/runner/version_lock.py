"""
The version table that a run has checked, which it locks whenever it reads or writes it.

Alembic looks for the table by its name in each transaction, and takes a view for one. Where
another role may create objects in the schema, a view can have the name by then, and its functions
would run with the rights of the role that migrates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Select, Table, UpdateBase, event
from sqlalchemy.schema import CreateTable, DropTableComment, SetTableComment
from sqlalchemy.sql.visitors import iterate

from cleveragents_plans.evolution.op import qualified
from cleveragents_plans.evolution.postgresql.connection import in_autocommit, run, transaction
from cleveragents_plans.evolution.postgresql.event_triggers import refuse_forced_row_security
from cleveragents_plans.evolution.postgresql.ownership import NameTaken
from cleveragents_plans.evolution.postgresql.privileges import revoke_writing
from cleveragents_plans.evolution.postgresql.read_locks import lock_as_found
from cleveragents_plans.evolution.runner.alembic_internals import version_table_of


class CheckedVersionTable:
    """
    The version table of PostgreSQL that a run found or created, and no other of its name.

    On SQLite, where a run is one transaction, it is only checked.

    Args:
        migration: The context of the run.
        check: Refuses what the run must not use, by its name.
    """

    def __init__(self, migration: MigrationContext, check: Callable[[], None]) -> None:
        assert migration.connection is not None  # noqa: S101  # on line there is one
        self._connection: Connection = migration.connection
        self._check = check
        self._table = version_table_of(migration)
        self._name = qualified(migration, migration.version_table, migration.version_table_schema)
        self._oid: int | None = None
        self._locked: set[str] = set()

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """
        Check the table; from then on lock it before each statement of SQLAlchemy on it.

        Locks: ACCESS SHARE, or what the statement takes, until the transaction ends.

        Raises:
            NameTaken: The table must not be used; or, also within, something else has its name.
        """
        self._check()
        if self._connection.dialect.name != "postgresql":
            yield
            return
        self._oid = self._find()
        if self._oid is not None:
            self._lock("ACCESS SHARE")
            self._check()
        listeners: dict[str, Callable[..., None]] = {
            "before_execute": self._before,
            "after_execute": self._after,
            **dict.fromkeys(("commit", "rollback", "rollback_savepoint"), self._unlocked),
        }
        for name, listener in listeners.items():
            event.listen(self._connection, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners.items():
                event.remove(self._connection, name, listener)

    def stored(self, connection: Connection) -> str | None:
        """
        Read what the table holds, with commas, in another session that is in autocommit.

        None where it holds nothing, or is not there any more.
        """
        with transaction(connection):
            try:
                lock_as_found(connection, self._name, self._oid)
            except NameTaken:
                return None
            query = "SELECT string_agg(version_num, ',' ORDER BY version_num) FROM "
            return run(connection, query + self._name).scalar()

    def _find(self) -> int | None:
        return run(self._connection, _OID, {"name": self._name}).scalar()

    def _before(self, _connection: Connection, element: Any, *_: object) -> None:
        mode = self._mode(element)
        if mode and mode not in self._locked:
            self._lock(mode)

    def _after(self, _connection: Connection, element: Any, *_: object) -> None:
        if isinstance(element, CreateTable) and self._is_ours(element.element):
            self._oid = self._find()  # no other session sees it before the commit
            # A role that can write the version could change which revisions the next run takes.
            run(self._connection, revoke_writing(self._name))
            refuse_forced_row_security(self._connection, self._name)

    def _unlocked(self, *_: object) -> None:
        self._locked.clear()

    def _mode(self, element: Any) -> str | None:
        if isinstance(element, Select):
            # get_final_froms() would prepare each statement for its compilation once more.
            return "ACCESS SHARE" if any(map(self._is_ours, iterate(element))) else None
        if isinstance(element, UpdateBase):
            return "ROW EXCLUSIVE" if self._is_ours(element.table) else None
        if isinstance(element, SetTableComment | DropTableComment):
            return "SHARE UPDATE EXCLUSIVE" if self._is_ours(element.element) else None
        return None

    def _is_ours(self, table: Any) -> bool:
        ours = self._table
        return isinstance(table, Table) and (table.schema, table.name) == (ours.schema, ours.name)

    def _lock(self, mode: str) -> None:
        lock_as_found(self._connection, self._name, self._oid, mode)
        # Of a transaction that is not SQLAlchemy's the end is not seen here.
        if not in_autocommit(self._connection):
            self._locked.add(mode)


_OID = """\
SELECT CAST(c.oid AS bigint) FROM pg_class c
 WHERE c.oid = to_regclass(%(name)s) AND c.relkind IN ('r', 'p')"""
