"""Draw how long clients waited, as an SVG of dots on a line of time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from typing import NamedTuple

from client_waits import LONG_MS, Waits

_WIDTH, _HEIGHT = 760, 150
_LEFT, _TOP, _GAP = 64, 34, 44
_LOWEST, _DECADES = 0.1, 6  # milliseconds, to 100 s
_COLUMNS = 380
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.t{font-weight:bold}.g{stroke:#ddd}.l{stroke:#c60}"
    ".d{fill:#06a}.m{stroke:#9bd;stroke-width:2}rect{fill:#fff}"
)


class Panel(NamedTuple):
    """One line of time: what happened, and the waits while it did."""

    title: str
    waits: Waits


def picture(panels: Sequence[Panel]) -> str:
    """
    Draw *panels* below each other, all to one scale of time and of waits.

    A dot is the longest wait among the statements that were due in one small piece of
    time; the line under it goes down to the shortest one.
    """
    seconds = max(max(panel.waits.due) for panel in panels)
    height = _TOP + len(panels) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 16}"'
        f' height="{height}" role="img">',
        f"<title>Waits of clients during a migration</title><style>{_STYLE}</style>",
        f'<rect width="100%" height="{height}"/>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, _TOP + number * (_HEIGHT + _GAP), seconds)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: float, seconds: float) -> list[str]:
    parts = [f'<text class="t" x="{_LEFT}" y="{top - 10}">{escape(panel.title)}</text>']
    for power in range(_DECADES + 1):
        value = _LOWEST * 10**power
        y = _y(value, top)
        label = f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"
        parts.append(f'<path class="g" d="M{_LEFT} {y:.1f}h{_WIDTH}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    limit = _y(LONG_MS, top)
    parts.append(f'<path class="l" d="M{_LEFT} {limit:.1f}h{_WIDTH}"/>')
    for tick in range(0, int(seconds) + 1, _step(seconds)):
        x = _LEFT + _WIDTH * tick / seconds
        parts.append(
            f'<text x="{x:.1f}" y="{top + _HEIGHT + 16}" text-anchor="middle">{tick} s</text>'
        )
    columns: dict[int, list[float]] = {}
    for due, wait in zip(*panel.waits, strict=True):
        columns.setdefault(int(_COLUMNS * due / seconds), []).append(wait)
    lines, dots = [], []
    for column, waits in sorted(columns.items()):
        x = _LEFT + _WIDTH * column / _COLUMNS
        high, low = _y(max(waits), top), _y(min(waits), top)
        lines.append(f"M{x:.0f} {high:.1f}V{low:.1f}")
        dots.append(f'<circle class="d" cx="{x:.0f}" cy="{high:.1f}" r="1.6"/>')
    return [*parts, f'<path class="m" d="{"".join(lines)}"/>', *dots]


def _y(milliseconds: float, top: float) -> float:
    share = log10(max(milliseconds, _LOWEST) / _LOWEST) / _DECADES
    return top + _HEIGHT * (1 - min(share, 1))


def _step(seconds: float) -> int:
    return next((step for step in (1, 2, 5, 10, 20, 60) if seconds / step <= 12), 300)
