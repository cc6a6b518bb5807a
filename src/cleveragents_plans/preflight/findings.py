"""What a preflight finds, in parts that a report prints."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Block(_Part):
    """Something for which the run would be refused, or for which it would wait."""

    found: str = Field(description="What it is; of a refusal, the words of the run.")
    remedy: str | None = Field(description="What ends it; null where *found* says so.")


class Write(_Part):
    """Rows that are written for one purpose."""

    table: str = Field(description="The table.")
    label: str = Field(description="The purpose.")
    rows: int | None = Field(description="How many rows; null if it cannot be found out yet.")
    of: int = Field(description="How many rows the table has.")
    columns: dict[str, int] = Field(description="Of these rows, those that lack each column.")


class Replica(_Part):
    """A replica, or another program that reads the write-ahead log."""

    name: str = Field(description="Its application_name.")
    host: str | None = Field(description="Its address; null for a local socket, or if hidden.")
    state: str | None = Field(description="Its state; null if hidden.")
    bytes_behind: int | None = Field(description="WAL that it has not replayed; null if hidden.")
    seconds_behind: float | None = Field(description="replay_lag; null while it is idle.")


class Slot(_Part):
    """A replication slot, which keeps write-ahead log."""

    name: str = Field(description="Its name.")
    kind: str = Field(description="physical or logical.")
    active: bool = Field(description="Whether it is in use.")
    bytes_kept: int | None = Field(description="WAL that it keeps.")


class Estimate(_Part):
    """How long the run takes, if the server stays as it is."""

    seconds: float = Field(description="The estimate.")
    least: float = Field(description="The lower end of its range, in seconds.")
    most: float = Field(description="The upper end of its range, in seconds.")


class Disk(_Part):
    """Disk space, in bytes."""

    least: int = Field(description="By how much the files of the database grow at least.")
    most: int = Field(description="And at most; on SQLite, what is needed for a while.")
    wal: int | None = Field(description="Write-ahead log that is written; null on SQLite.")
    free: int | None = Field(description="What is free; null where it cannot be seen from here.")


class Lock(_Part):
    """A lock that is taken several times, for milliseconds each."""

    name: str = Field(description="The lock, as PostgreSQL names it; on SQLite, that of the file.")
    on: str = Field(description="The table, or the file.")
    times: int = Field(description="How often.")


class Preflight(_Part):
    """What was found."""

    direction: str = Field(description="upgrade or downgrade.")
    steps: tuple[str, ...] = Field(description="The revisions that would be run, in order.")
    blocks: tuple[Block, ...] = Field(description="What a person must see to first.")
    warnings: tuple[str, ...] = Field(description="What the run would warn of.")
    passed: tuple[str, ...] = Field(description="What was looked at, and is in order.")
    unchecked: tuple[str, ...] = Field(description="What could not be looked at.")
    rows: int | None = Field(description="How many plans there are; null without their table.")
    writes: tuple[Write, ...] = Field(description="What is written.")
    depth: int | None = Field(
        description="Plans from a root to the deepest plan below it, of those that were sampled."
    )
    indexes: tuple[str, ...] = Field(description="The indexes that are built.")
    locks: tuple[Lock, ...] = Field(description="The strong locks that are taken.")
    replicas: tuple[Replica, ...] = Field(description="Replicas, as the server sees them.")
    slots: tuple[Slot, ...] = Field(description="Replication slots.")
    estimate: Estimate | None = Field(description="The time; null if it cannot be estimated.")
    disk: Disk | None = Field(description="Disk space; null if it cannot be estimated.")

    @property
    def ready(self) -> bool:
        """Whether the run can begin."""
        return not self.blocks
