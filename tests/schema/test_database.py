"""The session in which commands read a database depends on no limit set for clients."""

from __future__ import annotations

from pathlib import Path

import psycopg

from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from support.broken import libpq
from support.databases import database_at
from support.revisions import HEAD


def test_limits_of_the_database_end_no_command_that_reads(tmp_path: Path):
    limits = ("statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout")
    with database_at(HEAD, "postgresql-18", tmp_path) as url:
        with psycopg.connect(libpq(url), autocommit=True) as client:
            (name,) = client.execute("SELECT current_database()").fetchone() or ("",)
            for limit in limits:
                client.execute(f"ALTER DATABASE \"{name}\" SET {limit} = '5s'")

        with read_database(chain_config(url), "verify") as database:
            found = database.connection.exec_driver_sql(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", ([*limits],)
            ).all()

    assert dict(found) == dict.fromkeys(limits, "0")


def test_limit_for_clients_ends_no_command_that_reads(tmp_path: Path):
    with database_at(HEAD, "postgresql-18", tmp_path) as url:
        # It holds until the session is set, which is some milliseconds on an idle machine.
        limited = f"{url}&options=-c%20statement_timeout%3D500%20-c%20lock_timeout%3D500"

        with read_database(chain_config(limited), "verify") as database:
            waited = database.connection.exec_driver_sql("SELECT pg_sleep(0.6)").all()

    assert waited
