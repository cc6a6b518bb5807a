"""
Compare the migration with the naive form of it, and write down what was found.

Everything is measured in one run on one machine: on copies of one database of the former
release, idle and with clients at work. A table goes into ``benchmarks.md`` between its
markers, a picture of the clients' waits beside it.

    python benchmarks/migration.py --plans 1000000 --load 500
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import migration_sqlite  # noqa: E402
import page  # noqa: E402
from client_waits import CLIENTS, LONG_MS, Watched  # noqa: E402
from migration_runs import OnPostgres, PostgresBench  # noqa: E402
from support.postgres import binaries  # noqa: E402
from waits_picture import Panel, picture  # noqa: E402

PICTURE = "benchmarks-waits.svg"
PACKAGES = ("sqlalchemy", "alembic", "psycopg")


class Line(NamedTuple):
    """A line of the table: a figure of the naive form and of ours, and what ours should be."""

    what: str
    naive: str
    ours: str
    goal: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        met = "" if self.met is None else page.met(self.met)
        return f"| {self.what} | {self.naive} | {self.ours} | {self.goal} | {met} |"


def table(title: str, lines: Iterator[Line]) -> str:
    """Lay out *lines* as Markdown."""
    head = [f"**{title}**", "", "| | naive | ours | goal | met |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(str, lines), ""])


def on_postgres(found: OnPostgres, plans: int) -> Iterator[Line]:
    """Give the lines of PostgreSQL."""
    yield from _idle(found, plans)
    naive, up, down, usual = found.naive_loaded, found.up, found.down, found.usual
    idle = found.naive.seconds
    yield Line(
        "total, clients at work",
        f"{naive.seconds:.1f} s",
        f"{up.seconds:.1f} s ({up.seconds / idle:.2f} x naive, idle)",
        "≤ 0.9 x",
        up.seconds <= 0.9 * idle,
    )
    yield Line("the way down, clients at work", "", f"{down.seconds:.1f} s")
    yield Line(
        "longest wait of a client, up",
        _ms(naive),
        _ms(up),
        f"≤ {LONG_MS:.0f} ms",
        up.waits.longest <= LONG_MS,
    )
    yield Line(
        "longest wait of a client, down",
        "",
        _ms(down),
        f"≤ {LONG_MS:.0f} ms",
        down.waits.longest <= LONG_MS,
    )
    yield Line("the same clients, no migration", "", _ms(usual))
    failed = up.failed + down.failed
    yield Line(
        "failed statements of the former release", str(naive.failed), str(failed), "0", not failed
    )


def _idle(found: OnPostgres, plans: int) -> Iterator[Line]:
    naive, ours = found.naive, found.ours
    yield _at_most("total, idle server", naive.seconds, ours.seconds, 0.6)
    floor = found.floor.seconds
    yield Line(
        "the same against the floor: one UPDATE, roots known",
        f"{naive.seconds / floor:.2f} x",
        f"{ours.seconds / floor:.2f} x ({floor:.1f} s)",
    )
    small, large = found.small_seconds / found.small_plans, ours.seconds / plans
    yield Line(
        f"time per row, against {found.small_plans:,} plans",
        "",
        f"{large / small:.2f} x ({1e6 * large:.0f} µs)",
        "≤ 1.2 x",
        large <= 1.2 * small,
    )
    yield Line(
        f"growth of the table, from {found.before.table:.0f} MB",
        f"{naive.growth.table:.0f} MB",
        f"{ours.growth.table:.0f} MB ({ours.growth.table / naive.growth.table:.2f} x)",
        "≤ 0.25 x",
        ours.growth.table <= 0.25 * naive.growth.table,
    )
    yield Line(
        f"growth of its indexes, from {found.before.indexes:.0f} MB",
        f"{naive.growth.indexes:.0f} MB",
        f"{ours.growth.indexes:.0f} MB",
    )
    yield Line(
        "plans with another root than their parent",
        f"{naive.wrong_roots:,}",
        f"{ours.wrong_roots:,}",
        "0",
        not ours.wrong_roots,
    )
    yield Line("rows written by a second run", "", str(found.rewritten), "0", not found.rewritten)
    yield _memory(found.memory)


def on_sqlite(found: migration_sqlite.OnSqlite) -> Iterator[Line]:
    """Give the lines of SQLite."""
    yield _at_most("total without the checks", found.naive, found.ours, 0.85)
    yield Line(
        "the same against a bare copy of the table",
        f"{found.naive / found.bare_copy:.2f} x",
        f"{found.ours / found.bare_copy:.2f} x ({found.bare_copy:.1f} s)",
        "≤ 1.05 x",
        found.ours <= 1.05 * found.bare_copy,
    )
    yield Line("checks before and after", "", f"{found.checks:.1f} s")
    yield Line(
        "file changed by a second run",
        "",
        "yes" if found.file_changed else "no",
        "no",
        not found.file_changed,
    )
    yield _memory(found.memory)


def _at_most(what: str, naive: float, ours: float, most: float) -> Line:
    shown = f"{ours:.1f} s ({ours / naive:.2f} x)"
    return Line(what, f"{naive:.1f} s", shown, f"≤ {most} x", ours <= most * naive)


def _memory(megabytes: float) -> Line:
    return Line("memory of the process", "", f"{megabytes:.0f} MB", "≤ 120 MB", megabytes <= 120)


def _ms(seen: Watched) -> str:
    waits = seen.waits
    return (
        f"{waits.longest:,.1f} ms (p99 {waits.p99:,.1f} ms; {waits.long:,} of "
        f"{len(waits.due):,} over {LONG_MS:.0f} ms)"
    )


def panels(found: OnPostgres) -> list[Panel]:
    """Choose what the picture shows."""
    return [
        Panel("Naive upgrade", found.naive_loaded.waits),
        Panel("alembic upgrade", found.up.waits),
        Panel("alembic downgrade", found.down.waits),
        Panel("No migration", found.usual.waits),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page and the picture."""
    known = ["sqlite", *binaries()]
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--plans", type=int, default=200_000, help="default: %(default)s")
    parser.add_argument("--engines", default="sqlite,postgresql-18", help=f"of {', '.join(known)}")
    parser.add_argument("--load", type=float, default=500, help="statements a second, all clients")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs", help=f"where {page.PAGE} is, or is to be"
    )
    options = parser.parse_args(arguments)
    engines = options.engines.split(",")
    if unknown := set(engines) - set(known):
        parser.error(f"unknown engine {min(unknown)}; expected some of {', '.join(known)}")

    sections = [
        f"{options.plans:,} plans, {CLIENTS} clients that send {options.load:g} statements a "
        f"second; {page.machine(PACKAGES)}.\n"
    ]
    for engine in engines:
        if engine == "sqlite":
            with tempfile.TemporaryDirectory() as folder:
                sqlite = migration_sqlite.measure(Path(folder), options.plans, _say)
            sections.append(table(f"SQLite {sqlite.version}", on_sqlite(sqlite)))
            continue
        found = PostgresBench(binaries()[engine], _say).measure(options.plans, options.load)
        sections.append(table(f"PostgreSQL {found.version}", on_postgres(found, options.plans)))
        if engine == next(name for name in engines if name != "sqlite"):
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / PICTURE).write_text(picture(panels(found)), encoding="utf-8")
    text = "\n".join(sections)
    print(text)
    page.write(options.out, "migration", text)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
