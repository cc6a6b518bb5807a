"""
Draw the pictures of the pages from the code, as SVG for light and dark.

    python docs/extension/pictures.py       writes docs/pictures/*.svg anew

The pictures are kept, since the pages show them on GitHub too; a test compares them with the code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from html import escape
from itertools import pairwise
from math import hypot
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from alembic.script import ScriptDirectory
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from cleveragents_plans import Base, Phase, ProcessingState
from cleveragents_plans.domain.lifecycle import FINAL_STATES, STEPS, Standing
from cleveragents_plans.schema import chain_location

FOLDER: Final = Path(__file__).parents[1] / "pictures"
#: The locks of an upgrade, as ``benchmarks/locks.py`` saw them.
RECORD: Final = FOLDER / "locks.json"

# A background of its own: the switch of the site's theme does not reach into a picture.
_STYLE = """\
text{font:13px sans-serif;fill:#222}.t{font-weight:bold}.s{fill:#666;font-size:11px}
.v{font-size:11px;fill:#036;paint-order:stroke;stroke:#fff;stroke-width:4px}
.a{fill:none;stroke:#69c;stroke-width:1.4;marker-end:url(#h)}#h path{fill:#69c}
.b{fill:#eef3f8;stroke:#9ab}
.f{fill:none;stroke:#bbb;stroke-dasharray:4 3}.e{fill:#dde5ee;stroke:#567}
.p{fill:#fff}.g{stroke:#ddd}
.l4{fill:#c33}.l2{fill:#38a}.l1{fill:#999}
@media(prefers-color-scheme:dark){text{fill:#ddd}.s{fill:#aaa}.v{fill:#9cf;stroke:#131416}
.a{stroke:#58a}#h path{fill:#58a}.b{fill:#1d2630;stroke:#567}.f{stroke:#555}
.e{fill:#2b3947;stroke:#9ab}.p{fill:#131416}.g{stroke:#333}
.l4{fill:#f77}.l2{fill:#6be}.l1{fill:#777}}"""
_HEAD = (
    '<defs><marker id="h" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
    ' orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
)


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    def drawn(self, kind: str) -> str:
        return (
            f'<rect class="{kind}" x="{self.x:g}" y="{self.y:g}" width="{self.width:g}"'
            f' height="{self.height:g}" rx="4"/>'
        )

    def edge_towards(self, x: float, y: float) -> tuple[float, float]:
        """Give the point of the border that lies between the middle and another point."""
        left, top = self.middle
        dx, dy = x - left, y - top
        part = min(
            self.width / 2 / abs(dx) if dx else 9e9, self.height / 2 / abs(dy) if dy else 9e9, 1
        )
        return left + dx * part, top + dy * part


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    attributes = f' class="{kind}"' if kind else ""
    return f'<text{attributes} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
            f' viewBox="0 0 {width:g} {height:g}" role="img"><title>{escape(title)}</title>',
            f"<style>{_STYLE}</style>{_HEAD}",
            f'<rect class="p" width="{width:g}" height="{height:g}"/>',
            *parts,
            "</svg>",
            "",
        )
    )


#: Where on an arrow its label stands: from 0, its start, to 1.
_LABEL: Final = 0.38


def _arrow(start: _Box, end: _Box, label: str, bend: float = 0.0) -> str:
    """Draw an arrow between two boxes, bent to its left by so many pixels, with its label."""
    (x0, y0), (x1, y1) = start.middle, end.middle
    length = hypot(x1 - x0, y1 - y0)
    cx = (x0 + x1) / 2 + (y1 - y0) / length * bend
    cy = (y0 + y1) / 2 - (x1 - x0) / length * bend
    x0, y0 = start.edge_towards(cx, cy)
    x1, y1 = end.edge_towards(cx, cy)
    # Nearer to the start, where arrows that cross or go both ways are apart.
    parts = (1 - _LABEL) ** 2, 2 * _LABEL * (1 - _LABEL), _LABEL**2
    lx = parts[0] * x0 + parts[1] * cx + parts[2] * x1
    ly = parts[0] * y0 + parts[1] * cy + parts[2] * y1
    path = f'<path class="a" d="M{x0:.1f} {y0:.1f}Q{cx:.1f} {cy:.1f} {x1:.1f} {y1:.1f}"/>'
    return path + _text(round(lx, 1), round(ly + 4, 1), label, "v", "middle")


_ROW, _NAME = 19, 26


def entities() -> str:
    """Draw the tables of the models, their columns and what refers to what."""
    tables = Base.metadata.sorted_tables
    boxes: dict[Table, _Box] = {}
    y = 10.0
    for table in tables:
        height = _NAME + _ROW * len(table.columns) + 6
        if not boxes:
            boxes[table] = _Box(60, 10, 370, height)
        else:
            boxes[table] = _Box(510, y, 390, height)
            y += height + 40
    parts = []
    for table, box in boxes.items():
        parts += [box.drawn("b"), _text(box.x + 10, box.y + 18, table.name, "t")]
        for column in table.columns:
            at = _row_of(box, table, column.name)
            kind = column.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
            null = "" if column.nullable else " NOT NULL"
            name = f"{column.name}{' (key)' if column.primary_key else ''}"
            parts.append(_text(box.x + 10, at + 4, name))
            rules = "".join(f", ON DELETE {key.ondelete}" for key in column.foreign_keys)
            parts.append(_text(box.x + box.width - 10, at + 4, f"{kind}{null}{rules}", "s", "end"))
            for key in column.foreign_keys:
                target = boxes[key.column.table]
                to = _row_of(target, key.column.table, key.column.name)
                if target is box:
                    reach = 20 + 20 * (list(table.columns).index(column) % 2)
                    parts.append(f'<path class="a" d="M{box.x:g} {at:g}h-{reach}V{to:g}h{reach}"/>')
                else:
                    right = target.x + target.width
                    lane = right + 20 + 12 * tables.index(table)
                    parts.append(
                        f'<path class="a" d="M{box.x:g} {at:g}H{lane:g}V{to:g}H{right:g}"/>'
                    )
    bottom = max(box.y + box.height for box in boxes.values())
    return _svg("Tables and what refers to what", 920, bottom + 10, parts)


def _row_of(box: _Box, table: Table, column: str) -> float:
    return box.y + _NAME + _ROW * list(table.columns.keys()).index(column) + _ROW / 2


_COLUMN, _FRAME = 270, 242
_PLACES: Final[Mapping[ProcessingState, tuple[float, float]]] = MappingProxyType(
    {
        ProcessingState.QUEUED: (12, 50),
        ProcessingState.PROCESSING: (12, 140),
        ProcessingState.COMPLETE: (12, 230),
        ProcessingState.ERRORED: (144, 95),
        ProcessingState.CONSTRAINED: (144, 222),
        ProcessingState.APPLIED: (144, 330),
    }
)


def lifecycle() -> str:
    """Draw which step leads from where to where, as the table of steps says."""
    places = {
        (phase, state): _Box(20 + number * _COLUMN + x, 50 + y, 86, 30)
        for number, phase in enumerate(Phase)
        for state, (x, y) in _PLACES.items()
    }
    frames = {p: _Box(20 + n * _COLUMN, 60, _FRAME, 265) for n, p in enumerate(Phase)}
    last = _Box(20, 450, 3 * _COLUMN + _FRAME, 32)
    reached: set[tuple[Phase, ProcessingState]] = {(Phase.ACTION, ProcessingState.QUEUED)}
    arrows = []
    for phase in Phase:
        unfinished = [s for s in ProcessingState if s not in FINAL_STATES and _exists(phase, s)]
        for verb, step in STEPS.items():
            starts = [s for s in unfinished if step.allowed(Standing(phase, s, 1, 0))]
            if not starts or step.to is None:
                continue
            to = step.after(Standing(phase, starts[0], 1, 0))
            goal = (to.phase, to.processing_state)
            if to.processing_state is ProcessingState.CANCELLED:
                arrows.append(
                    _arrow(frames[phase], last._replace(x=frames[phase].x, width=60), verb)
                )
                continue
            reached.add(goal)
            if starts == unfinished:  # from wherever it is in the phase
                arrows.append(_over(frames[phase], frames[to.phase], verb))
                continue
            for state in starts:
                bend = 8 if to.phase == phase else 0
                arrows.append(_arrow(places[phase, state], places[goal], verb, bend))
    parts = [frame.drawn("f") for frame in frames.values()]
    parts += [_text(f.x + 10, f.y + 20, phase.value, "t") for phase, f in frames.items()]
    parts += [last.drawn("e"), _text(last.middle[0], last.middle[1] + 5, "cancelled", "", "middle")]
    for (phase, state), box in places.items():
        if (phase, state) in reached:
            parts.append(box.drawn("e" if state in FINAL_STATES else "b"))
            parts.append(_text(box.middle[0], box.middle[1] + 5, state.value, "", "middle"))
    parts += arrows
    return _svg("The life of a plan", 20 + last.width + 20, 495, parts)


def _exists(phase: Phase, state: ProcessingState) -> bool:
    """Tell whether plans can be in *state* in *phase*: whether a step leads there."""
    return state is ProcessingState.QUEUED or any(
        step.allowed(at := Standing(phase, other, 1, 0))
        and step.after(at).processing_state is state
        for step in STEPS.values()
        for other in ProcessingState
        if other is not state
    )


def _over(start: _Box, end: _Box, label: str) -> str:
    """Draw an arrow above the frames, from one to another."""
    x0, x1 = start.middle[0] + 20, end.middle[0] + (40 if start.x - end.x > _COLUMN else 20)
    if start is end:
        x0, x1 = x0 + 40, x1 - 60
    top = 18 if start.x - end.x > _COLUMN else 38
    path = f'<path class="a" d="M{x0:g} {start.y:g}V{top}H{x1:g}V{end.y - 1:g}"/>'
    return path + _text((x0 + x1) / 2, top + 4, label, "v", "middle")


def chain() -> str:
    """Draw the revisions, from the first to the newest."""
    revisions = list(ScriptDirectory(str(chain_location())).walk_revisions())[::-1]
    boxes = [_Box(20, 15 + 85 * number, 680, 52) for number in range(len(revisions))]
    parts = []
    for box, each in zip(boxes, revisions, strict=True):
        parts += [box.drawn("b"), _text(box.x + 12, box.y + 21, each.revision, "t")]
        parts.append(_text(box.x + 12, box.y + 41, each.doc, "s"))
    for upper, lower in pairwise(boxes):
        for x, start, end, verb in (
            (150, upper, lower, "upgrade"),
            (450, lower, upper, "downgrade"),
        ):
            narrow = {"x": x, "width": 2}
            parts.append(_arrow(start._replace(**narrow), end._replace(**narrow), verb))
    return _svg("The chain of revisions", 720, 15 + 85 * len(boxes) - 18, parts)


_LANE, _LANES_AT, _TIME_FROM, _TIME_WIDTH = 34, 60, 410, 340
_CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {"ACCESS EXCLUSIVE": "l4", "SHARE UPDATE EXCLUSIVE": "l2", "ROW EXCLUSIVE": "l1"}
)


def locks() -> str:
    """Draw which locks a recorded upgrade held on the table of plans, and when."""
    record = json.loads(RECORD.read_text())
    steps = record["steps"]
    whole = max(end for step in steps for _, end in step["held"])
    bottom = _LANES_AT + _LANE * len(steps)

    def x(milliseconds: float) -> float:
        part: float = milliseconds / whole
        return _TIME_FROM + _TIME_WIDTH * part

    title = f"Locks on v3_plans during an upgrade of {record['plans']:,} plans"
    parts = [_text(20, 24, title, "t"), _text(20, 42, f"PostgreSQL {record['server']}", "s")]
    for part in range(5):
        at = whole * part / 4
        parts.append(f'<path class="g" d="M{x(at):.1f} {_LANES_AT - 8}V{bottom}"/>')
        parts.append(_text(x(at), bottom + 16, f"{at / 1000:.1f} s", "s", "middle"))
    for number, step in enumerate(steps):
        y = _LANES_AT + _LANE * number
        parts += [_text(20, y + 10, step["what"]), _text(20, y + 24, step["mode"], "s")]
        for start, end in step["held"]:
            width = max(x(end) - x(start), 1.5)
            parts.append(
                f'<rect class="{_CLASSES[step["mode"]]}" x="{x(start):.1f}" y="{y}"'
                f' width="{width:.1f}" height="16"/>'
            )
        times = f"{step['times']} times, " if step["times"] > 1 else ""
        longest = f"{times}{'≤ ' if times else ''}{step['longest_ms']:,.1f} ms"
        parts.append(_text(_TIME_FROM + _TIME_WIDTH + 12, y + 13, longest, "s"))
    return _svg(title, _TIME_FROM + _TIME_WIDTH + 150, bottom + 28, parts)


#: Every picture, by the name of its file.
PICTURES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {"entities.svg": entities, "lifecycle.svg": lifecycle, "chain.svg": chain, "locks.svg": locks}
)

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw())
