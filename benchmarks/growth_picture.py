"""Draw what each operation costs against the size of the table, as an SVG for light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import log10

from repository_growth import Costs, growth

_WIDTH, _ROW, _LEFT, _TOP, _GAP = 420, 17, 240, 46, 60
_LOW, _DECADES = 0.1, 4  # milliseconds, to 1 s
_STYLE = """\
text{font:12px sans-serif;fill:#333}.t{font-weight:bold}.g{stroke:#ddd}.l{stroke:#999}
.a{fill:#9bd}.b{fill:#38a}.c{fill:#024}.n{fill:#c60}rect{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#ccc}.g{stroke:#444}.l{stroke:#777}.a{fill:#246}
.b{fill:#59c}.c{fill:#bdf}.n{fill:#f94}rect{fill:#111}}"""


def picture(engines: Mapping[str, Costs], limit: float) -> str:
    """Draw a panel for each engine: a line for each operation, a dot for each size of the table."""
    sizes = list(next(iter(next(iter(engines.values())).values())))
    rows = len(next(iter(engines.values())))
    height = _TOP + len(engines) * (rows * _ROW + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 70}" height="{height}"'
        f' viewBox="0 0 {_LEFT + _WIDTH + 70} {height}" role="img">'
        "<title>Cost of operations against the size of the table</title>",
        f'<style>{_STYLE}</style><rect width="100%" height="{height}"/>',
    ]
    for number, (kind, size) in enumerate(zip("abc", sizes, strict=False)):
        x = _LEFT + 130 * number
        parts.append(f'<circle class="{kind}" cx="{x}" cy="14" r="5"/>')
        parts.append(f'<text x="{x + 10}" y="18">{size:,} plans</text>')
    for number, (engine, costs) in enumerate(engines.items()):
        parts += _panel(engine, costs, _TOP + number * (rows * _ROW + _GAP), limit)
    return "\n".join([*parts, "</svg>", ""])


def _panel(engine: str, costs: Costs, top: float, limit: float) -> list[str]:
    bottom = top + len(costs) * _ROW
    parts = [f'<text class="t" x="4" y="{top - 4}">{escape(engine)}</text>']
    for power in range(_DECADES + 1):
        x = _LEFT + _WIDTH * power / _DECADES
        label = f"{_LOW * 10**power:g} ms"
        parts.append(f'<path class="g" d="M{x:.0f} {top}V{bottom}"/>')
        parts.append(f'<text x="{x:.0f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
    for number, (name, by_size) in enumerate(costs.items()):
        y = top + (number + 0.5) * _ROW
        places = [_x(min(each)) for each in by_size.values()]
        grown = growth(by_size)
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<path class="l" d="M{min(places):.1f} {y}H{max(places):.1f}"/>')
        parts += (
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y}" r="4"/>'
            for kind, x in zip("abc", places, strict=False)
        )
        kind = "n" if grown > limit else ""
        parts.append(
            f'<text class="{kind}" x="{_LEFT + _WIDTH + 10}" y="{y + 4}">x {grown:.2f}</text>'
        )
    return parts


def _x(milliseconds: float) -> float:
    return _LEFT + _WIDTH * min(max(log10(max(milliseconds, _LOW) / _LOW) / _DECADES, 0), 1)
