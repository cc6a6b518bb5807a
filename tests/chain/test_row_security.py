"""Row-level security on the tables of the chain, whose owner the functions of triggers run as."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.evolution.postgresql import locks
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Kind, verify
from support.databases import SERVERS, database_at, migrate, of_role, roll_back
from support.former_release import true_roots
from support.revisions import HEAD, M4_003, M8_001
from support.rows import schema_dump
from support.scripts import run_psql, script
from support.statements import dying_at
from support.toys import execute

OWNER, APP = "rows_owner", "rows_app"
TABLES = ("v3_plans", "plan_projects", "plan_arguments", "plan_invariants", "alembic_version")
PLAN = (
    "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
    " VALUES ('{}', {}, 'local/tidy', '', '')"
)
FORCE = "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
NO_FORCE = "ALTER TABLE public.v3_plans NO FORCE ROW LEVEL SECURITY"
FOR_APP = f"CREATE POLICY app ON v3_plans TO {APP} USING (true)"


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database before m8_001, whose tables belong to a role of their own."""
    with database_at(M4_003, request.param, tmp_path) as url:
        execute(
            url,
            f"CREATE ROLE {OWNER} LOGIN",
            f"CREATE ROLE {APP} LOGIN",
            f"GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}",
            *(f"ALTER TABLE IF EXISTS {name} OWNER TO {OWNER}" for name in TABLES),
            "ALTER TABLE IF EXISTS evolution_runs OWNER TO " + OWNER,
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON v3_plans TO {APP}",
            *(PLAN.format(f"0{n}", f"'0{n - 1}'" if n % 3 else "NULL") for n in range(9)),
        )
        yield url
        # One by one: at once they would be told of a default privilege that is not there any more.
        dropped = (f"DROP OWNED BY {role} CASCADE" for role in (APP, OWNER))
        execute(url, *dropped, f"DROP ROLE {OWNER}, {APP}")


HIDING = {
    "no policy": (FORCE,),
    "a policy for another role": (FORCE, FOR_APP),
    "a policy for a command that is not enough": (
        FORCE, "CREATE POLICY reads ON v3_plans FOR SELECT USING (true)",
    ),
    "a policy that hides rows": (FORCE, "CREATE POLICY few ON v3_plans USING (plan_id > '03')"),
    "a restrictive policy": (
        FORCE, "CREATE POLICY all_rows ON v3_plans USING (true)",
        "CREATE POLICY fewer ON v3_plans AS RESTRICTIVE FOR UPDATE USING (plan_id > '03')",
    ),
}  # fmt: skip
SEEN = {
    "a policy for all": (FORCE, "CREATE POLICY all_rows ON v3_plans USING (true)"),
    "policies for the owner": (
        FORCE, f"CREATE POLICY reads ON v3_plans FOR SELECT TO {OWNER} USING (true)",
        f"CREATE POLICY writes ON v3_plans FOR UPDATE TO {OWNER} USING (true)",
        f"CREATE POLICY app ON v3_plans AS RESTRICTIVE TO {APP} USING (plan_id > '')",
        FOR_APP.replace("POLICY app", "POLICY all_of_app"),
    ),
    "a policy for a role of which the owner is a member": (
        FORCE, FOR_APP, f"GRANT {APP} TO {OWNER}",
    ),
    "an owner with BYPASSRLS": (FORCE, FOR_APP, f"ALTER ROLE {OWNER} BYPASSRLS"),
    "row-level security that is not forced": (
        "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY", FOR_APP,
    ),
}  # fmt: skip


def refusal_of_an_upgrade(url: str) -> str:
    """Give the line of an upgrade that is refused before any change, as preflight has it, too."""
    before = schema_dump(url)
    blocks = [block.found for block in preflight(chain_config(url)).blocks]
    with pytest.raises(EvolutionError) as refused:
        migrate(url, HEAD)
    assert blocks == [str(refused.value)]
    assert schema_dump(url) == before
    return blocks[0]


@pytest.mark.parametrize("policies", HIDING)
def test_row_security_that_hides_plans_from_their_owner_is_refused_before_any_change(
    url: str, policies: str
):
    execute(url, *HIDING[policies])

    refusal = refusal_of_an_upgrade(url)

    assert f"row-level security that is forced on its owner {OWNER}, " in refusal
    assert f"; run {NO_FORCE}, which leaves every other role bound; nothing was cha" in refusal

    execute(url, NO_FORCE)
    migrate(url, M8_001)
    execute(url, FORCE)
    blocks = [block.found for block in preflight(chain_config(url), M4_003).blocks]
    with pytest.raises(EvolutionError, match=f"; run {NO_FORCE}, ") as refused:
        roll_back(url, M4_003)
    assert blocks == [str(refused.value)]


