"""Keep the values of a column while the column itself is gone."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.lookups import columns_of
from cleveragents_plans.evolution.op import Op, qualified, schema_of
from cleveragents_plans.evolution.postgresql.archive_tables import (
    raise_if_another_roles,
    raise_unless_unique_index,
    refuse_foreign_table,
)
from cleveragents_plans.evolution.postgresql.batches import run_in_batches
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.dependents import (
    drop_unless_in_use,
    refuse_table_in_use,
)
from cleveragents_plans.evolution.postgresql.event_triggers import try_creation
from cleveragents_plans.evolution.postgresql.locks import with_exclusive_lock
from cleveragents_plans.evolution.postgresql.privileges import HOLDERS, revoke_all
from cleveragents_plans.evolution.postgresql.replication import refuse_published_rows
from cleveragents_plans.evolution.postgresql.triggers import Trigger
from cleveragents_plans.evolution.recipes.sqlite_archives import refuse_other_shape

log: Final = logging.getLogger("alembic.evolution")


@dataclass(frozen=True, slots=True)
class ColumnArchive:
    """
    A table for the values of one column, by the key of their rows.

    It has no foreign key: to create one would lock the other table. Values of rows that are
    deleted meanwhile are deleted when the others are restored, and so are those of rows that
    were deleted and inserted again, if `identity` tells them apart.
    """

    name: str
    table: str
    key: str
    column: str
    #: A literal: the empty value, which is not kept.
    empty_value: str
    #: Columns that tell a row from a later one of the same key, such as when it was created;
    #: `in_database` leaves out those that the table lacks.
    identity: tuple[str, ...] = ()

    def in_database(self, op: Op) -> ColumnArchive:
        """Give it with those columns of `identity` that the table has; offline it has them."""
        if op.get_context().as_sql:
            return self
        found = columns_of(op, self.table)
        return replace(self, identity=tuple(name for name in self.identity if name in found))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the archive, the key first."""
        return (self.key, self.column, *self.identity)

    @property
    def index(self) -> str:
        """The name of its unique index on the key."""
        return f"uq_{self.name}_{self.key}"

    def create(self) -> tuple[str, ...]:
        """Give the statements, for `with_exclusive_lock`, that create it unless it exists."""
        # AS copies types and collations, without which no index could be used.
        name = f"{{schema}}.{self.name}"
        return (
            f"CREATE TABLE IF NOT EXISTS {name} AS"
            f" SELECT {', '.join(self.columns)} FROM {{schema}}.{self.table} WITH NO DATA",
            # Another role may have created it since `check_archive`, or before a script is run.
            raise_if_another_roles(name, f"{{schema}}.{self.table}"),
            # A role that can write to it could change what the next upgrade restores; one that can
            # read it sees rows that row-level security of the other table hides.
            revoke_all(name),
            f"CREATE UNIQUE INDEX IF NOT EXISTS {self.index} ON {name} ({self.key})",
            raise_unless_unique_index(f"{{schema}}.{self.index}", name, self.key),
            # Where all tables are published, only rows that can be told apart may change. An event
            # trigger may have forced row-level security on the owner, whose triggers write to it.
            f"ALTER TABLE {name} REPLICA IDENTITY FULL, NO FORCE ROW LEVEL SECURITY",
        )

    def keep_trigger(self, name: str) -> Trigger:
        """
        Give a trigger that archives what is written concurrently.

        The value of a row whose key changes moves to the new key. Under the former one stays what
        another row has brought there in the same statement.
        """
        key, not_empty = self.key, f"{self.column} <> {self.empty_value}"
        body = f"""\
BEGIN
  IF tg_op = 'UPDATE' AND new.{key} <> old.{key} THEN
    DELETE FROM {{schema}}.{self.name} a WHERE a.{key} = old.{key}
       AND NOT EXISTS (SELECT FROM {{schema}}.{self.table} t
                        WHERE t.{key} = a.{key} AND t.{not_empty});
  END IF;
  INSERT INTO {{schema}}.{self.name} VALUES ({self._columns_of("new")})
  {self._on_conflict};
  RETURN NULL;
END"""
        event = f"AFTER INSERT OR UPDATE OF {', '.join(self.columns)}"
        return Trigger(
            table=self.table,
            name=name,
            event=event,
            body=body,
            when=f"new.{not_empty}",
            as_owner=True,
        )

    def value_in_copy(self, *, present: bool) -> str:
        """
        Give the value of the column for `rebuild_table` on SQLite, where the archive exists.

        A value in a column that is *present* already, and not the empty one, wins.
        """
        said = f"nullif(old.{self.column}, {self.empty_value}), " if present else ""
        return (
            f"coalesce({said}(SELECT a.{self.column} FROM {self.name} a"
            f" WHERE a.{self.key} = +old.{self.key}"
            + "".join(f" AND a.{name} IS old.{name}" for name in self.identity)
            + f"), {self.empty_value})"
        )

    def _columns_of(self, row: str) -> str:
        return ", ".join(f"{row}.{name}" for name in self.columns)

    def _same(self, one: str, other: str) -> str:
        return "".join(
            f" AND {one}.{name} IS NOT DISTINCT FROM {other}.{name}" for name in self.identity
        )

    @property
    def _on_conflict(self) -> str:
        sets = ", ".join(f"{name} = excluded.{name}" for name in self.columns[1:])
        return f"ON CONFLICT ({self.key}) DO UPDATE SET {sets}"

    @property
    def _archive_column(self) -> str:
        return f"""\
INSERT INTO {{schema}}.{self.name}
SELECT {self._columns_of("t")} FROM {{schema}}.{self.table} t
 WHERE {{batch}} AND ({self._not_archived}) ORDER BY t.{self.key}
{self._on_conflict}"""

    @property
    def _not_archived(self) -> str:
        return f"""\
t.{self.column} <> {self.empty_value} AND NOT EXISTS (
  SELECT 1 FROM {{schema}}.{self.name} a WHERE a.{self.key} = t.{self.key}
     AND a.{self.column} = t.{self.column}{self._same("a", "t")})"""

    @property
    def _restore_column(self) -> str:
        t, key, column = f"{{schema}}.{self.table}", self.key, self.column
        return f"""\
WITH held AS MATERIALIZED (
  SELECT p.{key} FROM {t} p WHERE p.{key} IN (
           SELECT t.{key} FROM {{schema}}.{self.name} t WHERE {{batch}})
   ORDER BY p.{key} FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
  DELETE FROM {{schema}}.{self.name} t
   WHERE {{batch}} AND ((t.{key} IN (SELECT held.{key} FROM held)) IS TRUE
     OR NOT EXISTS (SELECT 1 FROM {t} p WHERE p.{key} = t.{key}))
  RETURNING {self._columns_of("t")}
), restored AS (
  UPDATE {t} p SET {column} = taken.{column}
    FROM taken WHERE p.{key} = taken.{key}{self._same("p", "taken")}
     AND p.{column} = {self.empty_value}
)
SELECT taken.{key} FROM taken"""

    @property
    def _drop_if_empty(self) -> str:
        return f"""\
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM {{schema}}.{self.name}) THEN
    DROP TABLE {{schema}}.{self.name};
  END IF;
EXCEPTION WHEN dependent_objects_still_exist THEN
  RAISE WARNING USING MESSAGE = 'others depend on it, so it was left: {{schema}}.{self.name}';
END $$"""


