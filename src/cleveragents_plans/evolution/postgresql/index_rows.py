"""
Rows whose values are too wide for an index.

An entry of a btree has at most 2,704 bytes on pages of 8 kB
(https://www.postgresql.org/docs/current/btree.html#BTREE-BEHAVIOR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.read_locks import lock_known
from cleveragents_plans.evolution.printable import identifier

_MOST = 2704
_SHOWN = 5


class RowsTooWide(EvolutionError):
    """
    Rows have values that are wider than an entry of an index may be.

    Attributes:
        table: The table.
        rows: The keys of some of them.
    """

    def __init__(self, table: str, columns: str, rows: Sequence[str], left: str) -> None:
        named = f", such as {', '.join(rows)}" if rows else ""
        super().__init__(
            f"rows of {table} are too wide in {columns} for an index, whose entries have at most "
            f"{_MOST:,} bytes{named}; correct or delete these rows, and run the same command "
            f"again; {left}"
        )
        self.table = table
        self.rows = tuple(rows)


def refuse_wide_rows(
    connection: Connection,
    table: str,
    indexes: Mapping[str, Sequence[str]],
    left: str = "nothing was changed",
) -> None:
    """
    Refuse rows of *table*, the quoted name, that are too wide for one of *indexes*.

    One scan, which reads no value that is stored out of line. Columns that are no text, or not
    there yet, count nothing. A value that the server could compress is refused, too.

    Args:
        connection: The connection that migrates.
        table: The table; it need not exist.
        indexes: The columns of each, by its name.
        left: What is left of the run.

    Raises:
        RowsTooWide: There are such rows.
    """
    if not lock_known(connection, table):
        return
    texts = set(run(connection, _TEXTS, {"table": table}).scalars())
    for_each = [[each for each in columns if each in texts] for columns in indexes.values()]
    wide = {", ".join(columns): _too_wide(columns) for columns in for_each if columns}
    if not wide:
        return
    key = run(connection, _KEY, {"table": table}).scalar() or "ctid"
    named = f"left(CAST(t.{identifier(key)} AS text), 40)"
    query = f"SELECT {', '.join([named, *wide.values()])} FROM {table} t"
    found = run(connection, f"{query} WHERE {' OR '.join(wide.values())} LIMIT {_SHOWN}").all()
    if found:
        columns = [name for at, name in enumerate(wide, 1) if any(row[at] for row in found)]
        raise RowsTooWide(table, " or ".join(columns), [str(row[0]) for row in found], left)


def _too_wide(columns: Sequence[str]) -> str:
    # The header of the entry, and of each value with what aligns it.
    octets = [f"coalesce(octet_length(t.{identifier(each)}), 0) + 8" for each in columns]
    return f"({' + '.join(octets)} + 8 > {_MOST})"


_KEY = """\
SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
 WHERE i.indrelid = to_regclass(%(table)s) AND i.indisprimary AND a.attnum = i.indkey[0]"""

_TEXTS = """\
SELECT a.attname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
   AND t.typname IN ('text', 'varchar', 'bpchar')
   AND t.typnamespace = CAST('pg_catalog' AS regnamespace)"""
