"""A table that is no plan, on each engine, and what operations made of it."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from typing import Any

from alembic.operations import Operations
from sqlalchemy import event, inspect
from sqlalchemy.pool import NullPool

from cleveragents_plans import open_engine
from support.online import revision

ROWS = 1000

_TABLES = """\
CREATE TABLE box (id integer NOT NULL PRIMARY KEY, label varchar(20) NOT NULL);
CREATE TABLE toy (id integer NOT NULL PRIMARY KEY, word varchar(20), size integer NOT NULL,
  doc text, box_id integer);
INSERT INTO box VALUES (1, 'one'), (2, 'two');
INSERT INTO toy WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {rows})
SELECT n, 'word ' || n, n % 10, '{{"size": ' || n || '}}', 1 + n % 2 FROM g"""


def make_toys(url: str, rows: int = ROWS) -> None:
    """Create the tables ``toy`` and ``box``, with rows."""
    execute(url, *_TABLES.format(rows=rows).split(";"))


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run *statements* in one transaction each; give the rows of the last one."""
    engine = open_engine(url, poolclass=NullPool)
    found: list[tuple[Any, ...]] = []
    for statement in statements:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(
                statement, execution_options={"no_parameters": True}
            )
            found = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return found


def structure(url: str) -> list[Any]:
    """Tell what the tables are: columns, constraints and indexes, those that are not valid too."""
    engine = open_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            query = "SELECT name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2"
            found = [tuple(row) for row in connection.exec_driver_sql(query)]
        else:
            look = inspect(connection)
            columns = [
                (table, column["name"], str(column["type"]), column["nullable"], column["default"])
                for table in sorted(look.get_table_names())
                for column in look.get_columns(table)
            ]
            found = [*columns, *map(tuple, connection.exec_driver_sql(_ON_SERVER))]
    engine.dispose()
    return found


_ON_SERVER = """\
SELECT pg_get_indexdef(indexrelid), indisvalid::text FROM pg_index
 WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
UNION ALL
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1, 2"""

Act = Callable[[Operations], object]

#: How often a run was killed until it came to its end, and what the tables were then.
Resumed = tuple[int, list[Any]]


def killed_at_each_statement(url: str, *acts: Act) -> list[Resumed]:
    """
    Run each of *acts* in a process that dies by SIGKILL at its first statement, its second, ...

    Each run goes on from what the former one left, until one comes to its end.
    """
    # A process with one thread can fork; that of the tests has more.
    processes = get_context("spawn")
    results = processes.SimpleQueue()
    process = processes.Process(target=_kill_each, args=(url, acts, results))
    process.start()
    process.join(540)
    assert process.exitcode == 0, process.exitcode
    return [results.get() for _ in acts]


def _kill_each(url: str, acts: Sequence[Act], results: SimpleQueue[Resumed]) -> None:
    for act in acts:
        kills = next(number for number in range(500) if _runs_to_its_end(url, act, number + 1))
        results.put((kills, structure(url)))


def _runs_to_its_end(url: str, act: Act, number: int) -> bool:
    child = os.fork()
    if not child:
        status = 1
        try:
            _run_until(url, act, number)
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


def _run_until(url: str, act: Act, number: int) -> None:
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with revision(url) as op:
            event.listen(op.get_bind().engine, "before_cursor_execute", count)
            act(op)
    except BaseException:
        traceback.print_exc()
        raise