@checks("archive")
def check_archive(op: Op, archive: ColumnArchive, *, exists: bool) -> None:
    """
    Find out whether *archive* is as `create` makes it, and not replicated; change nothing.

    The archive is a table that logical subscribers lack, and that a publication FOR ALL TABLES
    has. It *exists* already, if it does, or is to be created. Offline it does nothing.

    Raises:
        NameTaken: A table of its name belongs to another role, or has another shape.
        TableUnfit: PostgreSQL refuses to create it, or an event trigger gives it to another role.
        TableInUse: Something is made from it, so that it could not be dropped.
        RowsArePublished: Its rows would be sent to subscribers.
    """
    context = op.get_context()
    if context.as_sql:
        return
    if context.dialect.name == "sqlite":
        refuse_other_shape(
            op.get_bind(), archive.name, archive.table, archive.columns, archive.index
        )
        return
    connection, name = op.get_bind(), qualified(context, archive.name)
    table = qualified(context, archive.table)
    refuse_foreign_table(connection, name, table, archive.columns, archive.index)
    refuse_table_in_use(connection, name)
    there = "SELECT to_regclass(%(name)s) IS NULL AND to_regclass(%(table)s) IS NOT NULL"
    if run(connection, there, {"name": name, "table": table}).scalar_one():
        present = [each for each in archive.columns if each in columns_of(op, archive.table)]
        try_creation(connection, name, table, ", ".join(present))
    _warn_of_holders(connection, name)
    refuse_published_rows(connection, archive.name, schema_of(context), exists=exists)


