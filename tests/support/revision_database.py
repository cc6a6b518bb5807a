"""A database at a released revision, whose rows are written and read by plain SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, text

from cleveragents_plans import open_engine
from support.databases import migrate, roll_back

NOW = "2026-03-14T00:05:32.000000+00:00"


def plan_id(number: int) -> str:
    """Make a ULID of *number*; they sort as the numbers do."""
    return f"01J{number:023d}"


class RevisionDatabase:
    """
    The database at *url*, on either engine.

    The models describe the newest revision only, so nothing here uses them. SQLite does
    not enforce foreign keys on these connections: a test may write rows that break them.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.sqlite = url.startswith("sqlite")

    def engine(self) -> Engine:
        """Open the database as a migration does."""
        return open_engine(self.url, migrating=True)

    def run(self, *statements: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run *statements* in one transaction, each with *values*; give the last one's rows."""
        engine = self.engine()
        rows: list[tuple[Any, ...]] = []
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement), values)
                rows = [tuple(row) for row in result] if result.returns_rows else []
        engine.dispose()
        return rows

    def plan(
        self,
        key: str,
        parent: str | None = None,
        root: str | None = None,
        profile: str | None = None,
        **more: Any,
    ) -> None:
        """Insert a plan as the former release did, with the columns *more* besides."""
        values = {
            "plan_id": key,
            "parent_plan_id": parent,
            "root_plan_id": root,
            "automation_profile": profile,
            "action_name": "local/tidy",
            "created_at": NOW,
            "updated_at": NOW,
            **more,
        }
        columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        self.run(f"INSERT INTO v3_plans ({columns}) VALUES ({marks})", **values)

    def column(self, name: str) -> dict[str, Any]:
        """Give the column *name* of every plan, by its id."""
        return {row[0]: row[1] for row in self.run(f"SELECT plan_id, {name} FROM v3_plans")}

    def upgrade(self, revision: str, *extra: str) -> None:
        """Upgrade to *revision*, with ``-x`` *extra*."""
        migrate(self.url, revision, *extra)

    def downgrade(self, revision: str, *extra: str) -> None:
        """Downgrade to *revision*, with ``-x`` *extra*."""
        roll_back(self.url, revision, *extra)
