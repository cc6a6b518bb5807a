"""The whole of a preflight."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from alembic.config import Config
from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.foreseen import (
    Backfill,
    ExclusiveLock,
    Foreseen,
    IndexBuild,
    Rebuild,
    gathering,
)
from cleveragents_plans.evolution.postgresql.alterations import TableUnfit
from cleveragents_plans.evolution.postgresql.checks import CheckViolated
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.event_trigger_trials import EventTriggerRefuses
from cleveragents_plans.evolution.postgresql.poolers import refuse_pooler
from cleveragents_plans.evolution.postgresql.session_rights import (
    refuse_missing_session_rights,
    unmeasured,
)
from cleveragents_plans.evolution.printable import equals, identifier
from cleveragents_plans.evolution.recipes.parent_trees import CycleFound, ParentTree
from cleveragents_plans.evolution.runner.alembic_internals import command_to
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite.disk_space import require_disk_space, unused_bytes
from cleveragents_plans.evolution.sqlite.inodes import require_inode
from cleveragents_plans.evolution.sqlite.journal import journal_of_run
from cleveragents_plans.evolution.sqlite.lock_holders import HELD, lock_holders
from cleveragents_plans.evolution.sqlite.pragmas import file_of
from cleveragents_plans.evolution.sqlite.temporary_files import (
    require_temporary_files,
    require_temporary_inode,
)
from cleveragents_plans.evolution.sqlite.writable_file import require_writable
from cleveragents_plans.persistence import Base
from cleveragents_plans.persistence.sessions import PLANS
from cleveragents_plans.preflight import postgresql, sqlite
from cleveragents_plans.preflight.costs import Counted, costs
from cleveragents_plans.preflight.findings import Block, Lock, Preflight, Write
from cleveragents_plans.preflight.refusals import Ahead, look_ahead
from cleveragents_plans.preflight.replicas import replicas_of, slots_of
from cleveragents_plans.preflight.sample import run_on_sample
from cleveragents_plans.preflight.sessions import sessions_ahead
from cleveragents_plans.schema.database import Database, read_database, try_database
from cleveragents_plans.schema.foreign_key_triggers import disabled_foreign_keys
from cleveragents_plans.schema.under_way import is_paused, runs_under_way, ways_to_wait

# Plans in the sample of a SQLite file.
_SAMPLED = 20_000


def preflight(config: Config, down: str | None = None) -> Preflight:
    """
    Find out what an upgrade to the newest revision, or a downgrade, would refuse and take.

    Nothing is changed. On PostgreSQL what the revisions try out before a run, and some batches of
    it, are tried out in a transaction that is rolled back; a standby is only read. SQLite is read
    in slices, and the run is made on a sample of it.

    Args:
        config: See `cleveragents_plans.schema.chain_config`.
        down: Where a downgrade would lead; None is the upgrade.

    Raises:
        CommandError: The database cannot be read, or *down* is no revision.
    """
    with read_database(config, "preflight") as database:
        if not database.on_postgresql:
            return _on_sqlite(config, database, down)
        lacks = _lacking(database)
        if lacks.refusals:
            return _unseen(lacks, down)
        if blocks := _under_way(database):
            return _unseen(lacks, down, blocks)
        grants = unmeasured(database.connection)
        replicas = () if grants else replicas_of(database.connection)
        slots = () if grants else slots_of(database.connection)
        if database.connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one():
            found = _on_postgresql(database, down, Foreseen(), tries=False)
            return found.model_copy(update={"replicas": replicas, "slots": slots})
        database.connection.rollback()  # in a transaction a pooler would not show
        with gathering() as session, session.looking("session"):
            refuse_pooler(database.connection, database.shown)
    # The session has ended: it would be one more client, with one more snapshot.
    with try_database(config, "preflight") as database:
        found = _on_postgresql(database, down, session, tries=True)
        return found.model_copy(update={"replicas": replicas, "slots": slots})


def _lacking(database: Database) -> Foreseen:
    """Gather the rights that are missing, without which nothing else can be looked at."""
    tables = [*Base.metadata.tables, database.options.version_table]
    with gathering() as found, found.looking("rights"):
        refuse_missing_session_rights(database.connection, tables, database.schema, database.shown)
    return found


def _under_way(database: Database) -> list[Block]:
    """Name a run between two versions: what it leaves is not known before its end."""
    unfinished = database.position.unfinished
    migrating = [each for each in runs_under_way(database) if each.pid] if unfinished else []
    if unfinished is None or not migrating:
        return []
    ways = ways_to_wait(database, migrating, (), paused=is_paused(database))
    said = f"the {unfinished.direction} of {unfinished.revision} is under way, by"
    return [Block(found=f"{said} {'; '.join(map(str, migrating))}", remedy="; ".join(ways))]


def _unseen(found: Foreseen, down: str | None, blocks: Sequence[Block] = ()) -> Preflight:
    direction = "upgrade" if down is None else "downgrade"
    return Preflight(
        **_gathered(Ahead(found), direction, [*blocks]),
        rows=None,
        writes=(),
        depth=None,
        indexes=(),
        locks=(),
        replicas=(),
        slots=(),
        estimate=None,
        disk=None,
    )


def _on_postgresql(
    database: Database, down: str | None, session: Foreseen, *, tries: bool
) -> Preflight:
    direction, goal = ("upgrade", "head") if down is None else ("downgrade", down)
    script, connection = database.migration.script, database.connection
    assert script is not None  # noqa: S101  # it was configured with one
    has_plans = PLANS.name in database.position.tables
    grants = unmeasured(connection)
    database.lock_tables()
    with gathering() as found:
        found.topics += session.topics
        found.troubled |= session.troubled
        found.refusals += session.refusals
        begun = time.perf_counter()
        with database.heartbeat("checking what the run would refuse"):
            ahead = look_ahead(database, command_to(script, goal, direction), found)
        looked = time.perf_counter() - begun
        backfills = [each for each in found.operations if isinstance(each, Backfill)]
        indexes = [each.name for each in found.operations if isinstance(each, IndexBuild)]
        with database.heartbeat("counting the rows to be written"):
            counted = [*filter(None, (_counted(connection, each) for each in backfills))]
        depth = postgresql.depth_of(database, PLANS.name) if has_plans and ahead.steps else None
        tables = [each.table for each in found.operations if isinstance(each, ExclusiveLock)]
        blocks = [*sessions_ahead(connection, tables, builds_indexes=bool(indexes))]
        if grants:
            found.unchecked.append(f"replicas, statistics, trials: {grants} first")
        if has_plans and ahead.steps and not grants:
            with found.looking("statistics"):
                warning = postgresql.statistics_warning(connection, database.table(PLANS.name))
                found.warnings += [warning] if warning else []
        if has_plans and ahead.steps:
            with found.looking("triggers of foreign keys"):
                found.warnings += map(": ".join, disabled_foreign_keys(database))
        estimate, disk = None, None
        # A trial runs the triggers of the tables, whose owner this role may have to mistrust.
        mistrusted = bool(found.troubled & {"rights", "owners"})
        # What would refuse the rows is told already, and would be told once more.
        told = (CheckViolated, TableUnfit, EventTriggerRefuses)
        refuses = any(isinstance(each, told) for each in found.refusals)
        if tries and not grants and ahead.steps and not mistrusted and not refuses:
            settings = Settings.of(database.migration.environment_context)
            with database.heartbeat("trying batches and index builds"), found.looking("trials"):
                estimate, disk = costs(connection, counted, found.operations, settings, looked)
    writes = tuple(each.write for each in counted)
    return Preflight(
        **_gathered(ahead, direction, blocks, database.schema),
        rows=_rows(database, writes) if has_plans else None,
        writes=writes,
        depth=depth,
        indexes=tuple(indexes),
        locks=postgresql.locks_of(found.operations),
        replicas=(),
        slots=(),
        estimate=estimate,
        disk=disk,
    )


def _counted(connection: Connection, backfill: Backfill) -> Counted | None:
    begun = time.perf_counter()
    write = postgresql.count_writes(connection, backfill)
    return Counted(backfill, write, time.perf_counter() - begun) if write else None


def _rows(database: Database, writes: Sequence[Write]) -> int:
    table = database.table(PLANS.name)
    for write in writes:
        if write.table == table and write.rows is not None:
            return write.of
    found: int = run(database.connection, f"SELECT count(*) FROM {table}").scalar_one()
    return found


def _on_sqlite(config: Config, database: Database, down: str | None) -> Preflight:
    direction, goal = ("upgrade", "head") if down is None else ("downgrade", down)
    begun = time.monotonic()
    connection = database.connection
    file = file_of(connection)
    holders = _holders(file)
    script = database.migration.script
    assert script is not None  # noqa: S101  # it was configured with one
    stored = database.position.tables
    writes: list[Write] = []
    depth, rows, sample = None, None, None
    with gathering() as found:
        with found.looking("writable file"):
            require_writable(connection)
        with database.heartbeat("checking what the run would refuse"):
            ahead = look_ahead(database, command_to(script, goal, direction), found)
        connection.rollback()  # a writer would wait
        if ahead.steps:
            with found.looking("disk space"):
                require_inode(connection)
            with found.looking("temporary files"):
                require_temporary_inode(connection)
            sqlite.check_file(database, file, found)
            connection.rollback()
            _try_schema(found, config, file, direction, goal)
        known = [e for e in found.operations if isinstance(e, Rebuild) and e.table in stored]
        rebuilds = {each.table: each for each in known}.values()
        needed = 0
        for rebuild in rebuilds:
            with found.looking("disk space"):
                journal = journal_of_run(connection)
                needed += require_disk_space(connection, rebuild.table, journal)
            with found.looking("temporary files"):
                require_temporary_files(connection, rebuild.table)
            connection.rollback()
        with database.heartbeat("counting the rows to be written"):
            writes += [sqlite.count_writes(database, each) for each in rebuilds]
        for tree in [each for each in found.operations if isinstance(each, ParentTree)]:
            if tree.table not in stored:
                continue
            with database.heartbeat("looking for cycles and missing parents"):
                scan = sqlite.scan_tree(database, tree)
            depth = scan.depth
            with found.looking("cycles and parents"):
                sqlite.report_tree(tree, scan)
        if PLANS.name in stored:
            counted = next((each.of for each in writes if each.table == PLANS.name), None)
            rows = counted if counted is not None else sqlite.count_rows(database, PLANS.name)
        if ahead.steps and not found.refusals:
            trying = database.heartbeat(f"trying the {direction} on a sample of the rows")
            with trying, gathering(), found.looking("sample of the rows"):
                sample = run_on_sample(file, config, direction, goal, PLANS.name, _SAMPLED)
    if holders:
        time.sleep(max(0.0, HELD - (time.monotonic() - begun)))
        holders &= _holders(file)
    blocks = [
        Block(found=f"{file} is in use: {said}", remedy=f"wait, or end process {pid}")
        for pid, said in sorted(holders)
    ]
    lock = Lock(name="EXCLUSIVE", on=str(file), times=1)
    estimate, disk = None, None
    if sample:
        estimate, disk = sqlite.costs(file, sample, rows or 0, needed, unused_bytes(connection))
        connection.rollback()
    return Preflight(
        **_gathered(ahead, direction, blocks),
        rows=rows,
        writes=tuple(writes),
        depth=depth,
        indexes=(),
        locks=(lock,) if ahead.steps else (),
        replicas=(),
        slots=(),
        estimate=estimate,
        disk=disk,
    )


def _holders(file: Path) -> set[tuple[int, str]]:
    return {(each.pid, str(each)) for each in lock_holders(file) if each.pid != os.getpid()}


def _try_schema(found: Foreseen, config: Config, file: Path, direction: str, goal: str) -> None:
    """Let the run refuse what it finds in the schema, in a copy that has no rows."""
    with gathering() as there, found.looking("schema"):
        run_on_sample(file, config, direction, goal, PLANS.name, 0)
    found.operations += there.operations


def _gathered(
    ahead: Ahead, direction: str, blocks: list[Block], schema: str | None = None
) -> dict[str, object]:
    found = ahead.found
    refused = [Block(found=str(error), remedy=_remedy(error, schema)) for error in found.refusals]
    return {
        "direction": direction,
        "steps": tuple(ahead.steps),
        "blocks": (*refused, *blocks),
        "warnings": tuple(dict.fromkeys(found.warnings)),
        "passed": tuple(found.passed),
        "unchecked": tuple(dict.fromkeys(found.unchecked)),
    }


def _remedy(error: EvolutionError, schema: str | None) -> str | None:
    """Give a statement where the words of the run have none; *schema* is None on SQLite."""
    if not isinstance(error, CycleFound):
        return None
    first = str(error.cycles[0][0]).replace("'", "''")
    table = error.table if schema is None else f"{identifier(schema)}.{error.table}"
    return (
        f"UPDATE {table} SET parent_plan_id = NULL WHERE plan_id "
        f"{equals(on_postgresql=schema is not None)} '{first}', or its true parent"
    )
