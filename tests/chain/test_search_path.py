"""What a command sends is looked up in system schemas, whatever was written before it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, event

from cleveragents_plans.cli import main
from cleveragents_plans.evolution.postgresql.search_path import SYSTEM_SCHEMAS
from support.databases import SERVERS, database_at
from support.former_release import write_former_release
from support.revisions import HEAD, M4_003
from support.toys import execute

_LOOKS_UP_NOTHING = re.compile(r"\s*(SET|RESET|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SHOW)\b")


def by_name_of_a_schema(statement: str) -> bool:
    """Tell whether all functions and tables have their schema, and there is no operator."""
    rest = re.sub(r"'(?:[^']|'')*'|pg_catalog\.\w+", "", statement)
    return not re.search(r"[-+*/<>=~!@#%^&|?:]|\b(?!SELECT|CAST|AS)\w+\(|\bFROM\s+\w", rest)


@contextmanager
def looked_up_elsewhere() -> Iterator[list[str]]:
    """Collect the statements that are sent while another search path is set."""
    found: list[str] = []

    def before(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if connection.dialect.name != "postgresql":  # as the copy of the schema in `verify`
            return
        driver = connection.connection.driver_connection
        status = driver.info.transaction_status
        idle = status == TransactionStatus.IDLE and not driver.autocommit
        if idle or status == TransactionStatus.INERROR or _LOOKS_UP_NOTHING.match(statement):
            return
        [(path,)] = driver.execute("SELECT pg_catalog.current_setting('search_path')").fetchall()
        if path != SYSTEM_SCHEMAS and not by_name_of_a_schema(statement):
            found.append(f"{path}: {statement}")

    event.listen(Engine, "before_cursor_execute", before)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", before)


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the former release with rows."""
    with database_at(M4_003, request.param, tmp_path) as url:
        write_former_release(url, plans=100)
        yield url


COMMANDS = [
    "preflight", "upgrade", "status", "verify", "verify --repair roots", "plans", "history",
    f"preflight --down {M4_003}", f"downgrade {M4_003}", "preflight", f"upgrade {HEAD}",
]  # fmt: skip


def test_statements_of_commands_are_looked_up_in_system_schemas_only(url: str):
    for typed in COMMANDS:
        with looked_up_elsewhere() as statements:
            assert main([*typed.split(), "-q", "--url", url]) == 0, typed
        assert statements == [], typed


def test_first_batch_that_changes_nothing_is_explained_by_system_schemas(
    url: str, capfd: pytest.CaptureFixture[str]
):
    execute(
        url,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN"
        " new.root_plan_id := old.root_plan_id;"
        " new.automation_profile := old.automation_profile; RETURN new; END'",
        "CREATE TRIGGER z_keep BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    with looked_up_elsewhere() as statements:
        assert main(["upgrade", "-q", "--url", url]) != 0

    assert "need it once they are done" in capfd.readouterr().err
    assert statements == []
