"""
The directive ``generated``: a part of a page that is made from the code when the site is built.

``{generated} tables`` stands for what `PARTS` of ``extension.reference`` gives for that name.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from extension.reference import PARTS


class Generated(SphinxDirective):
    """Parse the Markdown of the part that the argument names, where the directive stands."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Give the nodes of the part, its headings included."""
        return self.parse_text_to_nodes(PARTS[self.arguments[0]](), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive, as Sphinx asks of an extension."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
