"""What can go wrong between plans and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sqlalchemy.exc import OperationalError

from cleveragents_plans.domain.errors import PlansError, shown


@dataclass(eq=False)
class DatabaseUrlError(PlansError, ValueError):
    """
    The text names no database that can be opened.

    The text itself is never repeated: it may hold a password.
    """

    #: What is wrong, and what was expected.
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class SchemaMissing(PlansError):
    """The database lacks a table or a column that the chain makes."""

    http_status: ClassVar[int] = 503

    #: What the database says, in one line.
    reason: str
    #: The URL of the database, without its password.
    url: str
    #: Where a table was looked for, as PostgreSQL 18 and newer tell it; else None.
    search_path: str | None = None

    def __str__(self) -> str:
        looked = ""
        if self.search_path is not None:
            looked = (
                f"; search_path is {shown(self.search_path)}: if the tables are in another "
                "schema, set it to that one"
            )
        return (
            f"the database has no schema of this release ({self.reason}{looked}); "
            f"run: cleveragents-plans upgrade --url '{self.url}'"
        )


class DatabaseMissing(PlansError, OperationalError):
    """There is no SQLite file where the URL says, and none is created."""

    http_status: ClassVar[int] = 503

    def __init__(self, url: str, path: str, orig: BaseException) -> None:
        OperationalError.__init__(self, None, None, orig)
        #: The URL of the database.
        self.url = url
        #: The path of the file.
        self.path = path

    def __str__(self) -> str:
        return (
            f"there is no file at {shown(self.path)}; correct the URL, or create the database in a "
            f"folder that exists: cleveragents-plans upgrade --create --url '{self.url}'"
        )


class DatabaseLocked(PlansError, OperationalError):
    """Another connection had the SQLite file locked for as long as this one waits."""

    http_status: ClassVar[int] = 503

    def __init__(self, reason: str, url: str, waited: float | None, orig: BaseException) -> None:
        OperationalError.__init__(self, None, None, orig)
        #: What the database says, in one line.
        self.reason = reason
        #: The URL of the database.
        self.url = url
        #: For how many seconds the connection waits; None where it cannot be asked.
        self.waited = waited

    def __str__(self) -> str:
        waited = "" if self.waited is None else f" for {self.waited:g} s, as long as this one waits"
        return (
            f"{self.reason}: another connection writes to {self.url}{waited}; try again, keep "
            "transactions that write short, and read by read_only(engine), which waits for none"
        )


@dataclass(eq=False)
class DatabaseReadOnly(PlansError):
    """Nothing can be written: to a standby, in a read-only transaction, to a read-only file."""

    http_status: ClassVar[int] = 503
    #: What the database says, in one line.
    reason: str
    #: The URL of the database, without its password.
    url: str
    #: What to do.
    remedy: str = (
        "only the methods that read can be used: write to the primary of a standby, or make the "
        "file writable"
    )

    def __str__(self) -> str:
        return f"nothing can be written to {self.url} ({self.reason}); {self.remedy}"


@dataclass(eq=False)
class EncodingMismatch(PlansError, ValueError):
    """The encoding of a PostgreSQL database, or of a connection to it, cannot hold a text."""

    http_status: ClassVar[int] = 422

    #: What the database says, in one line.
    reason: str

    def __str__(self) -> str:
        return (
            f"a text does not fit the encoding of the database: {self.reason}; "
            "plans keep every character in a database whose encoding is UTF8"
        )


class ForeignKeysOff(PlansError):
    """A SQLite connection does not enforce foreign keys, so that rows would lose their plan."""

    def __str__(self) -> str:
        return (
            "this SQLite connection does not enforce foreign keys (PRAGMA foreign_keys is 0), and "
            "rows would be left that belong to no plan; open the database by open_engine() or "
            "open_async_engine()"
        )


@dataclass(eq=False)
class ChildrenNotLoaded(PlansError):
    """A row object was loaded without child rows that its plan consists of."""

    #: The relations that are missing.
    relations: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{', '.join(self.relations)} of the row were not loaded, and are parts of its plan; "
            "load it with options(*LifecyclePlanModel.with_children())"
        )


@dataclass(eq=False)
class PlanNotFound(PlansError, LookupError):
    """No plan has this id."""

    http_status: ClassVar[int] = 404

    plan_id: str

    def __str__(self) -> str:
        return f"no plan {shown(self.plan_id)} is stored; list the plans to see which are"


@dataclass(eq=False)
class PlanAlreadyStored(PlansError):
    """A plan with this id is stored already, or comes twice among those to be added."""

    http_status: ClassVar[int] = 409

    plan_id: str

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} is stored already, or comes twice; use save() to store what "
            "became of it"
        )


@dataclass(eq=False)
class PlanConflict(PlansError):
    """
    An optimistic lock was lost: another writer changed the plan after it was read.

    Nothing of this write was kept. In READ COMMITTED, and on SQLite, the plan can be read again in
    the same transaction. REPEATABLE READ and SERIALIZABLE go on seeing the old plan: the whole
    transaction is to be rolled back and begun again.
    """

    http_status: ClassVar[int] = 409

    plan_id: str
    #: Its ``updated_at`` when it was read.
    read: object

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} was changed or deleted by another writer since {self.read}, or "
            "your own write of that time was rolled back; read it again, in a new transaction, and "
            "repeat the step"
        )


class PlanNotStored(PlanConflict):
    """A plan that was to be saved or deleted is not stored: it never was, or was deleted."""

    http_status: ClassVar[int] = 404

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} is not stored: add() it if it is new; "
            "otherwise it was deleted since it was read"
        )


@dataclass(eq=False)
class RootInUse(PlansError):
    """A root cannot be deleted while other plans name it."""

    http_status: ClassVar[int] = 409

    plan_id: str
    #: How many other plans name it.
    named_by: int

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} is the root of {self.named_by} other plans; "
            "delete_tree() deletes them all, or delete those first"
        )


@dataclass(eq=False)
class CorruptPlanRow(PlansError):
    """A row holds something that no plan can hold."""

    #: The row's plan id, as found.
    plan_id: object
    #: The column, as ``v3_plans.phase``.
    column: str
    found: object
    #: What is wrong with it, or what a readable row has there.
    reason: str

    def __str__(self) -> str:
        return (
            f"plan {shown(self.plan_id)} cannot be read: {self.column} holds {shown(self.found)} "
            f"({self.reason}); repair the row or restore it from a backup"
        )


class NoLaterVersion(CorruptPlanRow):
    """A plan can be read, but not written, as its ``updated_at`` leaves no later one."""

    def __init__(self, plan_id: str, read: object) -> None:
        reason = "expected an earlier time, as each write needs a later one"
        super().__init__(plan_id, "v3_plans.updated_at", read, reason)

    @property
    def read(self) -> object:
        """Its ``updated_at``, which is the last time that there is."""
        return self.found

    def __str__(self) -> str:
        return (
            f"plan {shown(self.plan_id)} cannot be written: its updated_at is {self.read}, and "
            "each write needs a later one; correct updated_at in its row"
        )


@dataclass(eq=False)
class NotARoot(PlansError):
    """A whole tree was asked for by one of its branches."""

    http_status: ClassVar[int] = 409

    plan_id: str
    #: The root of its tree.
    root_plan_id: str

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} is no root: its tree is that of {self.root_plan_id}; "
            "name that one, or use get() and delete() for the single plan"
        )


@dataclass(eq=False)
class RelatedPlanMissing(PlansError):
    """A plan names a parent or a root that is not stored."""

    http_status: ClassVar[int] = 409

    plan_id: str
    #: The id that is not stored.
    missing: str

    def __str__(self) -> str:
        return (
            f"plan {self.plan_id} belongs under plan {self.missing}, which is not stored; "
            "add that one first"
        )


@dataclass(eq=False)
class PlanCycle(PlansError):
    """Plans that are to be added are under one another."""

    http_status: ClassVar[int] = 422

    #: The plans, each under the next, the last of them under the first.
    plan_ids: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"plans {', '.join(self.plan_ids)} are under one another; "
            "a tree has a root, which is under none"
        )
