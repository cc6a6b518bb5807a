"""What the how-tos quote of the examples stands in the examples."""

from __future__ import annotations

import re

from support.databases import ROOT


def test_page_on_web_services_quotes_the_example():
    page = (ROOT / "docs" / "web-service.md").read_text()
    example = "".join(
        file.read_text() for file in sorted((ROOT / "examples" / "fastapi_service").glob("*.py"))
    )
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)

    assert len(blocks) >= 4
    for block in blocks:
        assert block in example
