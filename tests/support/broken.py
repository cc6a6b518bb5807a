"""Databases that are broken on purpose: past every rule that the engine would enforce."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import psycopg
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository, open_engine
from support.plans import a_child, a_root, ulid

#: A root, a child, a child of that one, another root, and a plan whose parent was deleted.
A, B, C, D, E = map(ulid, range(1, 6))


def store_family(url: str) -> None:
    """Store the five plans, the first of them with rows in every child table."""
    below = {
        "arguments": {"depth": 3},
        "invariants": [{"text": "keep the API"}],
        "project_links": [{"project_name": "local/api"}],
        "tags": ["night"],
    }
    top = a_root(1, **below)
    middle = a_child(2, top)
    gone = a_child(9, top)
    engine = open_engine(url)
    with Session(engine) as session:
        repository = PlanRepository(session)
        repository.add_all([top, middle, a_child(3, middle), a_root(4), gone, a_child(5, gone)])
        repository.delete(gone)
        session.commit()
    engine.dispose()


def break_database(url: str, statements: Sequence[str]) -> None:
    """
    Run *statements*, with no constraint enforced and no trigger fired.

    On SQLite the text of a table can be changed by UPDATE sqlite_schema, too.
    """
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            for pragma in ("foreign_keys = OFF", "ignore_check_constraints = ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA writable_schema = ON")
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        return
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in statements:
            connection.execute(statement.encode())


def libpq(url: str) -> str:
    """Write *url* as libpq takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
