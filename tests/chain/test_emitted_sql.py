"""
What a released revision sends to the database stays as it was released.

The toolkit may change; the statements that m8_001 makes it send may not. They are kept
in ``emitted/``; a difference that is wanted is written there by hand, with its reason in
the revision's header.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import NullPool

from cleveragents_plans import open_engine
from support.databases import ENGINES, empty_database, migrate, roll_back
from support.former_release import write_former_release
from support.revisions import M4_003, M8_001
from support.statements import recorded

EMITTED = Path(__file__).parent / "emitted"

# What only looks, waits, or depends on the moment, changes nothing that lasts.
_PASSING = re.compile(
    r"\s*\(?(SELECT|WITH (?:w|ours) AS|WITH RECURSIVE (?:link|base|used|family)|PRAGMA|EXPLAIN"
    r"|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET|LOCK|VACUUM|DECLARE|FETCH|MOVE|CLOSE"
    r"|DO \$check\$)(?!\w)",
    re.IGNORECASE,
)


def lasting(statements: list[str]) -> list[str]:
    """Give the statements that change something, each once, in the order of their first time."""
    kept: list[str] = []
    savepoints: dict[str, int] = {}
    for statement in statements:
        words = statement.split()
        if words[0] == "SAVEPOINT":
            savepoints[words[1]] = len(kept)
        if words[:2] == ["ROLLBACK", "TO"]:  # of what was tried out
            del kept[savepoints[words[-1]] :]
        if "evolution_copy" in statement:  # what is tried on it is rolled back
            continue
        if "evolution_runs" in statement:  # the runner notes the run there, whatever it runs
            continue
        # The first batch of a table begins at its first row.
        text = statement.strip().replace("t.plan_id >= %(after)s", "t.plan_id > %(after)s")
        text = re.sub(r"%\((\w+)\)s", r"'<\1>'", text).replace("%%", "%")
        if not _PASSING.match(text) and text not in kept:
            kept.append(text)
    return kept


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
@pytest.mark.parametrize("engine", ENGINES)
def test_m8_001_sends_what_it_was_released_with(engine: str, direction: str, tmp_path: Path):
    with empty_database(engine, tmp_path) as url:
        write_former_release(url, plans=200, seed=1)
        migrate(url, M8_001)
        with open_engine(url, poolclass=NullPool).begin() as connection:
            connection.exec_driver_sql(
                'UPDATE v3_plans SET effective_profile_snapshot = \'{"name":"x"}\''
            )
        if direction == "upgrade":
            roll_back(url, M4_003)

        with recorded() as statements:
            migrate(url, M8_001) if direction == "upgrade" else roll_back(url, M4_003)

    sent = ";\n\n".join(lasting(statements)) + ";\n"
    # Before 18, NOT NULL goes another way; otherwise all versions are sent the same.
    former = "_before_18" if engine not in ("sqlite", "postgresql-18") else ""
    kept = EMITTED / f"m8_001_{direction}_{engine.split('-')[0]}{former}.sql"
    assert sent == kept.read_text(), f"{kept.name} holds what was released"


def test_squawk_finds_nothing_but_what_is_waived_with_a_reason():
    done = subprocess.run(
        [Path(sys.executable).parent / "squawk", "--config", EMITTED / "squawk.toml",
         *sorted(EMITTED.glob("*postgresql*.sql"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
