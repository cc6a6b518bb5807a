"""Tell the operator what is going on, where nobody has set up logging."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("alembic.evolution")


@contextmanager
def speaking() -> Iterator[None]:
    """Send what is logged to standard error, unless the application has its own logging."""
    logger = logging.getLogger("alembic")
    handlers = (*logger.handlers, *logging.root.handlers)
    if not all(isinstance(handler, logging.NullHandler) for handler in handlers):
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_worth_telling)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _worth_telling(record: logging.LogRecord) -> bool:
    # Of what Alembic itself logs, only the steps mean something to an operator.
    return record.name == log.name or record.getMessage().startswith("Running ")