@pytest.mark.parametrize("policies", SEEN)
def test_row_security_that_hides_no_plan_from_their_owner_is_accepted(url: str, policies: str):
    execute(url, *SEEN[policies])
    if policies == "row-level security that is not forced":
        execute(url, f"ALTER POLICY app ON v3_plans TO {APP} USING (plan_id > '01')")

    assert not preflight(chain_config(url)).blocks
    migrate(url, M8_001)
    execute(of_role(url, APP), PLAN.format("20", "'01'"), PLAN.format("21", "'20'"))
    expected = true_roots(url)

    assert expected["21"] == "00"
    assert dict(execute(url, "SELECT plan_id, root_plan_id FROM v3_plans")) == expected
    roll_back(url, M4_003)


ARCHIVE = "v3_plans_snapshot_archive"
SNAPSHOT = '{"profile_name": "ci"}'
#: A house rule, as managed services have it: what each new table gets.
RULE = (
    "CREATE FUNCTION house_rule() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER"
    " SET search_path = pg_catalog, pg_temp AS $$"
    " DECLARE new record; BEGIN FOR new IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP"
    " IF new.object_type = 'table' AND new.schema_name = 'public' THEN"
    " EXECUTE format('ALTER TABLE %s {}', new.object_identity); END IF; END LOOP; END $$",
    "CREATE EVENT TRIGGER house_rule ON ddl_command_end"
    " WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')"
    " EXECUTE FUNCTION house_rule()",
)


def rule(action: str) -> tuple[str, ...]:
    """Give the statements after which each new table gets *action*."""
    return tuple(each.replace("{}", action) for each in RULE)


def snapshots(url: str) -> list[tuple[str]]:
    query = "SELECT plan_id FROM v3_plans WHERE effective_profile_snapshot <> '{}' ORDER BY 1"
    return execute(url, query)


@pytest.mark.parametrize(
    "action",
    ["ENABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"],
)
@pytest.mark.parametrize("migrating", ["postgres", OWNER])
def test_row_security_of_each_new_table_does_not_keep_a_run_from_going_down_and_up(
    url: str, action: str, migrating: str, monkeypatch: pytest.MonkeyPatch
):
    execute(url, "DROP TABLE evolution_runs", *rule(action))
    kept = [("00",), ("03",), ("05",), ("07",)]
    real_take, client = locks.take_lock, of_role(url, APP)
    written: list[str] = []

    def write_during_the_run(*arguments: Any) -> None:
        if not written and execute(url, "SELECT FROM pg_trigger WHERE tgname = 'v3_plans_keep'"):
            written.append("07")
            execute(
                client,
                f"UPDATE v3_plans SET effective_profile_snapshot = '{SNAPSHOT}'"
                " WHERE plan_id IN ('03', '07')",
            )
        real_take(*arguments)

    migrate(of_role(url, migrating), HEAD)
    execute(client, f"UPDATE v3_plans SET effective_profile_snapshot = '{SNAPSHOT}'"
                    " WHERE plan_id IN ('00', '05')")  # fmt: skip
    monkeypatch.setattr(locks, "take_lock", write_during_the_run)
    roll_back(of_role(url, migrating), M4_003)
    monkeypatch.undo()
    assert written
    assert execute(url, f"SELECT plan_id FROM {ARCHIVE} ORDER BY 1") == kept

    assert not preflight(chain_config(of_role(url, migrating))).blocks
    migrate(of_role(url, migrating), HEAD)

    assert snapshots(url) == kept
    assert dict(execute(url, "SELECT plan_id, root_plan_id FROM v3_plans")) == true_roots(url)


