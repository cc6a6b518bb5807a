"""
In which order a migration of PostgreSQL asks for locks and changes the schema.

``emitted/`` keeps what is sent, and not when: a lock that is asked for without a timeout,
or a statement that needs it and is sent before it, changes no byte there and stops every
client of a busy table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, event

from cleveragents_plans import open_engine
from support.databases import SERVERS, database_at, migrate, roll_back
from support.faults import former_release_works
from support.former_release import write_former_release
from support.revisions import A5_004, M4_003, M8_001
from support.statements import recorded

WAYS = [
    pytest.param(A5_004, M4_003, id="m4_003 up"),
    pytest.param(M4_003, A5_004, id="m4_003 down"),
    pytest.param(M4_003, M8_001, id="m8_001 up"),
    pytest.param(M8_001, M4_003, id="m8_001 down"),
]

# What takes ACCESS EXCLUSIVE on the table, or a lock that stops writers.
STRONG = re.compile(
    r"\b(ALTER TABLE \S+ (?!VALIDATE)|(CREATE( OR REPLACE)?|DROP) TRIGGER )", re.IGNORECASE
)
LOCK = re.compile(r"LOCK TABLE public.v3_plans IN (?P<mode>[A-Z ]+?) MODE(?P<nowait> NOWAIT)?$")
TIMEOUT = re.compile(r"SET (?:LOCAL|SESSION) lock_timeout = '(\d+)ms'")


def go(url: str, start: str, goal: str) -> None:
    (migrate if start < goal else roll_back)(url, goal)


@contextmanager
def with_plans(start: str, engine: str, folder: Path) -> Iterator[str]:
    """Make a database at *start* with plans that lack what m8_001 fills in."""
    former = A5_004 if start == A5_004 else M4_003
    with database_at(former, engine, folder) as url:
        if former == M4_003:
            write_former_release(url, plans=300, seed=8)
        if start == M8_001:
            migrate(url, M8_001)
        yield url


def sent(statements: list[str]) -> Iterator[str]:
    """Give what was sent, one statement after the other, without comments and blanks."""
    for text in statements:
        # Several may be sent in one round trip; what is quoted by dollars has no locks.
        plain = re.sub(r"\$\$.*?\$\$", "''", text, flags=re.DOTALL)
        plain = re.sub(r"--[^\n]*", "", plain)
        yield from filter(None, (" ".join(part.split()) for part in plain.split(";")))


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize(("start", "goal"), WAYS)
def test_exclusive_lock_is_held_before_a_statement_that_needs_it(
    engine: str, start: str, goal: str, tmp_path: Path
):
    with with_plans(start, engine, tmp_path) as url, recorded(of_this_thread=True) as statements:
        go(url, start, goal)

    held = as_owner = False
    strong = 0
    for statement in sent(statements):
        if statement in ("BEGIN", "COMMIT", "ROLLBACK"):
            held = as_owner = False
        elif (lock := LOCK.match(statement)) and lock["mode"] == "ACCESS EXCLUSIVE":
            held = True
        elif statement.startswith("ROLLBACK TO SAVEPOINT"):
            held = False
        elif "pg_get_userbyid(c.relowner)" in statement:
            as_owner = True
        elif "pg_temp.evolution_copy" in statement:  # a copy that no other session sees
            continue
        elif STRONG.match(statement) or statement.startswith("CREATE OR REPLACE FUNCTION"):
            strong += 1
            assert held, f"without the lock: {statement}"
            assert as_owner, f"not as the owner of the table: {statement}"
    assert strong >= 2


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize(("start", "goal"), WAYS)
def test_locks_are_asked_for_with_a_short_timeout_and_the_weak_one_first(
    engine: str, start: str, goal: str, tmp_path: Path
):
    with with_plans(start, engine, tmp_path) as url, recorded(of_this_thread=True) as statements:
        go(url, start, goal)

    timeout, gate, seen = 0, False, 0
    for statement in sent(statements):
        if statement in ("BEGIN", "COMMIT", "ROLLBACK"):
            timeout, gate = 0, False
        elif found := TIMEOUT.match(statement):
            timeout = int(found[1])
        elif lock := LOCK.match(statement):
            seen += 1
            assert timeout > 0, f"it may wait for ever: {statement}"
            if lock["mode"] == "SHARE UPDATE EXCLUSIVE":
                gate = True  # keeps VACUUM out, which would be waited for
            else:
                assert gate, f"before VACUUM is kept out: {statement}"
                assert lock["nowait"] or timeout <= 50, f"{timeout} ms: {statement}"
    assert seen >= 2


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize(("start", "goal"), [way.values for way in WAYS[2:]], ids=["up", "down"])
def test_former_release_can_write_after_each_commit_that_changed_the_schema(
    engine: str, start: str, goal: str, tmp_path: Path
):
    changed = False
    commits = 0

    def write_between(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal changed, commits
        changed = changed or bool(STRONG.search(statement))
        if statement == "COMMIT" and changed:
            changed = False
            commits += 1
            former_release_works(url)

    with with_plans(start, engine, tmp_path) as url:
        event.listen(Engine, "after_cursor_execute", write_between)
        try:
            go(url, start, goal)
        finally:
            event.remove(Engine, "after_cursor_execute", write_between)

        former_release_works(url)
        rows = open_engine(url, poolclass=NullPool)
        with rows.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM v3_plans").scalar() == 300
    assert commits >= 2
