"""
Measure what grows with the number of plans: the migration, reads, claims, vacuum and sizes.

    python benchmarks/scale.py --plans 1000000 10000000

A base of 100,000 plans of the former release is copied in SQL until there are enough: the copies
have ids and times of their own, later ones in each copy. Then ``alembic upgrade`` is run as an
operator types it. A table for each engine goes into ``scaling.md`` between its markers, as soon as
a size is done. With ten million plans it takes half an hour and 40 GB in the folder of
temporary files (TMPDIR).
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from sqlalchemy import Engine, text  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402

import page  # noqa: E402
from cleveragents_plans import PlanRepository, open_engine  # noqa: E402
from migration_runs import (  # noqa: E402
    NOTHING_KNOWN,
    PRESENT,
    SERVER,
    alembic,
    connected,
    former_release,
)
from server_cpu import cpu_seconds  # noqa: E402
from support.former_rows import COLUMNS  # noqa: E402
from support.postgres import PostgresServer, binaries  # noqa: E402

PAGE = "scaling.md"
PACKAGES = ("sqlalchemy", "alembic", "psycopg")
#: How many plans are written one by one; all others are copies of them.
BASE = 100_000
TABLES = ("v3_plans", "plan_projects", "plan_arguments", "plan_invariants")
_ROUNDS = 30
_CLAIMS = 300

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_IDS = ("plan_id", "parent_plan_id", "root_plan_id")
_TIMES = ("created_at", "updated_at", "completed_at")

#: By what is measured: a figure for each size, as it is shown.
Column = dict[str, str]


def copies(plans: int) -> Iterator[dict[str, str]]:
    """
    Give the statements that copy the base until there are *plans* plans, by table.

    Raises:
        ValueError: They are no whole number of copies, or there are too many.
    """
    base = min(plans, BASE)
    number, rest = divmod(plans, base)
    # The first two characters of a ULID, 01 in the base, leave so many.
    if rest or number > 250:
        raise ValueError(
            f"found {plans:,} plans; expected a multiple of {BASE:,} up to {250 * BASE:,}"
        )
    for copy in range(1, number):
        high, low = divmod(copy + 1, 32)
        prefix = _CROCKFORD[high] + _CROCKFORD[low]
        yield {table: _copied(table, prefix, copy) for table in TABLES}


def _copied(table: str, prefix: str, years: int) -> str:
    columns = COLUMNS[table]
    values = {name: f"'{prefix}' || substr({name}, 3)" for name in _IDS}
    values |= {
        name: f"CAST(CAST(substr({name}, 1, 4) AS INTEGER) + {years} AS TEXT) || substr({name}, 5)"
        for name in _TIMES
    }
    shown = ", ".join(values.get(name, name) for name in columns)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {shown} FROM {table}"
        " WHERE plan_id < '02'"
    )


def on_postgresql(plans: int, say: Callable[[str], None]) -> Column:
    """Measure *plans* plans on a server of their own."""
    server = PostgresServer(binaries()["postgresql-18"], SERVER)
    try:
        server.execute("CREATE DATABASE plans")
        url = server.url("plans")
        begun = perf_counter()
        former_release(url, min(plans, BASE))
        with connected(url) as connection:
            connection.execute(NOTHING_KNOWN)
            connection.execute("VACUUM (FULL)")
            # The rows are known to be sound: foreign keys need not be checked again.
            connection.execute("SET session_replication_role = replica")
            for statements in copies(plans):
                for statement in statements.values():
                    connection.execute(statement.encode())
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
        say(f"built in {perf_counter() - begun:.0f} s")
        found: Column = {}
        before = _sizes(url)
        for title, revision in (("m8_001", PRESENT), ("m8_002", "head")):
            found |= _migrated(url, title, revision, plans, lambda: cpu_seconds(server))
        after = _sizes(url)
        say(str(found))
        found["size of the table of plans, before"] = _megabytes(before.pop("v3_plans"))
        found["the same, after the upgrade"] = _megabytes(after.pop("v3_plans"))
        found |= {f"index {name}": _megabytes(size) for name, size in after.items()}
        found |= _vacuumed(url, plans)
        engine = open_engine(url)
        found |= _used(engine)
        engine.dispose()
        return found
    finally:
        server.close()


def on_sqlite(plans: int, say: Callable[[str], None]) -> Column:
    """Measure *plans* plans in a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plans.db"
        url = f"sqlite:///{file}"
        begun = perf_counter()
        former_release(url, min(plans, BASE))
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(NOTHING_KNOWN)
            connection.execute("VACUUM")
            connection.execute("BEGIN")
            for statements in copies(plans):
                for statement in statements.values():
                    connection.execute(statement)
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
        say(f"built in {perf_counter() - begun:.0f} s")
        found: Column = {}
        size = file.stat().st_size
        for title, revision in (("m8_001", PRESENT), ("m8_002", "head")):
            found |= _migrated(url, title, revision, plans, lambda: 0.0)
        say(str(found))
        found["size of the file, before"] = _megabytes(size)
        found["the same, after the upgrade"] = _megabytes(file.stat().st_size)
        engine = open_engine(url)
        found |= _used(engine)
        engine.dispose()
        return found


