"""
Random upgrades, downgrades, kills and writes, held against an independent oracle.

    make fuzz SECONDS=3600 SEED=7        # both engines in turn
    python tests/fuzz/migrations.py --engine sqlite --seconds 60 --seed 7

A sequence is a function of its seed and of where kills happen to fall. What went wrong is
printed with the seed and the steps that led there; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanConflict, PlanRepository, open_engine
from fuzz.oracle import BETWEEN, FORMER, NEW, Expected, Oracle
from support.databases import ENGINES, empty_database, migrate, roll_back
from support.faults import Migration
from support.revisions import HEAD, M4_003, M8_002

_GOALS = {FORMER: M4_003, NEW: "head"}
# As far as the former release can write to a database that is migrated beside it.
_WRITABLE = {FORMER: M4_003, NEW: M8_002}
_TIME = "2026-03-14T00:05:32.000000+00:00"
_PROFILE = json.dumps({"profile_name": "ci", "provenance": "plan"})
_INSERT = (
    "INSERT INTO v3_plans (plan_id, parent_plan_id, root_plan_id, automation_profile,"
    f" action_name, created_at, updated_at) VALUES (:key, :parent, :root, :profile, 'local/tidy',"
    f" '{_TIME}', '{_TIME}')"
)
# Those that need no argument.
_STEPS = ("begin", "complete", "advance", "revert", "cancel")


class Fault(Exception):
    """Something that must not happen; the steps before it are in the message."""


class Sequence:
    """One database that is migrated, killed and written to, and what should be in it."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.sqlite = url.startswith("sqlite")
        self.chance = random.Random(seed)
        self.oracle = Oracle()
        self.steps: list[str] = []
        self._number = 0
        self.engine = _raw_engine(url)
        migrate(url, M4_003)

    def run(self, until: float, counts: Counter[str]) -> None:
        """
        Do one thing after the other until the clock says so.

        Raises:
            Fault: The database and the oracle disagree, or a write or a migration failed.
        """
        try:
            for _ in range(40):
                self.insert()
            while time.monotonic() < until:
                thing = self.chance.choice(self._things())
                counts[thing.__name__] += 1
                thing()
            self._settle()
        except Exception as error:
            raise Fault(f"{error!r}\nafter: {'; '.join(self.steps[-60:])}") from error
        finally:
            self.engine.dispose()

    def _things(self) -> list[Callable[[], None]]:
        at = self.oracle.at
        migrations = [self.migrate, self.kill]
        if not self.sqlite:
            migrations.append(self.migrate_beside_a_writer)
        if at == NEW and (self.sqlite or _WRITABLE[NEW] != HEAD):
            # Perhaps no trigger fills in there what the former release leaves out.
            writes = [self.insert_by_library, self.step_by_library, self.delete, self.rename]
        elif at == NEW:
            writes = [self.insert, self.insert_by_library, self.step_by_library, self.delete]
            writes += [self.rename, self.write_back]
        else:
            writes = [self.insert, self.insert, self.delete, self.write_back]
        return [*migrations, *writes * 6]

    def _key(self) -> str:
        # In front of, among and behind the others; sometimes one that was used before.
        self._number += 1
        if self._number > 50 and self.chance.random() < 0.1:
            used = f"01J{self.chance.randrange(self._number):023d}"
            if used not in self.oracle.plans:
                return used
        return f"{self.chance.choice(('00A', '01J', '7ZZ'))}{self._number:023d}"

    def _some(self) -> str | None:
        return self.chance.choice(sorted(self.oracle.plans)) if self.oracle.plans else None

    def insert(self) -> None:
        """Insert as the former release does: a root without root, a child with or without."""
        key, parent = self._key(), self._some() if self.chance.random() < 0.8 else None
        root = self.oracle.plans[parent].root if parent and self.chance.random() < 0.4 else None
        profile = self.chance.choice((None, "", " \t", _PROFILE))
        values = {"key": key, "parent": parent, "root": root, "profile": profile}
        self._write(_INSERT, **values)
        self.oracle.insert(key, parent, root, profile, "{}")

    def write_back(self) -> None:
        """Read a plan and write its columns back, as the former release saves."""
        key = self._some()
        if key is None:
            return
        with self.engine.begin() as connection:
            row = _rows(connection, "WHERE plan_id = :key", key=key)[key]
            connection.execute(
                text(
                    "UPDATE v3_plans SET root_plan_id = :root, automation_profile = :profile,"
                    " error_message = 'seen' WHERE plan_id = :key"
                ),
                {"key": key, "root": row[1], "profile": row[2]},
            )
        self.steps.append(f"write back {key}")

    def rename(self) -> None:
        """Set a bare profile name by plain SQL."""
        key = self._some()
        if key is None:
            return
        name = self.chance.choice(("trusted", "ci", "balanced", _PROFILE))
        self._write(
            "UPDATE v3_plans SET automation_profile = :name WHERE plan_id = :key",
            key=key, name=name,
        )  # fmt: skip
        self.oracle.plans[key].profile = name

    def delete(self, key: str | None = None) -> None:
        """Delete a plan; one that others name as their root must be refused."""
        key = key or self._some()
        if key is None:
            return
        with self.engine.connect() as connection:
            rows = _rows(connection)
        recorded = {other for other, row in rows.items() if row[1] is not None}
        named = any(row[1] == key != other for other, row in rows.items())
        try:
            self._write("DELETE FROM v3_plans WHERE plan_id = :key", key=key)
        except IntegrityError:
            if not named:
                raise
            return
        if named:
            raise Fault(f"{key} was deleted, and others name it as their root")
        self.oracle.delete(key, recorded)

    def delete_leaf(self) -> None:
        """Delete a plan that has no child: what it leaves does not depend on a backfill beside."""
        parents = {plan.parent for plan in self.oracle.plans.values()}
        leaves = sorted(self.oracle.plans.keys() - parents)
        if leaves:
            self.delete(self.chance.choice(leaves))

    def insert_by_library(self) -> None:
        """Create a plan, or spawn one, and add it."""
        parent = self._some() if self.chance.random() < 0.7 else None
        with Session(self._library()) as session:
            plans = PlanRepository(session)
            profile = self.chance.choice((None, "ci", "trusted"))
            if parent is not None and plans.get(parent).is_final:
                return
            if parent is None:
                plan = Plan.create("local/fuzz", profile=profile)
            else:
                plan = plans.get(parent).spawn("deeper", profile=profile)
            plans.add(plan)
            session.commit()
        with self.engine.connect() as connection:
            row = _rows(connection, "WHERE plan_id = :key", key=plan.plan_id)[plan.plan_id]
        self.oracle.plans[plan.plan_id] = Expected(
            parent, self.oracle.plans[parent].root if parent else plan.plan_id,
            row[2], plan.effective_profile_snapshot, recorded=True,
        )  # fmt: skip
        if plan.effective_profile_snapshot == "{}":
            raise Fault(f"{plan.plan_id} was added without a snapshot")
        self.steps.append(f"library insert {plan.plan_id} under {parent}")

    def step_by_library(self) -> None:
        """Take one allowed step of a plan and save it; the plan read before is stale then."""
        key = self._some()
        if key is None:
            return
        with Session(self._library()) as session:
            plans = PlanRepository(session)
            before = plans.get(key)
            possible = [step for step in _STEPS if step in before.allowed_steps]
            if possible:
                after = getattr(before, self.chance.choice(possible))()
                plans.save(after)
                session.commit()
                self.oracle.saved(key)
                try:
                    plans.save(after)
                except PlanConflict:
                    session.rollback()
                else:
                    raise Fault(f"a stale save of {key} was accepted")
        self.steps.append(f"library step {key}")

    def _library(self) -> Engine:
        return open_engine(self.url, poolclass=NullPool)

    def migrate(self) -> None:
        """Go up or down, undisturbed."""
        self._migrate(self.chance.choice((FORMER, NEW)))

    def kill(self) -> None:
        """Go up or down in a process that is killed before one of its statements."""
        goal = self.chance.choice((FORMER, NEW))
        # A run sends some 100 statements: the first and the last are as likely as others.
        point = self.chance.choice((self.chance.randrange(5, 40), self.chance.randrange(5, 160)))
        ended = Migration(
            self.url, _GOALS[goal], "report-every=60", victim=("--die-at", str(point))
        ).ended()
        self.steps.append(f"to {goal}, killed at {point}: {ended.status}")
        if ended.killed:
            if not self.sqlite:
                self.oracle.at = BETWEEN
        elif ended.status == 0:
            self.oracle.arrived(goal)
        else:
            raise Fault(ended.said)
        self.check()

    def migrate_beside_a_writer(self) -> None:
        """Go up or down on PostgreSQL while the former release goes on writing."""
        goal = self.chance.choice((FORMER, NEW))
        if self.oracle.at == NEW:
            roll_back(self.url, _WRITABLE[NEW])
        running = Migration(self.url, _WRITABLE[goal], "report-every=60")
        # The new release starts when the upgrade has returned, and stops before a downgrade.
        self.oracle.at = BETWEEN
        while running.running:
            self.chance.choice((self.insert, self.delete_leaf, self.write_back))()
        ended = running.ended()
        self.steps.append(f"to {goal}, written to meanwhile: {ended.status}")
        if ended.status:
            raise Fault(ended.said)
        if goal == NEW:
            migrate(self.url, "head")
        self.oracle.arrived(goal)
        self.check()

    def _migrate(self, goal: str) -> None:
        ended = Migration(self.url, _GOALS[goal], "report-every=60").ended()
        self.steps.append(f"to {goal}: {ended.status}")
        if ended.status:
            raise Fault(ended.said)
        self.oracle.arrived(goal)
        self.check()

    def _settle(self) -> None:
        for goal in (NEW, FORMER, NEW):
            self._migrate(goal)
        with Session(self._library()) as session:
            read = {plan.plan_id: plan for plan in PlanRepository(session).stream()}
        for key, plan in self.oracle.plans.items():
            if read[key].root_plan_id != plan.root:
                raise Fault(f"the library reads {read[key].root_plan_id} as the root of {key}")

    def check(self) -> None:
        """
        Compare every row with the oracle.

        Raises:
            Fault: They differ.
        """
        with self.engine.connect() as connection:
            faults = self.oracle.faults(_rows(connection))
        if faults:
            raise Fault("\n".join(faults[:10]))

    def _write(self, statement: str, **values: str | None) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)
        self.steps.append(f"{statement.split()[0]} {values}")


