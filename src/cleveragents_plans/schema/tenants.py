"""Schemas of one database of PostgreSQL that each hold a set of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Final

from alembic.config import Config

from cleveragents_plans.evolution.errors import EvolutionError, only_reading
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.products import refuse_unfit_server
from cleveragents_plans.evolution.postgresql.search_path import SET_SYSTEM_SCHEMAS
from cleveragents_plans.evolution.runner.error_lines import in_one_line
from cleveragents_plans.evolution.runner.interruption import interruptible
from cleveragents_plans.evolution.runner.target import find_target
from cleveragents_plans.evolution.settings import BadSetting, Settings, given_options
from cleveragents_plans.schema.chain import APPLICATION

#: What stands before a pattern that leaves schemas out.
EXCEPT: Final = "!"


class NoSuchSchemas(EvolutionError):
    """
    No schema that holds plans has a name like the patterns.

    Attributes:
        patterns: The patterns.
    """

    def __init__(self, target: str, patterns: Sequence[str], found: Sequence[str]) -> None:
        word = patterns[0].removeprefix(EXCEPT).replace("%", "").replace("\\", "")
        there = ", ".join(get_close_matches(word, found, n=5, cutoff=0.3) or found[:5])
        super().__init__(
            f"{target}: there is no schema like {', '.join(map(repr, patterns))} with v3_plans or "
            "a version table; "
            + (f"the nearest of {len(found)} that have: {there}" if found else "no schema has them")
            + "; nothing was changed"
        )
        self.patterns = tuple(patterns)


@dataclass(frozen=True, slots=True)
class TenantSchemas:
    """The schemas of a database that have plans, or a version table."""

    #: By the name of each, those of the patterns that it is like.
    patterns: Mapping[str, frozenset[str]]

    @property
    def chosen(self) -> list[str]:
        """Those that are like a pattern, and like none that leaves schemas out."""
        return [
            name
            for name, like in self.patterns.items()
            if like and not any(each.startswith(EXCEPT) for each in like)
        ]


def find_schemas(config: Config, patterns: Sequence[str]) -> TenantSchemas:
    """
    Find the schemas that have plans, or a version table, and the *patterns* that they are like.

    Locks: none but those on the catalog, for one query.

    Args:
        config: See `cleveragents_plans.schema.chain_config`.
        patterns: Patterns of LIKE: ``%`` is any text, ``_`` any character, and a backslash before
            a character is that character. One behind ``!`` leaves schemas out.

    Raises:
        BadSetting: The database is SQLite.
        CommandError: It cannot be reached.
    """
    target = find_target(config, APPLICATION)
    if target.is_sqlite:
        raise BadSetting("each-schema", patterns[0], "PostgreSQL: SQLite has no schemas")
    with (
        only_reading(),
        interruptible(target.shown, command_line=True),
        in_one_line(target.shown),
        target.connected(Settings.of(SimpleNamespace(config=config))) as connection,
    ):
        refuse_unfit_server(connection, target.shown)
        # Before any operator of the query is looked up.
        run(connection, SET_SYSTEM_SCHEMAS)
        versions = given_options(config).get("version-table", _VERSION_TABLE)
        wanted = {"tables": ["v3_plans", versions], "patterns": [*patterns], "except": EXCEPT}
        rows = run(connection, _SCHEMAS, wanted).all()
        connection.rollback()
    return TenantSchemas({name: frozenset(like) for name, like in rows})


def require_every_pattern(patterns: Sequence[str], databases: Mapping[str, TenantSchemas]) -> None:
    """
    Refuse a pattern that no schema of the *databases* is like: it may be misspelt.

    Args:
        patterns: The patterns.
        databases: What was found in each, by what the database is called.

    Raises:
        NoSuchSchemas: There is one.
    """
    schemas = [item for found in databases.values() for item in found.patterns.items()]
    for pattern in patterns:
        if not any(pattern in like for _, like in schemas):
            raise NoSuchSchemas("; ".join(databases), [pattern], [name for name, _ in schemas])


_VERSION_TABLE = "alembic_version"
_SCHEMAS = """\
SELECT n.nspname::text, ARRAY(
         SELECT p FROM unnest(%(patterns)s::text[]) AS p
          WHERE n.nspname::text LIKE CASE WHEN left(p, 1) = %(except)s THEN substr(p, 2) ELSE p END)
  FROM pg_namespace n
 WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
   AND EXISTS (SELECT FROM pg_class c
                WHERE c.relnamespace = n.oid AND c.relname::text = ANY(%(tables)s::text[])
                  AND c.relkind IN ('r', 'p'))
 ORDER BY 1"""