ADDED = {
    "a trigger": (
        f"CREATE TRIGGER audit AFTER DELETE ON {ARCHIVE} FOR EACH ROW EXECUTE FUNCTION nothing()",
        "the trigger audit", f"DROP TRIGGER audit ON public.{ARCHIVE}",
    ),
    "a rule": (
        f"CREATE RULE keep AS ON DELETE TO {ARCHIVE} DO INSTEAD NOTHING",
        "the rule keep", f"DROP RULE keep ON public.{ARCHIVE}",
    ),
    "a CHECK": (
        f"ALTER TABLE {ARCHIVE} ADD CONSTRAINT short CHECK (length(plan_id) < 30)",
        "the constraint short", f"ALTER TABLE public.{ARCHIVE} DROP CONSTRAINT short",
    ),
    "a foreign key": (
        f"ALTER TABLE {ARCHIVE} ADD CONSTRAINT plan FOREIGN KEY (plan_id) REFERENCES v3_plans",
        "the constraint plan", f"ALTER TABLE public.{ARCHIVE} DROP CONSTRAINT plan",
    ),
    "a deferrable key": (
        f"ALTER TABLE {ARCHIVE} ADD CONSTRAINT late UNIQUE (plan_id) DEFERRABLE",
        "the constraint late", f"ALTER TABLE public.{ARCHIVE} DROP CONSTRAINT late",
    ),
    "a key of other columns": (
        f'CREATE UNIQUE INDEX "Time" ON {ARCHIVE} (created_at, plan_id)',
        'the index "Time"', 'DROP INDEX public."Time"',
    ),
    "a default": (
        f"ALTER TABLE {ARCHIVE} ALTER created_at SET DEFAULT ''",
        "a default for created_at",
        f"ALTER TABLE public.{ARCHIVE} ALTER COLUMN created_at DROP DEFAULT",
    ),
    "forced row-level security": (
        f"ALTER TABLE {ARCHIVE} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "row-level security that is forced on its owner",
        f"ALTER TABLE public.{ARCHIVE} NO FORCE ROW LEVEL SECURITY",
    ),
    "a column": (
        f"ALTER TABLE {ARCHIVE} ADD tenant text",
        "the columns plan_id, effective_profile_snapshot, created_at, tenant, and not plan_id, "
        "effective_profile_snapshot, created_at",
        f"ALTER TABLE public.{ARCHIVE} DROP COLUMN tenant",
    ),
}  # fmt: skip


@pytest.fixture
def archived(url: str) -> str:
    """A database whose snapshots are in the archive."""
    execute(url, "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS"
                 " 'BEGIN RETURN NULL; END'")  # fmt: skip
    migrate(url, M8_001)
    execute(url, f"UPDATE v3_plans SET effective_profile_snapshot = '{SNAPSHOT}'"
                 " WHERE plan_id > '06'")  # fmt: skip
    roll_back(url, M4_003)
    return url


@pytest.mark.parametrize("added", ADDED)
def test_what_was_added_to_the_archive_is_named_with_the_statement_that_removes_it(
    archived: str, added: str
):
    planted, what, statement = ADDED[added]
    execute(archived, planted)

    refusal = refusal_of_an_upgrade(archived)

    assert f"public.{ARCHIVE} has {what}; " in refusal
    assert f"run {statement}" in refusal
    assert "drop it" not in refusal

    execute(archived, statement)
    migrate(archived, M8_001)
    assert snapshots(archived) == [("07",), ("08",)]


def test_all_that_was_added_to_the_archive_is_named_at_once(archived: str):
    execute(archived, *(ADDED[each][0] for each in ("a trigger", "a CHECK")))

    with pytest.raises(EvolutionError, match="has the trigger audit and the constraint short; exp"):
        migrate(archived, HEAD)


@pytest.mark.parametrize(
    "key",
    ["ADD PRIMARY KEY (plan_id)", "ADD UNIQUE (plan_id)", "ALTER plan_id SET NOT NULL",
     "ENABLE ROW LEVEL SECURITY"],
)  # fmt: skip
def test_key_of_the_archive_does_no_harm(archived: str, key: str):
    execute(archived, f"ALTER TABLE {ARCHIVE} {key}")

    assert not preflight(chain_config(archived)).blocks
    migrate(archived, M8_001)
    assert snapshots(archived) == [("07",), ("08",)]

    with dying_at("WITH batch AS MATERIALIZED"):
        roll_back(archived, M4_003)
    execute(archived, f"ALTER TABLE {ARCHIVE} {key}")
    execute(
        of_role(archived, APP),
        f"UPDATE v3_plans SET effective_profile_snapshot = '{SNAPSHOT}' WHERE plan_id = '01'",
        f"UPDATE v3_plans SET effective_profile_snapshot = '{SNAPSHOT} ' WHERE plan_id = '08'",
    )
    roll_back(archived, M4_003)
    migrate(archived, M8_001)
    assert snapshots(archived) == [("01",), ("07",), ("08",)]


