"""The picture of what an upgrade locks has the order and the modes of a real one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from support.databases import ROOT, database_at, migrate
from support.former_release import write_former_release
from support.lock_record import locks_recorded, steps_of
from support.revisions import M4_003
from support.statements import recorded

RECORD = json.loads((ROOT / "docs" / "pictures" / "locks.json").read_text())
DRAWN = [(step["what"], step["mode"]) for step in RECORD["steps"]]

# What is sent for each step; the locks themselves are looked for in pg_locks.
SENT = {
    "ADD COLUMN, SET DEFAULT, CREATE TRIGGER": "CREATE OR REPLACE TRIGGER",
    "UPDATE of a batch": "WITH RECURSIVE batch",
    "NOT NULL … NOT VALID": "NOT VALID",
    "VALIDATE CONSTRAINT": "VALIDATE CONSTRAINT",
}


def test_locks_of_an_upgrade_are_those_of_the_picture_in_its_order(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        write_former_release(url, plans=2_000, seed=3)
        with locks_recorded(url) as samples, recorded() as statements:
            migrate(url, "head")

    seen = [(step.what, step.mode) for step in steps_of(samples)]
    # A lock that is held for less than the time between two looks may not be seen.
    assert seen == [step for step in DRAWN if step in seen]
    assert ("UPDATE of a batch", "ROW EXCLUSIVE") in seen

    sent = [" ".join(text.split()) for text in statements]
    # A table as small as this one is not vacuumed on the way.
    words = [SENT.get(what, what) for what, _ in DRAWN if what != "VACUUM"]
    first = {word: [n for n, text in enumerate(sent) if word in text][:1] for word in words}
    assert [word for word, place in first.items() if not place] == []
    assert [*first.values()] == sorted(first.values())
    created = {
        name for text in sent for name in re.findall(r"INDEX CONCURRENTLY (ix_v3_plans\w+)", text)
    }
    assert created == {word.split()[-1] for word in words if "CONCURRENTLY" in word}
