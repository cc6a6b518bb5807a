"""
Tables of many plans, made in SQL, alike at every size but for how much is in them.

The last thousand plans are open: 900 are queued, 100 in work; all others are cancelled. A tree has
21 plans, a namespace and a project about a hundred each, whatever the size.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Engine, text

#: How many plans are not final, how many a tree has, and a namespace or a project.
OPEN, TREE, GROUP = 1000, 21, 100
_BEGAN = 1_700_000_000

_ID = "'01J' || {pad}"
_PAD = {"sqlite": "printf('%023d', {n})", "postgresql": "lpad(({n})::text, 23, '0')"}
_NUMBERS = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {last})"
    " SELECT {columns} FROM s",
    "postgresql": "SELECT {columns} FROM generate_series(0, {last}) AS s(n)",
}
_TIME = {
    "sqlite": f"strftime('%Y-%m-%dT%H:%M:%S.000000+00:00', {_BEGAN} + n, 'unixepoch')",
    "postgresql": f"to_char(to_timestamp({_BEGAN} + n) AT TIME ZONE 'UTC',"
    ' \'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"\')',
}


def plan_id(number: int) -> str:
    """Give the id of the plan with this number, from 0."""
    return f"01J{number:023d}"


def created_at(number: int) -> datetime:
    """Give when the plan with this number was created."""
    return datetime.fromtimestamp(_BEGAN + number, UTC)


def fill(engine: Engine, plans: int) -> None:
    """Insert so many plans, and a project link for each."""
    name = engine.dialect.name

    def spelled(number: str) -> str:
        return _ID.format(pad=_PAD[name].format(n=number))

    is_open = f"n >= {plans - OPEN}"
    state = (
        f"CASE WHEN {is_open} AND n % 10 = 3 THEN 'processing' WHEN {is_open} THEN 'queued'"
        " ELSE 'cancelled' END"
    )
    group = f"(n % {max(plans // GROUP, 1)})"
    columns = {
        "plan_id": spelled("n"),
        "parent_plan_id": f"CASE WHEN n % {TREE} > 0 THEN {spelled(f'n - n % {TREE}')} END",
        "root_plan_id": spelled(f"n - n % {TREE}"),
        "namespace": f"'team' || {group}",
        "action_name": "'local/lint'",
        "phase": "CASE n % 2 WHEN 0 THEN 'action' ELSE 'execute' END",
        "processing_state": state,
        "effective_profile_snapshot": '\'{"name":"balanced"}\'',
        "created_at": _TIME[name],
        "updated_at": _TIME[name],
        "completed_at": f"CASE WHEN {is_open} THEN NULL ELSE {_TIME[name]} END",
    }
    rows = _NUMBERS[name].format(columns=", ".join(columns.values()), last=plans - 1)
    links = _NUMBERS[name].format(columns=f"{spelled('n')}, 0, 'p' || {group}", last=plans - 1)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO v3_plans ({', '.join(columns)}) {rows}"))
        connection.execute(
            text(f"INSERT INTO plan_projects (plan_id, position, project_name) {links}")
        )
    analyze(engine)


def analyze(engine: Engine) -> None:
    """Let the database know what is in its tables, as its own maintenance does."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            "VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE"
        )
