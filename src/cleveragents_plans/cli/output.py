"""What commands write to standard output: for people, and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from rich.console import Console, ConsoleOptions, OverflowMethod, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from cleveragents_plans.evolution.printable import MAX_MESSAGE, printable
from cleveragents_plans.evolution.runner.standard_streams import standard_output
from cleveragents_plans.verification.findings import exact_text

# Of what is no terminal: a line is as long as it is.
_WITHOUT_LIMIT = 100_000
# Of a column that is shortened.
_MIN_WIDTH = 8


def show(*parts: RenderableType) -> None:
    """
    Write *parts* to standard output, as wide as the terminal, or as long as they are elsewhere.

    Colours are those of the terminal; a pipe and ``NO_COLOR`` switch them off
    (https://no-color.org).
    """
    _write(_rendered(*parts))


def _rendered(*parts: RenderableType) -> str:
    console = _console()
    with standard_output(), console.capture() as captured:
        for part in parts:
            console.print(_Printable(styled(part, limit=None) if isinstance(part, str) else part))
    # Columns are filled up with blanks.
    return "\n".join(line.rstrip() for line in captured.get().split("\n"))


class _Printable:
    """Draws *part*; a terminal acts on nothing in it, however its texts were made (CWE-150)."""

    def __init__(self, part: RenderableType) -> None:
        self._part = part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._part, options):
            lines = segment.text.split("\n")
            yield segment._replace(text="\n".join(printable(each, None) for each in lines))


class Screen:
    """Shows what changes: drawn in its place on a terminal, a line for each change elsewhere."""

    def __init__(self) -> None:
        self._terminal = _console().is_terminal
        self._drawn = 0
        self._said: str | None = None

    def show(self, part: RenderableType, line: str | None) -> None:
        """Draw *part* on a terminal, over the last one; elsewhere write *line*, if it is new."""
        if self._terminal:
            text = _rendered(part)
            back = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
            _write(back + text)
            self._drawn = text.count("\n")
        elif line and line != self._said:
            self._said = line
            show(line)

    def end(self, part: RenderableType) -> None:
        """Write the last *part* where it has not been drawn."""
        if not self._terminal:
            show(part)


def show_json(report: BaseModel) -> None:
    """
    Write *report* to standard output as JSON.

    A terminal may show it, so what cannot be printed is escaped, as JSON escapes it; and so is all
    that is not ASCII where the output has another encoding than UTF-8. A name or a value that was
    no UTF-8, which JSON has not, is written as `exact_text` does.
    """
    unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    try:
        text = report.model_dump_json(indent=2)
    except PydanticSerializationError:  # of a lone surrogate
        text = json.dumps(_exact(report.model_dump(mode="json")), indent=2, ensure_ascii=False)
    _write("\n".join(_escaped(line, unicode) for line in text.split("\n")) + "\n")


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {exact_text(name): _exact(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_exact(each) for each in value]
    return exact_text(value) if isinstance(value, str) else value


def _escaped(line: str, unicode: bool) -> str:
    def kept(text: str) -> bool:
        return text.isprintable() and (unicode or text.isascii())

    if kept(line):
        return line
    return "".join(each if kept(each) else json.dumps(each)[1:-1] for each in line)


def facts(pairs: Iterable[tuple[str, str | Text]], *, whole: bool = False) -> Table:
    """Lay out names and what is said of them, cut in the middle unless it is wanted *whole*."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, said in pairs:
        grid.add_row(styled(name), _text(said, None if whole else MAX_MESSAGE))
    return grid


def table(
    names: Sequence[str], rows: Sequence[Sequence[str | Text]], shortened: str | None = None
) -> Table:
    """Lay out rows under the *names* of their columns; one of them may be *shortened* to fit."""
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    widths = _widths(names, rows)
    for name, width in zip(names, widths, strict=True):
        if name == shortened:
            others = sum(widths) - width + 2 * (len(names) - 1)
            width = max(_MIN_WIDTH, min(width, _console().width - others))
        kept = shortened is not None
        overflow: OverflowMethod = "ellipsis" if kept else "fold"
        grid.add_column(
            styled(name), overflow=overflow, no_wrap=kept, width=width if kept else None
        )
    for row in rows:
        grid.add_row(*map(_text, row))
    return grid


def fits(names: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> bool:
    """Tell whether the terminal has room for the *rows* in a `table`."""
    widths = _widths(names, rows)
    return sum(widths) + 2 * (len(widths) - 1) <= _console().width


def _widths(names: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> list[int]:
    return [max(len(_text(each)) for each in column) for column in zip(names, *rows, strict=True)]


def counted(number: int, what: str) -> str:
    """Write a number of things, as ``1 plan`` and ``2,000 plans``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def styled(said: str, style: str = "", limit: int | None = MAX_MESSAGE) -> Text:
    """
    Make a part of a line of *said*, with what cannot be printed escaped.

    It is escaped before the line is laid out: otherwise there is no room for the escapes.

    Args:
        said: The text.
        style: How it looks.
        limit: The characters after which it is cut in the middle; None, it is not.
    """
    return Text(printable(said, limit), style)


def _text(said: str | Text, limit: int | None = MAX_MESSAGE) -> Text:
    if isinstance(said, str):
        return styled(said, limit=limit)
    return Text().append_text(said)  # its style ends with it: a cell is filled up without


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    with standard_output():
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WITHOUT_LIMIT
    return console
