"""The tables of contents of the site, which are the lists of links in ``docs/index.md``."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

INDEX = "index"
#: The page whose list is all that is in its folder.
FOLDER = "decisions/README"


def sections(page: str) -> dict[str, list[str]]:
    """Read the pages that *page* lists in each of its sections, without their suffix."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    listed = zip(parts[1::2], parts[2::2], strict=True)
    return {
        title: re.findall(r"^- \[.+?\]\(([\w/-]+)\.md\)", text, re.MULTILINE)
        for title, text in listed
    }


def _add_contents(_app: Sphinx, name: str, source: list[str]) -> None:
    """Add the tables of contents, which GitHub would show as code."""
    if name == INDEX:
        for title, pages in sections(source[0]).items():
            source[0] += _contents(*pages, hidden="", caption=title)
    elif name == FOLDER:
        source[0] += _contents("*", glob="")


def _contents(*pages: str, **options: str) -> str:
    lines = [*(f":{name}: {value}" for name, value in options.items()), "", *pages]
    return "\n".join(("", "```{toctree}", *lines, "```", ""))


def _leave_checkout(_app: Sphinx, _name: str, source: list[str]) -> None:
    """
    Leave out what is for readers of the checkout only.

    Of links to pages that are not on the site their text stays. Paragraphs in italics that begin
    with *In the repository* go.
    """
    source[0] = re.sub(r"^\*In the repository .+?\*\n\n?", "", source[0], flags=re.M | re.S)
    source[0] = re.sub(r"\[([^]]+)\]\((?:\.\./)+[A-Z]+\.md[^)]*\)", r"\1", source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what this module does, as Sphinx asks of an extension."""
    app.connect("source-read", _add_contents)
    app.connect("source-read", _leave_checkout)
    return {"parallel_read_safe": True}
