"""A run reads and writes the version table that it has checked, and no other of its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import Engine, event, make_url

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.ownership import NameTaken
from support.broken import libpq
from support.databases import ENGINES, chain, empty_database, migrate
from support.revisions import A5_004, M4_003
from support.toys import execute

SERVERS = [engine for engine in ENGINES if engine != "sqlite"]
CLERK = "quick_clerk"
# What a transaction that is rolled back has done to a sequence stays.
EVIL = (
    "CREATE FUNCTION evil() RETURNS varchar LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM pg_catalog.nextval('public.fired'); RETURN NULL; END$$"
)
VIEW = "CREATE VIEW public.alembic_version AS SELECT public.evil() AS version_num"
TABLE = (
    "CREATE TABLE public.alembic_version (version_num varchar(32));"
    " CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM public.evil(); RETURN new; END$$;"
    " CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON public.alembic_version"
    " FOR EACH ROW EXECUTE FUNCTION public.fire()"
)


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of a superuser, in whose schema another role may create objects."""
    with empty_database(request.param, tmp_path) as url:
        execute(
            url, f"CREATE ROLE {CLERK} LOGIN", f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}"
        )
        execute(of_clerk(url), "CREATE SEQUENCE fired", EVIL)
        yield url
        execute(url, f"DROP OWNED BY {CLERK} CASCADE", f"DROP ROLE {CLERK}")


def of_clerk(url: str) -> str:
    return make_url(url).set(username=CLERK).render_as_string()


def fired(url: str) -> bool:
    [(called,)] = execute(url, "SELECT is_called FROM fired")
    return bool(called)


@contextmanager
def planted(url: str, number: int, *, dropped: bool = False) -> Iterator[list[bool]]:
    """
    Let another role take the name of the version table before statement *number*.

    Where it is to be *dropped* first, its owner does that. Told is whether it could be done.
    """
    seen, done = 0, []
    with (
        psycopg.connect(libpq(url), autocommit=True) as owner,
        psycopg.connect(libpq(of_clerk(url)), autocommit=True) as clerk,
    ):
        for each in (owner, clerk):
            each.execute("SET lock_timeout = '50ms'")

        def before(*_: object) -> None:
            nonlocal seen
            seen += 1
            if seen != number:
                return
            try:
                if dropped:
                    owner.execute("DROP TABLE public.alembic_version")
                clerk.execute((VIEW if number % 2 else TABLE).encode())
                clerk.execute("GRANT ALL ON public.alembic_version TO PUBLIC")
                done.append(True)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DuplicateTable):
                done.append(False)

        event.listen(Engine, "before_cursor_execute", before)
        try:
            yield done
        finally:
            event.remove(Engine, "before_cursor_execute", before)


RUNS: dict[str, Callable[[str], Any]] = {
    "upgrade": lambda url: migrate(url, A5_004),
    "stamp": lambda url: command.stamp(chain(url), "base", purge=True),
    "current": lambda url: command.current(chain(url)),
}


@pytest.mark.fault
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_name_of_the_version_table_that_is_taken_at_any_moment_is_refused(
    url: str, run: Callable[[str], Any]
):
    taken = []
    for number in range(1, 300):
        with planted(url, number) as done:
            try:
                run(url)
            except CommandError as error:
                refused: str | None = str(error)
            else:
                refused = None

        assert not fired(url), number
        if not done:
            break
        taken.append(done == [True] and refused is not None)
        assert refused is None or "public.alembic_version" in refused
        if done == [True]:
            execute(of_clerk(url), f"DROP {'VIEW' if number % 2 else 'TABLE'} alembic_version",
                    "DROP FUNCTION IF EXISTS fire() CASCADE")  # fmt: skip
        if refused is None and done == [False]:
            execute(url, "DROP TABLE alembic_version")
            execute(url, "DROP TABLE IF EXISTS plan_invariants, plan_arguments, plan_projects")
            execute(url, "DROP TABLE IF EXISTS v3_plans")
    else:
        pytest.fail("the run has more statements than expected")
    assert True in taken


@pytest.mark.fault
def test_version_table_that_is_replaced_during_a_run_is_not_used(url: str):
    migrate(url, A5_004)
    refused = []
    for number in range(2, 600, 3):
        execute(
            url,
            "CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) NOT NULL)",
            "DELETE FROM alembic_version",
            f"INSERT INTO alembic_version VALUES ('{A5_004}')",
            "ALTER TABLE v3_plans DROP COLUMN IF EXISTS execution_environment,"
            " DROP COLUMN IF EXISTS execution_env_priority",
        )
        with planted(url, number, dropped=True) as done:
            try:
                migrate(url, M4_003)
            except CommandError as error:
                refused.append(str(error))

        assert not fired(url), number
        if not done:
            break
        if done == [True]:
            execute(of_clerk(url), f"DROP {'VIEW' if number % 2 else 'TABLE'} alembic_version",
                    "DROP FUNCTION IF EXISTS fire() CASCADE")  # fmt: skip
    else:
        pytest.fail("the run has more statements than expected")
    assert any("alembic_version was replaced just now" in each for each in refused), refused


def test_end_of_a_run_is_noted_without_a_version_table_that_was_replaced(url: str):
    migrate(url, A5_004)

    def replace(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE") and "revision_after" in statement:
            execute(url, "DROP TABLE alembic_version")
            execute(of_clerk(url), VIEW, "GRANT ALL ON alembic_version TO PUBLIC")

    event.listen(Engine, "before_cursor_execute", replace)
    try:
        with pytest.raises(NameTaken, match="alembic_version was replaced just now; run the same"):
            migrate(url, M4_003)
    finally:
        event.remove(Engine, "before_cursor_execute", replace)

    assert not fired(url)
    last = "SELECT outcome, revision_after FROM evolution_runs ORDER BY began_at DESC LIMIT 1"
    assert execute(url, last) == [("done", M4_003)]


PLANS_VIEW = "CREATE VIEW public.v3_plans AS SELECT " + ", ".join(
    f"public.evil() AS {column}"
    for column in ("plan_id", "parent_plan_id", "root_plan_id", "automation_profile", "created_at")
)


@contextmanager
def plans_taken(url: str, number: int) -> Iterator[list[str]]:
    """Let another role create a view before statement *number* that names the plans."""
    seen, before = 0, []

    def plant(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        nonlocal seen
        seen += "public.v3_plans" in f"{statement} {values}"
        if seen == number and not before:
            before.append(statement.strip())
            if not before[0].startswith("CREATE TABLE public"):
                execute(of_clerk(url), PLANS_VIEW, "GRANT ALL ON v3_plans TO PUBLIC")

    event.listen(Engine, "before_cursor_execute", plant)
    try:
        yield before
    finally:
        event.remove(Engine, "before_cursor_execute", plant)


@pytest.mark.slow
def test_view_that_takes_the_name_of_the_plans_during_the_checks_is_not_read(url: str):
    """As the first run begins, when the tables are still to be created."""
    execute(of_clerk(url), "ALTER FUNCTION evil() IMMUTABLE")  # so that planning calls it
    for number in range(1, 100):
        with plans_taken(url, number) as before, suppress(EvolutionError):
            migrate(url, "head")

        assert not fired(url), before
        if before[0].startswith("CREATE TABLE public"):
            break
        execute(of_clerk(url), "DROP VIEW v3_plans")
    assert number > 3
