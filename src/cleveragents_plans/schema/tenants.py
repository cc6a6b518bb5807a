"""Schemas of one database of PostgreSQL that each hold a set of tables."""

from __future__ import annotations

from difflib import get_close_matches
from types import SimpleNamespace

from alembic.config import Config
from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.products import refuse_unfit_server
from cleveragents_plans.evolution.runner.error_lines import in_one_line
from cleveragents_plans.evolution.runner.interruption import interruptible
from cleveragents_plans.evolution.runner.target import find_target
from cleveragents_plans.evolution.settings import BadSetting, Settings, given_options
from cleveragents_plans.schema.chain import APPLICATION


class NoSuchSchemas(EvolutionError):
    """
    No schema that holds plans has a name like the pattern.

    Attributes:
        pattern: The pattern.
    """

    def __init__(self, target: str, pattern: str, found: list[str]) -> None:
        nearest = get_close_matches(pattern.replace("%", ""), found, n=5, cutoff=0.3)
        there = ", ".join(nearest or found[:5])
        super().__init__(
            f"{target} has no schema like {pattern!r} with v3_plans or a version table; "
            + (f"the nearest of {len(found)} that have: {there}" if found else "no schema has them")
            + "; nothing was changed"
        )
        self.pattern = pattern


def schemas_like(config: Config, pattern: str) -> list[str]:
    """
    Find the schemas that have plans, or a version table, and a name like *pattern*.

    Locks: none but those on the catalog, for one query.

    Args:
        config: See `cleveragents_plans.schema.chain_config`.
        pattern: A pattern of LIKE: ``%`` is any text, ``_`` any character, and a backslash before
            one of them is that character.

    Raises:
        NoSuchSchemas: There are none.
        BadSetting: The database is SQLite.
        CommandError: It cannot be reached.
    """
    target = find_target(config, APPLICATION)
    if target.is_sqlite:
        raise BadSetting("each-schema", pattern, "PostgreSQL: SQLite has no schemas")
    with (
        interruptible(target.shown, command_line=True),
        in_one_line(target.shown),
        target.connected(Settings.of(SimpleNamespace(config=config))) as connection,
    ):
        refuse_unfit_server(connection, target.shown)
        # Before any operator of the query is looked up.
        run(connection, "SET LOCAL search_path = pg_catalog, pg_temp")
        versions = given_options(config).get("version-table", _VERSION_TABLE)
        tables = ["v3_plans", versions]
        found = _schemas(connection, tables, pattern)
        if not found:
            raise NoSuchSchemas(target.shown, pattern, _schemas(connection, tables, "%"))
        connection.rollback()
    return found


def _schemas(connection: Connection, tables: list[str], pattern: str) -> list[str]:
    rows = run(connection, _SCHEMAS, {"tables": tables, "pattern": pattern})
    return list(rows.scalars())


_VERSION_TABLE = "alembic_version"
_SCHEMAS = """\
SELECT n.nspname::text FROM pg_namespace n
 WHERE n.nspname::text LIKE %(pattern)s::text AND n.nspname <> 'information_schema'
   AND n.nspname !~ '^pg_'
   AND EXISTS (SELECT FROM pg_class c
                WHERE c.relnamespace = n.oid AND c.relname::text = ANY(%(tables)s::text[])
                  AND c.relkind IN ('r', 'p'))
 ORDER BY 1"""
