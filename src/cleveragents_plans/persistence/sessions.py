"""
What the repository asks of a session.

A session may have several engines, and then wants to hear for each statement which model it is
about: here it always is that of the plans.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Dialect,
    Result,
    Table,
    Text,
    any_,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.sql import Executable
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import custom_op

from cleveragents_plans.domain.errors import InvalidType, shown
from cleveragents_plans.persistence.errors import ForeignKeysOff
from cleveragents_plans.persistence.models import LifecyclePlanModel

PLANS: Final[Table] = LifecyclePlanModel.metadata.tables["v3_plans"]
_ABOUT_PLANS: Final[dict[str, Any]] = {"mapper": LifecyclePlanModel}


def session_of(value: Any) -> Session:
    """
    Check that *value* is a session.

    Raises:
        InvalidType: It is an engine, a connection, an ``AsyncSession`` or another thing.
    """
    if isinstance(value, (Session, scoped_session)):
        return value  # type: ignore[return-value]  # which stands for the session of its thread
    expected = {
        "AsyncSession": "a Session (AsyncPlanRepository takes an AsyncSession)",
        "Engine": "a Session, as in: with Session(engine) as session",
        "AsyncEngine": "a Session (AsyncPlanRepository takes an AsyncSession)",
    }
    kinds = (each.__name__ for each in type(value).__mro__)
    said = next((expected[kind] for kind in kinds if kind in expected), "a Session")
    raise InvalidType("session", shown(value), said)


def execute(session: Session, statement: Executable, **parameters: Any) -> Result[Any]:
    """Send *statement* to the database of the plans."""
    return session.execute(statement, parameters, bind_arguments=_ABOUT_PLANS)


def send(session: Session, statement: Executable, values: Any) -> CursorResult[Any]:
    """
    Send *statement*, which returns no rows, with plain values: those of one row, or of a list.

    It is put together once for each statement object: to look it up in SQLAlchemy's cache, and its
    values over again, takes longer than running it.
    """
    connection = connection_of(session)
    schemas = connection.get_execution_options().get("schema_translate_map") or {}
    sql, in_order = _compiled(statement, connection.dialect, tuple(schemas.items()))
    if in_order:
        values = list(map(in_order, values)) if isinstance(values, list) else in_order(values)
    return connection.exec_driver_sql(sql, values)


def rows_changed(result: CursorResult[Any]) -> int:
    """
    Tell how many rows were changed by a statement that returns none.

    After ``PRAGMA count_changes = ON``, of the application, SQLite returns that as a row, and the
    driver knows no number.
    """
    return int(result.scalar_one()) if result.returns_rows else result.rowcount


@lru_cache(maxsize=512)
def _compiled(
    statement: Any, dialect: Dialect, schemas: tuple[Any, ...]
) -> tuple[str, Callable[[Any], tuple[Any, ...]] | None]:
    options = {"schema_translate_map": dict(schemas), "render_schema_translate": True}
    compiled = statement.compile(dialect=dialect, **(options if schemas else {}))
    return str(compiled), compiled.positiontup and itemgetter(*compiled.positiontup)


def connection_of(session: Session) -> Connection:
    """Give the session's connection to the database of the plans."""
    return session.connection(bind_arguments=dict(_ABOUT_PLANS))


def on_postgresql(session: Session) -> bool:
    """Say whether the plans are on PostgreSQL; nothing is connected for it."""
    return session.get_bind(**_ABOUT_PLANS).dialect.name == "postgresql"


@contextmanager
def atomic(session: Session) -> Iterator[None]:
    """
    Keep all that the block sends, or nothing: in a savepoint.

    Where each statement is a transaction by itself (AUTOCOMMIT, on PostgreSQL) there can be none:
    then the block is a transaction, and what it did is lasting at its end.
    """
    connection = connection_of(session)
    driver: Any = connection.connection.driver_connection
    if not on_postgresql(session) or not driver.autocommit or _in_transaction(driver):
        with session.begin_nested():
            yield
        return
    session.flush()
    connection.exec_driver_sql("BEGIN")
    try:
        with session.begin_nested():  # whose rollback row objects of the session follow
            yield
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    try:
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        session.expire_all()
        raise


def _in_transaction(driver: Any) -> bool:
    return bool(driver.info.transaction_status.name != "IDLE")


def sees_one_state(session: Session) -> bool:
    """
    Say whether the transaction sees one state of PostgreSQL throughout (REPEATABLE READ or more).

    Such a transaction is aborted when it writes what another one changed since; SQLite lets no
    other one write. A level that ``SET TRANSACTION`` sets in SQL is not noticed.
    """
    if not on_postgresql(session):
        return False
    connection = connection_of(session)
    level = getattr(connection.connection.driver_connection, "isolation_level", None)
    name = connection.default_isolation_level if level is None else level.name
    return name in ("REPEATABLE READ", "REPEATABLE_READ", "SERIALIZABLE")


def among(postgresql: bool, column: ColumnElement[str], values: Iterable[str]) -> Any:
    """Say that *column* is one of *values*, as one parameter: there may be tens of thousands."""
    if postgresql:
        return column == any_(bindparam(None, list(values), type_=ARRAY(Text)))
    held = func.json_each(json.dumps([each for each in values if isinstance(each, str)]))
    return column.in_(select(held.table_valued("value").c.value))


def without_index(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """
    Write *column* so that SQLite sorts by it, rather than go through the table in its order.

    https://www.sqlite.org/optoverview.html#disqualifying_where_clause_terms_using_unary_
    """
    return UnaryExpression(column, operator=custom_op("+"))


def check_foreign_keys(session: Session) -> None:
    """
    Refuse to write where the database would not keep plans and their rows together.

    Raises:
        ForeignKeysOff: It is SQLite, and the connection has foreign keys off.
    """
    if on_postgresql(session):
        return
    if not connection_of(session).exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise ForeignKeysOff
