"""Replicas, publications and subscriptions: what a run means for them, said before it begins."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError, sqlstate
from cleveragents_plans.evolution.postgresql.connection import run

log = logging.getLogger("alembic.evolution")


class RowsArePublished(EvolutionError):
    """
    Rows of a table that only this database has would be sent to logical subscribers.

    Attributes:
        table: The table.
        publications: What publishes it.
        slots: The logical replication slots of the database.
    """

    def __init__(self, table: str, publications: Sequence[str], slots: Sequence[str]) -> None:
        super().__init__(
            f"the rows that this run writes to {table} are published ({', '.join(publications)}); "
            "subscribers lack that table, and would stop there; let their subscriptions use a "
            "publication that lists the tables, or drop the logical replication slots of those "
            f"that are gone ({', '.join(slots)}), then run the same command again; nothing was "
            "changed"
        )
        self.table = table
        self.publications = tuple(publications)
        self.slots = tuple(slots)


def refuse_published_rows(
    connection: Connection, table: str, schema: str | None, *, exists: bool
) -> None:
    """
    Refuse to write rows to a *table* of this run that logical subscribers would be sent.

    Without a logical replication slot nothing is sent.

    Args:
        connection: The connection that migrates; catalogs are read.
        table: The table, without its schema.
        schema: Its schema; None is the first of the search path.
        exists: Refuse a table only if it exists; else one that is to be created, too.

    Raises:
        RowsArePublished: It is published, or would be.
    """
    slots = run(connection, _SLOTS).scalars().all()
    if not slots:
        return
    names = {"table": table, "schema": schema, "exists": exists}
    version = connection.dialect.server_version_info or ()
    query = _WOULD_PUBLISH.format(of_schema=_OF_SCHEMA if version >= (15,) else "false")
    publications = run(connection, query, names).scalars().all()
    if publications:
        raise RowsArePublished(table, publications, slots)


class UpdatesNotReplicable(EvolutionError):
    """
    The server refuses UPDATE of a table that publications send, because rows have no identity.

    See https://www.postgresql.org/docs/current/logical-replication-publication.html

    Attributes:
        table: The table.
        reason: What the server says.
    """

    def __init__(self, table: str, reason: str, publications: Sequence[str], remedy: str) -> None:
        super().__init__(
            f"rows of {table} cannot be updated while it is published ({', '.join(publications)}): "
            f"{reason}; {remedy}, then run the same command again; nothing was changed"
        )
        self.table = table
        self.reason = reason


def check_replication(connection: Connection, tables: Collection[str], schema: str | None) -> None:
    """
    Log what a migration of *tables* means where they are replicated, if they are.

    Tables that are published in a way in which the server accepts no UPDATE of them are refused:
    it is asked by EXPLAIN, which runs nothing, and knows what the identity of rows, row filters and
    column lists allow.

    Locks: ROW EXCLUSIVE on tables that are published, until the transaction ends.

    Args:
        connection: The connection that migrates; catalogs are read.
        tables: Names of tables, without a schema.
        schema: Their schema; None is the first of the search path.

    Raises:
        UpdatesNotReplicable: The server accepts no UPDATE of one of them.
    """
    names = {"tables": list(tables), "schema": schema}
    _refuse_unidentified_rows(connection, names)
    _warn_of_replicas(connection)
    _warn_of_publications(connection, names)
    _warn_of_subscriptions(connection, names)


def _refuse_unidentified_rows(connection: Connection, names: Mapping[str, object]) -> None:
    for table, column, publications in run(connection, _PUBLISHED, names).all():
        try:
            with connection.begin_nested():
                run(connection, f"EXPLAIN UPDATE {table} SET {column} = {column} WHERE false")
        except DBAPIError as error:
            if sqlstate(error) not in _NO_IDENTITY:
                raise
            said: Any = getattr(error.orig, "diag", None)
            reason = "; ".join(filter(None, (said.message_primary, said.message_detail)))
            remedy = _NO_IDENTITY[sqlstate(error) or ""].format(table=table)
            raise UpdatesNotReplicable(table, reason, publications, remedy) from error


def _warn_of_replicas(connection: Connection) -> None:
    # A replica obtains an exclusive lock when it replays one.
    replicas = run(connection, _REPLICAS).scalars().all()
    if replicas:
        log.warning(
            "replicas are attached (%s): an exclusive lock, however short here, waits there for "
            "longer queries on the table, and later readers wait behind it, for as long as "
            "max_standby_streaming_delay says there (30 s, unless it was set); then those "
            "queries are cancelled",
            ", ".join(sorted({*replicas})),
        )


def _warn_of_publications(connection: Connection, names: Mapping[str, object]) -> None:
    publications = run(connection, _PUBLICATIONS, names).scalars().all()
    if not publications:
        return
    slots = run(connection, _SLOTS).scalars().all()
    log.warning(
        "tables of this chain are published (%s; logical replication slots: %s): a subscriber "
        "whose tables lack a column or table of this revision stops at the first row that has "
        "it, and its slot then keeps all write-ahead log. Migrate every subscriber first, as "
        "docs/deployment.md says under Logical replication, or end this run and do so",
        ", ".join(publications),
        ", ".join(slots) or "none",
    )


def _warn_of_subscriptions(connection: Connection, names: Mapping[str, object]) -> None:
    subscriptions = run(connection, _SUBSCRIPTIONS, names).scalars().all()
    if subscriptions:
        log.warning(
            "tables of this chain are written by subscriptions (%s). On the way up this database "
            "is the one to migrate first, and the publisher after it; on the way down it is the "
            "last. See docs/deployment.md, Logical replication",
            ", ".join(subscriptions),
        )


# Without pg_read_all_stats, other sessions show their names only. Logical subscribers and
# backups replay no locks; in its first moments none can be told from them.
_REPLICAS = """\
SELECT r.application_name FROM pg_stat_replication r
 WHERE r.state IS DISTINCT FROM 'startup'
   AND r.application_name NOT IN ('pg_basebackup', 'pg_receivewal')
   AND NOT EXISTS (SELECT FROM pg_replication_slots s
                    WHERE s.active_pid = r.pid AND s.slot_type = 'logical')"""

# FOR TABLE, FOR TABLES IN SCHEMA and FOR ALL TABLES; the last has the version table, too.
_PUBLICATIONS = """\
SELECT p.pubname || CASE WHEN p.puballtables THEN ' FOR ALL TABLES' ELSE '' END
  FROM pg_publication p
 WHERE p.puballtables OR EXISTS (
         SELECT FROM pg_publication_tables t
          WHERE t.pubname = p.pubname AND t.tablename = ANY(CAST(%(tables)s AS text[]))
            AND t.schemaname = coalesce(%(schema)s, current_schema()))
 ORDER BY p.pubname"""

_PUBLISHED = """\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       (SELECT quote_ident(a.attname) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attnum LIMIT 1),
       array_agg(DISTINCT p.pubname::text)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_publication_tables t ON t.schemaname = n.nspname AND t.tablename = c.relname
  JOIN pg_publication p ON p.pubname = t.pubname AND p.pubupdate
 WHERE c.relname = ANY(CAST(%(tables)s AS text[]))
   AND n.nspname = coalesce(%(schema)s, current_schema())
 GROUP BY c.oid, n.nspname, c.relname
 ORDER BY c.relname"""

# object_not_in_prerequisite_state, and invalid_column_reference for row filters and column lists.
_NO_IDENTITY = {
    "55000": "run ALTER TABLE {table} REPLICA IDENTITY DEFAULT, or USING INDEX with a unique index",
    "42P10": "take those columns out of the row filter and into the column list of the publication",
}

_WOULD_PUBLISH = """\
SELECT p.pubname || CASE WHEN p.puballtables THEN ' FOR ALL TABLES' ELSE '' END
  FROM pg_publication p
 WHERE (p.puballtables OR {of_schema} OR EXISTS (
         SELECT FROM pg_publication_tables t
          WHERE t.pubname = p.pubname AND t.tablename = %(table)s
            AND t.schemaname = coalesce(%(schema)s, current_schema())))
   AND (NOT %(exists)s OR EXISTS (
         SELECT FROM pg_tables WHERE tablename = %(table)s
            AND schemaname = coalesce(%(schema)s, current_schema())))
 ORDER BY p.pubname"""

# From PostgreSQL 15 on: FOR TABLES IN SCHEMA publishes what is created there later, too.
_OF_SCHEMA = """\
p.oid IN (SELECT s.pnpubid FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid
           WHERE n.nspname = coalesce(%(schema)s, current_schema()))"""

_SLOTS = """\
SELECT slot_name || CASE WHEN active THEN '' ELSE ' (inactive)' END FROM pg_replication_slots
 WHERE slot_type = 'logical' AND database = current_database() ORDER BY slot_name"""

_SUBSCRIPTIONS = """\
SELECT s.subname || CASE WHEN s.subenabled THEN '' ELSE ' (disabled)' END
  FROM pg_subscription s
 WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid
                WHERE r.srsubid = s.oid AND c.relname = ANY(CAST(%(tables)s AS text[]))
                  AND c.relnamespace = to_regnamespace(
                        quote_ident(coalesce(%(schema)s, current_schema()))))
 ORDER BY s.subname"""
