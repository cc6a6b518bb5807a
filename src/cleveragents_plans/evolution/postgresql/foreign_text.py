"""
Texts of other sessions, which may have bytes that are no text here: statements, roles, and so on.

The names of roles are those of all databases of a server, each in the encoding of the database in
which it was given, and a database in SQL_ASCII takes any bytes. The server refuses to convert what
is no text in its own encoding, and the driver to read what is no UTF-8: one byte of another session
would end the statement that asks who is in the way.
"""

from __future__ import annotations


def as_bytes(text: str) -> str:
    """
    Give the SQL for the bytes of *text*, an expression, for `read_bytes`; NULL for NULL.

    ``textsend`` and ``convert_to`` check the bytes, and a cast takes backslashes for escapes:
    ``quote_literal`` doubles those, and looks at nothing else.
    """
    return f"decode(quote_literal({text}), 'escape')"


def read_bytes(found: bytes | None) -> str | None:
    """Read what `as_bytes` selects; bytes that are no UTF-8 are escaped as in Python."""
    if found is None:
        return None
    # 'text', or E'text' where there are backslashes
    quoted = found[found.index(b"'") + 1 : -1]
    return quoted.replace(b"''", b"'").decode(errors="backslashreplace")