def _migrated(
    url: str, title: str, revision: str, plans: int, server_cpu: Callable[[], float]
) -> Column:
    before = server_cpu()
    run = alembic(url, "upgrade", revision)
    served = server_cpu() - before
    # Python starts in that time, and Alembic, whatever the number of plans.
    fixed = alembic(url, "upgrade", revision)
    cpu = run.cpu - fixed.cpu
    shown = f"{cpu:.1f} s" + (f" + {served:.1f} s of the server" if served else "")
    return {
        f"{title}: time": _seconds(run.seconds - fixed.seconds, plans),
        f"{title}: processor time": f"{shown} ({1e6 * (cpu + served) / plans:.1f} µs a plan)",
        f"{title}: memory of the process": f"{run.memory:.0f} MB",
    }


def _used(engine: Engine) -> Column:
    """Read and claim plans; the fastest of several rounds counts."""
    with engine.connect() as connection:
        # The last child: of the copy that was made last, and of the same tree at every size.
        asked = text(
            "SELECT plan_id, root_plan_id, namespace FROM v3_plans"
            " WHERE parent_plan_id IS NOT NULL ORDER BY plan_id DESC LIMIT 1"
        )
        leaf, root, namespace = connection.execute(asked).one()
    operations: dict[str, Callable[[PlanRepository], Any]] = {
        "get": lambda it: it.get(leaf),
        "tree of a plan": lambda it: it.tree(root),
        "list the newest 100": lambda it: it.list(order="newest"),
        "list 100 of a namespace": lambda it: it.list(namespace=namespace),
        "claim one": lambda it: it.claim(),
    }
    found = {name: _fastest(engine, each, _ROUNDS) for name, each in operations.items()}
    found["count all, by state"] = _fastest(engine, lambda it: it.count_by("processing_state"), 2)
    begun = perf_counter()
    with Session(engine) as session:
        for _ in range(_CLAIMS):
            for plan in PlanRepository(session).claim():
                PlanRepository(session).save(plan.complete())
            session.commit()
    found["claim, complete, COMMIT: one worker"] = f"{_CLAIMS / (perf_counter() - begun):,.0f}/s"
    return found


def _fastest(engine: Engine, operation: Callable[[PlanRepository], Any], rounds: int) -> str:
    taken = []
    for _ in range(rounds):
        with Session(engine) as session:
            session.connection()
            begun = perf_counter()
            operation(PlanRepository(session))
            taken.append(perf_counter() - begun)
            session.rollback()
    return f"{1000 * min(taken):,.1f} ms"


def _vacuumed(url: str, plans: int) -> Column:
    with connected(url) as connection:
        connection.execute(
            "UPDATE v3_plans SET last_completed_step = 1 WHERE hashtext(plan_id) % 100 = 0"
        )
        begun = perf_counter()
        connection.execute("VACUUM (ANALYZE) v3_plans")
        taken = perf_counter() - begun
        begun = perf_counter()
        connection.execute("VACUUM (ANALYZE) v3_plans")
        again = perf_counter() - begun
    return {
        "VACUUM (ANALYZE) after 1 % were updated": _seconds(taken, plans),
        "the same, with nothing to do": _seconds(again, plans),
    }


def _sizes(url: str) -> dict[str, float]:
    """Give the size of the table of plans, and of each of its indexes."""
    query = """\
SELECT c.relname, pg_table_size(c.oid) FROM pg_class c
 WHERE c.oid = 'v3_plans'::regclass
    OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'v3_plans'::regclass)
 ORDER BY c.relkind = 'r' DESC, c.relname"""
    with connected(url) as connection:
        return dict(connection.execute(query).fetchall())


def _seconds(taken: float, plans: int) -> str:
    return f"{taken:,.1f} s ({1e6 * taken / plans:.1f} µs a plan)"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


MEASURED = {"postgresql-18": on_postgresql, "sqlite": on_sqlite}


def table(columns: dict[int, Column]) -> str:
    """Lay out what was found for each size as Markdown."""
    sizes = sorted(columns)
    lines = [
        f"| | {' | '.join(f'{size:,} plans' for size in sizes)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    names = dict.fromkeys(name for size in sizes for name in columns[size])
    lines += (
        f"| {name} | {' | '.join(columns[size].get(name, '') for size in sizes)} |"
        for name in names
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--plans", type=int, nargs="+", default=[1_000_000], metavar="N")
    parser.add_argument("--engines", nargs="+", choices=MEASURED, default=[*MEASURED])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs", help=f"where {PAGE} is, or is to be"
    )
    options = parser.parse_args(arguments)
    for plans in options.plans:
        try:
            list(copies(plans))
        except ValueError as error:
            parser.error(str(error))
    for engine in options.engines:
        found: dict[int, Column] = {}
        for plans in options.plans:
            load = page.load()
            _say(f"{engine}, {plans:,} plans")
            found[plans] = MEASURED[engine](plans, _say)
            text = f"{page.machine(PACKAGES)}. {load}\n\n{table(found)}"
            print(text, flush=True)
            page.write(options.out, f"scale-{engine}", text, PAGE)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
