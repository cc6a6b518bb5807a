"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from pygments.lexers.sql import PostgresLexer
from sphinx.application import Sphinx

from cleveragents_plans import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "cleveragents-plans"
author = "CleverAgents"
project_copyright = author
release = version = __version__
html_title = f"{project} {release}"

extensions = [
    "extension.contents",
    "extension.docstrings",
    "extension.generated",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
exclude_patterns = ["extension"]

# Headings are the targets of links, by the names that GitHub gives them.
myst_heading_anchors = 3
# In docstrings, `name` is code, and a link where it is a name of this package.
default_role = "py:obj"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 120
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
smartquotes = False  # headings are the same here as on GitHub
highlight_language = "text"

html_theme = "furo"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_static_path = ["extension/static"]
html_css_files = ["site.css"]


def setup(app: Sphinx) -> None:
    """Read what is called SQL on the pages as PostgreSQL's, with its functions."""
    app.add_lexer("sql", PostgresLexer)
