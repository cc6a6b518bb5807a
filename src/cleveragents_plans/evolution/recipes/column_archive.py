"""Keep the values of a column while the column itself is gone."""

from __future__ import annotations

from dataclasses import dataclass

from cleveragents_plans.evolution.op import Op, schema_of
from cleveragents_plans.evolution.postgresql.batches import run_in_batches
from cleveragents_plans.evolution.postgresql.locks import with_exclusive_lock
from cleveragents_plans.evolution.postgresql.replication import refuse_published_rows
from cleveragents_plans.evolution.postgresql.triggers import Trigger


@dataclass(frozen=True, slots=True)
class ColumnArchive:
    """
    A table for the values of one column, by the key of their rows.

    It has no foreign key: to create one would lock the other table. Values of rows that are
    deleted meanwhile are deleted when the others are restored.
    """

    name: str
    table: str
    key: str
    column: str
    #: A literal: the empty value, which is not kept.
    empty_value: str

    def create(self) -> tuple[str, ...]:
        """Give the statements, for `with_exclusive_lock`, that create it unless it exists."""
        # AS copies types and collations, without which no index could be used.
        name = f"{{schema}}.{self.name}"
        return (
            f"CREATE TABLE IF NOT EXISTS {name} AS"
            f" SELECT {self.key}, {self.column} FROM {{schema}}.{self.table} WITH NO DATA",
            f"CREATE UNIQUE INDEX IF NOT EXISTS uq_{self.name}_{self.key} ON {name} ({self.key})",
            # Where all tables are published, only rows that can be told apart may change.
            f"ALTER TABLE {name} REPLICA IDENTITY FULL",
        )

    def keep_trigger(self, name: str) -> Trigger:
        """Give a trigger that archives what is written concurrently."""
        body = f"""\
BEGIN
  INSERT INTO {{schema}}.{self.name} VALUES (new.{self.key}, new.{self.column})
  {self._on_conflict};
  RETURN NULL;
END"""
        event = f"AFTER INSERT OR UPDATE OF {self.column}"
        when = f"new.{self.column} <> {self.empty_value}"
        return Trigger(
            table=self.table, name=name, event=event, body=body, when=when, as_owner=True
        )

    def value_in_copy(self, *, present: bool) -> str:
        """
        Give the value of the column for `rebuild_table` on SQLite, where the archive exists.

        A value in a column that is *present* already, and not the empty one, wins.
        """
        said = f"nullif(old.{self.column}, {self.empty_value}), " if present else ""
        return (
            f"coalesce({said}(SELECT a.{self.column} FROM {self.name} a"
            f" WHERE a.{self.key} = +old.{self.key}), {self.empty_value})"
        )

    @property
    def _on_conflict(self) -> str:
        return f"ON CONFLICT ({self.key}) DO UPDATE SET {self.column} = excluded.{self.column}"

    @property
    def _archive_column(self) -> str:
        return f"""\
INSERT INTO {{schema}}.{self.name}
SELECT t.{self.key}, t.{self.column} FROM {{schema}}.{self.table} t
 WHERE {{batch}} AND ({self._not_archived}) ORDER BY t.{self.key}
{self._on_conflict}"""

    @property
    def _not_archived(self) -> str:
        return f"""\
t.{self.column} <> {self.empty_value} AND NOT EXISTS (
  SELECT 1 FROM {{schema}}.{self.name} a WHERE a.{self.key} = t.{self.key}
     AND a.{self.column} = t.{self.column})"""

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
  RETURNING t.{key}, t.{column}
), restored AS (
  UPDATE {t} p SET {column} = taken.{column}
    FROM taken WHERE p.{key} = taken.{key} AND p.{column} = {self.empty_value}
)
SELECT taken.{key} FROM taken"""

    @property
    def _drop_if_empty(self) -> str:
        return f"""\
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM {{schema}}.{self.name}) THEN
    DROP TABLE {{schema}}.{self.name};
  END IF;
END $$"""


def check_archive(op: Op, archive: ColumnArchive, *, exists: bool) -> None:
    """
    Find out whether rows of *archive* would stop logical replication; change nothing.

    The archive is a table that logical subscribers lack, and that a publication FOR ALL TABLES
    has. It *exists* already, if it does, or is to be created. On SQLite, and offline, it does
    nothing.

    Raises:
        RowsArePublished: They would be sent to subscribers.
    """
    context = op.get_context()
    if context.dialect.name == "postgresql" and not context.as_sql:
        refuse_published_rows(
            op.get_bind(), archive.name, schema_of(op.get_context()), exists=exists
        )


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
        f" SELECT {archive.key}, {archive.column} FROM {archive.table} WHERE 0"
    )
    op.execute(
        f"CREATE UNIQUE INDEX IF NOT EXISTS uq_{archive.name}_{archive.key}"
        f" ON {archive.name} ({archive.key})"
    )
    op.execute(
        f"INSERT OR REPLACE INTO {archive.name} SELECT {archive.key}, {archive.column}"
        f" FROM {archive.table} WHERE {archive.column} <> {archive.empty_value}"
    )
    kept = op.get_bind().exec_driver_sql(f"SELECT EXISTS (SELECT 1 FROM {archive.name})")
    if not kept.scalar_one():
        op.execute(f"DROP TABLE {archive.name}")


def restore_column(op: Op, archive: ColumnArchive) -> None:
    """
    Write archived values into rows with the empty value, on PostgreSQL, and drop *archive*.

    In batches that leave rows which other sessions lock for a later pass; then ACCESS
    EXCLUSIVE on the archive for a moment.
    """
    _backfill(op, archive, archive.name, "TRUE", archive._restore_column)
    with_exclusive_lock(op, archive.name, f"DROP TABLE {{schema}}.{archive.name}")


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
