"""
Databases of PostgreSQL in SQL_ASCII, which keep any bytes: read as UTF-8, and nothing ends a read.

With UTF8 for the encoding of the client, the server checks each text that it sends, and one byte
of others ends the statement. With SQL_ASCII it sends what is there, and the driver would give
bytes for every text: so texts are read and written here. Bytes that are no UTF-8 are lone
surrogates, as on SQLite; no plan can hold those, and sent back, they are the same bytes.
https://www.psycopg.org/psycopg3/docs/basic/adapt.html#strings-adaptation
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import AsyncCursor, AsyncServerCursor, Cursor, ServerCursor
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.errors import DataError
from psycopg.sql import Composable
from psycopg.types.string import StrDumperUnknown

_ESCAPED = "surrogateescape"
# What has no loader of its own is text as well.
_TEXTS = ("text", "varchar", "bpchar", "name", 0)


def read_any_bytes(connection: Any) -> None:
    """
    Configure a *connection* that was just made, if its database is in SQL_ASCII.

    One for which the URL names another encoding than UTF8 stays as it is. A pooler may spell it as
    that does, or say at first which one its session had before.
    """
    driver = getattr(connection, "driver_connection", connection)  # of asyncio
    if driver.info.parameter_status("server_encoding") != "SQL_ASCII":
        return
    if driver.info.encoding not in ("utf-8", "ascii"):
        return
    cursor = connection.cursor()
    cursor.execute("SET client_encoding TO 'SQL_ASCII'")
    cursor.close()
    connection.commit()
    for name in _TEXTS:
        driver.adapters.register_loader(name, _TextLoader)
    driver.adapters.register_dumper(str, _TextDumper)
    asynchronous = hasattr(connection, "driver_connection")
    driver.cursor_factory = _AsyncCursor if asynchronous else _Cursor
    driver.server_cursor_factory = _AsyncServerCursor if asynchronous else _ServerCursor


class _TextLoader(Loader):
    def load(self, data: Buffer) -> str:
        return str(data, "utf-8", _ESCAPED)


class _TextDumper(StrDumperUnknown):
    def dump(self, obj: str) -> Buffer:
        if "\0" in obj:
            raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return obj.encode("utf-8", _ESCAPED)


class _Statement(Composable):
    def as_bytes(self, context: Any = None) -> bytes:
        return str(self._obj).encode("utf-8", _ESCAPED)


class _Utf8:
    """A cursor that writes statements, and reads the names of columns, in UTF-8."""

    # The driver's own is ASCII, which would raise where a name is not.
    _encoding = "utf-8"

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Send *query*."""
        query, (params,) = _sent(query, [params])
        return super().execute(query, params, **options)  # type: ignore[misc]

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> Any:
        """Send *query* several times."""
        query, sequences = _sent(query, [*params_seq])
        return super().executemany(query, sequences, **options)  # type: ignore[misc]


def _sent(query: Any, given: list[Any]) -> tuple[Any, list[Any]]:
    if not isinstance(query, str):
        return query, given
    if not query.isascii() and given and isinstance(given[0], Mapping):
        # The driver reads the names of parameters as ASCII.
        plain = {name: name if name.isascii() else name.encode().hex() for name in given[0]}
        for name, written in plain.items():
            query = query.replace(f"%({name})", f"%({written})")
        given = [{plain[name]: value for name, value in each.items()} for each in given]
    return _Statement(query), given


class _Cursor(_Utf8, Cursor[Any]):
    pass


class _ServerCursor(_Utf8, ServerCursor[Any]):
    pass


class _AsyncCursor(_Utf8, AsyncCursor[Any]):
    #: For a second connection, which a run makes in a thread.
    without_asyncio = _Cursor


class _AsyncServerCursor(_Utf8, AsyncServerCursor[Any]):
    pass
