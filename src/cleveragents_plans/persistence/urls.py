"""URLs of databases: read in the forms that people and libpq write, shown without passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from cleveragents_plans.persistence.errors import DatabaseUrlError

_SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
# The drivers of asyncio too, so that one URL serves the application and its migration.
_DRIVERS = {
    "sqlite": _SQLITE,
    "sqlite+pysqlite": _SQLITE,
    "sqlite+aiosqlite": _SQLITE,
    "postgres": POSTGRESQL,
    "postgresql": POSTGRESQL,
    "postgresql+psycopg": POSTGRESQL,
    "postgresql+psycopg_async": POSTGRESQL,
}
#: What a URL looks like.
FORMS = "sqlite:///plans.db or postgresql://user:password@host/database"
_ENCODED = "(characters such as @ : / in a password are written %40 %3A %2F)"

# user:password@host1:port1,host2:port2/ as libpq takes it, and SQLAlchemy does not.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
_SEVERAL_HOSTS = re.compile(
    r"(?P<before>postgres\w*(?:\+\w+)?://(?:[^@/]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<after>[/?].*)?"
)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>[0-9]*))?")
# Names in any script, IPv6 with a zone, and several of them.
_HOSTS = re.compile(r"[\w.:%,-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_BETWEEN_USER_AND_PASSWORD = re.compile(r"[:;,/=|]")
# What tells which database a URL means, in the forms that it has. All other parameters are hidden:
# libpq has some for secrets and gets more, and people misspell them.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_VISIBLE = {
    name: re.compile(form)
    for name, form in {
        "host": r"@?[\w.:%,/ ~+-]*",
        "hostaddr": r"[0-9a-fA-F.:%,]*",
        "port": r"[0-9,]*",
        "dbname": r"[\w -]*",
        "service": r"[\w.-]*",
        "sslmode": r"disable|allow|prefer|require|verify-ca|verify-full",
        "target_session_attrs": r"any|read-write|read-only|primary|standby|prefer-standby",
        # https://www.sqlite.org/uri.html
        "mode": r"ro|rw|rwc|memory",
        "vfs": r"memdb|(unix|win32)(-[a-z]+)?",
        "cache": r"shared|private",
        "immutable": r"true|false|1|0",
        "uri": r"true|false|1|0",
    }.items()
}
# Parameters of a URL of SQLite that SQLAlchemy hands to Python's driver.
_OF_DRIVER = {
    "uri", "timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements",
}  # fmt: skip
# Those that SQLite itself reads, of a path that begins with file: only.
_OF_SQLITE = {"cache", "immutable", "mode", "modeof", "nolock", "psow", "vfs"}
# In seconds: SQLite takes milliseconds in 32 bits.
_MAX_TIMEOUT = 2_147_483
# What SQLAlchemy reads as true.
_TRUE = {"true", "yes", "on", "y", "t", "1"}
_NAME = re.compile(r"[a-z]+(_[a-z]+)*")
_QUERY_OF_FILE = re.compile(r"([?#]).*", re.DOTALL)


def database_url(text: str | URL) -> URL:
    """
    Read *text* as the URL of a database that plans can live in.

    ``postgres://`` and ``postgresql://`` both mean PostgreSQL through psycopg 3. The names
    of the drivers of asyncio are read as well, and mean the same database. As libpq does,
    it takes several hosts (``host1:5432,host2:5433``), and the folder of a socket as
    host (``%2Fvar%2Frun%2Fpostgresql``). Blanks and line ends around *text* are left out.

    Raises:
        DatabaseUrlError: It is no URL, or names an engine other than SQLite and
            PostgreSQL, or parts of it cannot be what they stand for. The message never
            repeats the URL.
    """
    try:
        url = make_url(text) if isinstance(text, URL) else _read(text.strip())
    except (ArgumentError, AttributeError, TypeError, ValueError):  # two of them: it is no text
        raise DatabaseUrlError(
            f"the database URL cannot be read; expected {FORMS} {_ENCODED}"
        ) from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise DatabaseUrlError(
            f"the database URL names {url.drivername!r}, which is not supported; expected {FORMS}"
        )
    url = url.set(drivername=driver)
    if url.host and url.host.lower().startswith("%2f"):  # the folder of a socket
        # `set` leaves out what is None.
        url = url._replace(host=None).update_query_dict({"host": unquote(url.host)})
    if wrong := _wrong_part(url):
        raise DatabaseUrlError(f"the database URL has a {wrong}; expected {FORMS} {_ENCODED}")
    _refuse_path(url)
    return url


def _refuse_path(url: URL) -> None:
    """Refuse the path of a file that this process cannot use, before it is made absolute."""
    path = url.database or ""
    if any("\ud800" <= each <= "\udfff" for each in path):
        raise DatabaseUrlError(
            "the database URL has bytes that are no text in the locale of this process; set "
            "PYTHONUTF8=1, or a locale of UTF-8 such as LC_ALL=C.UTF-8"
        )
    if url.drivername != _SQLITE:
        return
    # A plugin of SQLAlchemy's, which `plugin` names, has parameters of its own.
    others = set() if "plugin" in url.query else {*url.query} - _OF_DRIVER
    if not path.startswith("file:") and others:
        # Without uri=true SQLAlchemy drops them, and with it SQLite takes them for a part of the
        # name of the file.
        names = ", ".join(sorted(each if each in _OF_SQLITE else "***" for each in others))
        raise DatabaseUrlError(
            f"the database URL has a parameter ({names}) that is read only of a path with file: "
            "and uri=true; expected sqlite:///file:plans.db?mode=ro&uri=true "
            "(https://www.sqlite.org/uri.html), or the URL without it"
        )
    if not path or path.startswith(":memory:"):
        return
    if path.startswith("file:"):
        # Without it SQLAlchemy opens, and creates, a file whose name begins so.
        if str(url.query.get("uri", "")).lower() not in _TRUE:
            raise DatabaseUrlError(
                "the database URL has a path that begins with file: and no uri=true; expected "
                "sqlite:///file:plans.db?uri=true (https://www.sqlite.org/uri.html), or "
                "sqlite:///./file:plans.db for a file of this name"
            )
        return
    try:
        Path(path).absolute()
    except FileNotFoundError:
        raise DatabaseUrlError(
            "the database URL has a path below the working directory of this process, which was "
            "deleted; expected one that begins with /, as in sqlite:////srv/plans.db"
        ) from None


def refuse_timeout(url: URL, connect_args: Mapping[str, Any]) -> None:
    """
    Refuse a time that SQLite, with milliseconds in 32 bits, would take for none.

    Raises:
        DatabaseUrlError: A ``timeout`` is out of range; the message says where it stands.
    """
    places: dict[str, Mapping[str, Any]] = {"the database URL": url.query}
    for place, given in (places | {"connect_args": connect_args}).items():
        try:
            seconds = float(given.get("timeout", 0))
        except (TypeError, ValueError):  # the driver refuses it
            continue
        if not 0 <= seconds <= _MAX_TIMEOUT:
            raise DatabaseUrlError(
                f"timeout in {place} is {seconds:g}; expected seconds from 0 to {_MAX_TIMEOUT:,}"
            )


def without_password(url: URL) -> str:
    """
    Write *url* for people to read: whatever in it may be secret is shown as ``***``.

    Of the query only those values are shown that tell which database it is, and only where they
    look like it. A user name is shown up to a character that stands between a user and a
    password, because both may have been encoded as one.

    Of a URL in which a part cannot be what it stands for, only the engine is shown: a
    password that was not encoded may be in any part.
    """
    if _wrong_part(url):
        return f"{url.drivername}://***"
    user, behind = _user(url.username)
    shown = url._replace(username=user, password=url.password if behind is None else behind)
    if url.get_backend_name() == "sqlite" and (url.database or "").startswith("file:"):
        shown = shown.set(database=_QUERY_OF_FILE.sub(r"\1***", shown.database or ""))
    query = {name: _visible(name, value) for name, value in url.query.items()}
    secret = [name for name, value in query.items() if value is None]
    shown = shown.set(query={name: value for name, value in query.items() if value is not None})
    text = shown.render_as_string(hide_password=True)
    return text + "".join(
        f"{'&' if '?' in text or place else '?'}{name if _NAME.fullmatch(name) else '***'}=***"
        for place, name in enumerate(secret)
    )


def _user(name: str | None) -> tuple[str | None, str | None]:
    """Give the user of what was written as one, and the password that may stand behind it."""
    user, *password = _BETWEEN_USER_AND_PASSWORD.split(name or "", maxsplit=1)
    return user or None, password[0] if password else None


def _visible(name: str, value: str | tuple[str, ...]) -> str | tuple[str, ...] | None:
    """Give what can be shown of the *value* of a parameter; None is nothing."""
    if name == "user" and isinstance(value, str):
        user, behind = _user(value)
        return user if behind is None else None
    form = _VISIBLE.get(name)
    values = (value,) if isinstance(value, str) else value
    return value if form and all(form.fullmatch(each) for each in values) else None


def _read(text: str) -> URL:
    # SQLAlchemy drops what is no name=value, such as the end of a password or of a file's name.
    # An @ that is written as it is there would begin the host, and the password end before it.
    query = (text.split("@", 1)[-1]).partition("?")[2]
    if "@" in query or (query and not all("=" in part for part in query.split("&"))):
        raise ValueError
    several = _SEVERAL_HOSTS.fullmatch(text)
    if not several:
        return make_url(text)
    found = [_HOST.fullmatch(host) for host in several["hosts"].split(",")]
    if None in found:
        raise ValueError
    hosts = ",".join(unquote(each["host"]).strip("[]") for each in found if each)
    ports = ",".join(each["port"] or "" for each in found if each)
    url = make_url(several["before"] + (several["after"] or ""))
    return url.update_query_dict({"host": hosts, **({"port": ports} if ports.strip(",") else {})})


def _wrong_part(url: URL) -> str | None:
    """Name a part that cannot be what it stands for: a password runs on into it, perhaps."""
    sqlite = url.get_backend_name() == "sqlite"
    if url.host and (sqlite or not _HOSTS.fullmatch(url.host)):
        return "host that is none"
    # libpq takes a name with = in it for a whole connection string.
    for sign in "@=":
        if not sqlite and url.database and sign in url.database:
            return f"name of a database with {sign} in it"
    for part, name in (("user", url.username), ("name of a database", url.database)):
        if name and (name != name.strip() or _CONTROL.search(name)):
            return f"{part} with a line end or a blank at its end, or a control character in it"
    return None