def _warn_of_holders(connection: Connection, name: str) -> None:
    for other, held in run(connection, HOLDERS.format(oid="to_regclass(%(name)s)"), {"name": name}):
        log.warning(
            "%s has %s on %s, and could %s; this run revokes it", other, held, name,
            "read what is kept in it" if held == "SELECT" else "change what is restored from it",
        )  # fmt: skip


def archive_column(op: Op, archive: ColumnArchive) -> None:
    """
    Copy every value but the empty one into *archive*.

    On PostgreSQL in batches that wait for no lock (see `backfill`), into a table that was
    created before; idempotent. On SQLite the table is created, unless there is nothing to
    keep.
    """
    if op.get_context().dialect.name != "sqlite":
        _backfill(op, archive, archive.table, archive._not_archived, archive._archive_column)
        return
    # AS copies whether keys are text, numbers or bytes.
    op.execute(
        f"CREATE TABLE IF NOT EXISTS {archive.name} AS"
        f" SELECT {', '.join(archive.columns)} FROM {archive.table} WHERE 0"
    )
    op.execute(
        f"CREATE UNIQUE INDEX IF NOT EXISTS {archive.index} ON {archive.name} ({archive.key})"
    )
    op.execute(
        f"INSERT OR REPLACE INTO {archive.name} SELECT {', '.join(archive.columns)}"
        f" FROM {archive.table} WHERE {archive.column} <> {archive.empty_value}"
    )
    kept = op.get_bind().exec_driver_sql(f"SELECT EXISTS (SELECT 1 FROM {archive.name})")
    if not kept.scalar_one():
        op.execute(f"DROP TABLE {archive.name}")


def restore_column(op: Op, archive: ColumnArchive) -> None:
    """
    Write archived values into rows with the empty value, on PostgreSQL, and drop *archive*.

    In batches that leave rows which other sessions lock for a later pass; then ACCESS
    EXCLUSIVE on the archive for a moment. It is left, empty, where something was made from it
    meanwhile.
    """
    _backfill(op, archive, archive.name, "TRUE", archive._restore_column)
    dropped = drop_unless_in_use(f"TABLE {{schema}}.{archive.name}")
    with_exclusive_lock(op, archive.name, dropped)


def drop_if_empty(op: Op, archive: ColumnArchive) -> None:
    """Drop *archive* on PostgreSQL if it is empty; ACCESS EXCLUSIVE on it for a moment."""
    with_exclusive_lock(op, archive.name, archive._drop_if_empty)


def _backfill(op: Op, archive: ColumnArchive, over: str, needs: str, sql: str) -> None:
    run_in_batches(
        op,
        over,
        key=archive.key,
        needs=needs,
        update=sql,
        label=f"{archive.column}, archived",
        vacuum=archive.table if over == archive.name else archive.name,
    )
