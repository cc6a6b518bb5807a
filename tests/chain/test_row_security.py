"""Row-level security on the tables of the chain, whose owner the functions of triggers run as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.preflight import preflight
from cleveragents_plans.schema import chain_config
from support.databases import SERVERS, database_at, migrate, of_role, roll_back
from support.former_release import true_roots
from support.revisions import HEAD, M4_003, M8_001
from support.rows import schema_dump
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
        execute(url, f"DROP OWNED BY {OWNER}, {APP} CASCADE", f"DROP ROLE {OWNER}, {APP}")


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


@pytest.mark.parametrize("policies", HIDING)
def test_row_security_that_hides_plans_from_their_owner_is_refused_before_any_change(
    url: str, policies: str
):
    execute(url, *HIDING[policies])
    before = schema_dump(url)

    blocks = [block.found for block in preflight(chain_config(url)).blocks]
    with pytest.raises(EvolutionError) as refused:
        migrate(url, HEAD)

    assert blocks == [str(refused.value)]
    assert f"row-level security that is forced on its owner {OWNER}, " in blocks[0]
    assert f"; run {NO_FORCE}, which leaves every other role bound; nothing was cha" in blocks[0]
    assert schema_dump(url) == before

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
