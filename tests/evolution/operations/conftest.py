"""A table that is no plan, for operations."""

from __future__ import annotations

import pytest

from support.toys import make_toys


@pytest.fixture
def toy_url(empty_url: str) -> str:
    """The tables ``toy`` and ``box`` on each engine."""
    make_toys(empty_url)
    return empty_url


@pytest.fixture
def server_url(postgresql_url: str) -> str:
    """The tables ``toy`` and ``box`` on each PostgreSQL."""
    make_toys(postgresql_url)
    return postgresql_url
