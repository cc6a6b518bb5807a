"""The page that benchmarks are written into, and what they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = "benchmarks.md"


def write(folder: Path, name: str, text: str, page_name: str = PAGE) -> None:
    """
    Put *text* into a page in *folder*, between the markers of the benchmark *name*.

    Raises:
        ValueError: The page has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / page_name
    former = page.read_text(encoding="utf-8") if page.exists() else f"{begin}\n{end}\n"
    before, found, rest = former.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(
            f"expected the lines {begin} and {end} in {page_name}; add them, or use --out"
        )
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def machine(packages: Sequence[str]) -> str:
    """Say what the figures were measured on; nothing that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )


def load() -> str:
    """Say how busy the machine is before anything is measured."""
    return f"Before it the machine had a load average of {os.getloadavg()[1]:.1f}."


def met(holds: bool) -> str:
    """Say in a cell whether a goal was met."""
    return "yes" if holds else "**no**"
