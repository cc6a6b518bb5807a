"""
What libpq takes from the environment, and how much of it is shown.

https://www.postgresql.org/docs/current/libpq-envars.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

from sqlalchemy import URL

# What says which database is meant, and the parameter of a URL that has precedence.
_PARAMETERS: Final = {
    "PGSERVICE": "service",
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGPORT": "port",
    "PGDATABASE": "dbname",
    "PGUSER": "user",
}
# The variables whose values are shown, in the forms that they have. All others are hidden.
_VISIBLE: Final = {
    name: re.compile(form)
    for name, form in {
        "PGSERVICE": r"[\w.-]*",
        "PGHOST": r"@?[\w.:%,/ ~+-]*",
        "PGHOSTADDR": r"[0-9a-fA-F.:%,]*",
        "PGPORT": r"[0-9,]*",
        "PGDATABASE": r"[\w -]*",
        "PGUSER": r"[\w.-]*",
        "PGSSLMODE": r"disable|allow|prefer|require|verify-ca|verify-full",
        "PGTARGETSESSIONATTRS": r"any|read-write|read-only|primary|standby|prefer-standby",
        # The name of a time zone, or an offset.
        "PGTZ": r"[A-Z]\w*(/[A-Z][\w+-]*)+|[A-Z]{3,4}([+-][0-9:]{1,5})?",
    }.items()
}
# Settings of extensions, and those that are none, may hold anything.
_PLAIN_SETTING: Final = re.compile(
    r"(?:-c|--)?(?!\w*(?:pass|secret|token|key))\w+=[\w.,/+-]*", re.IGNORECASE
)


def named_by_environment(url: URL) -> str:
    """Say what the environment adds to a *url*, in parentheses; nothing is the empty string."""
    parts = {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username}
    given = {name for name, value in parts.items() if value} | {*url.query}
    found = [
        f"{name}={value if _VISIBLE[name].fullmatch(value) else '***'}"
        for name, parameter in _PARAMETERS.items()
        if parameter not in given and (value := os.environ.get(name))
    ]
    return f" (with {', '.join(found)} of the environment)" if found else ""


def shown_and_hidden() -> tuple[set[str], set[str]]:
    """Give the values in the environment that may be shown, and those that may not."""
    shown: set[str] = set()
    hidden: set[str] = set()
    for name, value in os.environ.items():
        if name == "PGOPTIONS":
            hidden |= {*_unknown_settings(value)}
        elif name.startswith("PG"):
            form = _VISIBLE.get(name)
            (shown if form and form.fullmatch(value) else hidden).add(value)
    return shown, hidden


def _unknown_settings(options: str) -> Iterator[str]:
    for each in options.split():
        if not _PLAIN_SETTING.fullmatch(each):
            yield each.split("=", 1)[-1]  # the name of a setting stays
