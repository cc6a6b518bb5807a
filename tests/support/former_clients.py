"""Clients of the former release, which read and write plans while they are migrated."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from support.former_release import true_roots
from support.former_rows import COLUMNS
from support.online import client

_TIME = "2026-03-14T00:05:32.000000+00:00"
_COLUMNS = COLUMNS["v3_plans"]
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM v3_plans WHERE plan_id = %s"
_UPDATE = f"UPDATE v3_plans SET {', '.join(f'{c} = %s' for c in _COLUMNS[1:])} WHERE plan_id = %s"
_INSERT = (
    "INSERT INTO v3_plans (plan_id, parent_plan_id, root_plan_id, automation_profile,"
    " action_name, created_at, updated_at)"
    f" VALUES (%s, %s, %s, %s, 'local/tidy', '{_TIME}', '{_TIME}')"
)
_DELETE = "DELETE FROM v3_plans WHERE plan_id = %s"
_ROOT = "SELECT root_plan_id FROM v3_plans WHERE plan_id = %s"
_NAMED = "SELECT FROM v3_plans WHERE root_plan_id = %s AND plan_id <> %s"
# Before 18 as any foreign key that is violated, since then by its own name.
_REFUSED = (psycopg.errors.ForeignKeyViolation, psycopg.errors.RestrictViolation)
_PROFILE = json.dumps({"profile_name": "ci", "provenance": "plan"})


#: Seconds that a client waits for a lock; more is a failure.
MAX_LOCK_WAIT = 5


@dataclass
class Mine:
    """What one client has inserted to delete it again: no other client puts a plan below it."""

    leaves: list[str] = field(default_factory=list)
    #: A root, a plan below it, and one below that.
    families: list[tuple[str, str, str]] = field(default_factory=list)


class FormerClients:
    """
    Several clients that insert, update and delete plans as the former release does.

    They know the right root of every plan: that of its parent, at the time when it was
    inserted. Of the plans that one of them will delete, only its own are parents, and their
    children's right root is what is left: the root that was recorded before the deletion,
    otherwise the highest ancestor that there is afterwards.

    Attributes:
        roots: The right root of every plan that is not deleted.
        failures: Every error that a client got, and every root that was lost.
        done: How often each thing was done.
    """

    def __init__(self, url: str, clients: int = 4, seed: int = 0) -> None:
        self.url = url
        self._seed = seed
        self.roots = true_roots(url)
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        #: Whether a plan may be written back long after it was read.
        self.slow_writers = True
        self._before = frozenset(self.roots)
        self._parents = list(self.roots)
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(random.Random(seed * 100 + n),), daemon=True)
            for n in range(clients)
        ]

    def __enter__(self) -> FormerClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def _work(self, chance: random.Random) -> None:
        mine = Mine()
        things: list[Callable[[Any, random.Random, Mine], None]] = [
            self.insert_root,
            self.insert_child,
            self.insert_child_with_root,
            self.insert_child_where_the_backfill_is,
            self.insert_leaf,
            self.write_back,
            self.write_back,
            self.update_some,
            self.delete_leaf,
            self.insert_family,
            self.delete_middle,
            self.delete_root,
        ]
        with client(self.url) as connection:
            # Counted by the server, so that a busy machine is not taken for a lock.
            connection.execute(f"SET lock_timeout = '{MAX_LOCK_WAIT}s'")
            while not self._stop.is_set():
                thing = chance.choice(things)
                try:
                    thing(connection, chance, mine)
                except psycopg.Error as error:
                    self.failures.append(f"{thing.__name__}: {type(error).__name__} {error}")
                    if connection.closed:
                        return
                    connection.rollback()
                self.done[thing.__name__] += 1
                time.sleep(0.001)

    def _insert(
        self, connection: Any, chance: random.Random, parent: str | None, *, root: bool = False
    ) -> str:
        # Before, among and behind the keys that a batch has passed.
        key = f"{chance.choice(('00A', '01J', '7ZZ'))}{self._seed:03d}{next(self._numbers):020d}"
        right = key if parent is None else self.roots[parent]
        profile = chance.choice((None, "", _PROFILE))
        connection.execute(_INSERT, [key, parent, right if root else None, profile])
        self.roots[key] = right
        return key

    def insert_root(self, connection: Any, chance: random.Random, _mine: Mine) -> None:
        """Insert a plan without parent and root."""
        self._parents.append(self._insert(connection, chance, None))

    def insert_child(self, connection: Any, chance: random.Random, _mine: Mine) -> None:
        """Insert a child without root, anywhere."""
        parent = chance.choice(self._parents)
        self._parents.append(self._insert(connection, chance, parent))

    def insert_child_with_root(self, connection: Any, chance: random.Random, _mine: Mine) -> None:
        """Insert a child with its root, anywhere."""
        parent = chance.choice(self._parents)
        self._parents.append(self._insert(connection, chance, parent, root=True))

    def insert_child_where_the_backfill_is(
        self, connection: Any, chance: random.Random, _mine: Mine
    ) -> None:
        """Insert a child without root below a plan whose root is about to be written."""
        rows = connection.execute(
            "SELECT plan_id FROM v3_plans WHERE root_plan_id IS NULL AND plan_id > '01'"
            " AND plan_id < '7' ORDER BY plan_id LIMIT 20"
        ).fetchall()
        # Those that were there before; what others insert now may be a leaf to be deleted.
        known = [key for (key,) in rows if key in self._before]
        if known:
            self._parents.append(self._insert(connection, chance, chance.choice(known)))

    def insert_leaf(self, connection: Any, chance: random.Random, mine: Mine) -> None:
        """Insert a child without root that this client may delete."""
        mine.leaves.append(self._insert(connection, chance, chance.choice(self._parents)))

    def delete_leaf(self, connection: Any, chance: random.Random, mine: Mine) -> None:
        """Delete a plan without children."""
        if mine.leaves:
            key = mine.leaves.pop(chance.randrange(len(mine.leaves)))
            connection.execute(_DELETE, [key])
            del self.roots[key]

    def insert_family(self, connection: Any, chance: random.Random, mine: Mine) -> None:
        """Insert a root, a child and a grandchild, which this client may delete."""
        root = self._insert(connection, chance, None)
        middle = self._insert(connection, chance, root, root=chance.random() < 0.3)
        child = self._insert(connection, chance, middle, root=chance.random() < 0.3)
        mine.families.append((root, middle, child))

    def delete_middle(self, connection: Any, chance: random.Random, mine: Mine) -> None:
        """Delete a plan that has a parent and a child."""
        if not mine.families:
            return
        root, middle, child = mine.families.pop(chance.randrange(len(mine.families)))
        with connection.transaction():
            (before,) = connection.execute(_ROOT, [child]).fetchone()
            connection.execute(_DELETE, [middle])
            (after,) = connection.execute(_ROOT, [child]).fetchone()
        if before is not None and after != before:
            self.failures.append(f"delete_middle: {child} had root {before}, now {after}")
        del self.roots[middle]
        self.roots[child] = root if after == root else child

    def delete_root(self, connection: Any, chance: random.Random, mine: Mine) -> None:
        """Delete a root with descendants, which is refused as soon as one of them names it."""
        if not mine.families:
            return
        root, middle, child = mine.families.pop(chance.randrange(len(mine.families)))
        try:
            connection.execute(_DELETE, [root])
        except _REFUSED:
            self.done["refused"] += 1
            if connection.execute(_NAMED, [root, root]).fetchone() is None:
                raise
            return
        self.done["deleted root"] += 1
        del self.roots[root]
        self.roots[middle] = self.roots[child] = middle

    def write_back(self, connection: Any, chance: random.Random, _mine: Mine) -> None:
        """Read every column of a plan, and write them all back with a change."""
        key = chance.choice(self._parents)
        if self.slow_writers and chance.random() < 0.5:
            row = connection.execute(_SELECT, [key]).fetchone()
            time.sleep(chance.uniform(0, 0.05))
            connection.execute(_UPDATE, self._changed(row, chance))
            return
        with connection.transaction():
            row = connection.execute(_SELECT, [key]).fetchone()
            connection.execute(_UPDATE, self._changed(row, chance))

    def update_some(self, connection: Any, chance: random.Random, _mine: Mine) -> None:
        """Update three plans in one transaction."""
        with connection.transaction():
            for key in sorted(chance.sample(self._parents, 3)):
                connection.execute(
                    "UPDATE v3_plans SET reversion_count = 1 WHERE plan_id = %s", [key]
                )

    def _changed(self, row: tuple[Any, ...], chance: random.Random) -> list[Any]:
        values = dict(zip(_COLUMNS, row, strict=True))
        values["error_message"] = f"seen {chance.randrange(1000)} times"
        return [*(values[column] for column in _COLUMNS[1:]), values["plan_id"]]
