"""What a run looks at before it begins calls nothing that another role has given a name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from support.databases import SERVERS, database_at, migrate, of_role
from support.revisions import M4_003, M8_001
from support.toys import execute

CLERK = "naming_clerk"
PLAN = (
    "INSERT INTO v3_plans (plan_id, action_name, created_at, updated_at)"
    " VALUES ('p', 'local/tidy', '', '')"
)
KNOWN = (
    "CREATE FUNCTION known(anyelement) RETURNS boolean IMMUTABLE LANGUAGE sql"
    " AS 'SELECT $1 IS NOT NULL'"
)
# Just the type of a literal, so that it is preferred where the expression is read again.
OVERLOAD = (
    "CREATE FUNCTION public.known(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$BEGIN"
    # The server itself looks at a foreign key with the rights of the owner of the other table.
    f" IF current_user <> '{CLERK}' THEN PERFORM pg_catalog.nextval('public.fired'); END IF;"
    " RETURN true; END$$"
)


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of a superuser in whose schema another role may create objects."""
    with database_at(M4_003, request.param, tmp_path) as url:
        rights = f"GRANT USAGE, CREATE ON SCHEMA public TO {CLERK}"
        execute(url, PLAN, f"CREATE ROLE {CLERK} LOGIN", rights, "CREATE SEQUENCE fired")
        execute(url, f"GRANT ALL ON SEQUENCE fired TO {CLERK}")
        yield url
        execute(url, f"DROP OWNED BY {CLERK} CASCADE", f"DROP ROLE {CLERK}")


USES = {
    "a CHECK": (
        "ALTER TABLE v3_plans ADD CONSTRAINT odd"
        " CHECK (automation_profile IS NULL OR known(automation_profile))",
        "the CHECK odd of v3_plans calls functions or types of its own",
    ),
    "a CHECK that is NOT VALID": (
        "ALTER TABLE v3_plans ADD CONSTRAINT odd CHECK (known(action_name)) NOT VALID",
        "the CHECK odd of v3_plans calls functions or types of its own",
    ),
    "an index": (
        "CREATE INDEX odd ON v3_plans (known(automation_profile))",
        "v3_plans has the index odd, which calls functions or types of its own",
    ),
    "the predicate of an index": (
        "CREATE INDEX odd ON v3_plans (plan_id) WHERE known(automation_profile)",
        "v3_plans has the index odd, which calls functions or types of its own",
    ),
    "a generated column": (
        "ALTER TABLE v3_plans ADD odd boolean GENERATED ALWAYS AS"
        " (known(automation_profile)) STORED",
        "v3_plans has the generated column odd, which calls functions or types of its own",
    ),
    "the condition of a trigger": (
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"
        " CREATE TRIGGER odd BEFORE UPDATE ON v3_plans FOR EACH ROW"
        " WHEN (known(new.automation_profile)) EXECUTE FUNCTION odd()",
        "v3_plans has the trigger odd, which calls functions or types of its own",
    ),
}


@pytest.mark.parametrize("use", USES)
def test_look_calls_no_overload_of_another_role(
    url: str, use: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    change, expected = USES[use]
    execute(url, KNOWN, change)
    execute(of_role(url, CLERK), OVERLOAD)

    assert main(["preflight", "-q", "--url", url]) == 0
    assert expected in capfd.readouterr().out
    with caplog.at_level(logging.WARNING):
        migrate(url, M8_001)

    assert execute(url, "SELECT is_called FROM fired") == [(False,)]
    assert expected in caplog.text


def test_look_reads_no_table_of_another_role_that_a_foreign_key_refers_to(
    url: str, caplog: pytest.LogCaptureFixture
):
    execute(
        of_role(url, CLERK),
        "CREATE TABLE public.profiles (name text PRIMARY KEY)",
        "INSERT INTO public.profiles VALUES ('balanced')",
        "GRANT ALL ON public.profiles TO PUBLIC",
    )
    execute(url, "ALTER TABLE v3_plans ADD FOREIGN KEY (automation_profile) REFERENCES profiles")
    # The planner calls it for each statement that has a condition on the table.
    execute(
        of_role(url, CLERK),
        OVERLOAD,
        "CREATE INDEX odd ON public.profiles (name) WHERE public.known('x')",
    )

    with caplog.at_level(logging.WARNING):
        migrate(url, M8_001)

    assert execute(url, "SELECT is_called FROM fired") == [(False,)]
    assert "foreign key v3_plans_automation_profile_fkey, over a column that is" in caplog.text