TENANT = "CREATE POLICY tenant ON v3_plans TO {} USING (plan_id = '03')"
GRANTS_TO_ALL = RULE[0].replace("ALTER TABLE %s {}", "GRANT SELECT ON %s TO PUBLIC"), RULE[1]
READABLE = {
    "default privileges of the owner": (
        OWNER, f"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO {APP}, PUBLIC",
    ),
    "default privileges in the schema": (
        OWNER, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {APP}",
    ),
    "an event trigger": ("postgres", *GRANTS_TO_ALL),
}  # fmt: skip


@pytest.mark.parametrize("by", READABLE)
@pytest.mark.parametrize("how", ["a run", "a script"])
def test_archive_of_snapshots_shows_no_plan_that_row_security_hides(url: str, how: str, by: str):
    role, *statements = READABLE[by]
    migrate(url, M8_001)
    execute(url, f"UPDATE v3_plans SET effective_profile_snapshot = '{SNAPSHOT}'",
            "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY", TENANT.format(APP))  # fmt: skip
    execute(of_role(url, role), *statements)

    if how == "a run":
        roll_back(of_role(url, OWNER), M4_003)
    else:
        done = run_psql(of_role(url, OWNER), script(url, f"{M8_001}:{M4_003}", back=True))
        assert done.returncode == 0, done.stderr

    app = of_role(url, APP)
    assert execute(app, "SELECT plan_id FROM v3_plans") == [("03",)]
    with pytest.raises(DBAPIError, match="permission denied for table v3_plans_snapshot_archive"):
        execute(app, f"SELECT plan_id FROM {ARCHIVE}")
    assert rights_found(url) == []

    execute(url, f"GRANT SELECT (plan_id) ON {ARCHIVE} TO {APP}")
    assert rights_found(url) == [(ARCHIVE, f"REVOKE SELECT ON public.{ARCHIVE} FROM {APP} CASCADE")]
    said = f"{APP} has SELECT on public.{ARCHIVE}, and could read what is kept in it; this run"
    assert any(said in each for each in preflight(chain_config(url)).warnings)
    execute(url, f"ALTER ROLE {APP} BYPASSRLS")
    assert rights_found(url) == []


def test_role_that_inherits_from_the_owner_is_not_said_to_read_what_is_hidden(archived: str):
    execute(archived, "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY",
            f"GRANT SELECT ON {ARCHIVE} TO {APP}, PUBLIC")  # fmt: skip
    revoke = f"REVOKE SELECT ON public.{ARCHIVE} FROM {{}} CASCADE".format
    public, app = (ARCHIVE, revoke("PUBLIC")), (ARCHIVE, revoke(APP))
    assert rights_found(archived) == [public, app]

    inherits = f"ALTER ROLE {APP} {{}}INHERIT; GRANT {OWNER} TO {APP}"
    execute(archived, inherits.format("NO"))
    assert rights_found(archived) == [public, app]
    execute(archived, f"REVOKE {OWNER} FROM {APP}", inherits.format(""))
    assert rights_found(archived) == [public]


def test_role_that_reads_all_tables_is_said_to_read_what_is_hidden_from_it(archived: str):
    """To read a table by pg_read_all_data nothing has to be granted on it."""
    execute(archived, f"GRANT pg_read_all_data TO {APP}")
    assert rights_found(archived) == []

    execute(archived, "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY")
    app = of_role(archived, APP)
    assert execute(app, "SELECT plan_id FROM v3_plans") == []
    assert execute(app, f"SELECT plan_id FROM {ARCHIVE}")
    [(_, remedy)] = rights_found(archived)

    execute(archived, re.findall(r"run (.*), otherwise", str(remedy))[0])
    assert rights_found(archived) == []


def rights_found(url: str) -> list[tuple[str, str | None]]:
    """Give what verify finds of rights on the archive, and what it says to type."""
    with read_database(chain_config(url), "verify") as database:
        found = [each for each in verify(database).findings if each.kind is Kind.TABLE_RIGHTS]
    return [(each.subject, each.remedy) for each in found if each.subject == ARCHIVE]
