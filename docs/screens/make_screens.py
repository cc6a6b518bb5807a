"""
Capture what the commands show on a terminal: real runs, on a small database, always the same one.

    python docs/screens/make_screens.py [FOLDER]     (`make screens`)

Each command runs on a pseudo-terminal of 80 and of 140 columns in colour (an SVG), and of 80 with
NO_COLOR (text). Only what differs between machines is replaced: the version of SQLite, and the
folder. Of an upgrade the screen is the one in the middle of the copy.
tests/cli/test_screens.py compares the screens with what the commands show today; where they measure
something, without the figures.
"""

from __future__ import annotations

import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import StringIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: The columns of a terminal, and whether it is in colour.
TERMINALS = ((80, True), (140, True), (80, False))
PLANS = 300
#: Plans of an upgrade that takes long enough for a bar.
MANY_PLANS = 30_000

#: The name of a screen, and the command that it shows.
SCREENS: Mapping[str, Sequence[str]] = {
    "status": ("status", "--url", "sqlite:///before.db"),
    "preflight": ("preflight", "--url", "sqlite:///before.db"),
    "upgrade": ("upgrade", "--report-every", "60", "--url", "sqlite:///many.db"),
    "verify": ("verify", "--url", "sqlite:///broken.db"),
    "plans": ("plans", "--limit", "8", "--url", "sqlite:///plans.db"),
    "tree": ("tree", "01JGFNTAS7K6P0V1QZGG000073", "--url", "sqlite:///plans.db"),
}
_BROKEN = """\
PRAGMA foreign_keys = OFF;
PRAGMA ignore_check_constraints = ON;
UPDATE v3_plans SET root_plan_id = plan_id WHERE parent_plan_id = '01JGFNTAS7K6P0V1QZGG000073';
UPDATE v3_plans SET created_at = 'yesterday' WHERE plan_id = '01JGFNTAS7K6P0V1QZGG000073';
DROP INDEX {index};
"""
# When and where the databases were made, as if on another night.
_RUN = """\
UPDATE evolution_runs SET host = 'job-7f9c', began_at = '2026-06-02T03:10:00.000+00:00',
 ended_at = '2026-06-02T03:10:00.200+00:00'
"""
# What differs between machines.
_VERSION = re.compile(r"SQLite \d+\.\d+\.\d+")
# What a bar is drawn over.
_OVER = "\r\x1b[K"
_SHARE = re.compile(r"\b(\d+) %")


def main(folder: Path = HERE) -> None:
    """Write every screen to *folder*."""
    with TemporaryDirectory() as work:
        make_databases(Path(work))
        wanted = [*product([Path(work)], SCREENS, TERMINALS)]
        with ThreadPoolExecutor(2) as workers:
            for name, text in workers.map(lambda each: _draw(*each), wanted):
                (folder / name).write_text(text, encoding="utf-8")


def make_databases(work: Path) -> None:
    """
    Make `before.db` as the former release left it, `plans.db` upgraded, and `broken.db`.

    `many.db` is as `before.db`, with more plans.
    """
    former = [sys.executable, str(ROOT / "tests" / "support" / "former_release.py"), "--pure"]
    for name, plans in (("before.db", PLANS), ("many.db", MANY_PLANS)):
        subprocess.run(
            [*former, "--url", f"sqlite:///{name}", "--plans", str(plans), "--seed", "1"],
            cwd=work, check=True, capture_output=True,
        )  # fmt: skip
    for name in ("plans.db", "broken.db"):
        (work / name).write_bytes((work / "before.db").read_bytes())
        subprocess.run(
            _program("upgrade", "-q", "--url", f"sqlite:///{name}"), cwd=work, check=True
        )
    for file in work.glob("*.db"):
        run = sqlite3.connect(file)
        run.executescript(_RUN)
        run.close()
    connection = sqlite3.connect(work / "broken.db")
    [index] = connection.execute(
        "SELECT min(name) FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'v3_plans'"
        " AND sql IS NOT NULL"
    ).fetchone()
    connection.executescript(_BROKEN.format(index=index))
    connection.close()


def capture(arguments: Sequence[str], work: Path, width: int, *, colour: bool) -> str:
    """Give what the command writes to a terminal, as it is sent there; events of a run, too."""
    ours, theirs = pty.openpty()
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith(("COLOR", "_URL"))
    }
    environment |= {"COLUMNS": str(width), "LINES": "40", "TERM": "xterm-256color"}
    if not colour:
        environment["NO_COLOR"] = "1"
    process = subprocess.Popen(
        _program(*arguments), cwd=work, env=environment,
        stdin=theirs, stdout=theirs,
        stderr=theirs if arguments[0] == "upgrade" else subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    received = bytearray()
    with suppress(OSError):  # EIO: the other side is closed
        while part := os.read(ours, 65536):
            received += part
    process.wait()
    os.close(ours)
    text = received.decode().replace("\r\n", "\n").replace(str(work.resolve()), "/srv/agents/data")
    return _VERSION.sub("SQLite 3", text)


def half_way(text: str) -> str:
    """
    Give what a terminal showed when a bar on it was first past a quarter.

    Raises:
        ValueError: No bar was.
    """
    before = ""
    for drawn in text.split(_OVER):
        share = _SHARE.search(drawn)
        if share and int(share[1]) >= 25:
            return before + drawn
        before += drawn if "\n" in drawn else ""
    raise ValueError(f"no bar was drawn past a quarter in {text!r}")


def _draw(work: Path, name: str, terminal: tuple[int, bool]) -> tuple[str, str]:
    width, colour = terminal
    if name == "upgrade":
        with TemporaryDirectory() as own:  # of each terminal
            (Path(own) / "many.db").write_bytes((work / "many.db").read_bytes())
            shown = half_way(capture(SCREENS[name], Path(own), width, colour=colour))
    else:
        shown = capture(SCREENS[name], work, width, colour=colour)
    if not colour:
        # Bold and dim are no colours, and stay.
        return f"{name}-{width}.txt", _wrapped(shown, width).plain
    return f"{name}-{width}.svg", as_svg(shown, SCREENS[name], width)


def as_svg(text: str, arguments: Sequence[str], width: int) -> str:
    """Draw a terminal of *width* columns that shows *text*; no font is loaded from elsewhere."""
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True)
    console.print(_wrapped(text.rstrip("\n"), width), soft_wrap=True)
    title = f"cleveragents-plans {' '.join(arguments)}"
    drawn = console.export_svg(title=title, theme=MONOKAI, unique_id="screen")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def _wrapped(text: str, width: int) -> Text:
    """Break lines that are longer than a terminal where it breaks them."""
    lines = Text.from_ansi(text).split("\n", allow_blank=True)
    parts = [part for line in lines for part in line.divide(range(width, len(line), width))]
    return Text("\n").join(parts)


def _program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cleveragents_plans", *arguments]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
