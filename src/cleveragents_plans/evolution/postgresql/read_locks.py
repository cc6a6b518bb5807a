"""
Locks with which the tables that are read stay what they were found to be.

A statement that waits for a lock on a table reads, once it has the lock, what has the name by then:
its owner may have put a view in its place, whose functions would run with the rights of the role
that reads. READ ONLY does not forbid ``COPY … TO PROGRAM``. LOCK TABLE plans nothing, and so runs
no expression of an index.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import in_autocommit, run
from cleveragents_plans.evolution.postgresql.ownership import NameTaken
from cleveragents_plans.evolution.postgresql.trust import TRUSTED_OWNER


def lock_to_read(connection: Connection, tables: Collection[str], schema: str | None) -> None:
    """
    Lock the *tables* that are there, so that nothing takes their place in this transaction.

    Their owners were checked before, and what has one of their names since is refused.

    Locks: ACCESS SHARE on each, until the transaction ends.

    Args:
        connection: The connection that reads, in a transaction; nothing is done on SQLite.
        tables: Their names, without a schema.
        schema: Their schema.

    Raises:
        NameTaken: Something else has such a name, since now or since a moment ago; or a role owns
            it that is neither trusted, nor the owner of one that `remember_tables` has found.
        DBAPIError: A lock was not obtained within ``lock_timeout``.
    """
    if schema is None:
        return
    wanted = {"tables": list(tables), "schema": schema}
    for oid, name in run(connection, _THERE, wanted).all():
        lock_as_found(connection, name, oid)
        _require_known(connection, name)


def remember_tables(
    connection: Connection, tables: Collection[str], schema: str | None, *more: tuple[str, str]
) -> None:
    """
    Remember which of *tables* are there; to be called before their owners are checked.

    Catalogs are read only; nothing is done on SQLite.

    Args:
        connection: The connection that reads.
        tables: Names of tables, without a schema.
        schema: Their schema.
        more: Names of others, with the schema of each.
    """
    if schema is not None:
        named = [*((name, schema) for name in tables), *more]
        connection.info[_KNOWN] = {
            oid
            for name, of in named
            for oid, _ in run(connection, _THERE, {"tables": [name], "schema": of})
        }


def lock_known(connection: Connection, name: str) -> bool:
    """
    Lock a table whose rows a check of a revision reads; tell whether it is there.

    Where the first tables are still to be created, another role may have taken the name of one
    since `remember_tables` was called.

    Locks: ACCESS SHARE, until the transaction ends; none in autocommit.

    Args:
        connection: The connection that reads.
        name: The table, as in SQL with its schema.

    Raises:
        NameTaken: It is no table; or a role owns it that is neither trusted, nor the owner of one
            that was there before.
        DBAPIError: The lock was not obtained within ``lock_timeout``.
    """
    oid = _require_known(connection, name)
    if oid is None:
        return False
    if not in_autocommit(connection):
        lock_as_found(connection, name, oid)
    return True


def _require_known(connection: Connection, name: str) -> int | None:
    known = connection.info.get(_KNOWN)
    wanted = {"name": name, "any": known is None, "known": list(known or ())}
    found = run(connection, _IS_KNOWN, wanted).first()
    if found is not None and not found.known:
        raise NameTaken(name, "was created by another role just now", "rename or drop it")
    return None if found is None else int(found.oid)


def lock_as_found(
    connection: Connection, name: str, oid: int | None, mode: str = "ACCESS SHARE"
) -> None:
    """
    Lock a table in *mode* until the transaction ends, if it is still the one that was found.

    Args:
        connection: The connection that uses it, in a transaction.
        name: The table, as in SQL with its schema.
        oid: What it was found to be; None where nothing had the name.
        mode: The mode of the lock.

    Raises:
        NameTaken: Something else has the name now, or nothing has it any more.
        DBAPIError: The lock was not obtained within ``lock_timeout``.
    """
    there = run(connection, "SELECT to_regclass(%(name)s) IS NOT NULL", {"name": name}).scalar_one()
    if there and oid is None:
        raise NameTaken(name, "was created by another session just now", "rename or drop it")
    if there:
        run(connection, f"LOCK TABLE ONLY {name} IN {mode} MODE")
    if not run(connection, _IS_LOCKED, {"oid": oid, "name": name}).scalar():
        raise NameTaken(name, "was replaced just now", "run the same command again")


# What is remembered of each connection: the oids of tables that were there.
_KNOWN = "evolution.known_tables"

_IS_KNOWN = f"""\
SELECT CAST(c.oid AS bigint) AS oid, c.relkind IN ('r', 'p') AND (
         {TRUSTED_OWNER} OR %(any)s OR c.relowner IN (
           SELECT k.relowner FROM pg_class k WHERE k.oid = ANY(CAST(%(known)s AS oid[])))) AS known
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles o ON o.oid = c.relowner
 WHERE c.oid = to_regclass(%(name)s)"""

_THERE = """\
SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY(CAST(%(tables)s AS text[])) AND n.nspname = %(schema)s
   AND c.relkind IN ('r', 'p') ORDER BY c.relname"""

# These functions look at what is there now; the snapshot of the transaction may be older. Before
# PostgreSQL 16 a table without rows could become a view, which has no file.
_IS_LOCKED = """\
SELECT coalesce(to_regclass(%(name)s) = CAST(%(oid)s AS oid), false)
       AND (c.relkind = 'p' OR pg_relation_filenode(c.oid) IS NOT NULL)
  FROM pg_class c WHERE c.oid = CAST(%(oid)s AS oid)"""
