"""The file of a new revision: its name, what it says of locks, and its format."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from alembic.script import ScriptDirectory, write_hooks

from cleveragents_plans.evolution.errors import EvolutionError

#: What the column ``version_num`` of Alembic's version table holds.
MAX_LENGTH = 32
_HASH = re.compile(r"[0-9a-f]{12}")
_NUMBERED = re.compile(r"([a-z]+[0-9]+)_([0-9]+)_")
# At the end of a name.
_MEANS_NOTHING = frozenset(
    ("a", "an", "and", "at", "by", "for", "in", "of", "on", "the", "to", "with")
)
_INDENT = " " * len("Locks:  ")

_MOMENT = "ACCESS EXCLUSIVE on {} for milliseconds"
_SCAN = "SHARE UPDATE EXCLUSIVE on {} for one scan"
_LOCKS: Mapping[str, tuple[str, ...]] = {
    "add_column": (_MOMENT,),
    "drop_column": (_MOMENT,),
    "rename_column": (_MOMENT,),
    "set_default": (_MOMENT,),
    "drop_default": (_MOMENT,),
    "drop_not_null": (_MOMENT,),
    "drop_constraint": (_MOMENT,),
    "drop_tables": ("ACCESS EXCLUSIVE on {} until the revision ends",),
    "set_not_null": (_MOMENT, _SCAN),
    "add_check": (_MOMENT, _SCAN),
    "add_foreign_key": ("SHARE ROW EXCLUSIVE on {} and on the table it refers to for milliseconds",
                        _SCAN),
    "create_index": ("SHARE UPDATE EXCLUSIVE on {} while an index is built",),
    "drop_index": ("SHARE UPDATE EXCLUSIVE on {} while an index is dropped",),
}  # fmt: skip


def locks(calls: Iterable[tuple[str, str]]) -> str:
    """
    Draft what a revision says of its locks.

    Args:
        calls: Its operations, each with its table.
    """
    tables: dict[str, dict[str, None]] = {}
    for function, table in calls:
        for lock in _LOCKS.get(function, ()):
            tables.setdefault(lock, {})[table] = None
    found = [lock.format(" and ".join(names)) for lock, names in tables.items()]
    text = f"PostgreSQL: {'; '.join(found) or 'none on a table in use'}. SQLite: the file, for one"
    wrapped = textwrap.wrap(f"{text} transaction.", 90, subsequent_indent=_INDENT)
    return "\n".join(wrapped)


def readable_name(script: ScriptDirectory, message: str | None, before: Sequence[str]) -> str:
    """
    Make the id of a revision of its *message*, in the series of the revision *before* it.

    After ``m8_001_align_plans`` comes ``m8_002_`` and the beginning of the message. Several
    revisions come before one that merges them: the first is the one of the series.

    Raises:
        EvolutionError: There is no message, or a revision has this id.
    """
    words = re.findall(r"[a-z0-9]+", (message or "").lower())
    if not words:
        raise EvolutionError(
            'the revision has no name; give it a message (-m "...") or an id (--rev-id ...); '
            "nothing was written"
        )
    numbered = _NUMBERED.match(next(iter(before), ""))
    name = ""
    if numbered:
        series, number = numbered.groups()
        name = f"{series}_{int(number) + 1:0{len(number)}}"
    for word in words:
        if len(name) + 1 + len(word) > MAX_LENGTH:
            break
        name = f"{name}_{word}" if name else word
    while (end := name.rpartition("_")[2]) in _MEANS_NOTHING:
        name = name.removesuffix(f"_{end}")
    if any(each.revision == name for each in script.walk_revisions()):
        raise EvolutionError(
            f"there is a revision {name} already; give another --rev-id; nothing was written"
        )
    return name or words[0][:MAX_LENGTH]


def is_hash(revision: str | None) -> bool:
    """Tell whether Alembic made up this id, which says nothing to a reader."""
    return revision is None or _HASH.fullmatch(revision) is not None


@write_hooks.register("ruff_if_installed")
def format_with_ruff(path: str, _options: Mapping[str, Any]) -> None:
    """Format the file at *path* and sort its imports; without ruff, say that it was not done."""
    if find_spec("ruff") is None:
        # The run is over, and with it the logging to the console.
        told = f"ruff is not installed, and {path} was not formatted: pip install ruff"
        print(told, file=sys.stderr)
        return
    for arguments in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, path], check=True)  # noqa: S603
