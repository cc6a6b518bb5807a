"""The screens in docs/screens are what the commands show today; `make screens` makes them again."""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path

import pytest

from support.databases import ROOT

FOLDER = ROOT / "docs" / "screens"


@pytest.mark.slow
def test_screens_are_what_the_commands_show(tmp_path: Path):
    spec = util.spec_from_file_location("make_screens", FOLDER / "make_screens.py")
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)

    module.main(tmp_path)

    made = {file.name: compared(file) for file in tmp_path.iterdir()}
    kept = {
        file.name: compared(file) for file in FOLDER.iterdir() if file.suffix in (".svg", ".txt")
    }
    assert sorted(made) == sorted(kept)
    assert [name for name in made if made[name] != kept[name]] == [], "run: make screens"


def compared(file: Path) -> str:
    """Give what is compared of a screen: of one that measures something, all but the figures."""
    text = file.read_text()
    if not file.name.startswith(("preflight", "upgrade")):
        return text
    if file.suffix == ".svg":
        text = " ".join(re.findall(r">([^<>]+)</text>", text)).replace("&#160;", " ")
    text = re.sub(r"[\d,.:]*\d", "0", re.sub(r"\[[#.]+\]", "[bar]", text))
    text = re.sub(r"\s+", " ", text)
    # How a bar that is in progress ends depends on how fast the machine is.
    return re.sub(r"(?<=copied ).*", "", text) if file.name.startswith("upgrade") else text


@pytest.mark.parametrize("width", [80])
def test_no_line_of_a_screen_is_wider_than_its_terminal(width: int):
    files = sorted(FOLDER.glob(f"*-{width}.txt"))
    assert files
    for file in files:
        assert [line for line in file.read_text().splitlines() if len(line) > width] == [], file


def test_screens_load_nothing_from_elsewhere():
    for file in FOLDER.glob("*.svg"):
        links = set(re.findall(r"https?://[^\"\s<)]+", file.read_text()))
        assert links <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}, file
