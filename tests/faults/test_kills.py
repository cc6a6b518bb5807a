"""Whenever a process that migrates is killed, the next one brings the database to the same end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine, text

from cleveragents_plans.cli import main
from support.databases import ENGINES, migrate, roll_back
from support.faults import (
    Migration,
    Models,
    State,
    execute,
    former_release_works,
    models,
    points,
    spread,
)
from support.online import client
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.slow

PLANS = 3_000
MANY_PLANS = 9_000  # so many that the table is vacuumed on the way

#: Where it begins, where it goes, and what an undisturbed run makes of it.
WAYS = [
    pytest.param("gaps", M8_001, id="up"),
    pytest.param("new", M4_003, id="down"),
]
BACK = {M8_001: M4_003, M4_003: M8_001}
NAMES = {M8_001: "new", M4_003: "former"}
SERVERS = [engine for engine in ENGINES if engine != "sqlite"]


def go(url: str, goal: str) -> None:
    act: Callable[[str, str], None] = migrate if goal == M8_001 else roll_back
    act(url, goal)


def kill(url: str, goal: str, point: str) -> bool:
    died = Migration(url, goal, victim=("--die-at", point)).ended()
    assert died.killed or died.status == 0, died.said
    return died.killed


def untouched(url: str, model: Models, start: str) -> bool:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        sound = connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    engine.dispose()
    return sound and State.of(url) == model.states[start]


@pytest.mark.parametrize(
    ("start", "goal", "statement"),
    [pytest.param("gaps", M8_001, 70, id="up"), pytest.param("new", M4_003, 45, id="down")],
)
def test_file_is_unchanged_after_a_kill_and_a_second_run_succeeds(
    tmp_path: Path, start: str, goal: str, statement: int
):
    model = models("sqlite", PLANS)
    with model.copy(start, tmp_path, wal=statement % 2 == 0) as url:
        assert kill(url, goal, str(statement))

        assert untouched(url, model, start)
        go(url, goal)
        assert State.of(url) == model.states[NAMES[goal]]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("start", "goal", "statement"),
    [pytest.param("gaps", M8_001, 80, id="up"), pytest.param("new", M4_003, 40, id="down")],
)
@pytest.mark.parametrize("engine", SERVERS[:1])
def test_clients_go_on_after_a_kill_and_a_second_run_succeeds(
    tmp_path: Path, engine: str, start: str, goal: str, statement: int
):
    model = models(engine, PLANS)
    with model.copy(start, tmp_path) as url:
        assert kill(url, goal, str(statement))

        former_release_works(url)
        go(url, goal)
        assert State.of(url) == model.states[NAMES[goal]]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("start", "goal", "statement"),
    [
        pytest.param("former", M8_001, "VALIDATE CONSTRAINT", id="up"),
        pytest.param("new", M4_003, "DROP COLUMN effective_profile_snapshot", id="down"),
    ],
)
@pytest.mark.parametrize("engine", SERVERS)
def test_killed_run_is_undone_by_the_opposite_command(
    tmp_path: Path, engine: str, start: str, goal: str, statement: str
):
    model = models(engine, PLANS)
    with model.copy(start, tmp_path) as url:
        assert kill(url, goal, statement)

        assert State.of(url) != model.states[start]
        go(url, BACK[goal])
        former_release_works(url)
        assert State.of(url) == model.states[start]


@pytest.mark.parametrize("engine", SERVERS[:1])
def test_refused_command_leaves_a_killed_run_unchanged(
    tmp_path: Path, engine: str, capfd: pytest.CaptureFixture[str]
):
    model = models(engine, PLANS)
    with model.copy("former", tmp_path) as url:
        assert kill(url, M8_001, "ADD COLUMN")
        killed = State.of(url)

        with pytest.raises(CommandError, match=r"this step would drop.*nothing was changed"):
            roll_back(url, "base")

        assert State.of(url) == killed
        assert main(["current", "--url", url]) == 0
        assert capfd.readouterr().out.strip() == M4_003
        go(url, M8_001)
        assert State.of(url) == model.states["new"]


@pytest.mark.parametrize("engine", SERVERS[:1])
def test_check_that_refuses_the_way_back_does_not_set_the_version(tmp_path: Path, engine: str):
    model = models(engine, PLANS)
    with model.copy("new", tmp_path) as url:
        assert kill(url, M4_003, "DROP COLUMN effective_profile_snapshot")
        execute(
            url,
            "UPDATE v3_plans SET parent_plan_id = plan_id, root_plan_id = NULL"
            " WHERE plan_id = (SELECT max(plan_id) FROM v3_plans)",
        )
        killed = State.of(url)

        with pytest.raises(CommandError, match=r"their own ancestors.*nothing was changed"):
            migrate(url, M8_001)

        assert State.of(url) == killed


@pytest.mark.parametrize("engine", SERVERS[:1])
def test_check_heads_fails_between_two_versions(
    tmp_path: Path,
    engine: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    with models(engine, PLANS).copy("new", tmp_path) as url:
        migrate(url, "head")
        assert main(["current", "--check-heads", "--url", url]) == 0
        assert kill(url, M4_003, "DROP COLUMN effective_profile_snapshot")
        capfd.readouterr()

        assert main(["current", "--check-heads", "--url", url]) == 1
        told = capfd.readouterr()
        assert f" error   the downgrade of {M8_001} was interrupted" in told.err
        assert told.out == ""
        assert main(["current", "--url", url]) == 0
        assert f"the downgrade of {M8_001} was interrupted" in caplog.text


@pytest.mark.parametrize("engine", SERVERS[:1])
def test_writes_during_a_downgrade_take_the_former_form(tmp_path: Path, engine: str):
    model = models(engine, PLANS)
    with model.copy("new", tmp_path) as url:
        with client(url) as connection:
            query = "SELECT plan_id FROM v3_plans WHERE root_plan_id = plan_id ORDER BY 1 LIMIT 1"
            (plan,) = connection.execute(query).fetchone() or ("",)
        assert kill(url, M4_003, "DROP COLUMN effective_profile_snapshot")

        with client(url) as connection:
            written = connection.execute(
                "UPDATE v3_plans SET root_plan_id = plan_id, automation_profile = 'balanced'"
                " WHERE plan_id = %s RETURNING root_plan_id, automation_profile",
                [plan],
            ).fetchall()
        assert written == [(None, None)]


@pytest.mark.fault
@pytest.mark.parametrize(("start", "goal"), WAYS)
@pytest.mark.parametrize("wal", [False, True], ids=["journal", "wal"])
def test_file_survives_a_kill_at_every_step(tmp_path: Path, start: str, goal: str, wal: bool):
    model = models("sqlite", MANY_PLANS)
    with model.copy(start, tmp_path) as url:
        found = points(url, goal, tmp_path)
    killed = 0
    for point in spread(found, 26):
        with model.copy(start, tmp_path, wal=wal) as url:
            if kill(url, goal, point):
                killed += 1
                assert untouched(url, model, start), point
            go(url, goal)
            assert State.of(url) == model.states[NAMES[goal]], point
    assert killed >= 25


@pytest.mark.fault
@pytest.mark.parametrize("then", ["again", "back"])
@pytest.mark.parametrize("goal", [M8_001, M4_003], ids=["up", "down"])
@pytest.mark.parametrize("engine", SERVERS)
def test_server_survives_a_kill_at_every_step(tmp_path: Path, engine: str, goal: str, then: str):
    model = models(engine, MANY_PLANS)
    # What has gaps cannot be brought back to them: they are filled for good.
    start = NAMES[BACK[goal]] if then == "back" else {M8_001: "gaps", M4_003: "new"}[goal]
    end = goal if then == "again" else BACK[goal]
    with model.copy(start, tmp_path) as url:
        found = points(url, goal, tmp_path)
        assert State.of(url) == model.states[NAMES[goal]]
    killed = 0
    for point in spread(found, 26):
        with model.copy(start, tmp_path) as url:
            if not kill(url, goal, point):
                continue
            killed += 1
            former_release_works(url)
            go(url, end)
            assert State.of(url) == model.states[NAMES[end]], point
            former_release_works(url)
    assert killed >= 22


@pytest.mark.fault
@pytest.mark.parametrize(("start", "goal"), WAYS)
@pytest.mark.parametrize("engine", ENGINES)
def test_kill_at_any_moment_does_no_harm(tmp_path: Path, engine: str, start: str, goal: str):
    model = models(engine, MANY_PLANS)
    chance = random.Random(1)
    with model.copy(start, tmp_path) as url:
        begun = time.monotonic()
        go(url, goal)
        usual = time.monotonic() - begun
    killed = 0
    for _ in range(10):
        with model.copy(start, tmp_path) as url:
            moment = chance.uniform(0, usual)
            died = Migration(url, goal, victim=("--die-after", f"{moment:.4f}")).ended()
            killed += died.killed
            if engine == "sqlite" and died.killed:
                assert untouched(url, model, start)
            go(url, goal)
            assert State.of(url) == model.states[NAMES[goal]], moment
    assert killed >= 4
