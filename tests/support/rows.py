"""
What a database holds, in a form that can be compared: its rows and its schema.

Only the catalogues and plain SELECTs are read, never the models, so that a
test can compare two databases, whatever made them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine, event, make_url

# Who migrated what and when differs from run to run; a run creates the table, and no revision.
_RUNS = "evolution_runs"

#: One thing in a schema: its kind, the table it belongs to, its name, what it says.
Entry = tuple[str, str, str, str]

_SQLITE_TABLES = """
    SELECT name FROM sqlite_schema
    WHERE type = 'table' AND (name = 'sqlite_sequence' OR name NOT LIKE 'sqlite\\_%' ESCAPE '\\')
"""

_POSTGRESQL_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind IN ('r', 'p')
"""

_SQLITE_SCHEMA = "SELECT type, tbl_name, name, coalesce(sql, '') FROM sqlite_schema"

_POSTGRESQL_SCHEMA = """
WITH here AS (
    SELECT * FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace
), columns AS (
    SELECT here.relname, a.*, pg_get_expr(d.adbin, d.adrelid) AS expression
    FROM here JOIN pg_attribute a ON a.attrelid = here.oid
    LEFT JOIN pg_attrdef d ON d.adrelid = here.oid AND d.adnum = a.attnum
    WHERE here.relkind IN ('r', 'p', 'v', 'm') AND a.attnum > 0 AND NOT a.attisdropped
)
SELECT 'table', relname, relname, concat_ws(' ', 'kind', relkind, relpersistence,
        'options', coalesce(reloptions::text, '-'), 'identity', relreplident,
        'row security', relrowsecurity, relforcerowsecurity)
    FROM here WHERE relkind IN ('r', 'p')
UNION ALL
SELECT 'column', relname, attname, concat_ws(' ', format_type(atttypid, atttypmod),
        CASE WHEN attnotnull THEN 'NOT NULL' ELSE 'NULL' END,
        CASE WHEN expression IS NULL THEN NULL
             WHEN attgenerated::text <> '' THEN concat('GENERATED ', attgenerated, ' ', expression)
             ELSE 'DEFAULT ' || expression END,
        nullif('IDENTITY ' || attidentity::text, 'IDENTITY '),
        CASE WHEN attcollation NOT IN (0, 100)
             THEN 'COLLATE ' || attcollation::regcollation::text END,
        CASE WHEN attoptions IS NOT NULL THEN 'OPTIONS ' || attoptions::text END)
    FROM columns
UNION ALL
SELECT 'column order', relname, relname, string_agg(attname, ', ' ORDER BY attnum)
    FROM columns GROUP BY relname
UNION ALL
SELECT 'constraint', here.relname, conname, pg_get_constraintdef(c.oid)
    FROM pg_constraint c JOIN here ON here.oid = c.conrelid
UNION ALL
SELECT 'index', here.relname, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
        || CASE WHEN i.indisvalid THEN '' ELSE ' (not valid)' END
    FROM pg_index i JOIN here ON here.oid = i.indrelid
UNION ALL
SELECT 'trigger', here.relname, tgname,
        pg_get_triggerdef(t.oid) || ' (enabled: ' || tgenabled::text || ')'
    FROM pg_trigger t JOIN here ON here.oid = t.tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT 'view', relname, relname, pg_get_viewdef(oid) FROM here WHERE relkind IN ('v', 'm')
UNION ALL
SELECT 'sequence', relname, relname, '' FROM here WHERE relkind = 'S'
UNION ALL
SELECT 'function', '', p.oid::regprocedure::text, CASE WHEN prokind = 'a' THEN prosrc
        ELSE pg_get_functiondef(p.oid) END
    FROM pg_proc p WHERE pronamespace = quote_ident(current_schema())::regnamespace
"""


def table_hash(url: str, table: str) -> str:
    """
    Hash the rows of *table*: every column by name, every value with its type.

    The hashes of the rows are added up, so that neither the order in which a
    database gives its rows nor a missing primary key matters, and a million
    rows need no memory.
    """
    with _connected(url) as connection:
        return _table_hash(connection, table)


def database_hash(url: str, without: Collection[str] = ()) -> dict[str, str]:
    """
    Hash the rows of every table but those in *without*, by the name of the table.

    A mapping, not one number: a failing comparison then names the tables.
    """
    with _connected(url) as connection:
        sqlite = connection.dialect.name == "sqlite"
        listing = _SQLITE_TABLES if sqlite else _POSTGRESQL_TABLES
        tables = connection.exec_driver_sql(listing).scalars().all()
        return {
            name: _table_hash(connection, name) for name in sorted(set(tables) - {_RUNS, *without})
        }


def schema_dump(url: str, without: Collection[str] = ()) -> list[Entry]:
    """
    List the schema in a fixed order, leaving out the tables in *without*.

    On SQLite the entries are the texts that the database keeps. On PostgreSQL
    they come from the catalogues: tables with their storage options, columns,
    their order, constraints (NOT NULL too where it has a name), indexes,
    triggers, views, sequences, functions.
    """
    with _connected(url) as connection:
        sqlite = connection.dialect.name == "sqlite"
        found = connection.exec_driver_sql(_SQLITE_SCHEMA if sqlite else _POSTGRESQL_SCHEMA)
        entries = ((str(a), str(b), str(c), str(d)) for a, b, c, d in found)
        return sorted(entry for entry in entries if entry[1] not in (_RUNS, *without))


def _table_hash(connection: Connection, table: str) -> str:
    quoted = '"' + table.replace('"', '""') + '"'
    rows = connection.execution_options(stream_results=True, max_row_buffer=1000).exec_driver_sql(
        f"SELECT * FROM {quoted}"
    )
    total, count = 0, 0
    for row in rows:
        # repr tells 1 from 1.0, '1', b'1' and True, and one field from the next.
        digest = hashlib.sha256(repr(tuple(row)).encode()).digest()
        total = (total + int.from_bytes(digest)) % (1 << 256)
        count += 1
    return hashlib.sha256(repr((tuple(rows.keys()), count, total)).encode()).hexdigest()


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(make_url(url), poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _keep_broken_text)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def _keep_broken_text(driver_connection: Any, _record: object) -> None:
    # SQLite stores any bytes as text; a hash must not stumble over them.
    driver_connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
