"""What an operation needs of Alembic's ``op``."""

from __future__ import annotations

from typing import Protocol

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection


class Op(Protocol):
    """What a revision imports as ``op``: Alembic's module of that name, or an `Operations`."""

    def get_context(self) -> MigrationContext:
        """Give the context of the run: dialect, offline mode, configuration."""

    def get_bind(self) -> Connection:
        """Give the connection that migrates; there is none offline."""

    def execute(self, sqltext: str, /) -> None:
        """Run one statement, or print it offline."""


def execute_as_written(op: Op, sql: str) -> None:
    """
    Run or print *sql* character by character.

    ``op.execute`` would take ``:name`` for a parameter, and ``%(name)s`` too before
    SQLAlchemy 2.1.
    """
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(f"{sql};")
    else:
        op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})
