"""What is left of the tables of a chain where the first of them is not there."""

from __future__ import annotations

import re
from collections.abc import Collection

from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite.soundness import require_sound_file

# See `evolution/sqlite/rebuild.py`.
_OF_REBUILD = re.compile(r"_rebuild_\d+")


def remains(migration: MigrationContext, tables: Collection[str], schema: str | None) -> list[str]:
    """
    Name the *tables* that are there, and on SQLite what a rebuild has renamed.

    A run that is interrupted leaves no such thing, unless its journal is lost: then the file may
    be damaged as well, so that it is read to the end.

    Raises:
        FileDamaged: It is.
    """
    connection = migration.connection
    assert connection is not None  # noqa: S101  # it was configured with one
    on_sqlite = connection.dialect.name == "sqlite"
    if on_sqlite and not connection.dialect.is_async:
        settings = Settings.of(migration.environment_context)
        require_sound_file(connection, settings.report_every)
    return sorted(
        name
        for name in inspect(connection).get_table_names(schema)
        if name in tables or (on_sqlite and _OF_REBUILD.fullmatch(name))
    )
