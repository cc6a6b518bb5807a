"""Rights that were revoked from PUBLIC are named before a run changes anything."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cleveragents_plans.cli import main
from cleveragents_plans.evolution.postgresql import session_rights
from cleveragents_plans.evolution.postgresql.server import RightsMissing
from cleveragents_plans.evolution.postgresql.session_rights import (
    MEASURING,
    OF_EACH_COMMAND,
    OF_EACH_RUN,
)
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from support.databases import ROOT, SERVERS, empty_database, migrate, of_role
from support.online import client
from support.revisions import M4_003
from support.rows import schema_dump


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database at M4_003, whose tables belong to the role of the URL."""
    role = f"owner_{uuid.uuid4().hex[:8]}"
    with empty_database(getattr(request, "param", "postgresql-18"), tmp_path) as url:
        execute(url, f"CREATE ROLE {role} LOGIN", f"GRANT CREATE ON SCHEMA public TO {role}")
        migrate(of_role(url, role), M4_003)
        yield of_role(url, role)
        execute(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def execute(url: str, *statements: str) -> None:
    """Execute *statements* as a superuser."""
    with client(of_role(url, "postgres")) as connection:
        for statement in statements:
            connection.execute(statement.encode())


VIEWS = "SELECT ON pg_catalog.{}"
FUNCTIONS = "EXECUTE ON FUNCTION pg_catalog.{}"
REVOKED = [
    VIEWS.format("pg_stat_activity"),
    VIEWS.format("pg_locks"),
    VIEWS.format("pg_prepared_xacts"),
    VIEWS.format("pg_stat_replication"),
    VIEWS.format("pg_replication_slots"),
    FUNCTIONS.format("pg_stat_get_activity(integer)"),
    FUNCTIONS.format("pg_try_advisory_lock(integer, integer)"),
    "USAGE ON LANGUAGE plpgsql",
    "TEMPORARY ON DATABASE {database}",
]


@pytest.mark.parametrize("right", REVOKED)
def test_right_that_was_revoked_from_everybody_is_named_before_any_change(url: str, right: str):
    right = right.format(database=make_url(url).database)
    execute(url, f"REVOKE {right} FROM PUBLIC")
    before = schema_dump(of_role(url, "postgres"))

    with pytest.raises(RightsMissing) as error:
        migrate(url, "head")
    told = str(error.value)
    assert told.endswith(f"; GRANT {right} TO {make_url(url).username} first; nothing was changed")
    found = preflight(chain_config(url, level=None))
    assert [block.found for block in found.blocks] == [told]
    assert schema_dump(of_role(url, "postgres")) == before

    execute(url, *re.findall(r"(GRANT .*?) first", told))
    assert preflight(chain_config(url, level=None)).ready
    migrate(url, "head")


@pytest.mark.parametrize("function", OF_EACH_RUN)
def test_function_that_was_revoked_is_named_before_it_is_called(url: str, function: str):
    right = FUNCTIONS.format(function)
    execute(url, f"REVOKE {right} FROM PUBLIC")
    told = f"; GRANT {right} TO {make_url(url).username} first; nothing was changed"

    with pytest.raises(RightsMissing, match=re.escape(told)):
        migrate(url, "head")
    if function in OF_EACH_COMMAND:
        with pytest.raises(RightsMissing, match=re.escape(told)):
            preflight(chain_config(url, level=None))
    else:
        [block] = preflight(chain_config(url, level=None)).blocks
        assert block.found.endswith(told)

    execute(url, f"GRANT {right} TO {make_url(url).username}")
    assert preflight(chain_config(url, level=None)).ready
    migrate(url, "head")


@pytest.mark.parametrize(
    "function",
    [*MEASURING, "pg_total_relation_size(pg_catalog.regclass)", "pg_stat_clear_snapshot()"],
)
def test_function_that_only_measures_stops_no_command(
    url: str, function: str, capsys: pytest.CaptureFixture[str]
):
    execute(url, f"REVOKE {FUNCTIONS.format(function)} FROM PUBLIC")

    found = preflight(chain_config(url, level=None))
    assert found.ready
    grant = f"GRANT {FUNCTIONS.format(function)} TO {make_url(url).username}"
    assert [grant in each for each in found.unchecked] == [True] * (function in MEASURING)
    migrate(url, "head")
    assert main(["status", "--url", url]) == 0


# What a client of PostgreSQL cannot do without, and what is called with max-replica-lag only.
NOT_LOOKED_AT = {
    "pg_current_wal_flush_lsn", "pg_logical_emit_message", "pg_stat_clear_snapshot",
    "pg_terminate_backend", "pg_total_relation_size",
}  # fmt: skip


def test_every_function_of_the_server_that_a_statement_calls_is_looked_at(url: str):
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]
    called = {
        name for each in sources for name in re.findall(r"\b((?:pg|obj)_\w+)\(", each.read_text())
    }
    with client(of_role(url, "postgres")) as connection:
        public = connection.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
            " AND has_function_privilege('pg_database_owner', oid, 'EXECUTE')"
        ).fetchall()
    looked_at = {each.split("(")[0] for each in (*session_rights.OF_A_RUN, *MEASURING)}

    assert called & {name for (name,) in public} - looked_at == NOT_LOOKED_AT


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_all_that_is_missing_is_named_at_once(url: str):
    rights = [each.format(database=make_url(url).database) for each in REVOKED]
    execute(url, *(f"REVOKE {right} FROM PUBLIC" for right in rights))
    role = make_url(url).username

    with pytest.raises(RightsMissing) as error:
        migrate(url, "head")

    grants = re.findall(rf"GRANT (.*?) TO {role}\b", str(error.value))
    assert sorted(grants) == sorted(rights)


def test_owner_needs_the_language_of_its_functions(url: str):
    """A superuser creates them as the owner."""
    execute(url, "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")

    with pytest.raises(
        RightsMissing, match=f"USAGE ON LANGUAGE plpgsql TO {make_url(url).username}"
    ):
        migrate(of_role(url, "postgres"), "head")


@pytest.mark.parametrize("command", ["status", "throttle"])
def test_command_that_looks_for_the_run_under_way_names_the_view(
    url: str, command: str, capsys: pytest.CaptureFixture[str]
):
    execute(url, "REVOKE SELECT ON pg_stat_activity FROM PUBLIC")
    given = ["pause"] if command == "throttle" else []

    assert main([command, *given, "--url", url]) == 1

    grant = f"GRANT SELECT ON pg_catalog.pg_stat_activity TO {make_url(url).username} first"
    assert grant in capsys.readouterr().err
