"""Version tables are looked for in all schemas, and in some hundred at most."""

from __future__ import annotations

import pytest

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.runner import version_tables as module
from cleveragents_plans.evolution.runner.version_tables import version_tables

LOCKED = """\
SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
 WHERE l.pid = pg_backend_pid() AND c.relname = 'alembic_version'"""


def test_tables_of_many_tenants_are_not_all_locked_and_that_of_the_run_is_read_first(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MAX_TABLES", 2)
    engine = open_engine(postgresql_url, migrating=True)
    with engine.connect() as connection:
        for schema in ("tenant_a", "tenant_b", "tenant_c"):
            run(connection, f"CREATE SCHEMA {schema}")
            run(connection, f"CREATE TABLE {schema}.alembic_version (version_num varchar(32))")
            run(connection, f"INSERT INTO {schema}.alembic_version VALUES ('{schema}')")
        connection.commit()

        found = version_tables(connection, ["tenant_c", None], ["v3_plans"])

        assert [(each.schema, each.is_used) for each in found] == [
            ("tenant_c", True),
            ("tenant_a", False),
        ]
        assert found[0].revisions == {"tenant_c"}
        assert run(connection, LOCKED).scalar_one() == 2
        connection.rollback()
    engine.dispose()