def _raw_engine(url: str) -> Engine:
    engine = create_engine(url, poolclass=NullPool)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _enforce(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA foreign_keys = ON")

    return engine


def _rows(
    connection: Connection, where: str = "", **values: str
) -> dict[str, tuple[str | None, str | None, str | None, str]]:
    # The snapshot is there at some revisions only.
    found = connection.execute(text(f"SELECT * FROM v3_plans {where}"), values).mappings()
    return {
        row["plan_id"]: (
            row["parent_plan_id"],
            row["root_plan_id"],
            row["automation_profile"],
            row.get("effective_profile_snapshot", "{}"),
        )
        for row in found
    }


def fuzz(engine: str, seconds: float, seed: int) -> Counter[str]:
    """
    Run sequences of half a minute on *engine* for so many *seconds*; count what was done.

    Raises:
        Fault: With the seed of its sequence and the steps that led there.
    """
    counts: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with (
            tempfile.TemporaryDirectory(prefix="fuzz") as folder,
            empty_database(engine, Path(folder)) as url,
        ):
            try:
                Sequence(url, seed).run(min(until, time.monotonic() + 30), counts)
            except Fault as fault:
                raise Fault(f"{engine}, seed {seed}: {fault}") from fault
        counts["sequences"] += 1
        seed += 1
    return counts


def main() -> int:
    """Fuzz from the command line; each engine gets an equal share of the time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    engines = options.engine or ENGINES
    for engine in engines:
        try:
            counts = fuzz(engine, options.seconds / len(engines), options.seed)
        except Fault as fault:
            print(fault, file=sys.stderr)
            return 1
        done = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        print(f"{engine}, seed {options.seed}: no fault in {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
