"""Wrong roots are set to those of the trees, in batches, and nothing else is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.util import CommandError

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Kind, repair, repair_roots, verify
from cleveragents_plans.verification.trees import ROOTS
from support.broken import A, B, C, D, E, break_database, libpq, store_family
from support.databases import ONE_OF_EACH, database_at, database_with, migrate
from support.former_release import true_roots, write_former_release
from support.json_output import validated
from support.revision_database import RevisionDatabase
from support.revisions import M4_003, M8_001
from support.rows import database_hash


@pytest.fixture(params=ONE_OF_EACH)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with database_with(store_family, request.param, tmp_path) as url:
        yield url


def roots(url: str) -> dict[str, str | None]:
    return RevisionDatabase(url).column("root_plan_id")


def repaired(url: str) -> int:
    return sum(repair_roots(chain_config(url)))


def faults(url: str) -> list[Kind]:
    with read_database(chain_config(url), "verify") as database:
        return [finding.kind for finding in verify(database).faults]


def set_roots(**named: str) -> list[str]:
    plans = {"a": A, "b": B, "c": C, "d": D, "e": E}
    return [
        f"UPDATE v3_plans SET root_plan_id = '{root}' WHERE plan_id = '{plans[name]}'"
        for name, root in named.items()
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"b": B, "c": C},  # as an earlier migration left children
        {"b": B, "c": B, "e": B},  # and what stood below such a child
        {"c": D},
        {"e": C},
        {"e": "7" * 26},
        {"a": "7" * 26, "b": "7" * 26, "c": "7" * 26},
    ],
    ids=str,
)
def test_wrong_roots_become_those_of_the_tree(broken: dict[str, str], family: str):
    before = database_hash(family)
    break_database(family, set_roots(**broken))
    if broken.get("e", A) != "7" * 26:
        expected = {A: A, B: A, C: A, D: D, E: A}
    else:  # from which tree it was detached nothing tells
        expected = {A: A, B: A, C: A, D: D, E: E}

    written = repaired(family)

    assert roots(family) == expected
    assert written == len(broken)
    assert faults(family) == []
    if expected[E] == A:
        assert database_hash(family) == before


def test_right_roots_are_not_written(family: str):
    before = database_hash(family)

    assert repaired(family) == 0
    assert database_hash(family) == before


def test_plans_of_a_cycle_stay_as_they_are(family: str):
    break_database(
        family,
        [f"UPDATE v3_plans SET parent_plan_id = '{C}' WHERE plan_id = '{A}'", *set_roots(b=B)],
    )

    assert repaired(family) == 0
    assert roots(family)[B] == B


@pytest.mark.parametrize("engine", ONE_OF_EACH)
@pytest.mark.parametrize("revision", [M4_003, M8_001])
def test_database_whose_children_have_their_own_id_as_root_is_repaired(
    revision: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(repair, "_BATCH", 7)
    with database_at(M4_003, engine, tmp_path) as url:
        write_former_release(url, plans=100, pure=True)
        expected = true_roots(url)
        break_database(
            url,
            [
                "UPDATE v3_plans SET root_plan_id = plan_id WHERE parent_plan_id IN "
                "(SELECT plan_id FROM v3_plans)"
            ],
        )
        if revision == M8_001:
            migrate(url, M8_001)

        repaired(url)
        with read_database(chain_config(url), "verify") as database:
            found = verify(database)
        migrate(url, M8_001)
        after = roots(url)

    assert not {*ROOTS} & {each.kind for each in found.faults}
    assert after == expected


@pytest.mark.parametrize("length", [60])
def test_chain_in_any_order_of_its_ids_is_repaired(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(repair, "_BATCH", 8)
    with database_at("head", "sqlite", tmp_path) as url:
        database = RevisionDatabase(url)
        ids = [f"{number * 37 % 61:026}" for number in range(1, length + 1)]
        for place, plan in enumerate(ids):
            database.plan(plan, parent=ids[place - 1] if place else None, root=plan, profile="ci")

        repaired(url)

        assert set(roots(url).values()) == {ids[0]}


KEEPING = {
    "postgresql": (
        "CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN new.root_plan_id := old.root_plan_id; RETURN new; END$$",
        "CREATE TRIGGER keeping BEFORE UPDATE ON v3_plans FOR EACH ROW "
        f"WHEN (old.plan_id = '{B}') EXECUTE FUNCTION kept()",
    ),
    "sqlite": (
        f"CREATE TRIGGER keeping AFTER UPDATE ON v3_plans WHEN new.plan_id = '{B}' "
        f"AND new.root_plan_id <> '{B}' BEGIN "
        f"UPDATE v3_plans SET root_plan_id = '{B}' WHERE plan_id = new.plan_id; END",
    ),
}


def test_trigger_that_keeps_a_root_ends_the_repair(family: str, capfd: pytest.CaptureFixture[str]):
    break_database(family, set_roots(b=B, c=C))
    break_database(family, KEEPING[family.partition("+")[0].partition(":")[0]])
    capfd.readouterr()

    status = main(["verify", "--repair", "roots", "--log", "plain", "--url", family])

    said = capfd.readouterr().err.splitlines()
    assert status == ExitStatus.REFUSED
    assert said[-1].endswith(
        f"the repair of roots would never end: 1 root is wrong again after each pass, such as of "
        f"{B}; triggers that fire for an UPDATE of v3_plans: keeping; disable a "
        "trigger that undoes it, or end the client that writes them, and run the same command "
        "again; what was repaired stays"
    )
    assert roots(family) == {A: A, B: B, C: A, D: D, E: A}


def test_client_that_writes_wrong_roots_again_and_again_ends_the_repair(family: str):
    again = set_roots(b=B, c=C)
    break_database(family, again)
    done: list[int] = []

    def repair_beside_the_client() -> None:
        for written in repair_roots(chain_config(family)):
            done.append(written)
            break_database(family, again)

    with pytest.raises(repair.RepairNeverEnds, match="v3_plans: none; end the client") as ended:
        repair_beside_the_client()

    assert set(ended.value.plans) == {B, C}
    assert done == [2, 0, 0, 0]


def test_client_that_adds_plans_with_wrong_roots_ends_the_repair(family: str):
    break_database(family, set_roots(b=B))
    database = RevisionDatabase(family)

    def repair_beside_the_client() -> None:
        for number, _ in enumerate(repair_roots(chain_config(family))):
            database.plan(f"{number + 100:026}", parent=A, root=D, profile="ci")

    with pytest.raises(repair.RepairNeverEnds, match="1 root is wrong again"):
        repair_beside_the_client()


def test_repair_is_refused_where_a_revision_is_unfinished(tmp_path: Path):
    with database_with(store_family, "postgresql-18", tmp_path) as url:
        break_database(
            url,
            [*set_roots(b=B),
             f"COMMENT ON TABLE alembic_version IS '[unfinished upgrade of {M8_001}]'"],
        )  # fmt: skip

        with pytest.raises(CommandError, match="mend what it finds in the version first"):
            repaired(url)

        assert roots(url)[B] == B


def test_lock_of_a_client_ends_the_repair_with_status_75(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from cleveragents_plans.schema import sessions

    monkeypatch.setitem(sessions._SESSION, "lock_timeout", "50ms")
    with database_with(store_family, "postgresql-18", tmp_path) as url:
        break_database(url, set_roots(b=B))
        with psycopg.connect(libpq(url)) as client:
            client.execute("SELECT 1 FROM v3_plans FOR UPDATE")
            pid = client.info.backend_pid

            status = main(["verify", "--repair", "roots", "--url", url])

        assert status == ExitStatus.AGAIN
        said = capfd.readouterr().err
        assert "no lock on rows of public.v3_plans in " in said
        assert " s; sessions that lock rows there: " in said
        assert f"pid {pid} " in said
        assert roots(url)[B] == B


def test_command_says_what_it_will_do_and_looks_again(
    family: str, capfd: pytest.CaptureFixture[str]
):
    break_database(family, set_roots(b=B, c=C))
    capfd.readouterr()

    status = main(["verify", "--repair", "roots", "--log", "plain", "--url", family])

    out, err = capfd.readouterr()
    assert status == ExitStatus.DONE
    assert err.startswith(
        "root_plan_id of 2 plans and of those below them is set to the root of their tree "
        "(2 root-own); nothing else is written\n"
    )
    assert "repaired  2 roots\n" in out
    assert out.endswith("\nsound\n")

    words = ["verify", "--repair", "roots", "--log", "plain", "--url", family, "--json"]
    assert main(words) == ExitStatus.DONE
    out, err = capfd.readouterr()
    assert err.startswith("no root has to be repaired\n")
    assert validated(out)["repaired"] == 0
