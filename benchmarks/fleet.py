"""
Measure a fleet: many schemas of one database migrated by one, two and four jobs.

    python benchmarks/fleet.py --schemas 64 --plans 20000

Each run gets its own copy of the database, and is what an operator types: ``cleveragents-plans
upgrade --each-schema 'tenant_%' --jobs N``. Meanwhile a client works in a schema that is not
migrated, as a tenant whose turn it is not does; how long it waits is compared with the same client
while nothing is migrated.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import make_url

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import page  # noqa: E402
from cleveragents_plans.schema import upgrade  # noqa: E402
from client_waits import Clients, Watched  # noqa: E402
from migration_runs import FORMER, NOTHING_KNOWN, SERVER, connected, former_release  # noqa: E402
from server_cpu import cpu_seconds  # noqa: E402
from support.former_rows import COLUMNS  # noqa: E402
from support.postgres import PostgresServer, binaries  # noqa: E402

PAGE = "scaling.md"
PACKAGES = ("sqlalchemy", "alembic", "psycopg")
JOBS = (1, 2, 4)
_BASELINE_SECONDS = 10
#: What a tenant's client sends, in statements a second.
_LOAD = 50.0
#: The schema of the client; no pattern of the fleet has it.
_BYSTANDER = "bystander"


class Run(NamedTuple):
    """A fleet that was migrated."""

    jobs: int
    seconds: float
    #: Processor time of the command with its jobs, and of the server, in seconds.
    client: float
    server: float
    waits: Watched


def build(server: PostgresServer, schemas: int, plans: int) -> None:
    """Make a database whose schemas hold *plans* plans of the former release each."""
    server.execute("CREATE DATABASE template")
    url = server.url("template")
    former_release(url, plans)
    with connected(url) as connection:
        connection.execute(NOTHING_KNOWN)
    for number in range(schemas):
        _copy_schema(url, f"tenant_{number:03}")
    _copy_schema(url, _BYSTANDER)
    with connected(url) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("VACUUM (ANALYZE)")


def _copy_schema(url: str, schema: str) -> None:
    with connected(url) as connection:
        connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
        upgrade(url, FORMER, schema=schema, allow_second_schema=True)
        connection.execute("SET session_replication_role = replica")
        for table in ("v3_plans", "plan_projects", "plan_arguments", "plan_invariants"):
            columns = ", ".join(COLUMNS[table])
            connection.execute(
                f'INSERT INTO "{schema}".{table} ({columns})'
                f" SELECT {columns} FROM public.{table}".encode()
            )


@contextmanager
def _copy(server: PostgresServer) -> Iterator[str]:
    server.execute("CREATE DATABASE fleet TEMPLATE template STRATEGY FILE_COPY")
    url = server.url("fleet")
    with connected(url) as connection:
        connection.execute("CHECKPOINT")
    yield url
    server.drop_database(url)


def _bystander(url: str) -> str:
    found = make_url(url).update_query_dict({"options": f"-csearch_path={_BYSTANDER}"})
    return found.render_as_string(hide_password=False)


def _migrated(server: PostgresServer, jobs: int, schemas: int) -> Run:
    with _copy(server) as url, Clients(_bystander(url), _LOAD) as clients:
        time.sleep(2)
        served, used, start = cpu_seconds(server), _used_by_children(), time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "cleveragents_plans", "upgrade", "--quiet", "--json"),
                *("--url", url, "--each-schema", "tenant_%", "--jobs", str(jobs)),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        end = time.monotonic()
        served, used = cpu_seconds(server) - served, _used_by_children() - used
    report = json.loads(done.stdout)
    if len(report["members"]) != schemas or report["status"]:
        raise RuntimeError(f"not every schema was migrated:\n{done.stdout}")
    waits = clients.waits().between(start, end)
    return Run(jobs, end - start, used, served, Watched(end - start, waits, clients.failures))


def _used_by_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _usual(server: PostgresServer) -> Watched:
    with _copy(server) as url, Clients(_bystander(url), _LOAD) as clients:
        time.sleep(2)
        start = time.monotonic()
        time.sleep(_BASELINE_SECONDS)
        end = time.monotonic()
    return Watched(end - start, clients.waits().between(start, end), clients.failures)


def table(runs: Sequence[Run], usual: Watched, schemas: int, plans: int, load: str) -> str:
    """Lay out what was found as Markdown."""
    lines = [
        f"{schemas} schemas of {plans:,} plans; {page.machine(PACKAGES)}. {load}",
        "",
        "| jobs | time | schemas a minute | plans a second | against 1 job | processor time of the "
        "jobs | of the server | longest wait elsewhere | p99 |",
        "|---|---|---|---|---|---|---|---|---|",
        _waited("no migration", "", usual),
    ]
    for run in runs:
        rate = schemas / run.seconds
        cells = (
            f"{run.seconds:.1f} s | {60 * rate:.0f} | {rate * plans:,.0f} | "
            f"{runs[0].seconds / run.seconds:.2f} x | "
            f"{run.client:.1f} s | {run.server:.1f} s"
        )
        lines.append(_waited(str(run.jobs), cells, run.waits))
    failed = sum(run.waits.failed for run in runs)
    lines += ["", f"Statements of the client that failed: {failed}."]
    return "\n".join(lines)


def _waited(name: str, cells: str, seen: Watched) -> str:
    waits = seen.waits
    return f"| {name} | {cells or '| | | | |'} | {waits.longest:,.1f} ms | {waits.p99:,.1f} ms |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--schemas", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--plans", type=int, default=20_000, help="of each; default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs", help=f"where {PAGE} is, or is to be"
    )
    options = parser.parse_args(arguments)
    load = page.load()
    server = PostgresServer(binaries()["postgresql-18"], SERVER)
    try:
        _say(f"writing {options.schemas} schemas")
        build(server, options.schemas, options.plans)
        usual = _usual(server)
        runs = []
        for jobs in JOBS:
            runs.append(_migrated(server, jobs, options.schemas))
            _say(f"{jobs} jobs: {runs[-1].seconds:.1f} s")
    finally:
        server.close()
    text = table(runs, usual, options.schemas, options.plans, load)
    print(text)
    page.write(options.out, "fleet", text, PAGE)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
