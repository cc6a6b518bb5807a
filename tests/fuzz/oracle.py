"""
What roots, profiles and snapshots must be, worked out without the package.

The oracle is told of every write that succeeded. It keeps what each plan *means* (its root,
its profile, its snapshot) and says which values a column may hold at a revision.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

#: Between two revisions a PostgreSQL database may hold both forms.
FORMER, NEW, BETWEEN = "former", "new", "between"

_WRAPPED = re.compile(r'\{ "profile_name": "([^"\\]*)", "provenance": null \}')


def blank(profile: str | None) -> bool:
    """Tell whether a profile column says that the default was meant."""
    return profile is None or not profile.strip(" \t\n\r\f\v") or profile == "balanced"


def meaning(profile: str | None) -> str:
    """Give one spelling to the values of a profile column that mean the same."""
    if profile is None or blank(profile):
        return "balanced"
    wrapped = _WRAPPED.fullmatch(profile)
    return wrapped[1] if wrapped else profile


@dataclass
class Expected:
    """One plan, as it should be read."""

    parent: str | None
    root: str
    profile: str | None
    snapshot: str = "{}"
    #: Whether its root was written down, by a client or by a migration that has ended.
    recorded: bool = False


@dataclass
class Oracle:
    """Every plan of one database, and the revision that it is at."""

    plans: dict[str, Expected] = field(default_factory=dict)
    at: str = FORMER

    def insert(
        self, key: str, parent: str | None, root: str | None, profile: str | None, snapshot: str
    ) -> None:
        """Note an INSERT; a root that was left out is that of the parent, or the plan itself."""
        inherited = self.plans[parent].root if parent else key
        recorded = root is not None or self.at == NEW
        self.plans[key] = Expected(parent, root or inherited, profile, snapshot, recorded)

    def delete(self, key: str, recorded: set[str]) -> None:
        """
        Note a DELETE of a plan that is not the root of others.

        *recorded* are the plans whose root column was not NULL just before.
        """
        del self.plans[key]
        for child, plan in self.plans.items():
            if plan.parent == key:
                plan.parent = None
                if child not in recorded:
                    self._reroot(child, child, recorded)

    def _reroot(self, key: str, root: str, recorded: set[str]) -> None:
        self.plans[key].root = root
        for child, plan in self.plans.items():
            if plan.parent == key and child not in recorded:
                self._reroot(child, root, recorded)

    def saved(self, key: str) -> None:
        """Note that the library wrote a plan: a profile, but the default, becomes an object."""
        plan = self.plans[key]
        name = meaning(plan.profile)
        if name != "balanced":
            reference = (
                json.loads(name)
                if name.startswith("{")
                else {"profile_name": name, "provenance": None}
            )
            plan.profile = json.dumps(reference, sort_keys=True, separators=(",", ":"))

    def arrived(self, at: str) -> None:
        """Note that a migration has ended at a revision."""
        self.at = at
        for plan in self.plans.values():
            if at == NEW:
                plan.recorded = True
                plan.profile = meaning(plan.profile)

    def faults(self, rows: dict[str, tuple[str | None, str | None, str | None, str]]) -> list[str]:
        """Compare the *rows* of the table: parent, root, profile, snapshot, by plan."""
        found = [f"{key} is missing" for key in self.plans.keys() - rows.keys()]
        found += [f"{key} should not be there" for key in rows.keys() - self.plans.keys()]
        for key in self.plans.keys() & rows.keys():
            plan, (parent, root, profile, snapshot) = self.plans[key], rows[key]
            wrong = {
                "parent": parent != plan.parent,
                "root": not self._root_may_be(key, plan, root),
                "profile": not self._profile_may_be(plan, profile),
                "snapshot": self.at == NEW and snapshot != plan.snapshot,
            }
            read = {"parent": parent, "root": root, "profile": profile, "snapshot": snapshot}
            found += [
                f"{self.at}: {name} of {key} is {read[name]!r}, expected {plan}"
                for name, is_wrong in wrong.items()
                if is_wrong
            ]
        return found

    def _root_may_be(self, key: str, plan: Expected, root: str | None) -> bool:
        if root is not None:
            own = self.at == FORMER and root == key and plan.parent is None
            # The former release wrote NULL for the root of a root plan, and reads only that.
            return root == plan.root and not (own and plan.recorded)
        if self.at == NEW:
            return False
        return not plan.recorded or self.at == BETWEEN or (plan.parent is None and plan.root == key)

    def _profile_may_be(self, plan: Expected, profile: str | None) -> bool:
        if self.at == NEW:
            return profile == meaning(plan.profile)
        if self.at == FORMER and profile is not None and not blank(profile):
            # It parses the column as JSON.
            return profile.startswith("{") and meaning(profile) == meaning(plan.profile)
        return meaning(profile) == meaning(plan.profile) and not (
            self.at == FORMER and profile == "balanced"
        )
