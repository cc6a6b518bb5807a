"""Several statements in one round trip, of which the one that fails is known."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import await_only

from cleveragents_plans.evolution.postgresql.connection import run


def run_in_pipeline(connection: Connection, statements: Sequence[str]) -> None:
    """
    Send *statements*, each as it is written, and wait for all of them once.

    In a transaction, what comes after one that fails is not done. libpq calls this pipeline
    mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html).

    Raises:
        DBAPIError: One was refused; the error names that one.
    """
    sent: list[tuple[str, Any]] = []
    driver_error = connection.dialect.loaded_dbapi.Error
    try:
        with _driver_silent(), _pipeline(connection.connection.driver_connection):
            for statement in statements:
                sent.append((statement, None))
                sent[-1] = (statement, _cursor(run(connection, statement)))
    except DBAPIError as error:  # of a former one, when its answer came early
        error.statement = _failed(sent)
        raise
    except driver_error as error:
        lost = connection.dialect.is_disconnect(error, connection.connection, None)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            _failed(sent),
            None,
            error,
            driver_error,
            connection_invalidated=lost,
            dialect=connection.dialect,
        ) from error


def _failed(sent: list[tuple[str, Any]]) -> str:
    # The answers come in order, and none comes after an error.
    return next((text for text, cursor in sent if not cursor or not cursor.pgresult), "COMMIT")


def _cursor(result: Any) -> Any:
    cursor = result.context.cursor
    return getattr(cursor, "_cursor", cursor)  # with asyncio, SQLAlchemy's has psycopg's


@contextmanager
def _driver_silent() -> Iterator[None]:
    """
    Let psycopg log nothing in this thread.

    Of a statement that fails before all are sent it logs what it meets afterwards, as a warning:
    that the pipeline was aborted. What failed is raised.
    """
    thread = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger = logging.getLogger("psycopg")
    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)


@contextmanager
def _pipeline(driver: Any) -> Iterator[None]:
    pipeline = driver.pipeline()
    if not hasattr(pipeline, "__aenter__"):
        with pipeline:
            yield
        return
    await_only(pipeline.__aenter__())
    try:
        yield
    except BaseException as error:
        if not await_only(pipeline.__aexit__(type(error), error, error.__traceback__)):
            raise
    else:
        await_only(pipeline.__aexit__(None, None, None))
