"""The chain of revisions of this package, for programs that migrate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alembic.config import Config


def chain_location() -> Path:
    """Find the folder of the chain, which is a part of the package."""
    return Path(__file__).parent / "migrations"


def chain_config(url: str | None = None, *, extra: Sequence[str] = ()) -> Config:
    """
    Configure Alembic for the chain of this package.

    Args:
        url: The database; without it ``DATABASE_URL``, else ``sqlite:///plans.db``.
        extra: What ``alembic -x`` takes, as ``["lock-wait=60"]``.
    """
    config = Config(
        stdout=sys.stdout,
        cmd_opts=argparse.Namespace(x=list(extra)),
        attributes={} if url is None else {"url": url},
    )
    config.set_main_option("script_location", str(chain_location()).replace("%", "%%"))
    return config
