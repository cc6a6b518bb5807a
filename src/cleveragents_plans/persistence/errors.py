"""What can go wrong between plans and rows."""

from __future__ import annotations

from cleveragents_plans.domain.errors import PlansError, shown


class DatabaseUrlError(PlansError, ValueError):
    """
    The text names no database that can be opened.

    The text itself is never repeated: it may hold a password.
    """


class ForeignKeysOff(PlansError):
    """A SQLite connection does not keep foreign keys, so that rows would lose their plan."""

    def __str__(self) -> str:
        return (
            "this SQLite connection does not keep foreign keys (PRAGMA foreign_keys is 0), and "
            "rows would be left that belong to no plan; open the database by open_engine() or "
            "open_async_engine()"
        )


class PlanNotFound(PlansError, LookupError):
    """
    No plan has this id.

    Attributes:
        plan_id: The id that was looked for.
    """

    def __init__(self, plan_id: str) -> None:
        super().__init__(plan_id)
        self.plan_id = plan_id

    def __str__(self) -> str:
        return f"no plan {self.plan_id!r} is stored; list the plans to see which are"


class PlanAlreadyStored(PlansError):
    """
    A plan with this id is stored already, or comes twice among those to be added.

    Attributes:
        plan_id: The id that is taken.
    """

    def __init__(self, plan_id: str) -> None:
        super().__init__(plan_id)
        self.plan_id = plan_id

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} is stored already, or comes twice; use save() to store what "
            "became of it"
        )


class PlanConflict(PlansError):
    """
    Somebody else wrote the plan after it was read; nothing of this write was kept.

    Attributes:
        plan_id: The plan.
        read: Its ``updated_at`` when the loser read it.
    """

    def __init__(self, plan_id: str, read: object) -> None:
        super().__init__(plan_id, read)
        self.plan_id = plan_id
        self.read = read

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} was changed or deleted by somebody else since {self.read}; "
            "read it again and repeat the step"
        )


class PlanNotStored(PlanConflict):
    """
    A plan that was to be saved or deleted is not stored: it never was, or is not any more.

    Attributes:
        plan_id: The plan.
        read: Its ``updated_at``.
    """

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} is not stored: add() it if it is new; "
            "otherwise somebody deleted it since it was read"
        )


class NoLaterVersion(PlansError):
    """
    A plan cannot be written, as its ``updated_at`` leaves no later one.

    Attributes:
        plan_id: The plan.
        read: Its ``updated_at``, which is the last time that there is.
    """

    def __init__(self, plan_id: str, read: object) -> None:
        super().__init__(plan_id, read)
        self.plan_id = plan_id
        self.read = read

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} cannot be written: its updated_at is {self.read}, and each "
            "write needs a later one; correct updated_at in its row"
        )


class RootInUse(PlansError):
    """
    A root cannot be deleted while other plans name it.

    Attributes:
        plan_id: The root.
        named_by: How many other plans name it.
    """

    def __init__(self, plan_id: str, named_by: int) -> None:
        super().__init__(plan_id, named_by)
        self.plan_id = plan_id
        self.named_by = named_by

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} is the root of {self.named_by} other plans; "
            "delete_tree() deletes them all, or delete those first"
        )


class CorruptPlanRow(PlansError):
    """
    A row holds something that no plan can hold.

    Attributes:
        plan_id: The row's plan id, as found.
        column: The column, as ``v3_plans.phase``.
        found: What was found there.
        expected: What a readable row has there.
    """

    def __init__(self, plan_id: object, column: str, found: object, expected: str) -> None:
        super().__init__(plan_id, column, found, expected)
        self.plan_id = plan_id
        self.column = column
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id!r} cannot be read: {self.column} holds {shown(self.found)}, "
            f"expected {self.expected}; repair the row or restore it from a backup"
        )


class NotARoot(PlansError):
    """
    A whole tree was asked for by one of its branches.

    Attributes:
        plan_id: The plan that was named.
        root_plan_id: The root of its tree.
    """

    def __init__(self, plan_id: str, root_plan_id: str) -> None:
        super().__init__(plan_id, root_plan_id)
        self.plan_id = plan_id
        self.root_plan_id = root_plan_id

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} is no root: its tree is that of {self.root_plan_id}; "
            "name that one, or use get() and delete() for the single plan"
        )


class RelatedPlanMissing(PlansError):
    """
    A plan names a parent or a root that is not stored.

    Attributes:
        plan_id: The plan that was to be stored.
        missing: The id that is not stored.
    """

    def __init__(self, plan_id: str, missing: str) -> None:
        super().__init__(plan_id, missing)
        self.plan_id = plan_id
        self.missing = missing

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} belongs under plan {self.missing}, which is not stored; "
            "add that one first"
        )


class PlanCycle(PlansError):
    """
    Plans that are to be added are under one another.

    Attributes:
        plan_ids: The plans, each under the next, the last of them under the first.
    """

    def __init__(self, plan_ids: tuple[str, ...]) -> None:
        super().__init__(plan_ids)
        self.plan_ids = plan_ids

    def __str__(self) -> str:
        return (
            f"plans {', '.join(self.plan_ids)} are under one another; "
            "a tree has a root, which is under none"
        )
