"""Column types that pass on what they find, so that a corrupt row is seen and not mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Boolean, Dialect, Double
from sqlalchemy.dialects.sqlite import REAL
from sqlalchemy.types import TypeDecorator, TypeEngine

#: A double on both engines; SQLite spells it REAL.
REAL_NUMBER: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")


class FoundBoolean(TypeDecorator[bool]):
    """
    A BOOLEAN that is read as it is found.

    SQLite stores booleans as 0 and 1 and takes any other value as well; SQLAlchemy's own
    type reads all of those as true.
    """

    impl = Boolean
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Read 0 and 1 as booleans, and anything else as what it is."""
        if dialect.supports_native_boolean:
            return None
        return lambda found: bool(found) if found in (0, 1) else found
